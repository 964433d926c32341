"""Exchanges over ASGI (asgi.readthedocs.io, HTTP and WebSocket, version 2.3 and up)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from everywire.asgi.framing import AS_IT_IS, Response, response_framing
from everywire.asgi.pump import Event, Pump
from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.transports.exchange import Driver, Headers, MessageDriver, Request

__all__ = ["HttpExchange", "SocketExchange"]

_TOO_BIG: Final = 1009


class HttpExchange:
    """One HTTP request of an ASGI server."""

    __slots__ = (
        "_body",
        "_body_done",
        "_driver",
        "_has_body",
        "_is_ended",
        "_is_started",
        "_max_body_bytes",
        "_pump",
        "request",
    )

    framing: Framing = AS_IT_IS

    def __init__(self, request: Request, pump: Pump) -> None:
        self.request = request
        self._pump = pump
        self._driver: Driver | None = None
        self._body: list[bytes] = []
        self._has_body = False
        self._body_done: Callable[[bytes], None] | None = None
        self._max_body_bytes = 0
        self._is_started = False
        self._is_ended = False

    # -- what transports call (Exchange) --------------------------------------

    def attend(self, driver: Driver, transport: str) -> None:
        """Name who hears about this exchange."""
        self._driver = driver
        self._pump.attend(driver)

    def write(self, framed: Any) -> None:
        """Write a chunk of a streamed body."""
        self._pump.offer(_chunk(framed))

    def send(self, framed: Any) -> int:
        """Write a chunk; the pump takes it whole."""
        self._pump.offer(_chunk(framed))
        return len(framed)

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer as a whole."""
        self._is_started = True
        length = (b"content-length", b"%d" % len(body))
        has_length = status != 304 and status != 204
        pairs = [*headers, length] if has_length else list(headers)
        content = b"" if self.request.method == "HEAD" else body
        self._pump.offer(_start(status, pairs), _chunk(content, more=False))
        self._end()

    def response_framing(self, status: int, headers: Headers) -> Framing:
        """Return the framing of whole responses."""
        return response_framing(status, tuple(headers))

    def answer(self, framed: Response, /) -> None:
        """Answer with a whole response."""
        self.respond(framed.status, framed.headers, framed.body)

    def start(self, status: int, headers: Headers, first: Any = None) -> None:
        """Begin a streamed answer."""
        self._is_started = True
        if first is None:
            self._pump.offer(_start(status, headers))
        else:
            self._pump.offer(_start(status, headers), _chunk(first))

    def finish(self, last: Any = None) -> None:
        """End a streamed answer."""
        self._pump.offer(_chunk(last or b"", more=False))
        self._end()

    def abort(self, reason: str) -> None:
        """Send nothing more."""
        self._pump.stop()
        self.gone(reason)

    def read_body(self, max_bytes: int, done: Callable[[bytes], None]) -> None:
        """Collect the request body; 413 when it is too large."""
        self._max_body_bytes = max_bytes
        self._body_done = done
        self._check_body()

    def upgrade(self, driver: MessageDriver, transport: str, subprotocols: Sequence[str]) -> None:
        """Refuse: an ASGI server that speaks WebSocket would have sent a WebSocket scope."""
        self.attend(driver, transport)
        headers = [(b"content-type", b"application/json"), (b"upgrade", b"websocket")]
        code = codes.UPGRADE_REQUIRED
        detail = {"code": code.number, "name": code.name, "message": "this server does not speak WebSocket"}
        self.respond(code.status, headers, dump({"error": detail}))

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note nothing: the log is the server's."""

    # -- what the application calls ----------------------------------------------

    async def listening(self) -> None:
        """Wait until more may be heard: who does not take our answers is not heard either."""
        await self._pump.idle()

    def take(self, event: Event) -> bool:
        """Hear an event from the server; False when there is nothing more to hear."""
        if event["type"] == "http.disconnect":
            self.gone("disconnected")
            return False
        self._body.append(event.get("body", b""))
        self._has_body = not event.get("more_body", False)
        self._check_body()
        return True

    def gone(self, reason: str) -> None:
        """Tell the driver that the peer is gone, unless the answer was given."""
        if self._is_ended:
            return
        self._is_ended = True
        self._pump.stop()
        if self._driver is not None:
            self._driver.gone(reason)

    def drain(self, retry_ms: int) -> None:
        """Tell the driver that the server stops."""
        if self._driver is not None and not self._is_ended:
            self._driver.drain(retry_ms)

    def _check_body(self) -> None:
        done = self._body_done
        if done is None or self._is_ended:
            return
        if sum(map(len, self._body)) > self._max_body_bytes:
            code = codes.TOO_LARGE
            detail = {"code": code.number, "name": code.name, "message": code.sentence}
            self.respond(code.status, [(b"content-type", b"application/json")], dump({"error": detail}))
        elif self._has_body:
            self._body_done = None
            done(b"".join(self._body))

    def _end(self) -> None:
        self._is_ended = True
        self._pump.end()


class SocketExchange:
    """One WebSocket of an ASGI server: the exchange before, the message channel after the handshake.

    Frames, pings and compression are the server's.
    """

    __slots__ = (
        "_accepts_responses",
        "_driver",
        "_ears",
        "_is_ended",
        "_max_bytes",
        "_pump",
        "_waiting",
        "request",
        "subprotocol",
    )

    framing: Framing = AS_IT_IS

    def __init__(self, request: Request, pump: Pump, max_bytes: int, accepts_responses: bool) -> None:
        self.request = request
        self.subprotocol: str | None = None
        self._pump = pump
        self._max_bytes = max_bytes
        self._accepts_responses = accepts_responses
        self._driver: MessageDriver | None = None
        self._waiting: Driver | None = None
        self._ears: asyncio.Event | None = None
        """Set while messages are heard; there is none before the first pause."""
        self._is_ended = False

    # -- what transports call (Exchange, MessageChannel) ---------------------------

    def attend(self, driver: Driver, transport: str) -> None:
        """Name who hears about this exchange before the handshake."""
        self._waiting = driver

    def upgrade(
        self, driver: MessageDriver, transport: str, subprotocols: Sequence[str]
    ) -> SocketExchange | None:
        """Accept the WebSocket; None when it has gone already."""
        if self._is_ended:
            return None
        self._waiting = None
        self._driver = driver
        self._pump.attend(driver)
        offered = self.request.header(b"sec-websocket-protocol") or ""
        wanted = [name.strip() for name in offered.split(",")]
        self.subprotocol = next((name for name in wanted if name in subprotocols), None)
        self._pump.offer({"type": "websocket.accept", "subprotocol": self.subprotocol})
        return self

    def write(self, framed: Sequence[tuple[bool, bytes]]) -> None:
        """Write messages."""
        self._pump.offer(*[_message(binary, data) for binary, data in framed])

    def send(self, framed: Sequence[tuple[bool, bytes]]) -> int:
        """Write messages; the pump takes them all."""
        self.write(framed)
        return len(framed)

    def beat(self) -> None:
        """Do nothing: pings are the server's."""

    def close(self, code: int, reason: str) -> None:
        """Close the WebSocket."""
        self.resume_reading()
        self._pump.offer({"type": "websocket.close", "code": code, "reason": reason[:120]})
        self._pump.end()

    def abort(self, reason: str) -> None:
        """Close without ceremony."""
        self.close(1011, reason)

    def pause_reading(self) -> None:
        """Let the next message not be asked for."""
        if self._ears is None:
            self._ears = asyncio.Event()
        self._ears.clear()

    def resume_reading(self) -> None:
        """Let it be asked for."""
        if self._ears is not None:
            self._ears.set()

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Refuse the handshake, with the response where the server can send one."""
        self._is_ended = True
        if self._accepts_responses:
            kind = "websocket.http.response"
            self._pump.offer(_start(status, headers, kind), _chunk(body, more=False, kind=kind))
        else:
            self._pump.offer({"type": "websocket.close", "code": 1008, "reason": f"refused with {status}"})
        self._pump.end()

    def response_framing(self, status: int, headers: Headers) -> Framing:
        """Return the framing of whole responses."""
        return response_framing(status, tuple(headers))

    def answer(self, framed: Response, /) -> None:
        """Refuse the handshake with a whole response."""
        self.respond(framed.status, framed.headers, framed.body)

    def start(self, status: int, headers: Headers, first: Any = None) -> None:
        """Refuse: a streamed answer is no answer to a handshake."""
        self.respond(426, [(b"content-type", b"text/plain")], b"this address streams; ask without Upgrade")

    def finish(self, last: Any = None) -> None:
        """Do nothing: `start` has refused."""

    def read_body(self, max_bytes: int, done: Callable[[bytes], None]) -> None:
        """Hand over nothing: a handshake has no body."""
        done(b"")

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note nothing: the log is the server's."""

    # -- what the application calls ----------------------------------------------------

    async def listening(self) -> None:
        """Wait until messages may be heard."""
        await self._pump.idle()
        if self._ears is not None and not self._is_ended:
            await self._ears.wait()

    def take(self, event: Event) -> bool:
        """Hear an event from the server; False when there is nothing more to hear."""
        if event["type"] != "websocket.receive":
            self.gone("disconnected")
            return False
        if self._driver is None:
            return True
        text = event.get("text")
        data = event.get("bytes") if text is None else text.encode()
        if data is None or len(data) > self._max_bytes:
            self.close(_TOO_BIG, f"a message is at most {self._max_bytes} bytes")
            return False
        self._driver.message(data, text is None)
        return True

    def gone(self, reason: str) -> None:
        """Tell the driver that the peer is gone."""
        if not self._is_ended:
            self._is_ended = True
            self._pump.stop()
            driver = self._driver or self._waiting
            if driver is not None:
                driver.gone(reason)

    def drain(self, retry_ms: int) -> None:
        """Tell the driver that the server stops."""
        driver = self._driver or self._waiting
        if driver is not None and not self._is_ended:
            driver.drain(retry_ms)


def _start(status: int, headers: Headers, kind: str = "http.response") -> Event:
    return {"type": f"{kind}.start", "status": status, "headers": list(headers)}


def _chunk(body: bytes, *, more: bool = True, kind: str = "http.response") -> Event:
    return {"type": f"{kind}.body", "body": body, "more_body": more}


def _message(binary: bool, data: bytes) -> Event:
    if binary:
        return {"type": "websocket.send", "bytes": data}
    return {"type": "websocket.send", "text": data.decode()}
