"""What the protocol suites of others run against, on 127.0.0.1 and ::1.

    python examples/conformance_server.py --port 3000

A WebSocket (RFC 6455, with permessage-deflate) gets back every message with its type, whatever its
origin. That is asked for at ``/echo``; any path that no other service has will do. Built on the host
alone, without channels: what an exchange and a message channel are is all there is to know.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from everywire.codecs.websocket import DeflateOptions
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve
from everywire.server.server import Server
from everywire.transports.exchange import Exchange, Handler, MessageChannel

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""The suites send up to 16 MiB."""


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


def services(pings: Pings) -> dict[str, Handler]:
    """Return which service answers below which path; the longest that fits counts."""
    return {"/": echo}


def router(table: dict[str, Handler]) -> Handler:
    """Return the handler that hands each request to its service."""
    prefixes = sorted(table, key=len, reverse=True)

    def route(exchange: Exchange) -> None:
        path = exchange.request.path
        prefix = next(prefix for prefix in prefixes if path.startswith(prefix))
        table[prefix](exchange)

    return route


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
    args = parse(arguments)
    options = ServerOptions(
        listen=addresses(args.port, args.tls_cert, args.tls_key),
        limits=Limits(max_message_bytes=MAX_MESSAGE_BYTES),
        deflate=DeflateOptions(),
        log_level="warning",
    )
    pings = Pings(args.ping_interval / 1000, args.ping_timeout / 1000)
    try:
        run(serve(router(services(pings)), options, on_start=tell))
    except SettingsError as error:
        print(f"conformance_server: {error.sentence}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
