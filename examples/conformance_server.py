"""What the protocol suites of others run against, on 127.0.0.1 and ::1.

    python examples/conformance_server.py --port 3000

* ``/engine.io/``: Engine.IO 4 (and 3), which gets back every message with its type;
* ``/socket.io/``: Socket.IO with the namespaces ``/`` and ``/custom``, without recovery;
* ``/echo/…``, ``/close/…``, ``/disabled_websocket_echo/…``, ``/cookie_needed_echo/…``: SockJS;
* a WebSocket (RFC 6455, with permessage-deflate) anywhere else gets back every message with its type. That is
  asked for at ``/echo``.

Pages of any origin may come. The WebSocket is built on the host alone, without channels: what an exchange and
a message channel are is all there is to know.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from everywire import Everywire, SocketSession, SocketSettings
from everywire.codecs.websocket import DeflateOptions
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.handlers.engineio import EngineConnection
from everywire.handlers.sockjs import SockJsConnection
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve
from everywire.server.server import Server
from everywire.transports.exchange import Exchange, Handler, MessageChannel

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""The suites send up to 16 MiB."""
MAX_PAYLOAD: Final = 1_000_000
"""What clients of Engine.IO are told."""
SOCKJS_CLIENT: Final = "https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1/dist/sockjs.min.js"
"""The suite wants a page for iframes, which names one; nothing loads it."""
SERVICES: Final = (
    "/engine.io", "/socket.io", "/echo", "/close", "/disabled_websocket_echo", "/cookie_needed_echo",
)  # fmt: skip
"""Below these nothing is the bare echo's, but a handshake at ``/echo`` itself."""


class Pings(NamedTuple):
    """The heartbeat of protocols that have one of their own. The WebSocket echo sends none."""

    interval_s: float
    timeout_s: float


class Echo:
    """One WebSocket that gets back what it sends.

    It is not read on while it does not take its answers, so nothing piles up here.
    """

    __slots__ = ("_channel",)

    def __init__(self) -> None:
        self._channel: MessageChannel | None = None

    def connect(self, exchange: Exchange) -> None:
        """Shake hands; the host answers what is no proper handshake by itself."""
        self._channel = exchange.upgrade(self, "echo", ())

    def message(self, data: bytes, binary: bool) -> None:
        """Send a message back."""
        channel = self._channel
        if channel is not None:
            channel.write(channel.framing.frame([(binary, data)]))

    def stalled(self) -> None:
        """Hear nothing more until the peer has taken its answers."""
        if self._channel is not None:
            self._channel.pause_reading()

    def writable(self) -> None:
        """Go on."""
        if self._channel is not None:
            self._channel.resume_reading()

    def gone(self, reason: str) -> None:
        """Let go: the host has closed the connection."""
        self._channel = None

    def drain(self, retry_ms: int) -> None:
        """Close with 1001, going away: the server stops."""
        if self._channel is not None:
            self._channel.close(1001, "the server stops")


def echo(exchange: Exchange) -> None:
    """Answer a request with a WebSocket that echoes."""
    Echo().connect(exchange)


async def echo_engineio(connection: EngineConnection) -> None:
    """Send everything back."""
    async for message in connection:
        await connection.send(message)


async def greet(session: SocketSession, auth: object) -> None:
    """Tell a client what it brought."""
    session.emit("auth", {} if auth is None else auth)


async def answer(session: SocketSession, *arguments: object) -> None:
    """Send arguments back as an event."""
    session.emit("message-back", arguments)


async def acknowledge(session: SocketSession, *arguments: object) -> tuple[object, ...]:
    """Send arguments back as an acknowledgement."""
    return arguments


async def echo_sockjs(connection: SockJsConnection) -> None:
    """Send everything back."""
    async for message in connection:
        await connection.send(message)


async def close_sockjs(connection: SockJsConnection) -> None:
    """Close at once."""
    connection.close(3000, "Go away!")


def make_wire(pings: Pings, limits: Limits) -> Everywire:
    """Return the server of all services but the echo."""
    settings = SocketSettings(
        recovery_window_s=0,
        connect_timeout_s=1.0,
        ping_interval_s=pings.interval_s,
        ping_timeout_s=pings.timeout_s,
        max_payload=MAX_PAYLOAD,
    )
    wire = Everywire(dev=True, is_loopback=True, allowed_origins=["*"], limits=limits, socketio=settings)
    wire.engineio(
        "/engine.io",
        ping_interval_s=pings.interval_s,
        ping_timeout_s=pings.timeout_s,
        max_payload=MAX_PAYLOAD,
    )(echo_engineio)
    for name in ("/", "/custom"):
        on = wire.socketio.namespace(name).on
        on("connect")(greet)
        on("message")(answer)
        on("message-with-ack")(acknowledge)
    url = SOCKJS_CLIENT
    wire.sockjs("/echo", response_bytes=4096, client_url=url)(echo_sockjs)
    wire.sockjs("/disabled_websocket_echo", has_websocket=False, client_url=url)(echo_sockjs)
    wire.sockjs("/cookie_needed_echo", needs_cookie=True, client_url=url)(echo_sockjs)
    wire.sockjs("/close", client_url=url)(close_sockjs)
    return wire


def route(wire: Everywire) -> Handler:
    """Return what hands each request to its service."""

    def handle(exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        is_service = path in SERVICES or path.startswith(tuple(f"{one}/" for one in SERVICES))
        is_bare = not is_service or (path == "/echo" and request.is_upgrade)
        (echo if is_bare else wire.handle)(exchange)

    return handle


def addresses(port: int, tls_cert: str, tls_key: str) -> tuple[Address, ...]:
    """Return where to listen: one port on both loopback addresses, or on the one that this machine has."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    hosts = ["127.0.0.1", "::1"] if _has_ipv6_loopback() else ["127.0.0.1"]
    return tuple(Address(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key) for host in hosts)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="What the protocol suites of others run against, on 127.0.0.1 and ::1."
    )
    parser.add_argument("--port", type=int, default=3000, help="0 takes a free one (default 3000)")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="PEM certificate chain: serve by TLS")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="PEM key of the certificate")
    parser.add_argument(
        "--ping-interval",
        type=int,
        default=300,
        metavar="MS",
        help="between the pings of protocols that have their own heartbeat (default 300); the echo has none",
    )
    parser.add_argument(
        "--ping-timeout",
        type=int,
        default=200,
        metavar="MS",
        help="how long their answer may take (default 200)",
    )
    return parser.parse_args(arguments)


def tell(server: Server) -> None:
    """Print where the server is reached, once it listens."""
    for address in server.addresses:
        print(f"WebSocket echo: {address.replace('http', 'ws', 1)}/echo", flush=True)


async def serve_all(wire: Everywire, options: ServerOptions) -> None:
    """Serve until a signal comes."""
    async with wire.lifespan():
        await serve(route(wire), options, on_start=tell)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
    args = parse(arguments)
    limits = Limits(max_message_bytes=MAX_MESSAGE_BYTES, max_connections_per_address=0)
    options = ServerOptions(
        listen=addresses(args.port, args.tls_cert, args.tls_key),
        limits=limits,
        deflate=DeflateOptions(),
        log_level="warning",
    )
    pings = Pings(args.ping_interval / 1000, args.ping_timeout / 1000)
    try:
        wire = make_wire(pings, limits)
        run(serve_all(wire, options))
    except SettingsError as error:
        print(f"conformance_server: {error.sentence}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
