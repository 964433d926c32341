"""The private side of a node: where other nodes bring the requests that they forward.

A Unix socket of this user alone in the state directory, for the workers of this machine, and with
`everywire.server.settings.Settings.advertise` a TCP address for other machines. Every request has to be
sealed by a node (`everywire.transports.relay_private`); on the Unix socket the kernel is asked, too, whose
process is at the other end (SO_PEERCRED, unix(7)), and another user's is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.connection import HttpConnection
from everywire.server.exchange import ASKED, STREAMING
from everywire.server.host import Listener
from everywire.server.options import Address, ServerOptions
from everywire.server.server import Server
from everywire.transports.exchange import Handler
from everywire.transports.relay import Confirmable, Releasable
from everywire.transports.relay_link import RELEASE
from everywire.transports.relay_links import MAX_IDLE_S

__all__ = ["PrivateConnection", "PrivateServer", "remove_left_behind"]

_MORE_HEAD_BYTES: Final = 4096
_MORE_HEADERS: Final = 8
"""What the node that forwards adds to a head."""
_MAX_PATH_BYTES: Final = 107
"""What the address of a Unix socket holds (unix(7))."""
_MAX_LOOKED_AT: Final = 1024
_OLD_S: Final = 60.0
_log = logging.getLogger("everywire.server")


class PrivateConnection(HttpConnection):
    """A connection of another node, which confirms each answer that it gave to its client."""

    __slots__ = ("_unconfirmed",)

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._unconfirmed: Confirmable | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless it is a process of another user."""
        super().connection_made(transport)
        if not _is_own_users(transport.get_extra_info("socket")):
            _log.warning("a process of another user was at the private socket")
            self.abort("another user")

    def data_received(self, data: bytes) -> None:
        """Take bytes; `RELEASE` while an answer is waited for ends it, and whatever comes after an answer
        confirms that."""
        if self._state not in (ASKED, STREAMING):
            self._unconfirmed = None
            if not self._buffer:
                data = data.lstrip(RELEASE)
                if not data:
                    return
        elif not data.strip(RELEASE) and not self._is_collecting:
            driver: object = self._driver
            if isinstance(driver, Releasable):
                driver.release()
                return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; an answer that was not confirmed may never have reached its client."""
        unconfirmed, self._unconfirmed = self._unconfirmed, None
        super().connection_lost(exc)
        if unconfirmed is not None:
            unconfirmed.unheard()

    def _end(self) -> None:
        driver: object = self._driver
        self._unconfirmed = driver if isinstance(driver, Confirmable) else None
        super()._end()


def _is_own_users(sock: socket.socket | None) -> bool:
    if sock is None or sock.family != socket.AF_UNIX:
        return True
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True  # no Linux: the directory is this user's alone
    credentials = sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (os.geteuid(), 0)


class PrivateServer(Server):
    """Listens at a node's private addresses.

    Args:
        handler: answers every request.
        directory: where the Unix socket is to be; None for none.
        label: the node's label, by which the socket is called.
        advertise: ``HOST:PORT`` to listen on for other machines; port 0 takes any; empty for none.
        limits: those of the server; heads may be larger by what the forwarding node adds.
        log_fd: where log lines go; None writes none.
    """

    def __init__(
        self,
        handler: Handler,
        directory: Path | None,
        label: str,
        *,
        advertise: str = "",
        limits: Limits,
        log_fd: int | None = None,
    ) -> None:
        listen: list[Address] = []
        self.unix = ""
        if directory is not None:
            self.unix = str(directory / f"{label}.sock")
            if len(os.fsencode(self.unix)) > _MAX_PATH_BYTES:
                raise SettingsError(f"{self.unix} is too long for a Unix socket; name a shorter state_dir")
            listen.append(Address(unix=self.unix, unix_mode=0o600))
        if advertise:
            host, colon, port = advertise.rpartition(":")
            if not colon or not host or not port.isdigit() or int(port) > 65_535:
                raise SettingsError(f"advertise: expected HOST:PORT, got {advertise!r}")
            listen.append(Address(host=host.strip("[]"), port=int(port)))
        options = ServerOptions(
            listen=tuple(listen),
            limits=replace(
                limits,
                max_head_bytes=limits.max_head_bytes + _MORE_HEAD_BYTES,
                max_headers=limits.max_headers + _MORE_HEADERS,
                max_connections_per_address=0,
                keep_alive_timeout_s=max(limits.keep_alive_timeout_s, 3 * MAX_IDLE_S),
            ),
            log_fd=log_fd,
            log_level="info" if log_fd is not None else "error",
        )
        super().__init__(handler, options)

    def _connection_type(self, is_tls: bool) -> type[HttpConnection]:
        return PrivateConnection

    @property
    def tcp(self) -> str:
        """``HOST:PORT`` where it listens for other machines; empty if it does not."""
        found = [address.partition("//")[2] for address in self.addresses if address.startswith("http:")]
        return found[0] if found else ""


def remove_left_behind(directory: Path) -> None:
    """Remove the sockets of nodes that were killed: old ones that nobody listens on."""
    for path in sorted(directory.glob("*.sock"))[:_MAX_LOOKED_AT]:
        try:
            # A young one may be bound already and not listen yet.
            if time.time() - path.stat().st_mtime < _OLD_S:
                continue
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(0.2)
                probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            continue
