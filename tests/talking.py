"""Small clients of the session protocol, over other people's WebSocket and HTTP clients.

A `Talk` sends commands and reads replies one by one, whatever carries them; it knows nothing of the code
under test, and hides nothing: what is not asked for is found in `next`, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import httpx
import httpx_sse
import websockets

from tests.serving import DEADLINE_S, Site

__all__ = ["CONNECT", "OPENINGS", "Ended", "Talk", "lines", "over_http_stream", "over_sse", "over_websocket"]

Object = dict[str, Any]
CONNECT: Final[Object] = {"id": 1, "connect": {}}


class Ended(Exception):
    """The server ended the conversation; the code and reason that it told, if it told any."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def lines(*commands: Object) -> str:
    """Put commands together as clients do."""
    return "\n".join(map(json.dumps, commands))


class Talk:
    """A conversation of one session."""

    def __init__(self, send: Callable[[str], Any]) -> None:
        self._send = send
        self.replies: asyncio.Queue[Object | Ended] = asyncio.Queue()
        self.session = self.node = self.client = ""

    async def send(self, *commands: Object) -> None:
        """Send commands in one message or request."""
        await self._send(lines(*commands))

    async def next(self) -> Object:
        """Return what comes next; pings are passed over. Raises `Ended`."""
        while True:
            async with asyncio.timeout(DEADLINE_S):
                told = await self.replies.get()
            if isinstance(told, Ended):
                self.replies.put_nowait(told)
                raise told
            if told:
                return told

    async def connected(self) -> Object:
        """Return the connect result."""
        told = await self.next()
        result: Object = told["connect"]
        self.session, self.node = result.get("session", ""), result.get("node", "")
        self.client = result["client"]
        return result

    async def ended(self) -> Ended:
        """Read to the end, and say which."""
        try:
            while True:
                await self.next()
        except Ended as end:
            return end

    def take(self, replies: list[Object]) -> None:
        """Put aside what came."""
        for told in replies:
            self.replies.put_nowait(told)


async def _read(talk: Talk, pieces: AsyncIterator[list[Object]], end: Callable[[], Ended]) -> None:
    last: Object = {}
    try:
        async for replies in pieces:
            talk.take(replies)
            last = (replies or [last])[-1]
    except (httpx.HTTPError, websockets.ConnectionClosed):
        pass
    told = last.get("push", last).get("disconnect")
    talk.replies.put_nowait(end() if told is None else Ended(told["code"], told["reason"]))


@asynccontextmanager
async def over_websocket(
    site: Site, *commands: Object, path: str = "/connection/websocket", **options: Any
) -> AsyncIterator[Talk]:
    """Talk over a WebSocket."""
    async with site.websocket(path, **options) as socket:

        async def pieces() -> AsyncIterator[list[Object]]:
            async for message in socket:
                yield [json.loads(line) for line in message.split("\n")]

        talk = Talk(socket.send)
        end = lambda: Ended(socket.close_code, socket.close_reason)  # noqa: E731
        reading = asyncio.create_task(_read(talk, pieces(), end))
        try:
            if commands:
                await talk.send(*commands)
            yield talk
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


@asynccontextmanager
async def _over_http(
    site: Site, request: AbstractAsyncContextManager[httpx.Response], is_sse: bool
) -> AsyncIterator[Talk]:
    async def send(text: str) -> None:
        body = {"session": talk.session, "node": talk.node, "data": text}
        response = await site.http.post("/emulation", json=body)
        assert response.status_code == 204, response.text

    talk = Talk(send)
    async with request as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, response.text

        async def pieces() -> AsyncIterator[list[Object]]:
            if is_sse:
                async for event in httpx_sse.EventSource(response).aiter_sse():
                    yield [json.loads(event.data)]
            else:
                async for line in response.aiter_lines():
                    yield [json.loads(line)]

        reading = asyncio.create_task(_read(talk, pieces(), lambda: Ended(None, "")))
        try:
            yield talk
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def over_http_stream(
    site: Site,
    *commands: Object,
    path: str = "/connection/http_stream",
    headers: Mapping[str, str] | None = None,
) -> AbstractAsyncContextManager[Talk]:
    """Talk over an http_stream, and by emulation."""
    request = site.http.stream("POST", path, content=lines(*(commands or [CONNECT])), headers=headers)
    return _over_http(site, request, False)


def over_sse(
    site: Site, *commands: Object, path: str = "/connection/sse", headers: Mapping[str, str] | None = None
) -> AbstractAsyncContextManager[Talk]:
    """Talk over SSE, as EventSource does it, and by emulation."""
    url = f"{path}?cf_connect={quote(lines(*(commands or [CONNECT])))}"
    return _over_http(site, site.http.stream("GET", url, headers=headers), True)


def over_posted_sse(
    site: Site, *commands: Object, path: str = "/connection/sse", headers: Mapping[str, str] | None = None
) -> AbstractAsyncContextManager[Talk]:
    """Talk over SSE that begins with a POST."""
    request = site.http.stream("POST", path, content=lines(*(commands or [CONNECT])), headers=headers)
    return _over_http(site, request, True)


OPENINGS: Final[dict[str, Callable[..., AbstractAsyncContextManager[Talk]]]] = {
    "websocket": over_websocket,
    "http_stream": over_http_stream,
    "sse": over_sse,
    "posted sse": over_posted_sse,
}
"""Carriers that go both ways, by name."""
