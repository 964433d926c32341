"""The decorators, and what they make of the table of hooks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import pytest

from everywire.access.hooks import IN_ORDER, ConnectDecision, Hooks, Lane, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadChannelName, BadRequest, EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.handlers.refused import Refused
from everywire.handlers.registrar import Registrar
from everywire.handlers.session import Session
from tests.handlers.callers import FakeSession, Plain

ANN = FakeSession("ann")


class Guess(msgspec.Struct):
    word: str


@dataclass
class Score:
    by: str
    points: int


def table(registrar: Registrar) -> Any:
    """The table, for calls without asking whether an entry is there."""
    return registrar.hooks


@pytest.fixture
def wire() -> Registrar:
    return Registrar(Limits(call_timeout_s=20, hook_timeout_s=20))


def test_nothing_is_asked_of_nobody(wire: Registrar) -> None:
    assert wire.hooks == Hooks()


# -- calls and messages -------------------------------------------------------------------


async def test_a_call_is_answered(wire: Registrar) -> None:
    @wire.rpc("guess")
    async def guess(session: Session, data: Any) -> dict[str, Any]:
        return {"by": session.user, "data": data}

    assert await table(wire).rpc(ANN, "guess", b'{"n":1}') == b'{"by":"ann","data":{"n":1}}'
    assert await table(wire).rpc(ANN, "guess", b"") == b'{"by":"ann","data":null}'
    assert await guess(Session(ANN, asyncio.get_running_loop()), 1) == {"by": "ann", "data": 1}


async def test_a_call_of_an_unknown_method_is_104(wire: Registrar) -> None:
    wire.rpc("known")(lambda: None)
    wire.on_message(lambda: None)
    for method in ("unknown", "", "x" * 10_000):
        with pytest.raises(EverywireError) as caught:
            await table(wire).rpc(ANN, method, b"")
        assert caught.value.code is codes.METHOD_NOT_FOUND
        assert len(caught.value.sentence) < 200


async def test_a_call_with_typed_data(wire: Registrar) -> None:
    @wire.rpc("by-annotation")
    async def by_annotation(session: Session, data: Guess) -> Score:
        return Score(data.word, 1)

    @wire.rpc("by-option", payload=Guess)
    def by_option(session, data):  # type: ignore[no-untyped-def]
        return data

    assert await table(wire).rpc(ANN, "by-annotation", b'{"word":"x"}') == b'{"by":"x","points":1}'
    assert await table(wire).rpc(ANN, "by-option", b'{"word":"x"}') == b'{"word":"x"}'
    for method in ("by-annotation", "by-option"):
        with pytest.raises(BadRequest, match=r"\$\.word"):
            await table(wire).rpc(ANN, method, b'{"word":5}')


async def test_bytes_are_an_answer_as_they_are(wire: Registrar) -> None:
    wire.rpc("raw", payload=bytes)(lambda session, data: b"[" + data + b"]")
    assert await table(wire).rpc(ANN, "raw", b"1,2") == b"[1,2]"
    with pytest.raises(EverywireError, match="internal"):
        await table(wire).rpc(ANN, "raw", b"1,")  # or a line of JSON would be broken


async def test_a_refusal_reaches_the_client_with_its_code(wire: Registrar) -> None:
    @wire.rpc("late")
    async def late() -> None:
        raise Refused("the round is over", code=1001)

    with pytest.raises(EverywireError) as caught:
        await table(wire).rpc(ANN, "late", b"")
    assert (caught.value.code.number, caught.value.sentence) == (1001, "the round is over")


@pytest.mark.parametrize("value", [object(), {1: object()}])
async def test_an_answer_that_json_cannot_say_is_logged(
    wire: Registrar, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    wire.rpc("wrong")(lambda: value)
    with pytest.raises(EverywireError) as caught:
        await table(wire).rpc(ANN, "wrong", b"")
    assert caught.value.code is codes.INTERNAL
    assert "rpc 'wrong' failed" in caplog.text


async def test_a_message_is_taken(wire: Registrar) -> None:
    heard: list[Any] = []

    @wire.on_message
    async def message(session: Session, data: Guess) -> None:
        heard.append((session.user, data))

    await table(wire).message(ANN, b'{"word":"x"}')
    assert heard == [("ann", Guess("x"))]
    with pytest.raises(BadRequest):
        await table(wire).message(ANN, b"1")


def test_a_method_is_registered_once(wire: Registrar) -> None:
    wire.rpc("a")(lambda: None)
    with pytest.raises(SettingsError, match="'a'"):
        wire.rpc("a")(lambda: None)
    for wrong in ("", "x" * 256):
        with pytest.raises(SettingsError):
            wire.rpc(wrong)


# -- lanes -----------------------------------------------------------------------------------


def lane(wire: Registrar, method: str, data: bytes = b"") -> Lane:
    found: Lane = table(wire).lane(ANN, method, data)
    return found


async def test_calls_and_messages_are_in_order_unless_they_say_otherwise(wire: Registrar) -> None:
    wire.rpc("plain")(lambda: None)
    wire.rpc("cancelled", cancel=True)(lambda: None)
    wire.rpc("four", concurrency=4)(lambda: None)
    wire.rpc("one", concurrency=1)(lambda: None)
    wire.on_message(lambda: None)
    assert lane(wire, "plain") == lane(wire, "") == lane(wire, "unknown") == IN_ORDER
    assert lane(wire, "cancelled") == IN_ORDER._replace(is_cancelled=True)
    assert lane(wire, "four").concurrency == 4
    assert len({lane(wire, name).key for name in ("plain", "four", "one")}) == 3
    with pytest.raises(SettingsError):
        wire.rpc("none", concurrency=0)


async def test_a_key_keeps_equal_ones_in_order(wire: Registrar) -> None:
    wire.rpc("room", key=lambda session, data: data["room"])(lambda: None)
    wire.rpc("other", key=lambda session, data: data["room"], concurrency=2)(lambda: None)
    wire.rpc("user", key=lambda session, data: session.user)(lambda: None)
    assert lane(wire, "room", b'{"room":1}') == lane(wire, "room", b'{"room":1,"x":2}')
    assert lane(wire, "room", b'{"room":1}') != lane(wire, "room", b'{"room":2}')
    assert lane(wire, "room", b'{"room":1}').key != lane(wire, "other", b'{"room":1}').key
    assert lane(wire, "room", b'{"room":1}').concurrency == 1
    assert lane(wire, "other", b'{"room":1}').concurrency == 2
    assert lane(wire, "user") == lane(wire, "user", b"1")
    # A key that cannot be had is no reason to fail here: the call itself is refused, or fails.
    for wrong in (b"", b"{", b"{}", b'{"room":[]}'):
        assert lane(wire, "room", wrong).concurrency == 1


# -- who it is, and what it may -------------------------------------------------------------------


async def test_who_it_is(wire: Registrar) -> None:
    known: dict[str, Any] = {"a": "ann", "b": Identity(user="bob", kind="cookie"), "c": None}
    wire.authenticate(lambda request: known[request.token])
    assert (await table(wire).authenticate(AuthRequest(token="a"))).user == "ann"
    assert await table(wire).authenticate(AuthRequest(token="b")) is known["b"]
    assert await table(wire).authenticate(AuthRequest(token="c")) is None


@pytest.mark.parametrize("wrong", [True, "", "x" * 256, {"user": "ann"}])
async def test_an_answer_that_is_no_identity_lets_nobody_in(
    wire: Registrar, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.authenticate(lambda request: wrong)
    with pytest.raises(EverywireError) as caught:
        await table(wire).authenticate(AuthRequest())
    assert caught.value.code is codes.INTERNAL
    assert "authenticate failed" in caplog.text


async def test_what_it_may(wire: Registrar) -> None:
    answers: dict[str, Any] = {"open": True, "closed": False, "other": None, "wrong": 1}

    @wire.authorize
    async def authorize(identity: Identity, action: Action, channel: str) -> Any:
        assert (identity.user, action) == ("ann", Action.READ)
        return answers[channel]

    for channel in ("open", "closed", "other"):
        assert await table(wire).authorize(ANN.identity, Action.READ, channel) is answers[channel]
    with pytest.raises(EverywireError):
        await table(wire).authorize(ANN.identity, Action.READ, "wrong")


# -- a session's life ---------------------------------------------------------------------------------


async def test_a_session_begins(wire: Registrar) -> None:
    @wire.on_connect
    async def connect(session: Session, data: Guess) -> Any:
        assert session.request is not None
        return {"hello": session.user, "word": data.word, "agent": session.request.headers["user-agent"]}

    request = AuthRequest(data=b'{"word":"x"}', headers={"user-agent": "test"})
    decision = await table(wire).connect(ANN, request)
    assert decision.data == b'{"hello":"ann","word":"x","agent":"test"}'
    with pytest.raises(BadRequest):
        await table(wire).connect(ANN, AuthRequest(data=b"{}"))


async def test_a_session_begins_with_a_decision_or_nothing(wire: Registrar) -> None:
    decision = ConnectDecision(channels={"news": SubscribeDecision()})
    for answer in (decision, None):
        wire.on_connect(partial(lambda answer, session: answer, answer))
        assert await table(wire).connect(ANN, AuthRequest()) is answer


async def test_a_session_goes_on_and_ends(wire: Registrar) -> None:
    heard: list[Any] = []
    wire.on_disconnect(lambda session, code: heard.append((session.user, code)))
    wire.on_refresh(lambda session, token: Identity(user=session.user, token_id=token))
    await table(wire).disconnect(ANN, codes.SHUTDOWN)
    await table(wire).disconnect(ANN, None)
    assert heard == [("ann", codes.SHUTDOWN), ("ann", None)]
    assert (await table(wire).refresh(ANN, "t2")).token_id == "t2"


# -- channels -------------------------------------------------------------------------------------------


async def test_the_first_pattern_that_fits_hears_of_a_subscription(wire: Registrar) -> None:
    wire.on_subscribe("room:1")(lambda session, channel, data: {"first": data})
    wire.on_subscribe("room:*")(lambda session, channel: SubscribeDecision(info=b'"info"'))
    assert (await table(wire).subscribe(ANN, "room:1", b"7")).data == b'{"first":7}'
    assert (await table(wire).subscribe(ANN, "room:2", None)).info == b'"info"'
    assert await table(wire).subscribe(ANN, "other", None) is None
    with pytest.raises(BadChannelName):
        wire.on_subscribe("no pattern")(lambda: None)


async def test_a_subscription_is_refused(wire: Registrar) -> None:
    @wire.on_subscribe("*")
    def refuse(session: Session, channel: str) -> None:
        raise Refused(f"{channel} is closed")

    with pytest.raises(Refused, match="room is closed") as caught:
        await table(wire).subscribe(ANN, "room", None)
    assert caught.value.code is codes.PERMISSION_DENIED


async def test_a_snapshot_is_part_of_the_decision(wire: Registrar) -> None:
    wire.snapshot("board:*")(lambda session, channel: {channel: session.user})
    wire.on_subscribe("board:1")(lambda session, channel: {"welcome": True})
    for channel, data in (("board:1", b'{"welcome":true}'), ("board:2", None)):
        decision = await table(wire).subscribe(ANN, channel, None)
        assert decision.data == data
        assert await decision.snapshot(ANN, channel) == b'{"%s":"ann"}' % channel.encode()
    assert await table(wire).subscribe(ANN, "other", None) is None


def draft(data: bytes, channel: str = "scores", content_type: str = "") -> Draft:
    return Draft(channel, data, content_type, fingerprint=b"as it came")


async def test_what_a_client_publishes_passes_is_changed_or_refused(wire: Registrar) -> None:
    @wire.on_publish("scores")
    async def publish(session: Session, channel: str, data: Score) -> Any:
        if data.points < 0:
            raise Refused("points are not negative", code=400)
        return None if data.by else Score(session.user, data.points)

    hook = table(wire).publish
    assert await hook(ANN, draft(b'{"by":"bob","points":1}')) is None
    assert await hook(ANN, draft(b"anything", "other")) is None
    changed = await hook(ANN, draft(b'{"by":"","points":1}'))
    assert changed.data == b'{"by":"ann","points":1}'
    assert changed.fingerprint == b"as it came"
    with pytest.raises(Refused, match="negative"):
        await hook(ANN, draft(b'{"by":"","points":-1}'))
    with pytest.raises(BadRequest, match=r"\$\.points"):
        await hook(ANN, draft(b'{"by":"","points":"many"}'))
    with pytest.raises(BadRequest, match="takes JSON"):
        await hook(ANN, draft(b"\0", content_type="image/png"))


async def test_a_channel_has_a_type(wire: Registrar) -> None:
    wire.channel_type("scores", Score)
    seen: list[Any] = []
    assert await table(wire).publish(ANN, draft(b'{"by":"bob","points":1}')) is None
    with pytest.raises(BadRequest, match="`points`"):
        await table(wire).publish(ANN, draft(b'{"by":"bob"}'))
    wire.on_publish("*")(lambda session, channel, data: seen.append(data))
    await table(wire).publish(ANN, draft(b'{"by":"bob","points":1}'))
    await table(wire).publish(ANN, draft(b'{"by":"bob"}', "other"))
    await table(wire).publish(ANN, draft(b"\0", "other", "image/png"))
    assert seen == [Score("bob", 1), {"by": "bob"}, b"\0"]
    with pytest.raises(BadRequest, match="`points`"):
        await table(wire).publish(ANN, draft(b'{"by":"bob"}'))


async def test_bytes_are_changed_to_bytes(wire: Registrar) -> None:
    wire.on_publish("*")(lambda session, channel, data: data[::-1])
    changed = await table(wire).publish(ANN, draft(b"abc", content_type="text/plain"))
    assert (changed.data, changed.content_type) == (b"cba", "text/plain")
    assert (await table(wire).publish(ANN, draft(b'"abc"'))).data == b'"cba"'


async def test_channels_that_fill_and_empty(wire: Registrar) -> None:
    heard: list[str] = []
    wire.on_occupied("room:*")(lambda channel: heard.append(f"+{channel}"))
    wire.on_vacated("*")(lambda channel: heard.append(f"-{channel}"))
    for channel in ("room:1", "other"):
        await table(wire).occupied(channel)
        await table(wire).vacated(channel)
    assert heard == ["+room:1", "-room:1", "-other"]


# -- and webhooks beside it -----------------------------------------------------------------------------


async def test_webhooks_are_asked_where_no_function_is_registered() -> None:
    async def rpc(caller: Any, method: str, data: bytes) -> bytes:
        return f'"webhook {method}"'.encode()

    async def message(caller: Any, data: bytes) -> None: ...

    async def connect(caller: Any, request: AuthRequest) -> None: ...

    wire = Registrar(Limits(), webhooks=Hooks(rpc=rpc, message=message, connect=connect))
    wire.rpc("here")(lambda: "function")
    wire.on_connect(lambda: None)
    wire._fill_hooks()
    assert await table(wire).rpc(ANN, "here", b"") == b'"function"'
    assert await table(wire).rpc(ANN, "there", b"") == b'"webhook there"'
    assert wire.hooks.message is message
    assert wire.hooks.connect is not connect


# -- the session that handlers see ----------------------------------------------------------------------


async def test_a_handler_sees_who_calls() -> None:
    caller = FakeSession("ann", info=b'{"name":"Ann"}', claims={"role": "admin"})
    session = Session(caller, asyncio.get_running_loop())
    assert (session.user, session.client, session.transport) == ("ann", "client-of-ann", "websocket")
    assert (session.info, session.claims, session.peer) == ({"name": "Ann"}, {"role": "admin"}, "192.0.2.1")
    assert Session(FakeSession(""), asyncio.get_running_loop()).info is None


async def test_a_handler_acts_on_its_session() -> None:
    caller = FakeSession()
    session = Session(caller, asyncio.get_running_loop())
    await session.send(Score("ann", 1))
    session.send("not awaited")
    await session.subscribe("news", data={"a": 1})
    session.unsubscribe("news")
    session.disconnect(4001, "enough")
    assert session.memo is None
    session.memo = {"lives": 3}
    assert Session(caller, asyncio.get_running_loop()).memo == {"lives": 3}
    assert caller.told == [
        ("message", b'{"by":"ann","points":1}'),
        ("message", b'"not awaited"'),
        ("subscribe", "news", b'{"a":1}', None),
        ("unsubscribe", "news", 2000),
        ("disconnect", 4001, "enough"),
    ]
    with pytest.raises(BadChannelName):
        session.subscribe("no name")
    with pytest.raises(ValueError):
        session.disconnect(7)


async def test_a_handler_in_a_thread_acts_on_its_session(wire: Registrar) -> None:
    caller = FakeSession()

    def handler(session: Session) -> int:
        session.send(1)
        return len(caller.told)

    wire.rpc("threaded")(handler)
    assert await table(wire).rpc(caller, "threaded", b"") == b"1"


async def test_a_plain_publisher_has_no_session() -> None:
    session = Session(Plain(), asyncio.get_running_loop())
    assert session.client == "" and session.memo is None
    with pytest.raises(EverywireError):
        session.memo = 1
    for act in (lambda: session.send(1), lambda: session.subscribe("a"), session.disconnect):
        with pytest.raises(EverywireError) as caught:
            act()
        assert caught.value.code is codes.NOT_AVAILABLE


# -- codes of the application's own -----------------------------------------------------------------------


def test_codes_of_the_application() -> None:
    assert Refused().code is codes.PERMISSION_DENIED
    assert Refused("x", code=codes.BUSY).code is codes.BUSY
    assert Refused("x", code=109).code is codes.TOKEN_EXPIRED
    own = Refused("too late", code=1999)
    assert (own.code, own.sentence) == (Code(1999, "refused", 403, "too late"), "too late")
    assert Refused("come back", code=4001).code.status == 0
    for wrong in (0, 99, 399, 2001, 3999, 5000):
        with pytest.raises(ValueError, match=str(wrong)):
            Refused("x", code=wrong)
