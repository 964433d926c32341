"""``/channels/…``: one address for all plain transports; the request chooses.

Every request passes here, in this order: the gate (host and origin), what it asks for,
who asks, whether that is allowed. Only then does a transport see it, so that no wire can
go round a check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from everywire.access.identity import NOBODY, Action, Identity
from everywire.brokers.base import Head
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError
from everywire.hub.recovery import Start
from everywire.transports.exchange import Exchange, Headers, Request
from everywire.transports.gate import Cors, Refusal
from everywire.transports.judging import Judging
from everywire.transports.longpoll import serve_long_poll
from everywire.transports.members import serve_presence
from everywire.transports.poll import serve_page
from everywire.transports.publish import serve_publish
from everywire.transports.service import Ask, Service, WholeAnswer, auth_request, json_headers, refuse
from everywire.transports.stream import serve_sse, serve_stream
from everywire.transports.target import (
    PublishQuery,
    ReadQuery,
    channels_of,
    has_credential,
    lenient_start,
    publish_query,
    read_query,
)
from everywire.transports.websocket import serve_websocket

__all__ = ["TRANSPORTS", "Plain", "streaming_transport"]

_SERVE: Final[dict[str, Callable[[Ask], None]]] = {
    "poll": serve_page,
    "long-poll": serve_long_poll,
    "stream": serve_stream,
    "sse": serve_sse,
    "websocket": serve_websocket,
    "history": serve_page,
    "presence": serve_presence,
}
TRANSPORTS: Final = (*_SERVE, "publish", "delete")
"""All that is served under ``/channels/``, by the names that logs and metrics have for them."""
_ALLOWED: Final = {
    "": b"GET, HEAD, POST, DELETE, OPTIONS",
    "history": b"GET, HEAD, OPTIONS",
    "presence": b"GET, HEAD, OPTIONS",
}
_MAX_ACCEPT_BYTES: Final = 512
_REMEMBERED: Final = 4096
_MAX_REMEMBERED_CHARACTERS: Final = 1024


Target: TypeAlias = tuple[tuple[str, ...], str, ReadQuery, Action, bool]
"""Channels, what follows them in the path, the query, what is to be done, and whether anyone may."""


class Asker(NamedTuple):
    """What the header fields of a request say, whatever it asks for."""

    cors: Cors
    identity: Identity | None
    """Whom they prove, once it is known, and if nothing else counts."""
    transport: str | None
    """The streaming transport that Accept names."""
    start: Start | None
    """The position that ``Last-Event-ID`` brings."""


class Plain:
    """The handler of everything under ``/channels/``."""

    __slots__ = ("_authority", "_hooks", "_service", "_targets")

    def __init__(self, service: Service) -> None:
        self._service = service
        self._authority = service.authority
        self._hooks = service.authority.hooks
        # A crowd that polls one position sends one target over and over: parse it once.
        self._targets: dict[tuple[str, str], Target] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        asker = request.memo.get(self)
        if asker is None:
            admitted = self._service.gate.admit(request)
            if isinstance(admitted, Refusal):
                refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
                return
            asker = request.memo[self] = _know(request, admitted)
        try:
            if request.method == "GET" or request.method == "HEAD":
                self._read(exchange, asker)
            else:
                self._change(exchange, asker)
        except EverywireError as error:
            refuse(exchange, error, asker.cors)

    # -- reading ------------------------------------------------------------------

    def _target(self, request: Request) -> Target:
        key = (request.path, request.query)
        target = self._targets.get(key)
        if target is None:
            limits = self._service.limits
            channels, rest = channels_of(request.path, limits.max_channels_per_request)
            query = read_query(request.query, limits, rest)
            action = Action.PRESENCE if rest == "presence" else Action.READ
            is_open = not query.has_credential and self._authority.is_open(action, channels)
            target = channels, rest, query, action, is_open
            # Credentials are not kept, and most of them would not come again anyway.
            is_long = len(request.path) + len(request.query) > _MAX_REMEMBERED_CHARACTERS
            if not query.has_credential and not is_long:
                if len(self._targets) >= _REMEMBERED:
                    self._targets.clear()
                self._targets[key] = target
        return target

    def _read(self, exchange: Exchange, asker: Asker) -> None:
        channels, rest, query, action, is_open = self._target(exchange.request)
        identity = asker.identity
        if identity is NOBODY and is_open:
            self._serve(exchange, asker, channels, rest, query, NOBODY)
            return
        if (
            identity is not None
            and not query.has_credential
            and self._hooks.authorize is None
            and (identity is NOBODY or self._authority.is_current(identity))
        ):
            # The rules answer within the call.
            verdict: list[EverywireError | None] = []
            self._authority.authorize(identity, action, channels, verdict.append)
            if verdict[0] is not None:
                raise verdict[0]
            self._serve(exchange, asker, channels, rest, query, identity)
            return
        transport = rest or _transport(exchange.request, asker, query)
        go_on = partial(self._serve, exchange, asker, channels, rest, query)
        self._judge(exchange, asker, query.has_credential, transport, action, channels, go_on)

    def _serve(
        self,
        exchange: Exchange,
        asker: Asker,
        channels: tuple[str, ...],
        rest: str,
        query: ReadQuery,
        identity: Identity,
    ) -> None:
        """Let the transport answer that was asked for: all that is checked for every one was."""
        request = exchange.request
        transport = rest or _transport(request, asker, query)
        start, cors, peer = asker.start or query.start, asker.cors, request.peer
        _SERVE[transport](
            Ask(self._service, exchange, channels, query, start, cors, transport, identity, peer)
        )

    # -- changing -----------------------------------------------------------------

    def _change(self, exchange: Exchange, asker: Asker) -> None:
        request = exchange.request
        method = request.method
        service = self._service
        channels, rest = channels_of(request.path, service.limits.max_channels_per_request)
        if method == "OPTIONS":
            exchange.attend(WholeAnswer(), "options")
            exchange.respond(204, [(b"allow", _ALLOWED[rest]), *service.gate.preflight(request)])
        elif method == "POST" and not rest and not request.is_upgrade:
            if len(channels) > 1:
                raise BadRequest("a POST publishes to one channel")
            query = publish_query(request.query, service.limits)
            publish = partial(self._publish, exchange, asker, channels[0], query)
            self._judge(exchange, asker, query.has_credential, "publish", Action.PUBLISH, channels, publish)
        elif method == "DELETE" and not rest:
            if len(channels) > 1:
                raise BadRequest("a DELETE empties one channel")
            delete = partial(self._delete, exchange, asker, channels[0])
            in_query = has_credential(request.query)
            self._judge(exchange, asker, in_query, "delete", Action.DELETE, channels, delete)
        else:
            _refuse_method(exchange, rest, asker.cors)

    def _publish(
        self, exchange: Exchange, asker: Asker, channel: str, query: PublishQuery, identity: Identity
    ) -> None:
        serve_publish(self._service, exchange, channel, query, identity, asker.cors)

    def _delete(self, exchange: Exchange, asker: Asker, channel: str, identity: Identity) -> None:
        exchange.attend(WholeAnswer(), "delete")
        self._service.hub.broker.log.trim(channel, partial(_deleted, exchange, asker.cors))

    # -- who asks, and whether they may ---------------------------------------------

    def _judge(
        self,
        exchange: Exchange,
        asker: Asker,
        in_query: bool,
        transport: str,
        action: Action,
        channels: Sequence[str],
        go_on: Callable[[Identity], None],
    ) -> None:
        """Let the authority judge a request, and go on when it is known and allowed.

        ``in_query`` says that the query holds a credential, which is this request's alone.
        """
        judging = Judging(self._service, exchange, asker.cors, transport, action, channels, go_on)
        identity = asker.identity
        if identity is not None and not in_query and self._authority.is_current(identity):
            judging.authorize(identity)
        else:
            if not in_query:
                judging.learn = partial(self._remember, exchange.request, asker)
            judging.authenticate(auth_request(exchange.request, transport, asker.cors))

    def _remember(self, request: Request, asker: Asker, identity: Identity) -> None:
        """Keep whom the header fields prove, where it is they alone that prove it.

        An application judges by more than header fields, and a ticket proves somebody once.
        """
        if self._hooks.authenticate is None and identity.kind != "ticket":
            request.memo[self] = asker._replace(identity=identity)


def _know(request: Request, cors: Cors) -> Asker:
    """Work out what the header fields say of whoever asks; who it is is the authority's to say."""
    accept = request.headers.get(b"accept")
    resumed = request.headers.get(b"last-event-id")
    return Asker(
        cors,
        None,
        None if accept is None else streaming_transport(accept),
        lenient_start(resumed.decode("latin-1")) if resumed else None,
    )


def _transport(request: Request, asker: Asker, query: ReadQuery) -> str:
    """Return the transport that a GET of channels chooses."""
    if request.method == "HEAD":
        return "poll"
    if query.transport is None and request.is_upgrade:
        return "websocket"
    return query.transport or asker.transport or ("long-poll" if query.wait_s else "poll")


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
