"""Rooms of Socket.IO are channels: the name of the one for the other.

In the namespace ``/`` a room with a legal channel name is the channel of that name, so that what any wire
publishes there is an event in the room, and the other way round. Every other room (another namespace, a name
that no channel can have, one that begins with ``sio:``) is the channel ``sio:r:<namespace>:<room>``. All
sockets of a namespace together are the channel ``sio:n:<namespace>`` (`everyone`), which each of them reads.

In these names ``/`` alone is nothing at all, and every byte of UTF-8 outside ``A-Z a-z 0-9 . _ ~ @ $ # + -``
is ``=`` and two hexadecimal digits: ``/chat`` and ``my room`` are ``sio:r:=2Fchat:my=20room``. One room has
one channel, and one channel is one room. What is longer than a channel name may be is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from everywire.core.errors import BadRequest
from everywire.core.names import MAX_NAME_CHARACTERS, is_name

__all__ = ["channel_of", "everyone", "is_everyone", "room_of"]

_OWN: Final = "sio:"
_ROOM: Final = "sio:r:"
_EVERYONE: Final = "sio:n:"

_BARE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~@$#+-")
_ESCAPED: Final = re.compile(r"(?:[A-Za-z0-9._~@$#+\-]|=[0-9A-F]{2})*\Z")
_BYTE: Final = re.compile(rb"=([0-9A-F]{2})")


@lru_cache(maxsize=65536)
def channel_of(namespace: str, room: str) -> str:
    """Return the channel that a room of a namespace is.

    Raises `BadRequest` when the room has no name, or one that is too long.
    """
    if not room:
        raise BadRequest("a room has a name")
    if len(room) > MAX_NAME_CHARACTERS:
        raise BadRequest(f"a room's name has at most {MAX_NAME_CHARACTERS} characters")
    if namespace == "/" and not room.startswith(_OWN) and is_name(room):
        return room
    return _checked(f"{_ROOM}{_escape_namespace(namespace)}:{_escape(room)}")


@lru_cache(maxsize=1024)
def everyone(namespace: str) -> str:
    """Return the channel that all sockets of a namespace read. Raises `BadRequest` when it is too long."""
    return _checked(_EVERYONE + _escape_namespace(namespace))


def is_everyone(channel: str) -> bool:
    """Say whether a channel is all sockets of a namespace, and no room."""
    return channel.startswith(_EVERYONE)


def room_of(channel: str) -> tuple[str, str] | None:
    """Return the namespace and the room that a channel is; None when it is the channel of no room."""
    if not channel.startswith(_OWN):
        return "/", channel
    if not channel.startswith(_ROOM):
        return None
    namespace, colon, room = channel[len(_ROOM) :].partition(":")
    if not colon:
        return None
    try:
        found = (_unescape(namespace) or "/", _unescape(room))
        # Whatever else unescapes to the same room is not how its name is written.
        return found if channel_of(*found) == channel else None
    except (ValueError, BadRequest):
        return None


def _checked(name: str) -> str:
    if len(name) > MAX_NAME_CHARACTERS:
        raise BadRequest(f"this room's channel would be {len(name)} characters; {MAX_NAME_CHARACTERS} may be")
    return name


def _escape_namespace(namespace: str) -> str:
    if not namespace.startswith("/"):
        raise BadRequest("a namespace begins with a slash")
    return "" if namespace == "/" else _escape(namespace)


def _escape(text: str) -> str:
    return "".join(
        [chr(byte) if byte in _BARE else f"={byte:02X}" for byte in text.encode("utf-8", "surrogatepass")]
    )


def _unescape(text: str) -> str:
    if _ESCAPED.match(text) is None:
        raise ValueError("not written as rooms are")
    raw = _BYTE.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), text.encode("ascii"))
    return raw.decode("utf-8", "surrogatepass")
