"""Who is at the other end of a connection, and what the kernel knows about it."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from ipaddress import ip_address
from typing import Final

from everywire.codecs.http.forwarded import UNIX

__all__ = ["bytes_of", "is_loopback", "peer_of", "unsent_bytes"]

_TCP_INFO: Final = 11
_IPPROTO_TCP: Final = 6
# struct tcp_info of Linux 4.2 and later: tcpi_bytes_acked and tcpi_bytes_received stand at 120 and 128.
_ACKED_AND_RECEIVED: Final = struct.Struct("QQ")
_OFFSET: Final = 120
# TCP states: TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING; FIN_WAIT2, TIME_WAIT.
_PEER_HAS_ENDED: Final = frozenset({6, 8, 9, 11})
_END_WAS_ACKED: Final = frozenset({5, 6})


def peer_of(transport: asyncio.Transport) -> str:
    """Return the peer's address without its port, or ``unix``."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple) and name:
        # An IPv4 client of an IPv6 socket is an IPv4 client; a zone says nothing to anybody else.
        return str(name[0]).removeprefix("::ffff:").partition("%")[0]
    return UNIX


def is_loopback(peer: str) -> bool:
    """Whether this machine itself is at the other end."""
    if peer.startswith("127.") or peer == "::1" or peer == UNIX:
        return True
    try:
        return ip_address(peer).is_loopback
    except ValueError:
        return False


def bytes_of(transport: asyncio.Transport) -> tuple[int, int] | None:
    """Return how many bytes a TCP peer sent and how many it acknowledged, as the kernel counted them.

    To count here would cost every write; the kernel counts anyway, and one call at the end asks it
    (2 µs). None where there is no such knowledge.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return None
    try:
        info = sock.getsockopt(_IPPROTO_TCP, _TCP_INFO, _OFFSET + _ACKED_AND_RECEIVED.size)
        acked, received = _ACKED_AND_RECEIVED.unpack_from(info, _OFFSET)
    except (OSError, struct.error):
        return None
    state = info[0]
    # The kernel counts the end of each direction as a byte.
    return received - (state in _PEER_HAS_ENDED), acked - (state in _END_WAS_ACKED)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return how many written bytes the peer has not acknowledged yet, the kernel's share included."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    except (AttributeError, OSError, ValueError):
        return waiting
    return waiting + int(queued)
