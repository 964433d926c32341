"""Listening sockets: bound here and not by the event loop, so that what goes wrong can be told.

Options that every connection needs are set on the listening socket, from which Linux copies
them to each accepted one: that costs nothing per connection. SO_REUSEPORT is never set: a
second server on the same address is an error, not a rival.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator

from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.options import Address

__all__ = ["bind", "remove_unix_socket"]

_TCP_NOTSENT_LOWAT = 25
_KEEPALIVE_IDLE_S = 60
_KEEPALIVE_INTERVAL_S = 15
_KEEPALIVE_PROBES = 4


def bind(address: Address, limits: Limits) -> list[socket.socket]:
    """Bind the sockets of one address; a name may have several. Raise `SettingsError` that says why not."""
    sockets: list[socket.socket] = []
    try:
        if address.unix:
            sockets.append(_bind_unix(address))
        else:
            sockets.extend(_bind_tcp(address, limits))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise SettingsError(_why(address, error)) from None
    return sockets


def remove_unix_socket(path: str, inode: int) -> None:
    """Remove a socket's file, if it is still the one that was made."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except OSError:
        pass


def _why(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use by another program; stop that one, or listen elsewhere"
    if error.errno == errno.EACCES:
        return f"this user may not listen on {address}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is no address of this machine"
    return f"cannot listen on {address}: {error.strerror or error}"


def _bind_tcp(address: Address, limits: Limits) -> Iterator[socket.socket]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    port = address.port
    seen = set()
    for family, kind, protocol, _, target in found:
        if target in seen:
            continue
        seen.add(target)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a kernel without IPv6
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # rebind while old ones linger
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _set_options(sock, limits)
            # One free port for all addresses of a name.
            sock.bind((target[0], port, *target[2:]))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRNOTAVAIL and len(found) > 1:
                continue  # localhost also means ::1 where there is no IPv6
            raise
        port = sock.getsockname()[1]
        yield sock
    if port == 0 or not seen:
        raise OSError(errno.EADDRNOTAVAIL, "no address")


def _set_options(sock: socket.socket, limits: Limits) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", int(limits.stall_timeout_s * 1000)),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, limits.notsent_lowat_bytes)
    except OSError:
        pass  # not Linux: the kernel may hold more


def _bind_unix(address: Address) -> socket.socket:
    path = address.unix
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISSOCK(mode):
            raise SettingsError(f"{path} is there already, and is no socket")
        if _answers(path):
            raise OSError(errno.EADDRINUSE, "somebody answers")
        os.unlink(path)  # left behind by a server that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~address.unix_mode)
    try:
        sock.setblocking(False)
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # a full backlog, or somebody else's: in any case not dead
    return True
