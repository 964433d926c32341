"""A producer's run of 2,000 tokens, read by tabs that reload, come late, and are away for a while.

The same tale over server-sent events and over sessions, on our own host and under an ASGI server: whatever a
tab went through, its text is that of the run, byte for byte, and the producer ran once.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import httpx_sse
import pytest
import websockets

from tests.e2e.cutting import Cable, through
from tests.serving import DEADLINE_S, Site, serving, until

TOKENS: Final = [f"{number}: tökens 😀 \n" if number % 7 else f" {number}" for number in range(2_000)]
TEXT: Final = "".join(TOKENS)
CHANNEL: Final = "answer:42"
AWAY_S: Final = 1.5
LONG_AWAY_S: Final = 10.0


class Model:
    """A language model: so many tokens as it is let."""

    def __init__(self) -> None:
        self.runs = 0
        self.let = 0
        self.told = 0
        self._more = asyncio.Event()

    async def stream(self) -> AsyncIterator[str]:
        self.runs += 1
        for token in TOKENS:
            while self.told >= self.let:
                self._more.clear()
                await self._more.wait()
            self.told += 1
            yield token

    async def go_to(self, count: int) -> None:
        """Let it tell so many tokens, and wait until it has."""
        self.let = count
        self._more.set()
        await until(lambda: self.told == count)


class Tab(ABC):
    """A page that shows a run: it reads for as long as it is open, and comes back when it is cut off."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.tokens: list[str] = []
        self.end: dict[str, Any] | None = None
        self.connected = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def open(self) -> None:
        """Begin with an empty page, as after a reload: nothing is known of before."""
        self.tokens, self.end = [], None
        self.forget()
        self._task = asyncio.create_task(self._stay())

    async def close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def reload(self) -> None:
        await self.close()
        self.open()

    async def _stay(self) -> None:
        while self.end is None:
            try:
                self.connected += 1
                await self.read()
            except (OSError, httpx.HTTPError, websockets.WebSocketException):
                await asyncio.sleep(0.02)

    def take(self, event: str | None, value: Any) -> None:
        if event == "end":
            self.end = value
        else:
            assert self.end is None, "a token behind the end"
            self.tokens.append(value)

    @abstractmethod
    def forget(self) -> None:
        """Forget where it was."""

    @abstractmethod
    async def read(self) -> None:
        """Read until the connection breaks, or the run has ended."""


class EventSourceTab(Tab):
    """Reads server-sent events, as a browser's EventSource does."""

    def forget(self) -> None:
        self.last_id = ""

    async def read(self) -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        async with (
            httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client,
            client.stream(
                "GET", f"{self.url}/channels/{CHANNEL}?after=earliest", headers=headers
            ) as response,
        ):
            assert response.status_code == 200
            async for event in httpx_sse.EventSource(response).aiter_sse():
                if event.data:
                    assert event.event in ("message", "end"), event
                    self.take(event.event, json.loads(event.data))
                self.last_id = event.id or self.last_id
                if self.end is not None:
                    return


class SessionTab(Tab):
    """Subscribes over the session protocol, from the beginning or from where it was."""

    def forget(self) -> None:
        self.epoch, self.offset = "", 0

    async def read(self) -> None:
        url = self.url.replace("http", "ws") + "/connection/websocket"
        async with websockets.connect(url, open_timeout=DEADLINE_S, proxy=None) as socket:
            subscribe = {"channel": CHANNEL, "recover": True, "epoch": self.epoch, "offset": self.offset}
            commands = [{"id": 1, "connect": {}}, {"id": 2, "subscribe": subscribe}]
            await socket.send("\n".join(map(json.dumps, commands)))
            async for message in socket:
                assert isinstance(message, str)
                for line in message.splitlines():
                    reply = json.loads(line)
                    assert "error" not in reply, reply
                    if not reply:
                        await socket.send("{}")
                    elif "subscribe" in reply:
                        self._subscribed(reply["subscribe"])
                    elif "pub" in reply.get("push", ()):
                        self._publication(reply["push"]["pub"])
                if self.end is not None:
                    return

    def _subscribed(self, result: dict[str, Any]) -> None:
        assert result["recovered"], "the run is kept, and still it was not recovered"
        assert self.epoch in ("", result["epoch"])
        self.epoch = result["epoch"]
        self.offset = result.get("offset", 0)
        for publication in result.get("publications", ()):
            self._publication(publication)

    def _publication(self, publication: dict[str, Any]) -> None:
        assert publication["offset"] == self.offset + 1, "a hole, or the same twice"
        self.offset = publication["offset"]
        self.take(publication.get("tags", {}).get("event"), publication["data"])


TABS: Final = {"sse": EventSourceTab, "session": SessionTab}


async def tell_the_tale(
    site: Site, cable: Cable, model: Model, kind: type[Tab], away_s: float = AWAY_S
) -> list[Tab]:
    """Let tabs read a run through all that happens; return them at its end."""
    reloads, late, away = tabs = [kind(site.url), kind(site.url), kind(cable.url)]
    reloads.open()
    away.open()
    try:
        for count in (150, 400, 800, 1_200, 1_700):
            await model.go_to(count)
            await until(lambda count=count: len(reloads.tokens) > count // 2)
            await reloads.reload()
            if count == 800:
                await until(lambda: len(away.tokens) > 200)
                cable.cut()
                connected = away.connected
            if count == 1_200:
                late.open()
                await asyncio.sleep(away_s)
                assert len(away.tokens) < 1_200
                assert away.connected > connected, "it never tried to come back"
                cable.mend()
        await model.go_to(len(TOKENS))
        await until(lambda: all(tab.end is not None for tab in tabs))
    finally:
        for tab in tabs:
            if tab._task is not None:
                await tab.close()
    return tabs


@pytest.mark.parametrize("kind", TABS)
@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_every_tab_has_the_same_text(kind: str, host: str, certificate: tuple[str, str]) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(host, certificate))
        cable = await stack.enter_async_context(through(site.url))
        model = Model()
        first, second = await asyncio.gather(*[site.wire.produce(CHANNEL, model.stream) for _ in range(2)])
        assert first is second
        away_s = LONG_AWAY_S if (kind, host) == ("session", "own") else AWAY_S
        tabs = await tell_the_tale(site, cable, model, TABS[kind], away_s)
        for tab in tabs:
            assert tab.text.encode() == TEXT.encode()
            assert tab.end == {"status": "done", "count": 2_000}
        assert model.runs == 1
        # And who comes behind the end has all of it, too.
        last = TABS[kind](site.url)
        last.open()
        await until(lambda: last.end is not None)
        assert last.text == TEXT and model.runs == 1
        await last.close()


@pytest.mark.parametrize("kind", TABS)
async def test_the_first_tab_begins_a_run_that_nobody_else_has_begun(
    kind: str, certificate: tuple[str, str]
) -> None:
    async with serving("own", certificate) as site:
        model = Model()
        asked: list[str] = []

        @site.wire.produce("answer:*")
        async def answer(channel: str) -> AsyncIterator[str]:
            asked.append(channel)
            async for token in model.stream():
                yield token

        tabs = [TABS[kind](site.url) for _ in range(3)]
        for tab in tabs:
            tab.open()
        await model.go_to(700)
        await tabs[0].reload()
        await model.go_to(2_000)
        await until(lambda: all(tab.end is not None for tab in tabs))
        assert {tab.text for tab in tabs} == {TEXT}
        assert (asked, model.runs) == ([CHANNEL], 1)
        for tab in tabs:
            await tab.close()


async def test_a_reader_that_does_not_read_does_not_slow_a_run(certificate: tuple[str, str]) -> None:
    async with serving("own", certificate) as site:
        reader, writer = await site.connect()
        writer.write(
            b"GET /channels/answer:42?after=earliest HTTP/1.1\r\n"
            b"Host: %s\r\nAccept: text/event-stream\r\n\r\n" % site.authority.encode()
        )
        await reader.readuntil(b"\r\n\r\n")

        async def stream() -> AsyncIterator[str]:
            for number in range(35):
                yield f"{number} " + "x" * 100_000

        run = await site.wire.produce(CHANNEL, stream)
        assert await asyncio.wait_for(run.finished(), DEADLINE_S) == "done"
        # And when it reads again it has missed nothing: 3.5 MB, far more than any socket took.
        found = b""
        while b"event: end" not in found:
            found += await asyncio.wait_for(reader.read(2**20), DEADLINE_S)
        assert [found.count(b'data: "%d x' % number) for number in range(35)] == [1] * 35
        writer.close()
        await writer.wait_closed()
