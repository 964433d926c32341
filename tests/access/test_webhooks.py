"""An application that is asked over HTTP: who someone is, what they may do, and what if it fails."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from everywire import Everywire
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.access.webhooks import KINDS, Webhooks, WebhookSettings
from everywire.core import codes
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from tests.serving import serving, until

Answer = dict[str, Any] | bytes | None
"""A JSON answer, raw bytes of a whole response, or None: no answer at all."""


class Application:
    """A small HTTP server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.answer: Callable[[str, dict[str, Any]], Answer] = lambda kind, question: {"result": {}}
        self.delay_s = 0.0
        self.most_at_once = self._at_once = 0
        self.url = ""

    def counts(self) -> Counter[str]:
        return Counter(kind for kind, _, _ in self.asked)

    def settings(self, *kinds: str, **more: Any) -> WebhookSettings:
        return WebhookSettings(urls={kind: f"{self.url}/{kind}" for kind in kinds}, **more)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                fields = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
                }
                body = await reader.readexactly(int(fields["content-length"]))
                kind = first.split()[1].strip("/")
                question = json.loads(body)
                fields["body"] = body.decode()
                self.asked.append((kind, question, fields))
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                await asyncio.sleep(self.delay_s)
                answer = self.answer(kind, question)
                self._at_once -= 1
                if answer is None:
                    await asyncio.sleep(60)
                elif isinstance(answer, bytes):
                    writer.write(answer)
                    break
                else:
                    said = json.dumps(answer).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    made = Application()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, backlog=1024)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()


@asynccontextmanager
async def asking(settings: WebhookSettings, **more: Any) -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(settings, Rules(api_keys={"backend": "a-long-api-key"}), **more)
    yield webhooks
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
        assert identity.channels == ("news", "inbox:ann") and identity.terms["inbox:ann"].info == b'{"n": 1}'
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
    ],
    ids=["silence", "500", "redirect", "cut", "empty", "wrong-type", "too-large", "garbage", "closed"],
)
async def test_whatever_goes_wrong_is_a_no_that_is_counted_and_logged(
    application: Application, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    application.answer = lambda kind, question: answer
    settings = application.settings("subscribe", timeout_s=0.3, max_answer_bytes=100_000)
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


@pytest.mark.parametrize("urls", [{"conect": "http://a"}, {"connect": "ftp://a"}])
def test_wrong_settings_are_refused(urls: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        Webhooks(WebhookSettings(urls=urls), Rules())


def test_only_what_has_an_address_is_asked() -> None:
    assert Webhooks(WebhookSettings(), Rules()).hooks == type(Webhooks(WebhookSettings(), Rules()).hooks)()
    assert set(Webhooks(WebhookSettings(), Rules()).asked) == set(KINDS)


READERS = 1_000
ROUNDS = 5


async def test_a_crowd_of_long_polls_asks_once_per_reader(application: Application) -> None:
    """1,000 readers, each with a cookie of its own, poll on and on while publications come."""

    def answer(kind: str, question: dict[str, Any]) -> Answer:
        return {"result": {"user": application.asked[-1][2].get("cookie", "")}}

    application.answer = answer
    settings = application.settings("connect", "subscribe", timeout_s=30.0)
    options = {"dev": False, "webhooks": settings, "limits": Limits(hook_timeout_s=30.0)}
    async with serving("own", ("", ""), **options) as site:
        wire: Everywire = site.wire
        host, port = site.authority.split(":")

        async def read(number: int) -> list[int]:
            reader, writer = await asyncio.open_connection(host, int(port))
            got: list[int] = []
            position = "earliest"
            while len(got) < ROUNDS:
                target = f"/channels/news?wait=30&after={position}"
                writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nCookie: r={number}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200"), head
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                page = json.loads(await reader.readexactly(length))
                got += [one["data"] for one in page["publications"]]
                position = page["position"]
            writer.close()
            return got

        readers = [asyncio.create_task(read(number)) for number in range(READERS)]
        await until(lambda: wire.hub.subscribers("news") == READERS)
        for value in range(ROUNDS):
            await wire.publish("news", value)
            if value < ROUNDS - 1:
                await until(lambda: wire.hub.subscribers("news") == READERS)
        assert await asyncio.gather(*readers) == [list(range(ROUNDS))] * READERS
    counts = application.counts()
    assert counts["connect"] <= READERS and counts["subscribe"] <= READERS
