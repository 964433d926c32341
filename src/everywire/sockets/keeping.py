"""What is kept of a socket so that its client may come back as who it was, and how it goes on.

`everywire.sockets.recovery` decides who comes back; this is what a socket has to do with it. A stay in a room
that was allowed for a time only is not kept: the client is told that it is over, and may ask again.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.position import Place
from everywire.sockets.joining import go_on_in, tell_expelled
from everywire.sockets.link import TRANSPORT_CLOSE
from everywire.sockets.recovery import Kept, Recovered
from everywire.sockets.rooms import is_everyone
from everywire.sockets.socket import Socket

__all__ = ["Keeper", "go_on", "kept_of", "user_of"]

_log = logging.getLogger("everywire.sockets")


class _Data(msgspec.Struct):
    """What is kept besides."""

    user: str = ""
    """Who it was in the end: the connect hook may know better than the credential."""
    memo: Any = None
    closed: list[str] = []
    """The channels of rooms that are not kept."""


def kept_of(socket: Socket) -> Kept:
    """Return what a socket is. What the application keeps with it is left out where JSON cannot hold it."""
    assert socket.reading is not None
    closed = [one.channel for one in socket.joined.values() if one.expires_s is not None]
    try:
        data = dump(_Data(socket.user, socket.memo, closed))
    except (TypeError, ValueError, RecursionError) as error:
        _log.warning("what the application keeps with a socket is nothing that can be kept: %s", error)
        data = dump(_Data(socket.user, None, closed))
    return Kept(
        sid=socket.sid,
        namespace=socket.namespace,
        user=socket.proved_user,
        rooms={name: stays for name, stays in socket.reading.stays().items() if name not in closed},
        ruled=[name for name, one in socket.joined.items() if one.is_ruled and name not in closed],
        data=msgspec.Raw(data),
    )


def user_of(kept: Kept) -> str:
    """Return who a socket was in the end."""
    return msgspec.json.decode(kept.data, type=_Data).user


def go_on(socket: Socket, recovered: Recovered) -> None:
    """Let a socket that was just made be in the rooms in which it was; its reading is made by now."""
    kept, places = recovered
    data = msgspec.json.decode(kept.data, type=_Data)
    socket.memo = data.memo
    assert socket.reading is not None
    socket.reading.resume(kept.rooms, places)
    ruled = frozenset(kept.ruled)
    for channel, stays in kept.rooms.items():
        stay = stays[-1]
        if stay.until is None and not is_everyone(channel):
            go_on_in(socket, channel, Place(stay.epoch, stay.since), is_ruled=channel in ruled)
    for channel in data.closed:
        tell_expelled(socket, channel, codes.SUBSCRIPTION_EXPIRED)


class Keeper:
    """What gives up a socket whose client is back by another connection: a `recovery.Alive`."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def release(self) -> Kept:
        """End the connection that its client has left, and return what is to be kept."""
        socket = self._socket
        kept = kept_of(socket)
        link = socket.home.link
        socket.pid = ""  # it is not to be kept once more
        link.close(None, TRANSPORT_CLOSE)
        return kept
