"""``/connection/…`` and ``/emulation``: the addresses of sessions, each with a carrier.

Every request passes the gate first, then the check of its method; who it is the session finds out itself,
from the connect command and what the request brings. Written down in ``docs/protocol-sessions.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError
from everywire.transports.connection_asked import Asked
from everywire.transports.connection_emulation import serve_emulation
from everywire.transports.connection_poll import serve_poll
from everywire.transports.connection_socket import serve_uni_websocket, serve_websocket
from everywire.transports.connection_stream import (
    serve_http_stream,
    serve_sse,
    serve_uni_http_stream,
    serve_uni_sse,
)
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Refusal
from everywire.transports.service import Service, WholeAnswer, refuse

__all__ = ["ADDRESSES", "Connections"]


class _Route(NamedTuple):
    """What answers at an address."""

    transport: str
    methods: tuple[str, ...]
    serve: Callable[[Asked], None]
    is_socket: bool = False


_ROUTES: Final = {
    "/connection/websocket": _Route("websocket", ("GET",), serve_websocket, is_socket=True),
    "/connection/http_stream": _Route("http_stream", ("POST",), serve_http_stream),
    "/connection/sse": _Route("sse", ("GET", "POST"), serve_sse),
    "/connection/poll": _Route("poll", ("POST",), serve_poll),
    "/connection/uni_websocket": _Route("uni_websocket", ("GET",), serve_uni_websocket, is_socket=True),
    "/connection/uni_http_stream": _Route("uni_http_stream", ("POST",), serve_uni_http_stream),
    "/connection/uni_sse": _Route("uni_sse", ("GET", "POST"), serve_uni_sse),
    "/emulation": _Route("emulation", ("POST",), serve_emulation),
}
ADDRESSES: Final = tuple(_ROUTES)
"""All that is served here."""


class Connections:
    """Answers requests that open a session, or hand commands to one."""

    __slots__ = ("_service",)

    def __init__(self, service: Service) -> None:
        self._service = service

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        cors = self._service.gate.admit(request)
        if isinstance(cors, Refusal):
            refuse(exchange, EverywireError(cors.sentence, code=cors.code))
            return
        route = _ROUTES.get(request.path)
        if route is None:
            refuse(exchange, RequestError("there is nothing here", code=codes.UNKNOWN_CHANNEL), cors)
            return
        allow = (b"allow", ", ".join((*route.methods, "OPTIONS")).encode())
        if request.method == "OPTIONS":
            exchange.attend(WholeAnswer(), "options")
            exchange.respond(204, [allow, *self._service.gate.preflight(request)])
            return
        if request.method not in route.methods:
            sentence = f"{request.method[:20]} is not known here"
            refuse(exchange, RequestError(sentence, code=codes.METHOD_NOT_FOUND), cors, [allow])
            return
        try:
            if request.is_upgrade and not route.is_socket:
                raise BadRequest("this address is no WebSocket")
            route.serve(Asked(self._service, exchange, cors, route.transport))
        except EverywireError as error:
            refuse(exchange, error, cors)
