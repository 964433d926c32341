"""Listening sockets: bound here and not by the event loop, so that what goes wrong can be told.

Options that every connection needs are set on the listening socket, from which Linux copies
them to each accepted one: that costs nothing per connection.

A second server on the same address is an error, not a rival. So SO_REUSEPORT is set only for the slots of
one parent's workers (`bind_slots`), and only while a socket without it holds the address.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence

from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.options import Address

__all__ = ["bind", "bind_slots", "remove_unix_socket", "steer"]

_TCP_NOTSENT_LOWAT = 25
_KEEPALIVE_IDLE_S = 60
_KEEPALIVE_INTERVAL_S = 15
_KEEPALIVE_PROBES = 4
_HAS_SLOTS = sys.platform == "linux"
"""Elsewhere SO_REUSEPORT does not share connections out; workers then share one socket."""
_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD, _MODULO, _IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFF_F000 + 56
"""Where a program finds a random number (SKF_AD_OFF + SKF_AD_RANDOM)."""


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


def bind_slots(address: Address, limits: Limits, slots: int, backlog: int) -> list[list[socket.socket]]:
    """Bind and listen on one address once for each slot; return, for each of its sockets, one per slot.

    Every slot has a queue of its own, among which the kernel shares connections out. A Unix socket has one
    queue for all, as has every socket where the system has no slots: the same object for each.
    Raises `SettingsError` as `bind` does, also when another server of the same user shares its port likewise.
    """
    opened: list[list[socket.socket]] = []
    for first in bind(address, limits):
        made = [first]
        try:
            # From here on nobody else can have the address: whoever tries finds one that listens.
            first.listen(backlog)
            if address.unix or slots == 1 or not _HAS_SLOTS:
                opened.append([first] * slots)
                continue
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Now it is the first of a group, in which `steer` knows the others by their order.
            while len(made) < slots:
                made.append(_slot(first, limits, backlog))
            opened.append(made)
        except OSError as error:
            for sock in [*made, *(sock for row in opened for sock in row)]:
                sock.close()
            raise SettingsError(_why(address, error)) from None
    return opened


def _slot(first: socket.socket, limits: Limits, backlog: int) -> socket.socket:
    sock = socket.socket(first.family, first.type, first.proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if first.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _set_options(sock, limits)
        sock.bind(first.getsockname())
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def steer(slots: Sequence[socket.socket], live: Sequence[int]) -> bool:
    """Let new connections come to some of an address's slots only, evenly; say whether the system could.

    Otherwise those of a slot without a worker would wait in its queue for the next one. It is a program for
    the kernel (BPF, as in socket(7) under SO_ATTACH_REUSEPORT_CBPF): a random number by the number of
    live slots says which.
    """
    if len(set(slots)) < 2 or not live:
        return False
    program = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(live))]
    for place, slot in enumerate(live):
        program += [(_IF_EQUAL, 0, 1, place), (_RETURN, 0, 0, slot)]
    program.append((_RETURN, 0, 0, live[0]))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    try:
        slots[0].setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_REUSEPORT_CBPF,
            struct.pack("@HP", len(program), ctypes.addressof(code)),
        )
    except OSError:
        return False
    return True


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
