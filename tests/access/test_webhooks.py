"""An application that is asked over HTTP: who someone is, what they may do, and what if it fails."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from everywire import Everywire
from everywire.access.hooks import Hooks
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.access.webhooks import KINDS, Webhooks, WebhookSettings
from everywire.core import codes
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.publication import Draft
from tests.access.application import Answer, Application, application_served


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    async with application_served() as made:
        yield made


@asynccontextmanager
async def asking(settings: WebhookSettings, **more: Any) -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(settings, Rules(api_keys={"backend": "a-long-api-key"}), **more)
    try:
        yield webhooks
    finally:
        await webhooks.close()


class Someone:
    identity = Identity(user="ann", claims={"team": "red"})
    client = "client-1"
    transport = "websocket"
    peer = "192.0.2.1"


async def test_connect_says_who_somebody_is(application: Application) -> None:
    application.answer = lambda kind, question: {
        "result": {
            "user": "ann",
            "info": {"name": "Ann"},
            "expire_at": 4_000_000_000,
            "channels": ["news"],
            "subs": {"inbox:ann": {"info": {"n": 1}}},
            "data": {"hello": "ann"},
            "meta": {"team": "red"},
        }
    }
    settings = application.settings("connect", secret="signs it")
    async with asking(settings) as webhooks:
        request = AuthRequest(
            transport="sse", headers={"cookie": "id=1", "x-secret": "not passed on"}, data=b'{"a":1}'
        )
        assert webhooks.hooks.authenticate is not None and webhooks.hooks.connect is not None
        identity = await webhooks.hooks.authenticate(request)
        assert identity is not None
        assert (identity.user, identity.kind, identity.expires_s) == ("ann", "hook", 4_000_000_000)
        assert identity.channels == ("news", "inbox:ann") and identity.terms["inbox:ann"].info == b'{"n":1}'
        assert json.loads(identity.info or b"") == {"name": "Ann"} and identity.claims["team"] == "red"
        caller = type("Caller", (Someone,), {"identity": identity})()
        decision = await webhooks.hooks.connect(caller, request)
        assert decision is not None and json.loads(decision.data or b"") == {"hello": "ann"}
    ((kind, question, fields),) = application.asked
    assert kind == "connect" and question["data"] == {"a": 1} and question["transport"] == "sse"
    assert fields["cookie"] == "id=1" and "x-secret" not in fields
    moment, signature = (part.partition("=")[2] for part in fields["x-everywire-signature"].split(","))
    assert abs(int(moment) - time.time()) < 60
    expected = hmac.new(b"signs it", f"{moment}.{fields['body']}".encode(), "sha256").hexdigest()
    assert hmac.compare_digest(signature, expected)


async def test_the_document_says_how_to_check_a_signature(application: Application) -> None:
    document = (Path(__file__).parents[2] / "docs" / "access.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(import hmac, time.*?)```", document, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    async with asking(application.settings("rpc", secret="signs it")) as webhooks:
        assert webhooks.hooks.rpc is not None
        await webhooks.hooks.rpc(Someone(), "m", b"1")
    ((_, _, fields),) = application.asked
    header, body = fields["x-everywire-signature"], fields["body"].encode()
    assert names["is_genuine"](header, body, b"signs it")
    assert not names["is_genuine"](header, body + b" ", b"signs it")
    assert not names["is_genuine"](header, body, b"another")


async def test_whoever_brings_something_built_in_is_not_asked_about(application: Application) -> None:
    async with asking(application.settings("connect"), knows_tokens=True) as webhooks:
        authenticate = webhooks.hooks.authenticate
        assert authenticate is not None
        assert await authenticate(AuthRequest(token="a.b.c")) is None
        assert await authenticate(AuthRequest(token="a-long-api-key")) is None
        assert await authenticate(AuthRequest(headers={"x-api-key": "anything"})) is None
    assert not application.asked
    async with asking(application.settings("connect")) as webhooks:
        assert webhooks.hooks.authenticate is not None
        assert await webhooks.hooks.authenticate(AuthRequest(token="opaque")) is None
    assert [question["token"] for _, question, _ in application.asked] == ["opaque"]


async def test_subscribe_is_asked_once_for_permission_and_terms(application: Application) -> None:
    application.answer = lambda kind, question: {"result": {"info": {"role": "reader"}, "data": [1]}}
    async with asking(application.settings("subscribe")) as webhooks:
        authorize, subscribe = webhooks.hooks.authorize, webhooks.hooks.subscribe
        assert authorize is not None and subscribe is not None
        assert await authorize(Someone.identity, Action.READ, "news") is True
        decision = await subscribe(Someone(), "news", None)
        assert decision is not None and json.loads(decision.data or b"") == [1]
        assert application.counts() == {"subscribe": 1}
        await subscribe(Someone(), "news", b'{"since": 3}')
        assert application.asked[1][1]["data"] == {"since": 3}
        assert application.asked[1][1]["client"] == "client-1"
        assert application.asked[1][1]["meta"] == {"team": "red"}
        assert await authorize(Someone.identity, Action.PRESENCE, "news") is None
        assert await authorize(Someone.identity, Action.PUBLISH, "news") is None


async def test_publish_may_change_or_refuse_and_rpc_answers(application: Application) -> None:
    def answer(kind: str, question: dict[str, Any]) -> Answer:
        if kind == "rpc":
            return {"result": {"data": {"doubled": question["data"] * 2}}}
        if question["data"] == "bad":
            return {"error": {"code": 1001, "message": "no bad words"}}
        return {"result": {"data": "changed"} if question["data"] == "change" else {}}

    application.answer = answer
    async with asking(application.settings("publish", "rpc")) as webhooks:
        publish, rpc, authorize = webhooks.hooks.publish, webhooks.hooks.rpc, webhooks.hooks.authorize
        assert publish is not None and rpc is not None and authorize is not None
        assert await authorize(Someone.identity, Action.PUBLISH, "news") is True
        assert await publish(Someone(), Draft("news", b'"fine"')) is None
        changed = await publish(Someone(), Draft("news", b'"change"'))
        assert changed is not None and changed.data == b'"changed"'
        with pytest.raises(EverywireError, match="no bad words") as caught:
            await publish(Someone(), Draft("news", b'"bad"'))
        assert caught.value.code.number == 1001
        assert json.loads(await rpc(Someone(), "double", b"21")) == {"doubled": 42}


async def test_refresh_lets_a_connection_go_on_or_not(application: Application) -> None:
    application.answer = lambda kind, question: {"result": {"expire_at": 4_000_000_000}}
    async with asking(application.settings("refresh")) as webhooks:
        refresh = webhooks.hooks.refresh
        assert refresh is not None
        assert await refresh(Someone(), "a token") is None
        identity = await refresh(Someone(), "")
        assert identity is not None and (identity.user, identity.expires_s) == ("ann", 4_000_000_000)
        application.answer = lambda kind, question: {"result": {"expired": True}}
        with pytest.raises(EverywireError) as caught:
            await refresh(Someone(), "")
        assert caught.value.code is codes.CREDENTIAL_EXPIRED


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"result"',
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{"result": {"user": true}}',
        b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n" + b" " * 400_000,
        b"nothing of HTTP\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"[" * 200_000,
    ],
    ids=[
        "silence", "500", "redirect", "cut", "empty", "wrong-type", "too-large", "garbage", "closed",
        "compressed", "no-content", "deep",
    ],
)
async def test_whatever_goes_wrong_is_a_no_that_is_counted_and_logged(
    application: Application, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    application.answer = lambda kind, question: answer
    settings = application.settings("subscribe", timeout_s=0.3, max_answer_bytes=300_000)
    async with asking(settings) as webhooks:
        assert webhooks.hooks.authorize is not None
        with caplog.at_level(logging.WARNING), pytest.raises(EverywireError) as caught:
            await webhooks.hooks.authorize(Someone.identity, Action.READ, "news")
        assert caught.value.code is codes.INTERNAL
        assert webhooks.failed == 1 and "the webhook subscribe failed" in caplog.text


async def test_nobody_there_is_a_no(caplog: pytest.LogCaptureFixture) -> None:
    async with asking(WebhookSettings(urls={"subscribe": "http://127.0.0.1:1/subscribe"})) as webhooks:
        assert webhooks.hooks.authorize is not None
        with pytest.raises(EverywireError):
            await webhooks.hooks.authorize(Someone.identity, Action.READ, "news")


async def test_questions_under_way_and_waiting_are_bounded(application: Application) -> None:
    application.delay_s = 0.05
    settings = application.settings("rpc", max_asked=2, max_waiting=6)
    async with asking(settings) as webhooks:
        assert webhooks.hooks.rpc is not None
        calls = [webhooks.hooks.rpc(Someone(), "m", b"1") for _ in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, EverywireError) for result in results) == 2
    assert application.most_at_once == 2 and application.counts() == {"rpc": 6}


async def test_no_cookie_of_an_answer_goes_out_with_the_next_question(application: Application) -> None:
    async with asking(application.settings("connect")) as webhooks:
        authenticate = webhooks.hooks.authenticate
        assert authenticate is not None
        await authenticate(AuthRequest(headers={"cookie": "session=ann"}))
        await authenticate(AuthRequest())
    assert [fields.get("cookie") for _, _, fields in application.asked] == ["session=ann", None]


async def test_only_what_may_stand_in_a_header_field_is_passed_on(application: Application) -> None:
    """A connect command brings any text as a header field."""
    settings = application.settings(
        "connect", headers=("x-a", "x-b", "x-c", "x-d", "user-agent"), static_headers={"x-d": "ours"}
    )
    sent = {"x-a": "caf\xe9", "x-b": "\u4e2d", "x-c": "1\r\nx-user: root", "x-d": "theirs", "x-e": "no"}
    async with asking(settings) as webhooks:
        assert webhooks.hooks.authenticate is not None
        await webhooks.hooks.authenticate(AuthRequest(headers=sent))
        assert webhooks.failed == 0
    fields = application.asked[0][2]
    assert fields["x-a"] == "caf\xe9" and fields["x-d"] == "ours"
    assert not {"x-b", "x-c", "x-e", "x-user"} & set(fields)
    assert fields["user-agent"] == "everywire" and fields["accept-encoding"] == "identity"


async def test_a_connection_that_the_application_closed_is_no_failure(application: Application) -> None:
    application.closes = True
    async with asking(application.settings("subscribe")) as webhooks:
        authorize = webhooks.hooks.authorize
        assert authorize is not None
        for number in range(20):
            assert await authorize(Someone.identity, Action.READ, f"news.{number}") is True
            await asyncio.sleep(0)
        assert webhooks.failed == 0


@pytest.mark.parametrize(
    ("answer", "number", "sentence"),
    [
        ({"error": {"code": 1001, "message": "pay first"}}, 1001, "pay first"),
        ({"error": {"code": 9, "message": "what"}}, 103, "what"),
        ({"error": {"code": 4000}}, 103, "this is not allowed"),
        ({"error": {}}, 103, "this is not allowed"),
        ({"error": None, "disconnect": {"code": 4501, "reason": "never again"}}, 4501, "never again"),
        ({"disconnect": {"code": 12, "reason": None}}, 3507, "this is not allowed"),
        ({"disconnect": {"code": 3005, "reason": ""}}, 3005, "the connection reached its age; come back"),
        ({"error": {"code": 1001, "message": "x" * 9999}}, 1001, "x" * 500),
        ({"result": {"expire_at": 1}}, 110, "this has expired"),
    ],
)
async def test_a_refusal_says_code_and_reason(
    application: Application, answer: Answer, number: int, sentence: str
) -> None:
    application.answer = lambda kind, question: answer
    async with asking(application.settings("subscribe")) as webhooks:
        assert webhooks.hooks.authorize is not None
        with pytest.raises(EverywireError) as caught:
            await webhooks.hooks.authorize(Someone.identity, Action.READ, "news")
        assert (caught.value.code.number, caught.value.sentence) == (number, sentence)
        assert webhooks.failed == 0, "a refusal is an answer"


NOTHING = dict.fromkeys(
    ("user", "expire_at", "info", "b64info", "data", "b64data", "channels", "subs", "meta", "override")
)


async def test_what_is_null_is_left_out(application: Application) -> None:
    application.answer = lambda kind, question: {"result": NOTHING, "error": None, "disconnect": None}
    async with asking(application.settings(*KINDS)) as webhooks:
        hooks = webhooks.hooks
        assert hooks.authenticate and hooks.authorize and hooks.publish and hooks.rpc and hooks.refresh
        assert await hooks.authenticate(AuthRequest()) is None
        assert await hooks.authorize(Someone.identity, Action.READ, "news") is True
        assert await hooks.publish(Someone(), Draft("news", b"1")) is None
        assert await hooks.rpc(Someone(), "m", b"") == b"null"
        identity = await hooks.refresh(Someone(), "")
        assert identity is not None and identity.claims == {"team": "red"} and identity.expires_s is None
        assert webhooks.failed == 0


def base64(data: bytes) -> str:
    return b64encode(data).decode()


async def test_base64_is_read_and_written(application: Application) -> None:
    def answer(kind: str, question: dict[str, Any]) -> Answer:
        said = {"b64info": base64(b'{ "n" : 1 }'), "b64data": base64(b"[ 2 ]"), "user": "ann"}
        if kind in ("publish", "rpc"):
            said = {"b64data": base64(b64decode(question["b64data"])[::-1])}
        return {"result": said}

    application.answer = answer
    async with asking(application.settings(*KINDS)) as webhooks:
        hooks = webhooks.hooks
        assert hooks.authenticate and hooks.subscribe and hooks.publish and hooks.rpc
        identity = await hooks.authenticate(AuthRequest())
        assert identity is not None and identity.info == b'{"n":1}'
        decision = await hooks.subscribe(Someone(), "news", None)
        assert decision is not None and (decision.info, decision.data) == (b'{"n":1}', b"[2]")
        changed = await hooks.publish(Someone(), Draft("news", b"\xff\x00", "image/x"))
        assert changed is not None
        assert (changed.data, changed.content_type) == (b"\x00\xff", "application/octet-stream")
        assert await hooks.rpc(Someone(), "m", b"\xff\x01") == b"\x01\xff"


@pytest.mark.parametrize(
    "result",
    [
        {"b64info": "!"},
        {"b64info": base64(b"no json")},
        {"b64data": base64(b"{")},
        {"channels": ["no channel,"]},
        {"subs": {"": {}}},
        {"subs": {"news": {"b64data": base64(b"{")}}},
        {"user": "x" * 256},
        {"user": 7},
        {"expire_at": "soon"},
        {"meta": []},
    ],
    ids=str,
)
async def test_an_answer_that_means_nothing_lets_nobody_in(
    application: Application, result: dict[str, Any]
) -> None:
    application.answer = lambda kind, question: {"result": {"user": "ann"} | result}
    async with asking(application.settings("connect")) as webhooks:
        assert webhooks.hooks.authenticate is not None
        with pytest.raises(EverywireError) as caught:
            await webhooks.hooks.authenticate(AuthRequest())
        assert caught.value.code is codes.INTERNAL and webhooks.failed == 1


async def test_somebody_without_a_name_may_bring_channels(application: Application) -> None:
    application.answer = lambda kind, question: {
        "result": {"channels": ["news"], "subs": {"a": {"override": {"join_leave": {"value": True}}}}}
    }
    async with asking(application.settings("connect")) as webhooks:
        assert webhooks.hooks.authenticate is not None
        identity = await webhooks.hooks.authenticate(AuthRequest())
        assert identity is not None and (identity.user, identity.channels) == ("", ("news", "a"))
        assert identity.terms["a"].join_leave is True


async def test_a_client_that_polls_with_data_is_asked_about_once(application: Application) -> None:
    application.answer = lambda kind, question: {"result": {"data": question.get("data")}}
    polling = type("Polling", (Someone,), {"transport": "poll"})()
    async with asking(application.settings("subscribe", "disconnect")) as webhooks:
        authorize, subscribe, disconnect = (
            webhooks.hooks.authorize,
            webhooks.hooks.subscribe,
            webhooks.hooks.disconnect,
        )
        assert authorize and subscribe and disconnect
        await authorize(Someone.identity, Action.READ, "news")
        for _ in range(3):
            for data in (b"1", b"2"):
                decision = await subscribe(polling, "news", data)
                assert decision is not None and decision.data == data
            await disconnect(polling, None)
        assert application.counts() == {"subscribe": 3}
        for _ in range(2):
            await subscribe(Someone(), "news", b"1")
        assert application.counts() == {"subscribe": 5}, "a connection of its own is asked about each time"
        await authorize(Someone.identity, Action.READ, "news")
        await subscribe(polling, "news", b"1")
        assert application.counts() == {"subscribe": 7}, "with the permission all of it is asked for anew"


async def test_what_was_said_is_kept_in_bounds(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everywire.access.webhooks._MAX_SAID", 3)
    monkeypatch.setattr("everywire.access.webhooks._MAX_SAID_BYTES", 100)
    application.answer = lambda kind, question: {"result": {"data": "x" * 40}}
    async with asking(application.settings("subscribe")) as webhooks:
        authorize, subscribe = webhooks.hooks.authorize, webhooks.hooks.subscribe
        assert authorize and subscribe
        for number in range(5):
            await authorize(Someone.identity, Action.READ, str(number))
        assert len(webhooks._said) == 2 and webhooks._said_bytes <= 100
        decision = await subscribe(Someone(), "0", None)
        assert decision is not None and decision.data == b'"%s"' % (b"x" * 40)
        assert application.counts() == {"subscribe": 6}
        application.answer = lambda kind, question: {"error": {"code": 103}}
        with pytest.raises(EverywireError):
            await authorize(Someone.identity, Action.READ, "4")
        with pytest.raises(EverywireError):
            await subscribe(Someone(), "4", None)


async def test_what_polling_clients_bring_is_not_kept(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, uncounted, as long as nothing else made room: up to 4 MiB for each client and channel."""
    monkeypatch.setattr("everywire.access.webhooks._MAX_SAID_BYTES", 100)
    application.answer = lambda kind, question: {"result": {"info": "y" * 20}}
    polling = type("Polling", (Someone,), {"transport": "poll"})()
    async with asking(application.settings("subscribe")) as webhooks:
        authorize, subscribe = webhooks.hooks.authorize, webhooks.hooks.subscribe
        assert authorize and subscribe
        await authorize(Someone.identity, Action.READ, "news")
        large = json.dumps("x" * 1000).encode()
        for data in (large, b"1", b"2"):
            await subscribe(polling, "news", data)
        (said,) = webhooks._said.values()
        assert sum(map(len, said.by_data)) < 100 and webhooks._said_bytes == said.size == 88
        await subscribe(polling, "news", b"3")
        assert not webhooks._said and webhooks._said_bytes == 0


async def test_the_end_of_a_session_is_told(application: Application) -> None:
    async with asking(application.settings("disconnect")) as webhooks:
        assert webhooks.hooks.disconnect is not None
        await webhooks.hooks.disconnect(Someone(), codes.EXPIRED)
        await webhooks.hooks.disconnect(Someone(), None)
    first, second = (question for _, question, _ in application.asked)
    assert (first["user"], first["client"], first["code"]) == ("ann", "client-1", 3005)
    assert "code" not in second


async def test_a_function_in_the_place_of_a_webhook_opens_nothing(application: Application) -> None:
    """The webhook would have judged each publication; a function that takes its place may not."""
    wire = Everywire(webhooks=application.settings("publish", "subscribe"))
    hooks = wire.hooks

    async def watch(caller: Any, draft: Draft) -> Draft | None:
        return None

    hooks.publish = watch
    await wire.start()
    try:
        assert hooks.authorize is not None
        assert await hooks.authorize(Someone.identity, Action.PUBLISH, "news") is None
        assert await hooks.authorize(Someone.identity, Action.READ, "news") is True
    finally:
        await wire.close()


async def test_failures_do_not_flood_the_log(
    application: Application, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.answer = lambda kind, question: {}
    async with asking(application.settings("rpc", "publish")) as webhooks:
        rpc, publish = webhooks.hooks.rpc, webhooks.hooks.publish
        assert rpc and publish
        for _ in range(5):
            with pytest.raises(EverywireError):
                await rpc(Someone(), "m", b"1")
        with pytest.raises(EverywireError):
            await publish(Someone(), Draft("news", b"1"))
        assert webhooks.failed == 6
        assert [record.args[0] for record in caplog.records] == ["rpc", "publish"]  # type: ignore[index]
        webhooks._link._log_from_s["rpc"] = 0.0
        with pytest.raises(EverywireError):
            await rpc(Someone(), "m", b"1")
        assert "and 4 more before it" in caplog.text


async def test_who_finds_no_turn_or_stops_waiting_is_counted(application: Application) -> None:
    application.answer = lambda kind, question: None
    async with asking(application.settings("rpc", max_asked=1, timeout_s=0.2)) as webhooks:
        rpc = webhooks.hooks.rpc
        assert rpc is not None
        results = await asyncio.gather(
            *(rpc(Someone(), "m", b"1") for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, EverywireError) for result in results) and webhooks.failed == 3
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rpc(Someone(), "m", b"1"), 0.01)
        assert webhooks.failed == 4
        application.answer = lambda kind, question: {"result": {"data": 1}}
        assert await rpc(Someone(), "m", b"1") == b"1", "all turns were given back"


@pytest.mark.parametrize(
    "wrong",
    [
        {"urls": {"conect": "http://a"}},
        {"urls": {"connect": "ftp://a"}},
        {"headers": ("content-length",)},
        {"headers": ("Cookie",)},
        {"static_headers": {"host": "elsewhere"}},
        {"static_headers": {"x-key": "a\r\nb"}},
        {"static_headers": {"x-key": "\u4e2d"}},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        WebhookSettings(**wrong)


def test_only_what_has_an_address_is_asked() -> None:
    assert Webhooks(WebhookSettings(), Rules()).hooks == Hooks()
    assert set(Webhooks(WebhookSettings(), Rules()).asked) == set(KINDS)
