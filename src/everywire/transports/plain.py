"""``/channels/…``: one address for all plain transports; the request chooses.

Every request passes here, in this order: the gate (host and origin), what it asks for,
who asks, whether that is allowed. Only then does a transport see it, so that no wire can
go round a check.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from everywire.access.identity import Action, Identity
from everywire.brokers.base import Head
from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError
from everywire.hub.recovery import Start
from everywire.transports.exchange import Exchange, Headers, Request
from everywire.transports.gate import Cors, Refusal
from everywire.transports.longpoll import serve_long_poll
from everywire.transports.poll import serve_page
from everywire.transports.publish import serve_publish
from everywire.transports.service import Ask, Service, WholeAnswer, identity_of, json_headers, refuse
from everywire.transports.stream import serve_sse, serve_stream
from everywire.transports.target import (
    ReadQuery,
    channels_of,
    lenient_start,
    publish_query,
    read_query,
)
from everywire.transports.websocket import serve_websocket

__all__ = ["Plain", "streaming_transport"]

_SERVE: Final[dict[str, Callable[[Ask], None]]] = {
    "poll": serve_page,
    "long-poll": serve_long_poll,
    "stream": serve_stream,
    "sse": serve_sse,
}
_ALLOWED: Final = {
    "": b"GET, HEAD, POST, DELETE, OPTIONS",
    "history": b"GET, HEAD, OPTIONS",
    "presence": b"GET, HEAD, OPTIONS",
}
_MAX_ACCEPT_BYTES: Final = 512
_REMEMBERED: Final = 4096
_MAX_REMEMBERED_CHARACTERS: Final = 1024


class Asker(NamedTuple):
    """What the header fields of a request say, whatever it asks for."""

    cors: Cors
    identity: Identity
    transport: str | None
    """The streaming transport that Accept names."""
    start: Start | None
    """The position that ``Last-Event-ID`` brings."""


class Plain:
    """The handler of everything under ``/channels/``."""

    __slots__ = ("_service", "_targets")

    def __init__(self, service: Service) -> None:
        self._service = service
        # A crowd that polls one position sends one target over and over: parse it once.
        self._targets: dict[tuple[str, str], tuple[tuple[str, ...], str, ReadQuery]] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        asker = request.memo.get(self)
        if asker is None:
            admitted = self._service.gate.admit(request)
            if isinstance(admitted, Refusal):
                refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
                return
            try:
                asker = self._know(request, admitted)
            except EverywireError as error:
                refuse(exchange, error, admitted)
                return
            request.memo[self] = asker
        try:
            if request.method == "GET" or request.method == "HEAD":
                self._read(exchange, asker)
            else:
                self._change(exchange, asker)
        except EverywireError as error:
            refuse(exchange, error, asker.cors)

    def _know(self, request: Request, cors: Cors) -> Asker:
        """Work out what the header fields say of whoever asks."""
        accept = request.headers.get(b"accept")
        resumed = request.headers.get(b"last-event-id")
        return Asker(
            cors,
            identity_of(request, self._service.rules),
            None if accept is None else streaming_transport(accept),
            lenient_start(resumed.decode("latin-1")) if resumed else None,
        )

    def _change(self, exchange: Exchange, asker: Asker) -> None:
        request = exchange.request
        method = request.method
        cors = asker.cors
        channels, rest = channels_of(request.path, self._service.limits.max_channels_per_request)
        if method == "OPTIONS":
            exchange.attend(WholeAnswer(), "options")
            preflight = self._service.gate.preflight(request)
            exchange.respond(204, [(b"allow", _ALLOWED[rest]), *preflight])
        elif method == "POST" and not rest and not request.is_upgrade:
            self._publish(exchange, channels, asker)
        elif method == "DELETE" and not rest:
            self._delete(exchange, channels, asker)
        else:
            _refuse_method(exchange, rest, cors)

    def _target(self, request: Request) -> tuple[tuple[str, ...], str, ReadQuery]:
        key = (request.path, request.query)
        target = self._targets.get(key)
        if target is None:
            limits = self._service.limits
            channels, rest = channels_of(request.path, limits.max_channels_per_request)
            target = channels, rest, read_query(request.query, limits, history=bool(rest))
            if len(request.path) + len(request.query) <= _MAX_REMEMBERED_CHARACTERS:
                if len(self._targets) >= _REMEMBERED:
                    self._targets.clear()
                self._targets[key] = target
        return target

    def _read(self, exchange: Exchange, asker: Asker) -> None:
        service = self._service
        request = exchange.request
        channels, rest, query = self._target(request)
        if rest == "presence":
            service.rules.check(asker.identity, Action.PRESENCE, channels)
            self._presence(exchange, channels, asker.cors)
            return
        service.rules.check(asker.identity, Action.READ, channels)
        start = asker.start or query.start
        if rest == "history" or request.method == "HEAD":
            serve_page(Ask(service, exchange, channels, query, start, asker.cors, rest or "poll"))
        elif query.transport is None and request.is_upgrade:
            serve_websocket(service, exchange, channels, start, asker.identity)
        else:
            transport = query.transport or asker.transport or ("long-poll" if query.wait_s else "poll")
            _SERVE[transport](Ask(service, exchange, channels, query, start, asker.cors, transport))

    def _publish(self, exchange: Exchange, channels: tuple[str, ...], asker: Asker) -> None:
        service = self._service
        if len(channels) > 1:
            raise BadRequest("a POST publishes to one channel")
        query = publish_query(exchange.request.query, service.limits)
        service.rules.check(asker.identity, Action.PUBLISH, channels)
        serve_publish(service, exchange, channels[0], query, asker.identity, asker.cors)

    def _delete(self, exchange: Exchange, channels: tuple[str, ...], asker: Asker) -> None:
        service = self._service
        if len(channels) > 1:
            raise BadRequest("a DELETE empties one channel")
        service.rules.check(asker.identity, Action.DELETE, channels)
        exchange.attend(WholeAnswer(), "delete")
        service.hub.broker.log.trim(channels[0], partial(_deleted, exchange, asker.cors))

    def _presence(self, exchange: Exchange, channels: tuple[str, ...], cors: Cors) -> None:
        exchange.attend(WholeAnswer(), "presence")
        hub = self._service.hub
        found = [{"channel": channel, "subscribers": hub.subscribers(channel)} for channel in channels]
        exchange.respond(200, json_headers(cors), dump(found[0] if len(found) == 1 else found))


def _deleted(exchange: Exchange, cors: Cors, head: Head | EverywireError) -> None:
    if isinstance(head, EverywireError):
        refuse(exchange, head, cors)
    else:
        exchange.respond(204, [header for header in json_headers(cors) if header[0] != b"content-type"])


def _refuse_method(exchange: Exchange, rest: str, cors: Cors) -> None:
    allow: Headers = [(b"allow", _ALLOWED[rest])]
    if exchange.request.is_upgrade:
        allow = [(b"allow", b"GET")]
    error = RequestError(f"{exchange.request.method[:20]} is not known here", code=codes.METHOD_NOT_FOUND)
    refuse(exchange, error, cors, allow)


def streaming_transport(accept: bytes) -> str | None:
    """Return the first streaming transport that an Accept field asks for (RFC 9110 §12.5.1)."""
    for part in accept[:_MAX_ACCEPT_BYTES].decode("latin-1").lower().split(","):
        media, *parameters = [piece.strip() for piece in part.split(";")]
        if any(piece.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for piece in parameters):
            continue
        if media == "text/event-stream":
            return "sse"
        if media == "application/x-ndjson":
            return "stream"
    return None
