"""Clients of SockJS for tests: bare requests whose chunks can be told apart, polls, and talks over them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import httpx

from tests.serving import DEADLINE_S, Site
from tests.talking import Ended, Talk

__all__ = [
    "FRAMES",
    "Streamed",
    "new_session",
    "over_sockjs_polls",
    "over_sockjs_websocket",
    "poll",
    "post",
    "send",
    "streamed",
]

_numbers: Final = count()


def new_session(prefix: str = "/echo") -> str:
    """Return the address of a session that nobody had."""
    return f"{prefix}/000/session-{next(_numbers)}"


async def post(
    site: Site, path: str, body: str | bytes = b"", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Send a POST."""
    return await site.http.post(path, content=body, headers=headers)


async def poll(site: Site, session: str, headers: Mapping[str, str] | None = None) -> str:
    """Return the frame that answers a poll."""
    response = await post(site, f"{session}/xhr", headers=headers)
    assert response.status_code == 200, response.text
    assert response.text.endswith("\n")
    return response.text[:-1]


async def send(
    site: Site, session: str, *messages: str, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Send messages to a session."""
    return await post(site, f"{session}/xhr_send", json.dumps(messages), headers)


class Streamed:
    """An answer that streams, read chunk by chunk."""

    def __init__(self, reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> None:
        self._reader = reader
        self.status = status
        self.headers = headers

    async def chunk(self) -> bytes:
        """Return the next chunk, whole as it was sent; nothing at the end."""
        async with asyncio.timeout(DEADLINE_S):
            size = int((await self._reader.readline()).split(b";")[0], 16)
            data = await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        return data

    async def rest(self) -> bytes:
        """Return all that follows, to the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.read()


@asynccontextmanager
async def streamed(
    site: Site,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    version: str = "1.1",
    body: bytes = b"",
) -> AsyncIterator[Streamed]:
    """Send a request on a connection of its own and read the head of its answer."""
    reader, writer = await site.connect()
    try:
        fields = {"Host": site.authority, **(headers or {})}
        if body or method == "POST":
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(DEADLINE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        told = {name.lower(): value.strip() for name, _, value in pairs}
        yield Streamed(reader, int(head[0].split()[1]), told)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass  # the server was first


FRAMES: Final[dict[str, dict[str, Any]]] = {
    "xhr_streaming": {
        "method": "POST",
        "query": "",
        "type": "application/javascript; charset=UTF-8",
        "wrap": lambda frame: frame + "\n",
    },
    "eventsource": {
        "method": "GET",
        "query": "",
        "type": "text/event-stream",
        "wrap": lambda frame: f"data: {frame}\r\n\r\n",
    },
    "htmlfile": {
        "method": "GET",
        "query": "?c=%63allback",
        "type": "text/html; charset=UTF-8",
        "wrap": lambda frame: f"<script>\np({json.dumps(frame)});\n</script>\r\n",
    },
}
"""The transports that stream, and how each wraps a frame."""


# -- the session protocol ------------------------------------------------------------------


def _take(talk: Talk, frame: str) -> bool:
    """Hear what a frame says; False when it was the last."""
    if frame[0] == "c":
        talk.replies.put_nowait(Ended(*json.loads(frame[1:])))
        return False
    if frame[0] == "a":
        lines = [line for message in json.loads(frame[1:]) for line in message.split("\n")]
        talk.take([json.loads(line) for line in lines])
    return True


@asynccontextmanager
async def _reading(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def over_sockjs_websocket(site: Site, *commands: Any, **options: Any) -> AsyncIterator[Talk]:
    """Talk over a WebSocket of SockJS."""
    async with site.websocket(f"{new_session('/sockjs')}/websocket", **options) as socket:

        async def read() -> None:
            async for frame in socket:
                _take(talk, frame)

        talk = Talk(lambda text: socket.send(json.dumps([text])))
        async with _reading(read()):
            if commands:
                await talk.send(*commands)
            yield talk


@asynccontextmanager
async def over_sockjs_polls(
    site: Site, *commands: Any, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Talk]:
    """Talk by polls; ``Talk.session`` is the address of the session."""
    session = new_session("/sockjs")

    async def say(text: str) -> None:
        assert (await send(site, session, text, headers=headers)).status_code == 204

    async def read() -> None:
        while _take(talk, await poll(site, session, headers)):
            pass

    talk = Talk(say)
    assert await poll(site, session, headers) == "o"
    async with _reading(read()):
        if commands:
            await talk.send(*commands)
        yield talk
