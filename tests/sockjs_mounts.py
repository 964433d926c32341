"""A server with SockJS mounts, those of the protocol's own suite among them, for any host of the tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from everywire import Everywire
from everywire.handlers.sockjs import SockJsConnection, SockJsHandler
from everywire.sockets.sockjs_carrier import accept_session
from everywire.sockets.sockjs_link import SockJsOptions
from everywire.transports.exchange import Exchange
from everywire.transports.service import Service
from everywire.transports.sockjs import SockJs
from everywire.transports.sockjs_mounts import SockJsMounts
from tests.serving import Site, serving_wire

__all__ = ["SUITE_OPTIONS", "SockJsWire", "close", "echo", "serving_sockjs"]

SUITE_OPTIONS: Final[dict[str, SockJsOptions]] = {
    "/echo": SockJsOptions(response_bytes=4096),
    "/close": SockJsOptions(),
    "/disabled_websocket_echo": SockJsOptions(has_websocket=False),
    "/cookie_needed_echo": SockJsOptions(needs_cookie=True),
}


async def echo(connection: SockJsConnection) -> None:
    """Send everything back."""
    async for message in connection:
        await connection.send(message)


async def close(connection: SockJsConnection) -> None:
    """Close at once."""
    connection.close(3000, "Go away!")


class SockJsWire(Everywire):
    """An application with the services of the suite, ``/sockjs``, and any others."""

    def __init__(
        self, mounts: dict[str, tuple[Callable[..., Any], SockJsOptions]] | None = None, **options: Any
    ) -> None:
        options = {"dev": True, "is_loopback": True, "allowed_origins": ["*"], **options}
        super().__init__(**options)
        self._wanted = {
            path: (close if path == "/close" else echo, one) for path, one in SUITE_OPTIONS.items()
        } | (mounts or {})
        self.mounts: dict[str, SockJs] = {}
        self._sockjs_mounts = SockJsMounts()
        inner = self.handle

        def handle(exchange: Exchange) -> None:
            mount = self._sockjs_mounts.find(exchange.request.path)
            (inner if mount is None else mount)(exchange)

        self.handle = handle  # type: ignore[misc]
        self.asgi._handler = handle

    async def start(self) -> None:
        """Start, and mount."""
        await super().start()
        mounts = self._sockjs_mounts
        mounts.add("/sockjs", accept_session, wants_identity=False)
        mounts.start(Service(self.shared, self.gate))
        for path, (function, options) in self._wanted.items():
            is_handler = isinstance(function, SockJsHandler)
            handler = function if is_handler else SockJsHandler(function, self.limits)
            mounts.add(path, handler.accept, options)
        self.mounts = {mount.prefix: mount for mount in mounts._mounts}

    async def close(self) -> None:
        """Stop."""
        self._sockjs_mounts.close()
        await super().close()


def serving_sockjs(
    host: str, certificate: tuple[str, str], **options: Any
) -> AbstractAsyncContextManager[Site]:
    """Run a server of one host."""
    return serving_wire(host, SockJsWire(**options), certificate)
