"""Reading by each of the plain transports over HTTP: one attempt, from a position until it ends.

Each function is an asynchronous generator that yields items, and keeps in its `Attempt` what it
learned on the way: that the server answered, where the reader stands, when to come back. It ends
when the server ends the answer, raises `ConnectionLost` when it breaks and `Refused` when the
server wants no more of it. Retrying is the business of `everywire.client.reader`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from everywire.client.errors import ClientError, ConnectionLost, Refused
from everywire.client.http import HttpClient, HttpResponse
from everywire.client.items import (
    GapObject,
    Item,
    Notice,
    PageObject,
    PublicationObject,
    Received,
    decode,
    items_of_page,
    offset_in,
    read_gap,
    read_object,
)
from everywire.codecs.lines import LineSplitter
from everywire.codecs.sse_decoder import SseDecoder, SseEvent

__all__ = ["Attempt", "Wire", "failure", "is_final", "long_poll", "poll", "sse", "stream"]

WAIT_S: Final = 25
POLL_INTERVAL_S: Final = 1.0
MAX_ERROR_BYTES: Final = 64 * 1024


class Attempt:
    """One reader's state across its connections."""

    __slots__ = ("channels", "http", "idle_timeout_s", "position", "retry_after_s", "succeeded")

    def __init__(
        self,
        http: HttpClient,
        channels: Sequence[str],
        position: str | None,
        idle_timeout_s: float,
        succeeded: Callable[[], None],
    ) -> None:
        self.http = http
        self.channels = list(channels)
        self.position = position
        self.retry_after_s: float | None = None
        self.idle_timeout_s = idle_timeout_s
        self.succeeded = succeeded
        """Called when the server has answered well."""

    def query(self, **more: str) -> dict[str, str]:
        """Return the query that asks from where the reader stands."""
        return {"after": self.position, **more} if self.position is not None else more

    def take(self, text: bytes) -> Item | None:
        """Read a line or envelope, and learn from it."""
        value = decode(text, PublicationObject)
        self.position = value.position or self.position
        if value.disconnect is not None:
            self.told_to_leave(value.disconnect)
        return read_object(value, self.channels)

    def told_to_leave(self, notice: Notice) -> None:
        """Note when to come back; raise `Refused` when the code says never."""
        if is_final(notice.code):
            raise Refused(f"the server ended it with {notice.code}: {notice.reason}", notice.code)
        if notice.retry is not None:
            self.retry_after_s = notice.retry / 1000


def is_final(code: int) -> bool:
    """Say whether a close code means never to come back."""
    return 3500 <= code <= 3999 or 4500 <= code <= 4999


Wire = Callable[[Attempt], AsyncGenerator[Item, None]]


def failure(status: int, headers: Mapping[str, str], body: bytes, where: object) -> ClientError:
    """Make the error of an answer that is none of the good ones, in the server's own words."""
    sentence = f"{where}: the server answered {status}"
    if said := _said(body):
        sentence += f": {said}"
    if location := headers.get("location"):
        sentence += f": redirected to {location}"
    if status in (408, 425, 429) or status >= 500:
        return ConnectionLost(sentence, retry_after_s=_seconds(headers.get("retry-after")))
    return Refused(sentence, status)


def _said(body: bytes) -> str:
    """Find the sentence in an error's body."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace").strip()[:200] if len(body) < 500 else ""
    if isinstance(value, dict):
        error = value.get("error", value)
        if isinstance(error, dict):
            error = error.get("message") or error.get("sentence") or ""
        return str(error)[:500]
    return ""


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


async def _start(attempt: Attempt, accept: str, query: Mapping[str, str], timeout_s: float) -> HttpResponse:
    http = attempt.http
    target = http.address.target(attempt.channels, query)
    response = await http.start("GET", target, {"Accept": accept}, timeout_s=timeout_s)
    if response.status != 200:
        body = await response.read_all(MAX_ERROR_BYTES)
        raise failure(response.status, response.headers, body, http.address)
    attempt.succeeded()
    return response


async def _ask(
    attempt: Attempt, query: Mapping[str, str], timeout_s: float
) -> tuple[list[Item], float | None]:
    """Ask once and return the items and the hint of when to ask again."""
    response = await _start(attempt, "application/json", query, timeout_s)
    page = decode(await response.read_all(), PageObject)
    items = items_of_page(page, attempt.channels)
    if not items:
        attempt.position = page.position or attempt.position
    return items, _seconds(response.headers.get("retry-after"))


async def poll(attempt: Attempt) -> AsyncGenerator[Item, None]:
    """Ask again and again, at the interval that the server hints at."""
    attempt.position = attempt.position or "latest"
    while True:
        items, hint_s = await _ask(attempt, attempt.query(), 30.0)
        for item in items:
            attempt.position = item.position or attempt.position
            yield item
        if hint_s is None:
            hint_s = 0.0 if items else POLL_INTERVAL_S
        await asyncio.sleep(hint_s)


async def long_poll(attempt: Attempt) -> AsyncGenerator[Item, None]:
    """Ask again and again; the server holds each question until there is an answer."""
    attempt.position = attempt.position or "latest"
    while True:
        items, hint_s = await _ask(attempt, attempt.query(wait=str(WAIT_S)), WAIT_S + 30.0)
        for item in items:
            attempt.position = item.position or attempt.position
            yield item
        if hint_s:
            await asyncio.sleep(hint_s)


async def stream(attempt: Attempt) -> AsyncGenerator[Item, None]:
    """Read newline-delimited JSON from an answer that does not end."""
    response = await _start(attempt, "application/x-ndjson", attempt.query(), 30.0)
    splitter = LineSplitter()
    while data := await response.read_some(attempt.idle_timeout_s):
        for line in splitter.receive_data(data):
            item = attempt.take(line)
            if item is not None:
                yield item


async def sse(attempt: Attempt) -> AsyncGenerator[Item, None]:
    """Read server-sent events; by the standard, 204 means never to come back."""
    response = await _start(attempt, "text/event-stream", attempt.query(), 30.0)
    decoder = SseDecoder(last_event_id=attempt.position or "")
    while data := await response.read_some(attempt.idle_timeout_s):
        for event in decoder.receive_data(data):
            if event.event == "error":
                attempt.told_to_leave(decode(event.data, Notice))
                continue
            item = _item_of_event(event, attempt.channels)
            attempt.position = event.id or attempt.position
            if item is not None:
                yield item
        attempt.position = decoder.last_event_id or attempt.position
        if decoder.retry_ms is not None:
            attempt.retry_after_s = decoder.retry_ms / 1000


def _item_of_event(event: SseEvent, channels: Sequence[str]) -> Item | None:
    """Read an event. Its data is the publication's; for several channels, an object that names one."""
    position = event.id or None
    if event.event == "open":
        return None
    if event.event == "gap":
        return read_gap(decode(event.data, GapObject), channels, position)
    name = None if event.event in ("message", "binary") else event.event
    if len(channels) > 1 or event.event == "binary":
        value = decode(event.data, PublicationObject)
        value.position = position
        value.event = name or value.event
        return read_object(value, channels)
    data: Any = decode(event.data, object)
    return Received(channels[0], offset_in(position, channels[0]), data, name, None, None, position)
