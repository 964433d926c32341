"""Servers for tests: the same application on every host, on real sockets, and how clients reach it.

`serving` starts one host: our own over TCP, over TLS and over a unix socket, and an ASGI server
(uvicorn) in this very loop. A test that takes the fixture ``site`` or ``serve`` of
``tests/transports/conftest.py`` runs over all of them. A server that logs a warning fails its test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
import websockets

from everywire import Everywire
from everywire.server.options import Address, ServerOptions
from everywire.server.server import Server

DEADLINE_S: Final = 20.0
"""A generous bound on liveness: nothing in these tests takes so long."""

HOSTS: Final = ("own", "own-tls", "own-unix", "asgi")


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + DEADLINE_S
    while not holds():
        assert loop.time() < end_s, "this never came to hold"
        await asyncio.sleep(0.005)


class Site:
    """A running server and the ways to it."""

    def __init__(
        self,
        host: str,
        wire: Everywire,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        unix: str | None = None,
        server: Server | None = None,
    ) -> None:
        self.host = host
        self.wire = wire
        self.url = url
        self.tls = tls
        self.unix = unix
        self.server = server
        transport = httpx.AsyncHTTPTransport(uds=unix, verify=tls or True, limits=httpx.Limits())
        self.http = httpx.AsyncClient(base_url=url, transport=transport, timeout=DEADLINE_S, trust_env=False)

    @property
    def authority(self) -> str:
        """The Host that clients of this site send."""
        return self.url.partition("://")[2]

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a bare connection, for bytes that no client would send."""
        if self.unix is not None:
            return await asyncio.open_unix_connection(self.unix, **options)
        url = httpx.URL(self.url)
        return await asyncio.open_connection(url.host, url.port, ssl=self.tls, **options)

    def connect_blocking(self) -> socket.socket:
        """Open a bare connection for another thread."""
        if self.unix is not None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.unix)
            return connection
        url = httpx.URL(self.url)
        connection = socket.create_connection((url.host, url.port), DEADLINE_S)
        if self.tls is not None:
            return self.tls.wrap_socket(connection, server_hostname=url.host)
        return connection

    def websocket(self, target: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Connect the `websockets` library; use as an asynchronous context manager."""
        fields = dict(headers or {})
        # The library writes Host itself, from the URL; where to connect is told beside it.
        authority = fields.pop("Host", self.authority)
        url = f"{self.url.partition(':')[0].replace('http', 'ws')}://{authority}{target}"
        options = {
            "open_timeout": DEADLINE_S,
            "close_timeout": 5,
            "proxy": None,
            "additional_headers": fields,
            **options,
        }
        if self.unix is not None:
            return websockets.unix_connect(self.unix, url, **options)
        here = httpx.URL(self.url)
        if self.tls is not None:
            options |= {"ssl": self.tls, "server_hostname": here.host}
        return websockets.connect(url, host=here.host, port=here.port, **options)

    async def publish(self, channel: str, *values: Any) -> None:
        """Publish JSON values from within the process."""
        for value in values:
            await self.wire.publish(channel, value)

    async def drain(self, drain_s: float = 5.0) -> None:
        """Tell all that are connected to come back later, as a shutdown does."""
        if self.server is not None:
            await self.server.drain(drain_s)
        else:
            self.wire.asgi.drain()


@asynccontextmanager
async def serving(host: str, certificate: tuple[str, str], **options: Any) -> AsyncIterator[Site]:
    """Run a server of one host; options are those of `Everywire`, in development mode by default."""
    options = {"dev": True, "is_loopback": True, **options}
    async with serving_wire(host, Everywire(**options), certificate) as site:
        yield site


@asynccontextmanager
async def serving_wire(host: str, wire: Everywire, certificate: tuple[str, str]) -> AsyncIterator[Site]:
    """Run a server of one host for an application that is there already."""
    async with AsyncExitStack() as stack:
        if host == "asgi":
            site = await stack.enter_async_context(_asgi(wire))
        else:
            site = await stack.enter_async_context(_own(host, wire, certificate))
        await stack.enter_async_context(site.http)
        yield site


@asynccontextmanager
async def _own(host: str, wire: Everywire, certificate: tuple[str, str]) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="everywire-"))
        path = str(Path(folder) / "socket")
        tls = None
        if host == "own-unix":
            address = Address(unix=path)
        elif host == "own-tls":
            address = Address(port=0, tls_cert=certificate[0], tls_key=certificate[1])
            tls = ssl.create_default_context(cafile=certificate[0])
        else:
            address = Address(port=0)
        log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        options = ServerOptions(
            listen=(address,), limits=wire.limits, log_fd=log.fileno(), log_level="warning"
        )
        server = Server(wire.handle, options)
        await wire.start()
        stack.push_async_callback(wire.close)
        await server.start()
        asyncio.get_running_loop().set_exception_handler(server.report)
        try:
            if host == "own-unix":
                yield Site(host, wire, "http://localhost", unix=path, server=server)
            else:
                yield Site(host, wire, server.addresses[0], tls=tls, server=server)
        finally:
            await server.close()
        log.seek(0)
        # How long this process was kept from running says how busy the machine is.
        complaints = [line for line in log.read().decode().splitlines() if '"loop_blocked"' not in line]
        assert not complaints, complaints


@asynccontextmanager
async def _asgi(wire: Everywire) -> AsyncIterator[Site]:
    config = uvicorn.Config(
        wire.asgi,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    # What `uvicorn.Server.serve` does, without its signal handlers and its clock of 100 ms.
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        if server.should_exit:
            raise RuntimeError("uvicorn did not start")
        yield Site("asgi", wire, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        await server.shutdown()
