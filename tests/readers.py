"""A small reader for each wire, made of other people's clients: httpx, httpx-sse and `websockets`.

Each yields what it is told as a dictionary: ``{"open": position, "new": […]}`` where a wire begins with
it, publications and gaps with ``"position"`` where the wire tells one, and ``{"disconnect": …}``. They
know nothing of the code under test, and end when the server ends the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import httpx_sse
import websockets

from tests.serving import DEADLINE_S, Site

Seen = dict[str, Any]
Read = Callable[..., AsyncGenerator[Seen, None]]


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error


class Closed(Exception):
    """The server closed the WebSocket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def target(channels: str, query: Mapping[str, Any]) -> str:
    """Return the path and query for some channels."""
    pairs = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    return f"/channels/{channels}" + (f"?{pairs}" if pairs else "")


def _check(status: int, body: bytes) -> None:
    if status != 200:
        raise Refused(status, json.loads(body)["error"])


async def page(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> dict[str, Any]:
    """Ask once and return the JSON answer."""
    response = await site.http.get(target(channels, query), headers=headers)
    _check(response.status_code, response.content)
    answer: dict[str, Any] = response.json()
    return answer


async def _pages(
    site: Site, channels: str, headers: Mapping[str, str] | None, query: dict[str, Any]
) -> AsyncGenerator[Seen, None]:
    several = "," in channels
    first = True
    while True:
        answer = await page(site, channels, headers, **query)
        if first or "new" in answer:
            yield {"open": answer["position"], "new": answer.get("new", [])}
        first = False
        gaps = answer.get("gap", [])
        for gap in gaps if several else [gaps] if gaps else []:
            yield {"gap": gap, "position": answer["position"]}
        for publication in answer["publications"]:
            # Pages of one: the position of the page is that of the publication.
            yield {**publication, "position": answer["position"]}
        if not answer["publications"]:
            await asyncio.sleep(0.01)
        headers = {name: value for name, value in (headers or {}).items() if name != "Last-Event-ID"}
        query = {**query, "after": answer["position"], "last_event_id": None}


async def poll(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Seen, None]:
    """Poll, publication by publication."""
    async for seen in _pages(site, channels, headers, {"limit": 1, **query}):
        yield seen


async def long_poll(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Seen, None]:
    """Long poll, publication by publication."""
    async for seen in _pages(site, channels, headers, {"limit": 1, "wait": 20, **query}):
        yield seen


async def stream(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Seen, None]:
    """Read lines of JSON."""
    headers = {"Accept": "application/x-ndjson", **(headers or {})}
    async with site.http.stream("GET", target(channels, query), headers=headers) as response:
        if response.status_code != 200:
            _check(response.status_code, await response.aread())
        assert response.headers["content-type"] == "application/x-ndjson"
        opened = False
        rest = b""
        async for data in response.aiter_bytes():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                value = json.loads(line)
                if not opened:
                    opened = True
                    yield {"open": value["position"], "new": value.get("new", [])}
                elif value:
                    yield value


async def sse(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Seen, None]:
    """Read server-sent events."""
    several = "," in channels
    headers = {"Accept": "text/event-stream", **(headers or {})}
    async with site.http.stream("GET", target(channels, query), headers=headers) as response:
        if response.status_code != 200:
            _check(response.status_code, await response.aread())
        opened = False
        told_ms: list[int] = []
        async for event in httpx_sse.EventSource(response).aiter_sse():
            if event.retry is not None:
                told_ms.append(event.retry)
                if len(told_ms) > 1:
                    yield {"disconnect": {"retry": event.retry}}
            if not event.data and event.event == "message":
                # A block without data is no event; httpx-sse shows it all the same.
                if event.id and not opened:
                    opened = True
                    yield {"open": event.id, "new": []}
                continue
            value = json.loads(event.data)
            if event.event == "open":
                yield {"open": event.id, **value}
            elif event.event == "gap":
                yield {"gap": value, "position": event.id}
            else:
                seen = value if several or event.event == "binary" else {"data": value}
                named = {} if event.event in ("message", "binary") else {"event": event.event}
                yield {**seen, **named, "position": event.id}


async def envelopes(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Seen, None]:
    """Read envelopes from a WebSocket with the subprotocol ``everywire.json``."""
    connect = site.websocket(target(channels, query), headers=headers, subprotocols=["everywire.json"])
    opened = False
    async for message in _messages(connect):
        value = json.loads(message)
        if not opened:
            opened = True
            yield {"open": value["position"], "new": value.get("new", [])}
        else:
            yield value


async def raw(
    site: Site, channels: str, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Seen, None]:
    """Read a WebSocket without a subprotocol, which tells data only."""
    yield_open = True
    async for message in _messages(site.websocket(target(channels, query), headers=headers), opened=True):
        if yield_open:
            yield_open = False
            yield {"open": None, "new": []}
        elif isinstance(message, bytes):
            yield {"data": message}
        else:
            yield json.loads(message) if "," in channels else {"data": json.loads(message)}


async def _messages(connect: Any, *, opened: bool = False) -> AsyncGenerator[str | bytes, None]:
    try:
        async with connect as socket:
            if opened:
                yield ""
            while True:
                yield await socket.recv()
    except websockets.InvalidStatus as error:
        raise Refused(error.response.status_code, json.loads(error.response.body or b"{}")["error"]) from None
    except websockets.ConnectionClosed as error:
        close = error.rcvd
        raise Closed(close.code if close else 1006, close.reason if close else "") from None


READERS: Final[Mapping[str, Read]] = {
    "poll": poll,
    "long-poll": long_poll,
    "stream": stream,
    "sse": sse,
    "everywire.json": envelopes,
    "websocket": raw,
}
"""Every wire, by the name that tests show; the last tells data only."""

TELLING: Final = tuple(name for name in READERS if name != "websocket")
"""The wires that tell positions and gaps."""


async def take(items: AsyncIterator[Seen], number: int, kind: str = "data") -> list[Seen]:
    """Return the next items of a kind (``data``, ``gap``, ``open``, ``disconnect``, or "" for all)."""
    found: list[Seen] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < number:
            seen = await anext(items)
            if not kind or kind in seen or (kind == "data" and "data_base64" in seen):
                found.append(seen)
    return found


def data(seen: Sequence[Seen]) -> list[Any]:
    """Return the data of what was seen."""
    return [item["data"] for item in seen]
