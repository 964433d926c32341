"""Clients of SockJS for tests: bare requests whose chunks can be told apart, and polls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import httpx

from tests.serving import DEADLINE_S, Site

__all__ = ["FRAMES", "Streamed", "new_session", "poll", "post", "send", "streamed"]

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
