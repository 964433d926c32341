"""A server with SockJS mounts, those of the protocol's own suite among them, for any host of `tests.serving`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from everywire import Everywire
from everywire.handlers.sockjs import SockJsConnection, SockJsHandler
from everywire.sockets.sockjs import SockJsOptions
from everywire.sockets.sockjs_carrier import accept_session
from everywire.transports.exchange import Exchange
from everywire.transports.service import Service
from everywire.transports.sockjs import SockJs
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
        self.sockjs_handlers: dict[str, SockJsHandler] = {}
        inner = self.handle

        def handle(exchange: Exchange) -> None:
            for mount in self.mounts.values():
                if mount.serves(exchange.request.path):
                    mount(exchange)
                    return
            inner(exchange)

        self.handle = handle  # type: ignore[misc]
        self.asgi._handler = handle

    async def start(self) -> None:
        """Start, and mount."""
        await super().start()
        service = Service(self.shared, self.gate)
        self.mounts["/sockjs"] = SockJs(
            service, "/sockjs", accept_session(self.shared), self.session_options, wants_identity=False
        )
        for path, (function, options) in self._wanted.items():
            handler = function if isinstance(function, SockJsHandler) else SockJsHandler(function, self.limits)
            self.sockjs_handlers[path] = handler
            self.mounts[path] = SockJs(service, path, handler.accept(self.shared), options)

    session_options = SockJsOptions()

    async def close(self) -> None:
        """Stop."""
        for mount in self.mounts.values():
            mount.close()
        await super().close()


def serving_sockjs(
    host: str, certificate: tuple[str, str], **options: Any
) -> AbstractAsyncContextManager[Site]:
    """Run a server of one host."""
    return serving_wire(host, SockJsWire(**options), certificate)
