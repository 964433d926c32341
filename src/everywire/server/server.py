"""The server: listens, hands connections to the handler, and leaves in good order."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from everywire.core.errors import SettingsError
from everywire.server.connection import HttpConnection, TlsConnection
from everywire.server.host import Host, Listener
from everywire.server.listening import bind, remove_unix_socket
from everywire.server.log import Log
from everywire.server.metrics import HostMetrics
from everywire.server.options import Address, ServerOptions
from everywire.server.tls import Certificate
from everywire.transports.exchange import Handler

__all__ = ["Server"]

_DRAIN_SLICE: Final = 50
"""Connections that are told to leave before the event loop has its turn."""
_POLL_S: Final = 0.02
_CUT_S: Final = 1.0
_ACCEPTING_TURNS: Final = 3


class Server:
    """One process's HTTP/1.1 server.

    ``start`` and ``close`` are to be called once, in one event loop. After `drain` or `close`
    the sockets are closed.

    Args:
        handler: answers every request.
        options: where to listen, and everything else.
    """

    def __init__(self, handler: Handler, options: ServerOptions) -> None:
        self._handler = handler
        self._options = options
        self._host: Host | None = None
        self._servers: list[asyncio.Server] = []
        self._certificates: dict[tuple[str, str], Certificate] = {}
        self._unix: list[tuple[str, int]] = []
        self.addresses: list[str] = []
        """Where it listens, as URLs without path, with the port that was found where any would do."""

    @property
    def log(self) -> Log:
        """The server's log; there is one once it was started."""
        return self._running.log

    @property
    def metrics(self) -> HostMetrics:
        """What the host counts."""
        return self._running.metrics

    @property
    def is_draining(self) -> bool:
        """Whether the server has begun to leave."""
        return self._host is not None and self._host.is_draining

    @property
    def _running(self) -> Host:
        if self._host is None:
            raise RuntimeError("the server was not started")
        return self._host

    def open_connections(self) -> Mapping[str, int]:
        """Count open connections by the name of their transport."""
        counts: dict[str, int] = {}
        for connection in self._running.connections:
            name = connection.transport_name or "none"
            counts[name] = counts.get(name, 0) + 1
        return counts

    async def start(self) -> None:
        """Listen on all addresses, or on none; raise `SettingsError` that says why not."""
        loop = asyncio.get_running_loop()
        bound = self._bind()
        host = self._host = Host(self._handler, self._options, loop)
        host.start()
        for address, sock in bound:
            await self._listen(host, address, sock)
        host.log.info(
            "start",
            addresses=self.addresses,
            pid=os.getpid(),
            loop=type(loop).__module__,
        )
        host.log.flush()

    def _bind(self) -> list[tuple[Address, socket.socket]]:
        options = self._options
        bound: list[tuple[Address, socket.socket]] = []
        try:
            for address in options.listen:
                if address.tls_cert:
                    self._certificate(address)
                if not options.inherited:
                    bound += [(address, sock) for sock in bind(address, options.limits)]
            for place, fd in options.inherited:
                bound.append((options.listen[place], socket.socket(fileno=fd)))
        except SettingsError:
            for _, sock in bound:
                sock.close()
            raise
        return bound

    def _certificate(self, address: Address) -> Certificate:
        key = (address.tls_cert, address.tls_key)
        if key not in self._certificates:
            self._certificates[key] = Certificate(*key)
        return self._certificates[key]

    def _connection_type(self, is_tls: bool) -> type[HttpConnection]:
        """Return what connections are made of."""
        return TlsConnection if is_tls else HttpConnection

    async def _listen(self, host: Host, address: Address, sock: socket.socket) -> None:
        loop = host.loop
        is_unix = bool(address.unix)
        is_tls = bool(address.tls_cert)
        listener = Listener(host, is_tls=is_tls)
        made = self._connection_type(is_tls)
        tls: dict[str, Any] = {}
        if is_tls:
            tls = {
                "ssl": self._certificate(address).context,
                "ssl_handshake_timeout": host.limits.tls_handshake_timeout_s,
                "ssl_shutdown_timeout": host.limits.close_timeout_s,
            }
        create: Callable[..., Any] = loop.create_unix_server if is_unix else loop.create_server
        server = await create(lambda: made(listener), sock=sock, backlog=self._options.backlog, **tls)
        self._servers.append(server)
        if is_unix and not self._options.inherited:
            self._unix.append((address.unix, os.stat(address.unix).st_ino))
        elif not is_unix:
            name, port = sock.getsockname()[:2]
            address = replace(address, host=name, port=port)
        self.addresses.append(address.url)

    def reload(self) -> None:
        """Read the certificates again, for new connections; what cannot be loaded is told in the log."""
        log = self._running.log
        for (path, _), certificate in self._certificates.items():
            try:
                certificate.reload()
            except SettingsError as error:
                log.error("reload_failed", certificate=path, reason=error.sentence)
            else:
                log.info("reload", certificate=path)
        log.flush()

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Write what the event loop has to complain of to the log: an exception handler for it."""
        error = context.get("exception")
        told = "" if error is None else "".join(traceback.format_exception(error))
        self._running.log.error("loop_error", message=context.get("message", ""), traceback=told)

    def stop_listening(self) -> None:
        """Accept no more connections."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for path, inode in self._unix:
            remove_unix_socket(path, inode)
        self._unix = []

    async def _stop_accepting(self, host: Host) -> None:
        """Let connections that were accepted become known, before the servers are closed.

        asyncio's own loop accepts in one turn and hands over in a later one, and what it then finds closed
        it drops, unanswered. A replacement goes on accepting from the same socket.
        """
        for server in self._servers:
            for sock in server.sockets:
                host.loop.remove_reader(sock.fileno())
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)

    async def drain(self, drain_s: float | None = None) -> bool:
        """Leave in good order: tell everybody, finish what is in progress; return whether all had left.

        Idle connections are closed at once. Each reader is told, in its own transport's words, to come
        back after a random time, so that they do not all come at once. What is still open after
        ``drain_s`` is cut.
        """
        host = self._running
        limits = host.limits
        if drain_s is None:
            drain_s = self._options.drain_s
        end_s = host.loop.time() + drain_s
        await self._stop_accepting(host)
        host.is_draining = True
        self.stop_listening()
        host.log.info("drain", connections=len(host.connections))
        for index, connection in enumerate(list(host.connections)):
            try:
                connection.drain(random.randrange(limits.drain_jitter_ms))
            except Exception:
                # The top of one reader's farewell: the others still get theirs.
                host.log.error("drain_failed", traceback=traceback.format_exc())
                connection.abort("drain")
            if index % _DRAIN_SLICE == _DRAIN_SLICE - 1:
                await asyncio.sleep(0)
        await self._wait_until_left(end_s)
        left = len(host.connections)
        await self._cut()
        host.log.info("stop", cut=left)
        return not left

    async def close(self) -> None:
        """Cut everything and stop."""
        if self._host is None:
            return
        self.stop_listening()
        await self._cut()
        self._host.stop()

    async def _cut(self) -> None:
        host = self._running
        for connection in list(host.connections):
            connection.abort("drain")
        # They hear of their end in the next turns of the loop.
        await self._wait_until_left(host.loop.time() + _CUT_S)

    async def _wait_until_left(self, end_s: float) -> None:
        host = self._running
        for _ in range(1 + int(max(0.0, end_s - host.loop.time()) / _POLL_S)):
            if not (host.connections or host.handshaking) or host.loop.time() >= end_s:
                break
            await asyncio.sleep(_POLL_S)
