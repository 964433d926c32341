"""What someone may do: deny by default, the application's word, what is remembered and what ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.access.hooks import Hooks
from everywire.access.identity import NOBODY, Action, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.limits import Limits
from tests.access.proofs import Desk, Said, bearer, signed, token, turns

OPEN = Rules(public={Action.READ: ["open*"]}, user_rules={Action.PUBLISH: ["in:{user}"]})
ANN = Identity(user="ann", kind="token", credential=b"1")
KEY = Identity(user="k", kind="key", may_all=True)


class Judge:
    """An application's authorize: counts, answers by channel, waits to be let."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Action, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, identity: Identity, action: Action, channel: str) -> Any:
        self.asked.append((identity.user, action, channel))
        answer = self.answers.get(channel)
        await self.gate.wait()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def code_of(answer: Any) -> Any:
    assert isinstance(answer, EverywireError), answer
    return answer.code


# -- deny by default ---------------------------------------------------------------------

NAMES = st.text("ab.:*{}user", min_size=1, max_size=12)


@given(
    user=st.text(max_size=8) | NAMES,
    kind=st.sampled_from(["", "token", "cookie", "ticket", "hook", "key"]),
    claims=st.dictionaries(st.sampled_from(["read", "admin", "sub", "channels"]), NAMES),
    info=st.none() | st.just(b"{}"),
    action=st.sampled_from(Action),
    channels=st.lists(NAMES, min_size=1, max_size=4),
    says=st.sampled_from([None, "hook", "none"]),
)
def test_without_any_rule_nothing_is_ever_allowed(
    user: str,
    kind: str,
    claims: dict[str, str],
    info: bytes | None,
    action: Action,
    channels: list[str],
    says: str | None,
) -> None:
    identity = Identity(user=user, kind=kind, claims=claims, info=info)

    async def hook(identity: Identity, action: Action, channel: str) -> Any:
        return None if says == "none" else False

    async def judge() -> EverywireError | None:
        return await Desk(hooks=Hooks(authorize=hook if says else None)).judges(identity, action, *channels)

    error = asyncio.run(judge())
    assert isinstance(error, Forbidden)
    assert error.channel in channels
    assert error.code is (codes.PERMISSION_DENIED if user or kind else codes.UNAUTHORIZED)


@given(
    st.dictionaries(st.sampled_from(["sub", "aud", "iss", "admin", "scope", "roles"]), NAMES),
    st.sampled_from(Action),
    NAMES,
)
def test_a_token_opens_nothing_that_it_does_not_name(
    claims: dict[str, str], action: Action, channel: str
) -> None:
    desk = Desk()
    identity = desk.knows(bearer(signed({"alg": "HS256"}, claims)))
    assert isinstance(identity, Identity)
    assert isinstance(desk.decides(identity, action, channel), Forbidden)


def test_every_action_is_closed_to_everybody_but_keys_and_in_development() -> None:
    for action in Action:
        for identity in (NOBODY, ANN):
            assert isinstance(Desk().decides(identity, action, "a"), Forbidden)
            assert Desk(Rules(dev=True)).decides(identity, action, "a") is None
        assert Desk().decides(KEY, action, "a") is None


# -- rules ---------------------------------------------------------------------------------


def test_one_closed_channel_refuses_all_and_the_first_is_named() -> None:
    desk = Desk(OPEN)
    assert desk.decides(NOBODY, Action.READ, "open1", "open2") is None
    error = desk.decides(NOBODY, Action.READ, "open1", "shut1", "open2", "shut2")
    assert isinstance(error, Forbidden)
    assert error.channel == "shut1"
    assert desk.decides(ANN, Action.PUBLISH, "in:ann") is None
    assert code_of(desk.decides(ANN, Action.PUBLISH, "in:ann", "in:bob")) is codes.PERMISSION_DENIED
    assert desk.decides(NOBODY, Action.READ) is None


def test_server_side_channels_may_be_read() -> None:
    desk = Desk()
    ann = desk.knows(bearer(token(sub="ann", channels=["news"], subs={"room": {}}, publish=["room"])))
    assert isinstance(ann, Identity)
    assert desk.decides(ann, Action.READ, "news", "room") is None
    assert desk.decides(ann, Action.PUBLISH, "room") is None
    assert code_of(desk.decides(ann, Action.PUBLISH, "news")) is codes.PERMISSION_DENIED


# -- the application's word -----------------------------------------------------------------


async def test_the_application_may_close_and_open_or_leave_it_to_the_rules() -> None:
    judge = Judge(open1=False, shut1=True, open2=None, shut2=None)
    for rules, is_shut_left in ((OPEN, True), (Rules(dev=True), False)):
        desk = Desk(rules, Hooks(authorize=judge))
        assert isinstance(await desk.judges(NOBODY, Action.READ, "open1"), Forbidden), "in development, too"
        assert await desk.judges(NOBODY, Action.READ, "shut1") is None
        assert await desk.judges(NOBODY, Action.READ, "open2") is None
        assert isinstance(await desk.judges(NOBODY, Action.READ, "shut2"), Forbidden) is is_shut_left


async def test_a_key_need_not_be_asked_for() -> None:
    judge = Judge(a=False)
    desk = Desk(hooks=Hooks(authorize=judge))
    assert desk.decides(KEY, Action.READ, "a") is None
    assert judge.asked == []


async def test_a_refusal_may_have_words_and_code_of_its_own() -> None:
    own = Code(1001, "application", 403, "not you")
    end = Code(4501, "application", 0, "never again")
    judge = Judge(
        a=Forbidden("pay first"),
        b=Forbidden("sign in", code=codes.UNAUTHORIZED),
        c=False,
        d=EverywireError("not for you", code=own),
        e=EverywireError("go away", code=end),
    )
    desk = Desk(hooks=Hooks(authorize=judge))
    for _ in range(2):  # asked, and remembered
        for channel, code, sentence in (
            ("a", codes.PERMISSION_DENIED, "pay first"),
            ("b", codes.UNAUTHORIZED, "sign in"),
            ("c", codes.PERMISSION_DENIED, "you may not read channel c"),
            ("d", own, "not for you"),
            ("e", end, "go away"),
        ):
            error = await desk.judges(ANN, Action.READ, channel)
            assert isinstance(error, Forbidden)
            assert (error.code, error.sentence, error.channel) == (code, sentence, channel)
    assert len(judge.asked) == 5


@pytest.mark.parametrize("code", [codes.INTERNAL, codes.BUSY, codes.SERVER_ERROR, codes.TOO_MANY_REQUESTS])
async def test_a_refusal_for_now_is_not_remembered(code: Code) -> None:
    judge = Judge(a=EverywireError("not now", code=code))
    desk = Desk(hooks=Hooks(authorize=judge))
    for _ in range(2):
        assert code_of(await desk.judges(ANN, Action.READ, "a")) is code
    assert len(judge.asked) == 2


@pytest.mark.parametrize("answer", [1, "yes", [], ValueError("x"), KeyError("x")])
async def test_anything_but_true_lets_nobody_in(answer: Any, caplog: Any) -> None:
    judge = Judge(open1=answer)
    desk = Desk(OPEN, Hooks(authorize=judge))
    error = await desk.judges(ANN, Action.READ, "open1")
    assert code_of(error) is codes.INTERNAL
    assert "Traceback" in caplog.text
    judge.answers["open1"] = True
    assert await desk.judges(ANN, Action.READ, "open1") is None, "a failure is not remembered"


async def test_errors_of_other_codes_pass_and_are_not_remembered() -> None:
    judge = Judge(a=EverywireError(code=codes.BUSY))
    desk = Desk(hooks=Hooks(authorize=judge))
    for _ in range(2):
        assert code_of(await desk.judges(ANN, Action.READ, "a")) is codes.BUSY
    assert len(judge.asked) == 2


async def test_of_several_channels_the_first_closed_one_is_named_whatever_comes_first() -> None:
    judge = Judge(a=True, b=False, c=True, d=False)
    desk = Desk(hooks=Hooks(authorize=judge))
    error = await desk.judges(ANN, Action.READ, "a", "b", "c", "d")
    assert isinstance(error, Forbidden)
    assert error.channel == "b"
    assert await desk.judges(ANN, Action.READ, "a", "c", "a") is None
    assert len(judge.asked) == 4


async def test_a_channel_named_twice_is_asked_for_once() -> None:
    judge = Judge(a=True)
    desk = Desk(hooks=Hooks(authorize=judge))
    assert await desk.judges(ANN, Action.READ, "a", "a") is None
    assert len(judge.asked) == 1


# -- what is remembered -----------------------------------------------------------------------


async def test_a_decision_is_asked_for_once_in_thirty_seconds() -> None:
    judge = Judge(a=True, b=False)
    desk = Desk(hooks=Hooks(authorize=judge))
    await desk.judges(ANN, Action.READ, "a")
    await desk.judges(ANN, Action.READ, "b")
    for _ in range(29):
        desk.clock.passes(1)
        assert desk.decides(ANN, Action.READ, "a") is None, "within the call"
        assert isinstance(desk.decides(ANN, Action.READ, "b"), Forbidden)
    assert len(judge.asked) == 2
    desk.clock.passes(1)
    assert await desk.judges(ANN, Action.READ, "a") is None
    assert len(judge.asked) == 3


async def test_a_thousand_readers_that_poll_ask_once_each() -> None:
    async def authenticate(request: AuthRequest) -> Identity:
        known.append(request.token)
        return Identity(user=request.token)

    known: list[str] = []
    judge = Judge(news=True)
    desk = Desk(hooks=Hooks(authenticate=authenticate, authorize=judge))
    for poll in range(20):
        for number in range(1_000):
            request = AuthRequest(token=f"u{number}", query={"after": str(poll)})
            answer = desk.knows(request) if poll else await desk.finds(request)
            assert isinstance(answer, Identity)
            error = (
                desk.decides(answer, Action.READ, "news")
                if poll
                else await desk.judges(answer, Action.READ, "news")
            )
            assert error is None
        desk.clock.passes(1)
    assert len(known) == len(judge.asked) == 1_000
    assert len(asyncio.all_tasks()) == 1


async def test_a_crowd_asks_once() -> None:
    judge = Judge(a=True)
    judge.gate.clear()
    desk = Desk(hooks=Hooks(authorize=judge))
    said = [Said() for _ in range(100)]
    for one in said:
        desk.authority.authorize(NOBODY, Action.READ, ["a"], one)
    await turns()
    judge.gate.set()
    await turns()
    assert [one.one for one in said] == [None] * 100
    assert len(judge.asked) == 1


@pytest.mark.parametrize(
    ("identity", "action", "channel"),
    [
        (Identity(user="bob", kind="token", credential=b"1"), Action.READ, "a"),
        (Identity(user="ann", kind="token", credential=b"2"), Action.READ, "a"),
        (ANN, Action.PUBLISH, "a"),
        (ANN, Action.READ, "b"),
        (NOBODY, Action.READ, "a"),
    ],
)
async def test_decisions_are_never_mixed_up(identity: Identity, action: Action, channel: str) -> None:
    judge = Judge(a=True, b=True)
    desk = Desk(hooks=Hooks(authorize=judge))
    await desk.judges(ANN, Action.READ, "a")
    judge.answers = {"a": False, "b": False}
    assert isinstance(await desk.judges(identity, action, channel), Forbidden)
    assert desk.decides(ANN, Action.READ, "a") is None


async def test_what_is_remembered_is_bounded() -> None:
    judge = Judge()
    desk = Desk(hooks=Hooks(authorize=judge), limits=Limits(max_decisions=50))
    for number in range(200):
        await desk.judges(ANN, Action.READ, f"c{number}")
    assert len(desk.authority._decisions) <= 50


# -- and what ends it -------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "channel"), [("ann", ""), ("ann", "a")])
async def test_forgetting_asks_anew(user: str, channel: str) -> None:
    judge = Judge(a=True)
    desk = Desk(hooks=Hooks(authorize=judge))
    await desk.judges(ANN, Action.READ, "a")
    desk.authority.forget("bob")
    desk.authority.forget("ann", "b")
    assert desk.decides(ANN, Action.READ, "a") is None
    judge.answers["a"] = False
    desk.authority.forget(user, channel)
    assert isinstance(await desk.judges(ANN, Action.READ, "a"), Forbidden)
    assert len(judge.asked) == 2


async def test_an_answer_from_before_it_was_to_be_forgotten_is_neither_given_nor_kept() -> None:
    judge = Judge(a=True)
    judge.gate.clear()
    desk = Desk(hooks=Hooks(authorize=judge))
    early, late = Said(), Said()
    desk.authority.authorize(ANN, Action.READ, ["a"], early)
    await turns()
    judge.answers["a"] = False
    desk.authority.forget("ann", "a")
    desk.authority.authorize(ANN, Action.READ, ["a"], late)
    judge.gate.set()
    await turns()
    assert isinstance(early.one, Forbidden)
    assert isinstance(late.one, Forbidden)
    assert isinstance(desk.decides(ANN, Action.READ, "a"), Forbidden)


@pytest.mark.parametrize("what", ["user", "token"])
async def test_a_revocation_reaches_a_decision_under_way(what: str) -> None:
    judge = Judge(a=True)
    judge.gate.clear()
    desk = Desk(hooks=Hooks(authorize=judge))
    ann = Identity(user="ann", kind="token", token_id="t1", credential=b"1")
    said = Said()
    desk.authority.authorize(ann, Action.READ, ["a"], said)
    await turns()
    await (desk.revocations.block_user("ann") if what == "user" else desk.revocations.revoke_token("t1"))
    judge.gate.set()
    await turns()
    assert code_of(said.one) is codes.PERMISSION_DENIED
    assert code_of(desk.decides(ann, Action.READ, "a")) is codes.PERMISSION_DENIED


async def test_a_revocation_drops_the_decisions_too() -> None:
    judge = Judge(a=True)
    desk = Desk(hooks=Hooks(authorize=judge))
    await desk.judges(ANN, Action.READ, "a")
    await desk.revocations.block_user("ann")
    await desk.revocations.unblock_user("ann")
    judge.answers["a"] = False
    assert isinstance(await desk.judges(ANN, Action.READ, "a"), Forbidden)


async def test_an_endless_stream_of_changes_is_an_error_not_an_endless_loop() -> None:
    async def judge(identity: Identity, action: Action, channel: str) -> bool:
        desk.authority.forget("ann")
        return True

    desk = Desk(hooks=Hooks(authorize=judge))
    assert code_of(await desk.judges(ANN, Action.READ, "a")) is codes.INTERNAL


# -- subscription tokens ------------------------------------------------------------------------


def opens(desk: Desk, text: str, channel: str = "room", client: str = "c1", user: str = "ann") -> Any:
    said = Said()
    identity = Identity(user=user, kind="token")
    desk.authority.judge_subscription(identity, channel, client, text, said)
    try:
        answer = desk.authority.subscription(identity, channel, client, text)
    except EverywireError as error:
        assert type(said.one) is type(error)
        assert (said.one.code, said.one.sentence) == (error.code, error.sentence)
        return error
    assert said.one == answer
    return answer


def test_a_subscription_token_opens_its_channel_to_its_user() -> None:
    desk = Desk()
    text = token(sub="ann", channel="room", info=1)
    assert opens(desk, text).channel == "room"
    assert opens(desk, text, channel="").channel == "room", "older clients do not say which"
    assert opens(desk, token(sub="ann", channel="room", client="c1")).client == "c1"
    assert opens(desk, token(channel="room"), user="").channel == "room", "nobody's, for nobody"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": "bob", "channel": "room"}, codes.INVALID_TOKEN),
        ({"channel": "room"}, codes.INVALID_TOKEN),
        ({"sub": "ann", "channel": "other"}, codes.INVALID_TOKEN),
        ({"sub": "ann", "channel": "room", "client": "c2"}, codes.INVALID_TOKEN),
        ({"sub": "ann", "channel": "room", "exp": 1}, codes.TOKEN_EXPIRED),
        ({"sub": "ann"}, codes.PERMISSION_DENIED),
        ({"sub": "ann", "channel": "room", "nbf": 2e9}, codes.PERMISSION_DENIED),
    ],
)
def test_a_subscription_token_that_opens_nothing(claims: dict[str, Any], code: Any, caplog: Any) -> None:
    assert code_of(opens(Desk(), token(**claims))) is code
    assert ("another" in caplog.text or "token of user" in caplog.text) is (claims.get("sub") != "ann")


def test_a_broken_subscription_token_is_forbidden() -> None:
    for text in ("", "x", token("x" * 40, sub="ann", channel="room")):
        assert code_of(opens(Desk(), text)) is codes.PERMISSION_DENIED
    assert code_of(opens(Desk(tokens=False), token(sub="ann", channel="room"))) is codes.PERMISSION_DENIED


async def test_a_revoked_subscription_token_opens_nothing() -> None:
    desk = Desk()
    await desk.revocations.revoke_token("s1")
    assert code_of(opens(desk, token(sub="ann", channel="room", jti="s1"))) is codes.PERMISSION_DENIED
    assert opens(desk, token(sub="ann", channel="room", jti="s2")).channel == "room"
    await desk.revocations.block_user("ann")
    assert code_of(opens(desk, token(sub="ann", channel="room", jti="s2"))) is codes.PERMISSION_DENIED


async def test_a_subscription_token_whose_key_must_be_fetched() -> None:
    from everywire.access.tokens import Tokens
    from tests.access.proofs import private_key
    from tests.access.test_authority import Source

    source = Source()
    desk = Desk(tokens=Tokens(jwks=source))
    text = token(private_key("ES256"), "ES256", sub="ann", channel="room")
    identity, said = Identity(user="ann", kind="token"), Said()
    with pytest.raises(EverywireError) as caught:
        desk.authority.subscription(identity, "room", "", text)
    assert caught.value.code is codes.INTERNAL, "temporary: it is asked for"
    desk.authority.judge_subscription(identity, "room", "", text, said)
    source.gate.set()
    await turns()
    assert said.one.channel == "room"
    assert desk.authority.subscription(identity, "room", "", text).channel == "room"
    assert source.fetches == 1
