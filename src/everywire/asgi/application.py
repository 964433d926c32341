"""The ASGI application: makes an exchange of every scope and hands it to the router.

This is the minimum that proves the exchange on a second host: HTTP, WebSocket and lifespan.
Paths below ``root_path`` are seen without it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any, Protocol

from everywire.asgi.exchange import HttpExchange, SocketExchange
from everywire.asgi.pump import Event, Pump
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.transports.exchange import Handler, Request

__all__ = ["AsgiApplication"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class Life(Protocol):
    """What lives as long as the application: started and closed with it."""

    async def start(self) -> None:
        """Start."""

    async def close(self) -> None:
        """Stop."""


class AsgiApplication:
    """A callable for any ASGI server; ``handler`` answers, ``life`` is started by the lifespan."""

    def __init__(self, handler: Handler, life: Life, limits: Limits) -> None:
        self._handler = handler
        self._life = life
        self._limits = limits
        self._open: set[HttpExchange | SocketExchange] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            pump = Pump(send)
            await self._serve(HttpExchange(_request(scope), pump), pump, receive)
        elif scope["type"] == "websocket":
            pump = Pump(send)
            extensions = scope.get("extensions") or {}
            exchange = SocketExchange(
                _request(scope), pump, self._limits.max_message_bytes, "websocket.http.response" in extensions
            )
            await receive()  # websocket.connect
            await self._serve(exchange, pump, receive)

    def drain(self) -> None:
        """Tell every open exchange to come back later."""
        for exchange in list(self._open):
            exchange.drain(random.randrange(self._limits.drain_jitter_ms))

    async def _serve(
        self, exchange: HttpExchange | SocketExchange, pump: Pump, receive: Receive
    ) -> None:
        self._open.add(exchange)
        listener = asyncio.create_task(self._listen(exchange, receive))
        try:
            self._handler(exchange)
            await pump.run()
        except OSError:
            pass  # the peer is gone; the driver hears of it below
        finally:
            self._open.discard(exchange)
            exchange.gone("ended")
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    @staticmethod
    async def _listen(exchange: HttpExchange | SocketExchange, receive: Receive) -> None:
        while exchange.take(await receive()):
            await exchange.listening()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._life.start()
        except EverywireError as error:
            # Raised alone, it would look like an application without a lifespan, and be served as one.
            await send({"type": "lifespan.startup.failed", "message": f"everywire: {error.sentence}"})
            return
        except Exception as error:  # the top of the host's task
            await send({"type": "lifespan.startup.failed", "message": f"everywire: {type(error).__name__}"})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.drain()
        await self._life.close()
        await send({"type": "lifespan.shutdown.complete"})


def _request(scope: Scope) -> Request:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        known = headers.get(name)
        # Cookies of HTTP/2 come in several fields, which are one (RFC 9113 §8.2.3).
        between = b"; " if name == b"cookie" else b", "
        headers[name] = value if known is None else known + between + value
    raw_path = scope.get("raw_path") or scope["path"].encode()
    path = raw_path.decode("latin-1").partition("?")[0]
    root = scope.get("root_path") or ""
    client = scope.get("client") or ("", 0)
    is_forwarded = b"forwarded" in headers or b"x-forwarded-for" in headers
    scheme = str(scope["scheme"]).replace("ws", "http")
    return Request(
        scope.get("method", "GET"),
        path.removeprefix(root) if root else path,
        scope["query_string"].decode("latin-1"),
        headers,
        scheme=scheme,
        host=headers.get(b"host", b"").decode("latin-1"),
        peer=str(client[0]),
        is_local=_is_loopback(str(client[0])) and not is_forwarded,
        is_upgrade=scope["type"] == "websocket",
    )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
