"""The answering half of an HTTP/1.1 connection: the exchange that transports write to.

The connection object itself is the exchange of the request in progress, so that a reader costs
one object. Its reading half is `everywire.server.connection`.

``write`` is the transport's own while a response is streamed: no Python frame stands between
the hub and the socket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import randrange
from typing import Any, Final

from everywire.codecs.http.response import (
    CHUNKED,
    LAST_CHUNK,
    STATUS_LINES,
    encode_fields,
    has_body,
)
from everywire.codecs.json_text import dump
from everywire.codecs.websocket import HandshakeError, accept_handshake
from everywire.core import codes
from everywire.core.errors import RequestError
from everywire.hub.interfaces import Framing
from everywire.server.carrier import Carrier, discard
from everywire.server.host import CLOSE, CONNECTION_FIELDS, KEEP, KEEP_OLD, Listener
from everywire.server.websocket import WebSocketConnection
from everywire.transports.exchange import Driver, Headers, MessageChannel, MessageDriver, Request

__all__ = ["ASKED", "CLOSED", "CLOSING", "DEFERRED", "STREAMING", "WAITING", "HttpExchange"]

WAITING: Final = 0
DEFERRED: Final = 1
"""The next request may be here, but its turn is later: bytes remain unsent, or others wait too."""
ASKED: Final = 2
STREAMING: Final = 3
CLOSING: Final = 4
CLOSED: Final = 5

_NO_HEADERS: Final[Mapping[bytes, bytes]] = {}
_NO_REQUEST: Final = Request("", "", "", _NO_HEADERS)
_ERROR_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class HttpExchange(Carrier):
    """Answers requests, one after the other."""

    __slots__ = (
        "_buffer",
        "_eof",
        "_is_collecting",
        "_is_head",
        "_is_http11",
        "_is_serving",
        "_keep_alive",
        "_state",
        "_status",
        "_unread",
        "framing",
        "request",
    )

    lingers = True
    """Whether the sending half can be closed alone."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._state = WAITING
        self._buffer = b""
        """Bytes that wait: of the next requests, or of a body that nobody asked for yet."""
        self._unread = 0
        """Bytes of the body that were not read yet; -1 if it is chunked."""
        self._is_collecting = False
        self._is_serving = False
        self._is_head = False
        self._is_http11 = True
        self._keep_alive = False
        self._eof = False
        self._status = 0
        self.request = _NO_REQUEST
        self.framing: Framing = CHUNKED

    def attend(self, driver: Driver, transport: str) -> None:
        """Name who hears about this exchange, and its transport."""
        if self._state != ASKED:
            return
        self._driver = driver
        if self.transport_name is None:
            request = self.request
            self._log_open(transport, request.peer, request.path, request.query)
        self.transport_name = transport

    def _settle(self) -> int:
        """Decide, before the head is made, whether the connection goes on; return what the head says."""
        unread = self._unread
        if unread:
            if 0 < unread <= len(self._buffer) and not self._is_collecting:
                self._buffer = self._buffer[unread:]
                self._unread = 0
            else:
                self._keep_alive = False  # the rest of the body would be taken for a request
        if not self._keep_alive or self._host.is_draining or (self._eof and not self._buffer):
            self._keep_alive = False
            return CLOSE
        return KEEP if self._is_http11 else KEEP_OLD

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Answer as a whole."""
        if self._state != ASKED:
            self._check_unanswered()
            return
        host = self._host
        connection = CONNECTION_FIELDS[self._settle()]
        head = STATUS_LINES[status] + encode_fields(headers) + connection + host.dates.line
        if has_body(status):
            head += b"content-length: %d\r\n\r\n" % len(body)
            if self._is_head:
                body = b""
        else:
            head += b"\r\n"
            body = b""
        host.metrics.requests[status // 100] += 1
        self.write(head + body)
        self._end()

    def response_framing(self, status: int, headers: Headers) -> Framing:
        """Return the framing of whole responses with this head."""
        self._status = status
        return self._host.response_framing(status, headers, self._settle(), self._is_head)

    def answer(self, framed: Any, /) -> None:
        """Answer with a whole response that `response_framing` made."""
        if self._state != ASKED:
            self._check_unanswered()
            return
        self._host.metrics.requests[self._status // 100] += 1
        if self._is_stalled:
            self.write(framed)
        else:
            self.write_past(framed)
        self._end()

    def start(self, status: int, headers: Headers, first: Any = None) -> None:
        """Begin a streamed answer."""
        if self._state != ASKED:
            self._check_unanswered()
            return
        connection = self._settle()
        if not self._is_http11:
            connection, self._keep_alive = CLOSE, False  # only the end of the connection ends the body
        host = self._host
        head = b"%b%b%b%b%b\r\n" % (
            STATUS_LINES[status],
            encode_fields(headers),
            CONNECTION_FIELDS[connection],
            host.dates.line,
            b"transfer-encoding: chunked\r\n" if self._is_http11 and has_body(status) else b"",
        )
        host.metrics.requests[status // 100] += 1
        self._state = STREAMING
        # Nobody asks for them any more, and a reader may stay for hours.
        self.request.headers = _NO_HEADERS
        if self._is_head or not has_body(status):
            self.write(head)
            self.write = discard
        else:
            self.write(head + first if first else head)

    def finish(self, last: Any = None) -> None:
        """End a streamed answer."""
        if self._state != STREAMING:
            self._check_unanswered()
            return
        last = last or b""
        self.write(last + LAST_CHUNK if self._is_http11 else last)
        if self._transport is not None:
            self.write = self._transport.write
        self._end()

    def _check_unanswered(self) -> None:
        # A peer that has left, or was refused by the host, hears no answer; all else is a bug.
        if self._state < CLOSING:
            raise RuntimeError("this exchange was answered before, or has not begun")

    def _end(self) -> None:
        """Go on after an answer."""
        self._driver = None
        if not self._keep_alive or self._host.is_draining:
            # Also a stream whose head, long ago, promised that the connection would go on.
            self._close()
            return
        self._state = WAITING
        due_s = self._due_s = self._host.idle_due_s
        if self._timer is None:
            self._arm_at(due_s)
        if self._is_stalled:
            self._state = DEFERRED  # a peer that does not read may ask for no more
        elif not self._is_serving and (self._buffer or not self._is_reading):
            self._state = DEFERRED
            self._serve_deferred()

    def _serve_deferred(self) -> None:
        """Go on with what waits; the reading half knows how."""
        raise NotImplementedError

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error of the host's own, and close."""
        code = error.code
        self._host.metrics.refused[code.name] += 1
        headers: Headers = _ERROR_HEADERS
        if code is codes.BUSY:
            headers = (*headers, (b"retry-after", b"5"))
        driver, self._driver = self._driver, None
        if self._state != ASKED:
            self._is_head = False
        self._state = ASKED
        self._keep_alive = self._is_collecting = False
        self._buffer = b""
        self._unread = -1
        self.respond(code.status, headers, _error_body(code, error.sentence))
        if driver is not None:
            driver.gone(code.name)

    def _close(self) -> None:
        """Close after what was written has left; if the peer may be sending, let it see the answer."""
        transport = self._transport
        self._state = CLOSING
        may_send = self._unread or self._buffer
        self._buffer = b""
        self._is_collecting = False
        if transport is None:
            return
        self._disarm()
        if self.lingers and not self._eof and may_send:
            # Closing with unread input makes the kernel send RST, which may overtake the answer.
            self._unread = 0
            transport.write_eof()
            self._resume()
            self._arm(self._host.limits.close_timeout_s)
        else:
            transport.close()
            if self._is_stalled:
                self._arm(self._host.limits.close_timeout_s)

    def upgrade(
        self, driver: MessageDriver, transport: str, subprotocols: Sequence[str]
    ) -> MessageChannel | None:
        """Do the opening handshake; the connection is then another object's."""
        host = self._host
        if self._state != ASKED or self._transport is None:
            self._check_unanswered()
            return None
        request = self.request
        try:
            agreed = accept_handshake(
                request.method.encode(),
                "1.1" if self._is_http11 else "1.0",
                request.headers,
                subprotocols=subprotocols,
                deflate=host.deflate,
            )
        except HandshakeError as error:
            code = _HANDSHAKE_CODES.get(error.status, codes.BAD_REQUEST)
            self.respond(error.status, (*_ERROR_HEADERS, *error.headers), _error_body(code, error.message))
            return None
        self.attend(driver, transport)
        # The driver hears of back-pressure once it has what it drives.
        self._driver = None
        self._disarm()
        host.metrics.requests[1] += 1
        # Made by us of checked tokens: there is nothing to look for, and nothing worth remembering.
        fields = b"".join([b"%b: %b\r\n" % field for field in agreed.headers])
        self.write(b"%b%b%b\r\n" % (STATUS_LINES[101], fields, host.dates.line))
        channel = WebSocketConnection(self, agreed, driver, self.lingers)
        self._state = CLOSED
        self._transport = None
        self.write = discard
        if self._is_stalled:
            host.loop.call_soon(channel.tell_stalled)
        if host.is_draining:
            host.loop.call_soon(channel.drain, randrange(host.limits.drain_jitter_ms))
        if self._buffer:
            host.loop.call_soon(channel.data_received, self._buffer)
            self._buffer = b""
        return channel


_HANDSHAKE_CODES: Final = {405: codes.METHOD_NOT_FOUND, 426: codes.UPGRADE_REQUIRED}


def _error_body(code: codes.Code, sentence: str) -> bytes:
    return dump({"error": {"code": code.number, "name": code.name, "message": sentence}})
