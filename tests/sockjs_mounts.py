"""A server with SockJS mounts, those of the protocol's own suite among them, for any host of the tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from everywire import Everywire
from everywire.handlers.sockjs import SockJsConnection, SockJsHandler
from everywire.sockets.sockjs_link import SockJsOptions
from everywire.transports.sockjs import SockJs
from tests.serving import Site, serving_wire

__all__ = ["SUITE_OPTIONS", "SockJsWire", "close", "echo", "serving_sockjs"]

SUITE_OPTIONS: Final[dict[str, SockJsOptions]] = {
    "/echo": SockJsOptions(response_bytes=4096, client_url="https://cdn.example/sockjs.min.js"),
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
        super().__init__(**{"dev": True, "is_loopback": True, "allowed_origins": ["*"], **options})
        wanted = {path: (close if path == "/close" else echo, one) for path, one in SUITE_OPTIONS.items()}
        for path, (function, one) in (wanted | (mounts or {})).items():
            is_handler = isinstance(function, SockJsHandler)
            handler = function if is_handler else SockJsHandler(function, self.limits)
            self._assembly.sockjs_mounts.add(path, handler.accept, one)

    @property
    def mounts(self) -> dict[str, SockJs]:
        """The mounts by their prefixes; between start and close."""
        return {mount.prefix: mount for mount in self._assembly.sockjs_mounts._mounts}


def serving_sockjs(
    host: str, certificate: tuple[str, str], **options: Any
) -> AbstractAsyncContextManager[Site]:
    """Run a server of one host."""
    return serving_wire(host, SockJsWire(**options), certificate)
