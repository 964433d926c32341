"""Who someone is: the order of judgement, what is remembered and how long, and what ends it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from everywire.access.hooks import Hooks
from everywire.access.identity import NOBODY, Action, AuthRequest, Identity
from everywire.access.keys import Key, key_from_pem
from everywire.access.rules import Rules
from everywire.access.tokens import Tokens
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden, InvalidToken
from everywire.core.limits import Limits
from tests.access.proofs import SECRET, Clock, Desk, Said, bearer, private_key, public_pem, token, turns

KEYS = Rules(api_keys={"backend": "sesame-sesame"})


def code_of(answer: Any) -> Any:
    assert isinstance(answer, EverywireError), answer
    return answer.code


def user_of(answer: Any) -> str:
    assert isinstance(answer, Identity), answer
    return answer.user


class Asked:
    """An application's hook: counts what it is asked, answers when it is let."""

    def __init__(self, answer: Any = None) -> None:
        self.requests: list[Any] = []
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, *arguments: Any) -> Any:
        self.requests.append(arguments)
        answer = self.answer
        await self.gate.wait()
        if isinstance(answer, BaseException):
            raise answer
        return answer


# -- one credential ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        AuthRequest(headers={"x-api-key": "sesame-sesame"}),
        AuthRequest(headers={"authorization": "Bearer sesame-sesame"}),
        AuthRequest(headers={"authorization": "bearer   sesame-sesame "}),
        AuthRequest(headers={"authorization": "apikey sesame-sesame"}),
        AuthRequest(headers={"authorization": "ApiKey sesame-sesame"}),
        AuthRequest(token="sesame-sesame"),
    ],
)
@pytest.mark.parametrize("tokens", [True, False])
def test_an_api_key(request_: AuthRequest, tokens: bool) -> None:
    identity = Desk(KEYS, tokens=tokens).knows(request_)
    assert isinstance(identity, Identity)
    assert (identity.user, identity.kind, identity.may_all) == ("backend", "key", True)


@pytest.mark.parametrize(
    "request_",
    [
        AuthRequest(headers={"authorization": f"Bearer {token(sub='ann')}"}),
        AuthRequest(token=token(sub="ann")),
        AuthRequest(token=token(sub="ann"), headers={"authorization": "Basic YTpi"}),
    ],
)
def test_a_token(request_: AuthRequest) -> None:
    identity = Desk(KEYS).knows(request_)
    assert isinstance(identity, Identity)
    assert (identity.user, identity.kind, identity.may_all) == ("ann", "token", False)


def test_nobody() -> None:
    desk = Desk(KEYS)
    assert desk.knows(AuthRequest()) is NOBODY
    assert (
        desk.knows(AuthRequest(cookies={"other": token(sub="ann")}, query={"token": token(sub="ann")}))
        is NOBODY
    )
    assert desk.authority.is_current(NOBODY)


@pytest.mark.parametrize(
    "request_",
    [
        AuthRequest(headers={"x-api-key": ""}),
        AuthRequest(headers={"x-api-key": "sesame"}),
        AuthRequest(headers={"x-api-key": token(sub="ann")}),
        AuthRequest(headers={"authorization": ""}),
        AuthRequest(headers={"authorization": "Bearer"}),
        AuthRequest(headers={"authorization": "Bearer "}),
        AuthRequest(headers={"authorization": "Basic c2VzYW1lLXNlc2FtZTo="}),
        AuthRequest(headers={"authorization": "sesame-sesame"}),
        AuthRequest(headers={"authorization": "apikey " + token(sub="ann")}),
        AuthRequest(token="sesame"),
        AuthRequest(token=token("x" * 40, sub="ann")),
        AuthRequest(token="x" * 1_000_000),
        AuthRequest(headers={"x-api-key": "\udcff"}),
        AuthRequest(cookies={"session": "sesame-sesame"}),
        AuthRequest(cookies={"session": token("x" * 40, sub="ann")}),
    ],
)
@pytest.mark.parametrize("dev", [False, True])
def test_a_credential_that_is_no_good(request_: AuthRequest, dev: bool) -> None:
    rules = Rules(api_keys={"backend": "sesame-sesame"}, dev=dev)
    assert code_of(Desk(rules).knows(request_)) is codes.UNAUTHORIZED
    if not dev:
        assert code_of(Desk(rules, tokens=False).knows(request_)) is codes.UNAUTHORIZED


def test_sessions_can_tell_a_broken_token() -> None:
    desk = Desk(KEYS)
    for text in ("sesame", token("x" * 40, sub="ann"), token(sub=""), token(sub="ann", channel="a")):
        answer = desk.knows(bearer(text))
        assert isinstance(answer, InvalidToken | Identity)
        assert isinstance(answer, InvalidToken) is (text != token(sub=""))


def test_nobody_is_let_in_by_the_next_credential() -> None:
    good = {"x-api-key": "sesame-sesame", "authorization": "Bearer sesame-sesame"}
    desk = Desk(KEYS)
    assert code_of(desk.knows(AuthRequest(headers={**good, "x-api-key": "no"}))) is codes.UNAUTHORIZED
    bad_bearer = AuthRequest(headers={"authorization": "Bearer no"}, cookies={"session": token(sub="ann")})
    assert code_of(desk.knows(bad_bearer)) is codes.UNAUTHORIZED
    assert user_of(desk.knows(AuthRequest(headers=good, token=token(sub="ann")))) == "backend"


def test_an_expired_token_is_told_as_such() -> None:
    desk = Desk()
    text = token(sub="ann", exp=desk.clock.unix() + 10)
    known = desk.knows(bearer(text))
    assert isinstance(known, Identity)
    assert desk.authority.is_current(known)
    desk.clock.passes(10)
    # What is remembered does not make it live longer.
    assert code_of(desk.knows(bearer(text))) is codes.TOKEN_EXPIRED
    assert not desk.authority.is_current(known)
    assert desk.authority.is_expired(known)
    forever = desk.knows(bearer(token(sub="ann", exp=desk.clock.unix() + 10, expire_at=0)))
    desk.clock.passes(10)
    assert isinstance(forever, Identity)
    assert not desk.authority.is_expired(forever)


# -- cookies -----------------------------------------------------------------------------


def test_a_cookie_is_known_as_such() -> None:
    text = token(sub="ann", read=["a"])
    desk = Desk(KEYS)
    by_cookie = desk.knows(AuthRequest(cookies={"session": text}))
    by_header = desk.knows(AuthRequest(token=text, cookies={"session": text}))
    assert isinstance(by_cookie, Identity)
    assert isinstance(by_header, Identity)
    assert (by_cookie.user, by_cookie.kind) == ("ann", "cookie")
    assert (by_header.user, by_header.kind) == ("ann", "token")
    assert by_cookie.key != by_header.key
    # Remembered, too, each for itself.
    assert desk.knows(AuthRequest(cookies={"session": text})).kind == "cookie"  # type: ignore[union-attr]
    assert desk.knows(AuthRequest(token=text)).kind == "token"  # type: ignore[union-attr]


def test_without_a_name_no_cookie_counts() -> None:
    desk = Desk(cookie_name="")
    assert desk.knows(AuthRequest(cookies={"session": token(sub="ann"), "": token(sub="ann")})) is NOBODY


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (AuthRequest(cookies={"sid": "1"}), "cookie"),
        (AuthRequest(cookies={"sid": "1"}, headers={"authorization": "Bearer x"}), "hook"),
        (AuthRequest(cookies={"sid": "1"}, headers={"x-api-key": "x"}), "hook"),
        (AuthRequest(cookies={"sid": "1"}, token="x"), "hook"),
        (AuthRequest(), "hook"),
    ],
)
async def test_what_the_application_saw_by_cookie_alone_is_a_cookies(
    request_: AuthRequest, kind: str
) -> None:
    # Any page can make a browser send them (CVE-2021-32677): transports ask more of who changes something.
    for given in ("", "key"):
        desk = Desk(hooks=Hooks(authenticate=Asked(Identity(user="ann", kind=given))))
        found = await desk.finds(request_)
        assert isinstance(found, Identity)
        assert found.kind == kind


# -- tokens in the URL -------------------------------------------------------------------


@pytest.mark.parametrize("dev", [False, True])
@pytest.mark.parametrize("has_keys", [False, True])
def test_a_token_in_the_url_must_end_soon(dev: bool, has_keys: bool) -> None:
    desk = Desk(Rules(dev=dev, api_keys={"k": "sesame-sesame"}), tokens=has_keys or not dev)
    now_s = desk.clock.unix()
    for claims, is_good in (({"exp": now_s + 60}, True), ({"exp": now_s + 61}, False), ({}, False)):
        text = token(sub="ann", **claims)
        for _ in range(2):
            answer = desk.knows(bearer(text, is_token_in_query=True))
            if is_good:
                assert user_of(answer) == "ann"
            else:
                assert code_of(answer) is codes.UNAUTHORIZED
                assert "ticket" in answer.sentence  # type: ignore[union-attr]
            # In a header it is good, and that does not make it good in the URL.
            assert user_of(desk.knows(bearer(text))) == "ann"
    assert code_of(desk.knows(bearer("sesame-sesame", is_token_in_query=True))) is codes.UNAUTHORIZED


def test_a_broken_token_in_the_url_is_told_to_be_broken() -> None:
    answer = Desk().knows(bearer(token("x" * 40, sub="ann"), is_token_in_query=True))
    assert isinstance(answer, InvalidToken)


# -- development ---------------------------------------------------------------------------


def test_in_development_everybody_may_come() -> None:
    desk = Desk(Rules(dev=True), tokens=False)
    assert desk.knows(AuthRequest()) is NOBODY
    assert desk.decides(NOBODY, Action.DELETE, "any") is None


def test_in_development_a_token_that_nothing_can_check_is_believed() -> None:
    desk = Desk(Rules(dev=True), tokens=False)
    identity = desk.knows(bearer(token("x" * 40, sub="ann", info={"a": 1})))
    assert isinstance(identity, Identity)
    assert (identity.user, identity.info, identity.may_all) == ("ann", b'{"a":1}', False)
    assert code_of(desk.knows(bearer(token("x" * 40, sub="ann", exp=1)))) is codes.TOKEN_EXPIRED
    # But not where it can be checked, and nowhere else.
    assert isinstance(Desk(Rules(dev=True)).knows(bearer(token("x" * 40, sub="ann"))), InvalidToken)
    assert isinstance(Desk(tokens=False).knows(bearer(token("x" * 40, sub="ann"))), InvalidToken)


# -- the application's word --------------------------------------------------------------


async def test_the_application_says_who_it_is_before_anything_else() -> None:
    hook = Asked(Identity(user="ann"))
    desk = Desk(KEYS, Hooks(authenticate=hook))
    found = await desk.finds(AuthRequest(headers={"x-api-key": "no"}, token="no"))
    assert isinstance(found, Identity)
    assert (found.user, found.kind) == ("ann", "hook")
    assert found.credential, "so that decisions on two proofs are never mixed up"
    hook.answer = None
    assert user_of(await desk.finds(bearer(token(sub="bob")))) == "bob"
    assert user_of(await desk.finds(bearer("sesame-sesame"))) == "backend"
    assert code_of(await desk.finds(bearer("no"))) is codes.UNAUTHORIZED
    nobody = await desk.finds(AuthRequest())
    assert isinstance(nobody, Identity)
    assert (nobody.user, nobody.kind, nobody.key) == ("", "", NOBODY.key)


async def test_the_application_is_asked_once_in_thirty_seconds() -> None:
    hook = Asked(Identity(user="ann"))
    desk = Desk(hooks=Hooks(authenticate=hook))
    request = AuthRequest(token="x", query={"after": "p1", "wait": "25"}, headers={"if-none-match": "a"})
    first = await desk.finds(request)
    for number in range(100):
        again = AuthRequest(token="x", query={"after": f"p{number}"}, headers={"if-none-match": str(number)})
        assert desk.knows(again) is first, "within the call"
        desk.clock.passes(0.29)
    assert len(hook.requests) == 1
    assert desk.authority.is_current(first)  # type: ignore[arg-type]
    desk.clock.passes(1.5)
    assert not desk.authority.is_current(first)  # type: ignore[arg-type]
    second = await desk.finds(request)
    assert len(hook.requests) == 2
    assert second.key == first.key, "decisions on it are still good"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "other",
    [
        AuthRequest(token="y"),
        AuthRequest(token="x", peer="192.0.2.1"),
        AuthRequest(token="x", origin="https://a.example"),
        AuthRequest(token="x", transport="sse"),
        AuthRequest(token="x", method="POST"),
        AuthRequest(token="x", cookies={"a": "1"}),
        AuthRequest(token="x", query={"room": "1"}),
        AuthRequest(token="x", headers={"x-session": "1"}),
        AuthRequest(token="x", headers={"x-session": "", "a": "1"}),
        AuthRequest(token="x", data=b""),
        AuthRequest(token="x", data=b"1"),
        AuthRequest(token="x", name="js"),
        AuthRequest(token="x", version="js"),
        AuthRequest(token="x", is_token_in_query=True),
    ],
)
async def test_what_the_application_may_judge_by_is_never_mixed_up(other: AuthRequest) -> None:
    hook = Asked(Identity(user="ann"))
    desk = Desk(hooks=Hooks(authenticate=hook))
    await desk.finds(AuthRequest(token="x"))
    hook.answer = Identity(user="bob")
    assert user_of(await desk.finds(other)) == "bob"
    assert user_of(desk.knows(AuthRequest(token="x"))) == "ann"


async def test_the_application_is_not_asked_about_a_credential_that_is_too_large() -> None:
    hook = Asked(Identity(user="ann"))
    desk = Desk(hooks=Hooks(authenticate=hook), limits=Limits(max_token_bytes=100))
    large = "x" * 101
    for request in (
        bearer(large),
        AuthRequest(headers={"x-api-key": large}),
        AuthRequest(query={"ticket": large}),
    ):
        assert isinstance(desk.knows(request), InvalidToken)
    assert hook.requests == []


async def test_a_crowd_asks_once() -> None:
    hook = Asked(Identity(user="ann"))
    hook.gate.clear()
    desk = Desk(hooks=Hooks(authenticate=hook))
    said = [Said() for _ in range(100)]
    for one in said:
        desk.authority.authenticate(bearer("x"), one)
    await turns()
    hook.gate.set()
    await turns()
    assert {user_of(one.one) for one in said} == {"ann"}
    assert len(hook.requests) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Forbidden("not you"), codes.PERMISSION_DENIED),
        (EverywireError(code=codes.TOKEN_EXPIRED), codes.TOKEN_EXPIRED),
        (ValueError("secret detail"), codes.INTERNAL),
        (Identity(user="x" * 256), codes.INTERNAL),
        ("ann", codes.INTERNAL),
        (False, codes.INTERNAL),
    ],
)
async def test_what_else_the_application_may_answer(answer: Any, code: Any, caplog: Any) -> None:
    desk = Desk(hooks=Hooks(authenticate=Asked(answer)))
    said = [Said(), Said()]
    for one in said:
        desk.authority.authenticate(bearer(token(sub="ann")), one)
    await turns()
    for one in said:
        assert code_of(one.one) is code
        assert "secret" not in one.one.sentence
    assert ("Traceback" in caplog.text) is (code is codes.INTERNAL)


async def test_an_application_that_does_not_answer_lets_nobody_in(caplog: Any) -> None:
    hook = Asked(Identity(user="ann"))
    hook.gate.clear()
    desk = Desk(hooks=Hooks(authenticate=hook, authorize=hook), limits=Limits(hook_timeout_s=0.05))
    assert code_of(await desk.finds(AuthRequest())) is codes.INTERNAL
    assert code_of(await desk.judges(NOBODY, Action.READ, "a")) is codes.INTERNAL
    assert "did not answer in time" in caplog.text


async def test_what_the_application_says_runs_out() -> None:
    clock = Clock()
    desk = Desk(
        hooks=Hooks(authenticate=Asked(Identity(user="ann", expires_s=clock.unix() + 5))), clock=clock
    )
    assert user_of(await desk.finds(AuthRequest())) == "ann"
    clock.passes(5)
    assert code_of(await desk.finds(AuthRequest())) is codes.TOKEN_EXPIRED


# -- what is remembered -------------------------------------------------------------------


def test_a_known_token_is_not_verified_again_for_a_while() -> None:
    tokens = Tokens(secret=SECRET)
    verified = 0
    verify = tokens.verify_nowait

    def counted(text: str) -> Any:
        nonlocal verified
        verified += 1
        return verify(text)

    tokens.verify_nowait = counted  # type: ignore[method-assign]
    desk = Desk(tokens=tokens)
    text = token(sub="ann")
    first = desk.knows(bearer(text))
    for _ in range(29):
        desk.clock.passes(1)
        assert desk.knows(bearer(text)) is first
    assert verified == 1
    desk.clock.passes(1)
    assert desk.knows(bearer(text)) is not first
    assert verified == 2


def test_what_is_remembered_is_bounded() -> None:
    desk = Desk(limits=Limits(max_judgements=50))
    for number in range(200):
        assert user_of(desk.knows(bearer(token(sub=f"u{number}")))) == f"u{number}"
    assert len(desk.authority._judgements) <= 50
    for number in range(200):
        assert code_of(desk.knows(bearer(f"bad{number}"))) is codes.UNAUTHORIZED
    assert len(desk.authority._judgements) <= 50


async def test_too_many_questions_are_refused() -> None:
    hook = Asked(Identity(user="ann"))
    hook.gate.clear()
    desk = Desk(hooks=Hooks(authenticate=hook), limits=Limits(max_judging=3))
    said = [Said() for _ in range(4)]
    for number, one in enumerate(said):
        desk.authority.authenticate(bearer(str(number)), one)
    assert code_of(said[3].one) is codes.BUSY
    hook.gate.set()
    await turns()
    assert [user_of(one.one) for one in said[:3]] == ["ann"] * 3
    assert user_of(await desk.finds(bearer("4"))) == "ann"


def test_forgetting_makes_the_next_one_be_judged_anew() -> None:
    desk = Desk()
    first = {name: desk.knows(bearer(token(sub=name))) for name in ("ann", "bob")}
    desk.authority.forget("ann")
    assert desk.knows(bearer(token(sub="ann"))) is not first["ann"]
    assert desk.knows(bearer(token(sub="bob"))) is first["bob"]


async def test_an_answer_from_before_it_was_to_be_forgotten_is_neither_given_nor_kept() -> None:
    hook = Asked(Identity(user="ann", claims={"role": "admin"}))
    hook.gate.clear()
    desk = Desk(hooks=Hooks(authenticate=hook))
    early, late = Said(), Said()
    desk.authority.authenticate(bearer("x"), early)
    await turns()
    hook.answer = Identity(user="ann", claims={"role": "guest"})
    desk.authority.forget("ann")
    desk.authority.authenticate(bearer("x"), late)
    hook.gate.set()
    await turns()
    assert [one.one.claims["role"] for one in (early, late)] == ["guest", "guest"]
    assert desk.knows(bearer("x")).claims["role"] == "guest"  # type: ignore[union-attr]
    assert len(hook.requests) == 2


@pytest.mark.parametrize("what", ["user", "token", "tokens"])
async def test_a_revocation_reaches_who_is_being_judged(what: str) -> None:
    hook = Asked(None)
    hook.gate.clear()
    desk = Desk(hooks=Hooks(authenticate=hook))
    said = Said()
    desk.authority.authenticate(bearer(token(sub="ann", jti="t1", iat=desk.clock.unix() - 5)), said)
    await turns()
    revocations = desk.revocations
    await {
        "user": lambda: revocations.block_user("ann"),
        "token": lambda: revocations.revoke_token("t1"),
        "tokens": lambda: revocations.invalidate_user_tokens("ann"),
    }[what]()
    hook.gate.set()
    await turns()
    assert code_of(said.one) is codes.PERMISSION_DENIED


async def test_an_endless_stream_of_changes_is_an_error_not_an_endless_loop() -> None:
    async def ask(request: AuthRequest) -> Identity:
        desk.authority.forget("ann")
        return Identity(user="ann")

    desk = Desk(hooks=Hooks(authenticate=ask))
    assert code_of(await desk.finds(AuthRequest())) is codes.INTERNAL


# -- keys that must be fetched -------------------------------------------------------------


class Source:
    """A key source that brings its keys when it is let."""

    def __init__(self) -> None:
        self.keys: list[Key] | None = None
        self.gate = asyncio.Event()
        self.fetches = 0

    def find(self, kid: str, algorithm: str) -> list[Key] | None:
        return self.keys

    async def fetch(self, kid: str) -> None:
        self.fetches += 1
        await self.gate.wait()
        self.keys = [key_from_pem(public_pem(private_key("ES256")))]

    async def close(self) -> None:
        """Nothing is under way."""


async def test_who_waits_for_a_key_is_let_in_when_it_is_there() -> None:
    source = Source()
    desk = Desk(tokens=Tokens(jwks=source))
    text = token(private_key("ES256"), "ES256", sub="ann")
    said = [Said() for _ in range(10)]
    for one in said:
        desk.authority.authenticate(bearer(text), one)
    await turns()
    assert not any(said)
    source.gate.set()
    await turns()
    assert {user_of(one.one) for one in said} == {"ann"}
    assert source.fetches == 1
    assert user_of(desk.knows(bearer(text))) == "ann"


async def test_closing_tells_everybody_who_waits() -> None:
    hook = Asked(True)
    hook.gate.clear()
    desk = Desk(hooks=Hooks(authenticate=hook, authorize=hook))
    said = [Said() for _ in range(4)]
    desk.authority.authenticate(bearer("x"), said[0])
    desk.authority.authorize(NOBODY, Action.READ, ["a"], said[1])
    await turns()
    desk.authority.authenticate(bearer("y"), said[2])  # its task has not begun
    desk.authority.authorize(NOBODY, Action.READ, ["b"], said[3])
    await desk.authority.close()
    assert {code_of(one.one) for one in said} == {codes.INTERNAL}
    assert len(asyncio.all_tasks()) == 1


async def test_one_who_fails_does_not_keep_the_answer_from_the_others(caplog: Any) -> None:
    hook = Asked(Identity(user="ann"))
    desk = Desk(hooks=Hooks(authenticate=hook))
    said = Said()

    def fail(answer: Any) -> None:
        raise ValueError("a transport's fault")

    desk.authority.authenticate(bearer("x"), fail)
    desk.authority.authenticate(bearer("x"), said)
    await turns()
    assert user_of(said.one) == "ann"
    assert "a transport's fault" in caplog.text


async def test_no_credential_is_ever_logged(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [token("x" * 40, sub="ann"), "sesame-sesame", "t." + "a" * 43]
    for desk in (Desk(KEYS), Desk(KEYS, Hooks(authenticate=Asked(ValueError("x"))))):
        for text in texts:
            await desk.finds(bearer(text))
            await desk.finds(AuthRequest(headers={"x-api-key": text, "authorization": f"Bearer {text}"}))
            await desk.finds(AuthRequest(query={"ticket": text}))
    assert caplog.text
    assert not any(text in caplog.text for text in texts)
