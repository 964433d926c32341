"""The reading half of an HTTP/1.1 connection: from bytes to requests, in their order.

    WAITING ──head──▶ ASKED ──start──▶ STREAMING
       ▲                │ respond, answer   │ finish
       └────────────────┴───────────────────┘──▶ CLOSING ──▶ CLOSED

One object, with slots, does for the whole life of a connection; a request adds a `Request`, a
body the decoder that collects it, and nothing else is kept. Answers leave in the order of the
requests: what comes while one is being answered waits, bounded, and then reading pauses.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Callable
from random import randrange
from typing import Final, cast

from everywire.codecs.http.body import ChunkedDecoder, LengthDecoder
from everywire.codecs.http.response import CHUNKED, IDENTITY
from everywire.core import codes
from everywire.core.errors import RequestError, TooLarge
from everywire.server.exchange import ASKED, CLOSED, CLOSING, DEFERRED, STREAMING, WAITING, HttpExchange
from everywire.server.host import Listener
from everywire.server.peers import is_loopback, peer_of
from everywire.transports.exchange import Request

__all__ = ["BRIEF", "HttpConnection", "TlsConnection"]

BRIEF: Final = frozenset(
    {"poll", "history", "presence", "publish", "delete", "options", "page", "operations"}
    | {"emulation", "ticket", "api"}
)
"""Transports whose answer is on its way: a peer that has closed its sending half still gets it."""

_new_request: Final = Request.__new__
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_FIRST_REQUEST_S: Final = 1.0
"""For the first request of a connection that was accepted just before the server began to leave."""
_REQUESTS_PER_TURN: Final = 64
_CHUNKED_BYTES_PER_TURN: Final = 32 * 1024
_MAX_LINGER_BYTES: Final = 256 * 1024


class HttpConnection(HttpExchange):
    """A connection that speaks HTTP/1.1, or 1.0."""

    __slots__ = ("_body", "_done", "_is_local")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._body: LengthDecoder | ChunkedDecoder | None = None
        self._done: Callable[[bytes], None] | None = None
        self._is_local = False

    # -- the connection's life ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first request is due in time."""
        transport = cast(asyncio.Transport, transport)  # uvloop's own have no common base with asyncio's
        host = self._host
        self._transport = transport
        self.write = transport.write
        self._limit_unsent(transport)
        self._peer = peer_of(transport)
        self._is_local = is_loopback(self._peer)
        host.metrics.accepted += 1
        host.last_id += 1
        self._id = host.last_id
        if len(host.connections) >= host.limits.max_connections:
            self._refuse(RequestError("too many connections; come back later", code=codes.BUSY))
            return
        if not host.has_room_for(self._peer):
            self._refuse(RequestError("too many connections from this address", code=codes.LIMIT_EXCEEDED))
            return
        host.enter(self, self._peer)
        self._arm(host.limits.head_timeout_s)
        if host.is_draining:
            self._arm(_FIRST_REQUEST_S)  # it was accepted before, and its handshake took until now

    def _limit_unsent(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(0)  # any byte that remains unsent is told at once

    def connection_lost(self, exc: Exception | None) -> None:
        """End: tell the driver, and write the log line."""
        self._state = CLOSED
        self._done = self._body = None
        self._buffer = b""
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Hear that bytes remain unsent."""
        if self._state == CLOSING:
            self._is_stalled = True  # the deadline for closing is the shorter one
        else:
            super().pause_writing()

    def resume_writing(self) -> None:
        """Hear that all bytes were taken."""
        if self._state == CLOSING:
            self._is_stalled = False
            return
        super().resume_writing()
        if self._state == DEFERRED:
            self._serve_deferred()

    def eof_received(self) -> bool:
        """Hear that the peer sends nothing more.

        So do browsers when a page is left, and so the peer of a stream or a long poll is gone. But
        an answer that is on its way is still given to a peer that has closed its sending half, where
        the transport can do so.
        """
        state = self._state
        is_brief = self._driver is None or self.transport_name in BRIEF
        if state == DEFERRED or (state == ASKED and not self._is_collecting and is_brief):
            self._eof = self.lingers
            return self._eof
        if state in (ASKED, STREAMING):
            self.abort("left")
        return False

    def drain(self, retry_ms: int) -> None:
        """Leave as soon as the answer in progress allows.

        Who has just connected cannot know that it came too late: its request, which is probably on its way,
        is still answered.
        """
        if self._state == WAITING and not self._buffer:
            if not self._requests:
                self._arm(_FIRST_REQUEST_S)
                return
            self._reason = self._reason or "drain"
            self._close()
        else:
            super().drain(retry_ms)

    def _missed_deadline(self) -> None:
        state = self._state
        if state == CLOSING:
            self.abort("did not close in time")
        elif self._is_stalled:
            self._look_for_progress()
        elif state == WAITING and self._buffer:
            self._miss("head")
            self._refuse(RequestError("the request head did not arrive in time", code=codes.TIMEOUT))
        elif state == WAITING:
            self._miss("idle")
            self._reason = self._reason or "idle"
            self._close()
        elif state == ASKED and self._is_collecting:
            self._miss("body")
            self._refuse(RequestError("the request body did not arrive in time", code=codes.TIMEOUT))

    # -- heads ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes: a head, a body, or what has to wait."""
        state = self._state
        if state == WAITING:
            end = data.find(b"\r\n\r\n") + 4
            if (
                3 < end == len(data) <= self._host.limits.max_head_bytes
                and not self._buffer
                and data[0] != 13
            ):
                self._begin(data)  # one whole head, as nearly every read is
            else:
                self._serve(data)
        elif state == CLOSING:
            self._unread += len(data)
            if self._unread > _MAX_LINGER_BYTES:
                self.abort("sent on after the answer")
        elif self._is_collecting:
            self._collect(data)
        else:
            self._buffer += data
            if len(self._buffer) > self._host.limits.max_pipelined_bytes:
                self._pause()

    def _serve(self, data: bytes) -> None:
        """Answer the requests that are here, in their order, as long as each is answered at once."""
        max_head_bytes = self._host.limits.max_head_bytes
        known = len(self._buffer)
        if known:
            data = self._buffer + data
        served = 0
        self._is_serving = True
        while True:
            if data[:2] == b"\r\n":  # RFC 9112 §2.2: an empty line before the request line is passed over
                data = data[2:]
                known = 0
            end = data.find(b"\r\n\r\n", known - 3 if known > 3 else 0) + 4
            if end == 3 or end > max_head_bytes:
                self._wait_for_head(data, end != 3, known)
                break
            known = 0
            if end == len(data):
                head, self._buffer = data, b""
            else:
                head, self._buffer = data[:end], data[end:]
            self._begin(head)
            data = self._buffer
            if self._state != WAITING or not data:
                break
            served += 1
            if served == _REQUESTS_PER_TURN:
                self._state = DEFERRED
                self._pause()
                self._host.loop.call_soon(self._serve_deferred)
                break
        self._is_serving = False

    def _serve_deferred(self) -> None:
        if self._state != DEFERRED or self._is_stalled:
            return
        self._state = WAITING
        if not self._eof:
            self._resume()
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self._serve(data)
        if self._eof and self._state == WAITING:
            self._close()

    def _wait_for_head(self, data: bytes, is_too_large: bool, known: int) -> None:
        """Keep the beginning of a head, if it may become one."""
        limits = self._host.limits
        if is_too_large or len(data) > limits.max_head_bytes:
            sentence = f"a request head is at most {limits.max_head_bytes} bytes"
            self._refuse(RequestError(sentence, code=codes.HEAD_TOO_LARGE))
        elif data and not 0x21 <= data[0] <= 0x7E and data != b"\r":
            self._refuse(RequestError("this is no HTTP; is it TLS to an address without?"))
        elif _BARE_LF.search(data, max(0, known - 1)) is not None:
            self._refuse(RequestError("the request is malformed: bare LF"))
        else:
            self._buffer = data
            if data and not known:
                self._arm(limits.head_timeout_s)

    def _begin(self, head: bytes) -> None:
        """Hand a request to the handler."""
        host = self._host
        try:
            method, path, query, authority, is_http11, fields, values = host.heads.read(head)
        except RequestError as error:
            self._refuse(error)
            return
        scheme, peer, is_local = self._listener.scheme, self._peer, self._is_local
        if fields.has_forwarding:
            is_local = False
            if host.trust.trusts(peer):
                peer, claimed_scheme, claimed_host = host.trust.client(peer, fields.values)
                scheme = claimed_scheme or scheme
                authority = claimed_host or authority
        self._is_http11 = is_http11
        self._is_head = method == "HEAD"
        self._keep_alive = not fields.asks_close if is_http11 else fields.asks_keep_alive
        self._unread = -1 if fields.is_chunked else fields.content_length
        self._requests += 1
        self._state = ASKED
        self.framing = CHUNKED if is_http11 else IDENTITY
        # Set one by one: a third of the time that a call with nine arguments takes.
        request = self.request = _new_request(Request)
        request.method = method
        request.path = path
        request.query = query
        request.headers = values
        request.scheme = scheme
        request.host = authority
        request.peer = peer
        request.is_local = is_local
        request.is_upgrade = fields.wants_websocket and is_http11
        # What a proxy or the target says otherwise is not in the fields that the memo goes by.
        is_plain = authority is fields.host and not fields.has_forwarding
        request.memo = fields.memos[self._listener.is_tls] if is_plain else {}
        try:
            host.handler(self)
        except Exception:
            # The top of a request's work: one broken handler must not take the server along.
            self._fail()
        if host.is_draining and self._state in (ASKED, STREAMING):
            host.loop.call_soon(self._leave)

    def _leave(self) -> None:
        """Tell a reader that came while the server drains what the others were told before."""
        if self._state in (ASKED, STREAMING):
            self.drain(randrange(self._host.limits.drain_jitter_ms))

    def _fail(self) -> None:
        self._host.log.error("handler_failed", path=self.request.path, traceback=traceback.format_exc())
        if self._state == ASKED:
            self._refuse(RequestError(codes.INTERNAL.sentence, code=codes.INTERNAL))
        else:
            self.abort("internal error")

    # -- bodies -----------------------------------------------------------------------

    def read_body(self, max_bytes: int, done: Callable[[bytes], None]) -> None:
        """Collect the request body and hand it over whole."""
        unread = self._unread
        if self._state != ASKED:
            return
        if not unread:
            done(b"")
            return
        if unread > max_bytes:
            self._refuse(TooLarge(f"a body is at most {max_bytes} bytes here"))
            return
        self._body = ChunkedDecoder(max_bytes) if unread < 0 else LengthDecoder(unread)
        self._done = done
        self._is_collecting = True
        data, self._buffer = self._buffer, b""
        if data:
            self._collect(data)
        elif self._is_http11 and self.request.headers.get(b"expect", b"").lower() == b"100-continue":
            self.write(_CONTINUE)
        if self._is_collecting:
            self._arm(self._host.limits.body_timeout_s)
            if not self._buffer:
                self._resume()

    def _collect(self, data: bytes) -> None:
        """Feed the body; when it is whole, hand it over."""
        body, done = self._body, self._done
        assert body is not None and done is not None
        if self._buffer:
            self._buffer += data  # its turn comes after what waits already
            return
        if self._unread < 0 and len(data) > _CHUNKED_BYTES_PER_TURN:
            # Tiny chunks cost some 1.5 µs each: let others have their turn.
            data, self._buffer = data[:_CHUNKED_BYTES_PER_TURN], data[_CHUNKED_BYTES_PER_TURN:]
            self._pause()
            self._host.loop.call_soon(self._collect_more)
        try:
            rest = body.feed(data)
        except RequestError as error:
            self._refuse(error)
            return
        if body.is_done:
            self._buffer = rest + self._buffer
            self._body = self._done = None
            self._is_collecting = False
            self._unread = 0
            self._disarm()
            try:
                done(bytes(body.body))
            except Exception:
                self._fail()

    def _collect_more(self) -> None:
        if self._is_collecting:
            data, self._buffer = self._buffer, b""
            self._collect(data)
            if self._is_collecting and not self._buffer:
                self._resume()


class TlsConnection(HttpConnection):
    """A connection over TLS, which cannot be half-closed."""

    __slots__ = ("_is_made",)

    lingers = False

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._is_made = False
        self._host.handshaking += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin after the handshake."""
        self._is_made = True
        self._host.handshaking -= 1
        super().connection_made(transport)

    def _limit_unsent(self, transport: asyncio.Transport) -> None:
        # At 0 bytes the event loops' TLS would always find that too many are unsent. Now, and before the
        # next turn, it still has the end of the handshake to send.
        loop = self._host.loop
        loop.call_soon(lambda: loop.call_soon(lambda: transport.set_write_buffer_limits(1)))

    def __del__(self) -> None:
        # Event loops tell a protocol nothing of a handshake that failed, they just drop it.
        if not self._is_made:
            self._host.handshaking -= 1
            self._host.metrics.handshake_failures += 1
