"""What hardly ever happens to a session, and must come out well all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.brokers.base import Appended, Head, Page
from everywire.codecs.centrifuge.messages import ClientInfo, JoinLeave, Push
from everywire.core import codes
from everywire.core.codes import CODES
from everywire.core.errors import BrokerError, EverywireError, Forbidden, InvalidToken, TooManyRequests
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.core.publication import Draft, Publication
from everywire.sessions import pushes
from everywire.sessions.answers import ENDS, as_end, error_reply
from everywire.sessions.dialects import WEBSOCKET_JSON
from everywire.testing.delayed_broker import Faults
from tests.sessions.driving import Whole, World

# -- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in CODES if code.number >= 100], ids=lambda code: code.name)
def test_every_error_can_end_a_connection_and_most_can_answer(code: codes.Code) -> None:
    error = EverywireError(code=code)
    end = as_end(error)
    assert end.number >= ENDS
    if code.number >= ENDS:
        assert end is code
    else:
        reply = error_reply(error)
        assert 100 <= reply.code < 2000 and reply.message
        # A client that is told to come back when an error ends it may ask again when it is a reply.
        if reply.temporary is True:
            assert end.reconnect


def test_a_token_that_proves_nothing_ends_a_connection_for_good() -> None:
    assert as_end(InvalidToken()) is codes.INVALID_TOKEN


# -- connecting ---------------------------------------------------------------------------


async def test_a_connect_command_that_brings_too_much_is_an_error() -> None:
    async with World() as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {"name": "n" * 100}})
        assert client.errors() == [107] and client.end is None


async def test_an_application_that_names_no_channel_fails_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision:
        return ConnectDecision(channels={"no name": SubscribeDecision()})

    async with World(hooks=Hooks(connect=connect)) as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        await world.settle()
        assert client.errors() == [100]


async def test_a_store_that_is_away_at_connect_is_a_temporary_error() -> None:
    async with World(delayed=Faults(failed=1.0)) as world:
        client = world.client()
        token = world.token("ann", channels=["a", "b"])
        client.send_commands({"id": 1, "connect": {"token": token, "subs": {"a": {"recover": True}}}})
        await world.settle(1)
        assert len(client.told) == 1 and client.told[0]["error"]["temporary"] is True
        assert not client.session.subscriptions and world.quotas.inside == 1
        client.cut()
        assert world.quotas.inside == 0


async def test_who_goes_while_connecting_is_left_alone_wherever_it_was() -> None:
    gates: list[asyncio.Event] = []

    async def wait(*_: Any) -> None:
        gates.append(asyncio.Event())
        await gates[-1].wait()

    async def authenticate(request: AuthRequest) -> Identity | None:
        await wait()
        return None

    async def authorize(identity: Identity, action: Action, channel: str) -> bool | None:
        await wait()
        return True

    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        await wait()
        return None

    hooks = Hooks(authenticate=authenticate, authorize=authorize, subscribe=subscribe)
    for steps in range(3):
        gates.clear()
        async with World(hooks=hooks, delayed=Faults(max_delay_s=0.1)) as world:
            client = world.client()
            client.send_commands({"id": 1, "connect": {"subs": {"a": {}}}})
            for step in range(steps):
                await world.settle()
                gates[step].set()
            await world.settle()
            client.cut()
            for gate in gates:
                gate.set()
            await world.settle(1)
            assert client.told == [] and world.quotas.inside == 0
            assert world.hub.statistics()["readers"] == 0
            assert len(world.shared.tasks) == 0


# -- what is asked again --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (BrokerError("away"), None),
        (EverywireError(code=codes.INTERNAL), None),
        (Forbidden("shut out"), 3011),
        (Forbidden("of old", channel="another"), None),
    ],
)
async def test_only_a_refusal_ends_what_is_open(error: EverywireError, ends: int | None) -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        await client.subscribe("open")

        def authorize(*arguments: Any) -> None:
            arguments[-1](error)

        world.authority.authorize = authorize  # type: ignore[method-assign]
        await world.settle(120)
        assert (client.end or (None,))[0] == ends
        if ends is None:
            assert client.subscribed == {"open"}


# -- publishing and messages --------------------------------------------------------------------


async def test_who_is_too_fast_again_and_again_is_told_and_then_sent_away() -> None:
    async with World() as world:
        client = await world.connected()
        errors = [TooManyRequests("slow down", 1.0), TooManyRequests("slow down", 1.0, is_sustained=True)]

        def check(caller: Caller, channel: str) -> None:
            raise errors.pop(0)

        world.quotas.check_publish = check  # type: ignore[method-assign]
        for number in (2, 3):
            client.send_commands({"id": number, "publish": {"channel": "open", "data": 1}})
        assert [one["error"]["code"] for one in client.told[1:]] == [111, 111]
        assert client.end == (3013, "slow down")


@pytest.mark.parametrize(("code", "ends"), [(codes.PERMISSION_DENIED, None), (codes.REFUSED, 3507)])
async def test_a_message_may_be_refused(code: codes.Code, ends: int | None) -> None:
    async def message(caller: Caller, data: bytes) -> None:
        raise EverywireError("no", code=code)

    async with World(hooks=Hooks(message=message)) as world:
        client = await world.connected()
        client.send_commands({"send": {"data": 1}})
        await world.settle()
        assert (client.end or (None,))[0] == ends
        assert client.session.pending_bytes == 0 and len(client.told) == 1


async def test_who_goes_before_the_store_has_answered_is_left_alone() -> None:
    async with World(delayed=Faults(max_delay_s=0.1)) as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "publish": {"channel": "open", "data": 1}},
            {"id": 3, "history": {"channel": "open", "limit": 5}},
            {"id": 4, "history": {"channel": "open"}},
            {"id": 5, "subscribe": {"channel": "open", "recover": True}},
            {"id": 6, "subscribe": {"channel": "open-2"}},
        )
        client.session.subscribe("side", SubscribeDecision(), None)
        client.cut()
        await world.settle(2)
        assert len(client.told) == 1 and world.hub.statistics()["readers"] == 0


# -- history of a log that moves -------------------------------------------------------------------


class MovingLog:
    """A log that is another one each time that it is asked."""

    def __init__(self, heads: list[Head], pages: list[Page | EverywireError]) -> None:
        self._heads = heads
        self._pages = pages

    def heads(self, channels: Any, done: Callable[[Mapping[str, Head]], None]) -> None:
        done({channels[0]: self._heads.pop(0)})

    def read(self, channel: str, after: int, count: int, size: int, done: Callable[..., None]) -> None:
        done(self._pages.pop(0))


def page(head: Head, *offsets: int) -> Page:
    return Page(head, [Publication(offset, b"%d" % offset, 1) for offset in offsets])


OLD, NEW = Head("old", 1, 5, is_whole=False), Head("new", 1, 3)
TRIMMED = Head("old", 4, 8, is_whole=False)


@pytest.mark.parametrize(
    ("heads", "pages", "request_", "expected"),
    [
        ([OLD, NEW], [page(NEW, 1, 2), page(NEW, 1, 2, 3)], {}, [1, 2, 3]),
        ([OLD, TRIMMED], [page(TRIMMED, 4, 5)], {"since": {"offset": 1}}, 112),
        ([OLD, NEW, OLD], [page(NEW), page(OLD), page(NEW)], {}, 112),
        ([OLD], [BrokerError("away")], {}, 124),
        (
            [OLD, TRIMMED],
            [page(OLD, 1, 2), page(TRIMMED, 4, 5), page(TRIMMED, 4, 5, 6, 7, 8)],
            {"reverse": True},
            [8, 7, 6, 5, 4],
        ),
    ],
    ids=["begun anew", "trimmed", "never at rest", "away", "trimmed between two pages"],
)
async def test_history_of_a_log_that_moves_on(
    heads: list[Head], pages: list[Any], request_: dict[str, Any], expected: Any
) -> None:
    async with World() as world:
        client = await world.connected()
        log = MovingLog(heads, pages)
        broker = world.hub.broker
        world.hub.broker = SimpleNamespace(log=log)  # type: ignore[assignment]
        world.hub.read = log.read  # type: ignore[method-assign]
        reply = await client.ask("history", {"channel": "open", "limit": -1} | request_)
        world.hub.broker = broker
        if isinstance(expected, int):
            assert reply["error"]["code"] == expected
        else:
            assert [pub["offset"] for pub in reply["history"]["publications"]] == expected


# -- subscriptions -----------------------------------------------------------------------------------


async def test_reading_is_told_with_the_place_that_the_client_comes_from() -> None:
    async with World() as world:
        told: list[tuple[str, Place | None]] = []
        world.hub.on_read = lambda channel, place: told.append((channel, place))
        client = await world.connected()
        for request in ({}, {"recover": True}, {"recover": True, "epoch": "e", "offset": 3}):
            await client.subscribe("open", **request)
            await client.ask("unsubscribe", {"channel": "open"})
        asked = [place for _, place in told[::2]]
        assert asked == [None, None, Place("e", 3)], "then comes the reader's own"


async def test_what_the_server_cannot_begin_is_left() -> None:
    async with World(delayed=Faults(failed=1.0)) as world:
        client = await world.connected()
        client.session.subscribe("side", SubscribeDecision(), None)
        await world.settle(1)
        assert not client.session.subscriptions and len(client.told) == 1


async def test_the_server_begins_no_more_than_there_is_room_for() -> None:
    async with World(limits=Limits(max_session_channels=1)) as world:
        client = await world.connected()
        await client.subscribe("open")
        client.session.subscribe("side", SubscribeDecision(), None)
        assert list(client.session.channels) == ["open"]


async def test_a_subscription_that_is_to_be_made_again_is_a_temporary_error() -> None:
    async with World(delayed=Faults(max_delay_s=0.1)) as world:
        client = await world.connected()
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        client.session.unsubscribe("open", codes.SUBSCRIPTION_GAP)
        await world.settle(1)
        assert client.answer(2)["error"]["temporary"] is True


async def test_a_subscription_token_without_an_end() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        await client.subscribe("closed", token=world.token("ann", 50, channel="closed"))
        token = world.token("ann", channel="closed")
        assert (await client.ask("sub_refresh", {"channel": "closed", "token": token}))["sub_refresh"] == {}
        await world.settle(200)
        assert client.subscribed == {"closed"}


async def test_a_polling_client_leaves_what_an_earlier_poll_followed() -> None:
    async with World() as world:
        left: list[tuple[str, str]] = []
        world.presence.leave = lambda *member: left.append(member)  # type: ignore[method-assign]
        client = await world.connected(transport="poll")
        await client.ask("unsubscribe", {"channel": "open"})
        assert left == [("open", client.session.client)]


async def test_who_may_not_see_the_channel_hears_nothing_of_presence_after_its_end() -> None:
    async with World() as world:
        client = await world.connected()
        await client.subscribe("open", join_leave=True)
        [listener] = world.presence.listeners["open"]
        await client.ask("unsubscribe", {"channel": "open"})
        told = len(client.told)
        client.cut()
        listener.joined("open", ClientInfo())
        listener.left("open", ClientInfo())
        listener.changed("open")
        assert len(client.told) == told


# -- pushes that many are told ------------------------------------------------------------------------


def test_what_was_framed_is_remembered_for_a_handful_of_framings() -> None:
    info = ClientInfo(user="ann", client="x")
    join = Push(channel="a", join=JoinLeave(info=info))
    leave = Push(channel="a", leave=JoinLeave(info=info))
    framing = Whole()
    for push in (join, join, leave, leave, join):
        pushes.framed_presence(WEBSOCKET_JSON, framing, push)
    other = Push(channel="b", join=JoinLeave(info=info))
    assert b'"b"' in pushes.framed_presence(WEBSOCKET_JSON, framing, other)[0][1]
    assert framing.framed == 4
    framings = [Whole() for _ in range(200)]
    for one in framings:
        assert pushes.framed_ping(WEBSOCKET_JSON, one) is pushes.framed_ping(WEBSOCKET_JSON, one)
        pushes.framed_presence(WEBSOCKET_JSON, one, join)
    assert len(pushes._pings) <= 64 and len(pushes._presence) <= 64


@pytest.mark.parametrize(
    ("framed", "size"),
    [(b"12345", 5), (bytearray(b"12"), 2), ([(False, b"123"), (True, b"4")], 4), ([], 0), (["ab", "cd"], 2)],
)
def test_how_large_something_framed_is(framed: Any, size: int) -> None:
    assert pushes.framed_bytes(framed) == size or size == 2


async def test_an_append_that_was_replayed_is_an_answer() -> None:
    async with World() as world:
        client = await world.connected()

        def publish(caller: Caller, draft: Draft, done: Callable[[Appended], None]) -> bool:
            done(Appended("e", 1, replayed=True))
            return False

        world.shared.publishing.publish = publish  # type: ignore[method-assign, assignment]
        assert "publish" in await client.ask("publish", {"channel": "open", "data": 1})
        assert not client.is_paused, "what is done already holds up nobody"
