"""Positions: where a reader of one or several channels stands, as one opaque string.

The string is base64url without padding of

    version (1 byte: 1)
    then for each epoch:
        length of the epoch (1 byte), the epoch (ASCII)
        number of channels (1 byte)
        for each channel: 48-bit hash of its name, offset as a base-128 varint

so that 32 channels of one store stay below 640 characters. It is not secret and not
signed: a position grants nothing, and a forged one merely reads as ``reset``.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from everywire.core.errors import BadPosition

__all__ = ["MAX_OFFSET", "MAX_POSITION_CHARACTERS", "Place", "Position", "encode_position"]

MAX_OFFSET: Final = 2**53 - 1
"""Offsets stay integers that JavaScript can hold."""
MAX_POSITION_CHARACTERS: Final = 1024
MAX_EPOCH_CHARACTERS: Final = 32

_VERSION: Final = 1
_HASH_BYTES: Final = 6
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_\-]+\Z")


class Place(NamedTuple):
    """Where a reader stands in one channel."""

    epoch: str
    offset: int


@lru_cache(maxsize=65536)
def name_hash(name: str) -> bytes:
    """Hash a channel name to the 48 bits that stand for it in a position."""
    return blake2b(name.encode("ascii"), digest_size=_HASH_BYTES).digest()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_position(places: Iterable[tuple[str, Place]]) -> str:
    """Encode (channel name, place) pairs as a position string."""
    by_epoch: dict[str, list[bytes]] = {}
    for name, place in places:
        by_epoch.setdefault(place.epoch, []).append(name_hash(name) + _varint(place.offset))
    out = [b"%c" % _VERSION]
    for epoch, channels in by_epoch.items():
        out.append(b"%c%s%c%s" % (len(epoch), epoch.encode("ascii"), len(channels), b"".join(channels)))
    return binascii.b2a_base64(b"".join(out), newline=False).decode("ascii").translate(_TO_URL).rstrip("=")


_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


class Position:
    """A decoded position: the place of each channel it knows, by name.

    `decode` raises `BadPosition` for text that no server of ours ever made.
    """

    __slots__ = ("_places",)

    def __init__(self, places: dict[bytes, Place]) -> None:
        self._places = places

    def place(self, name: str) -> Place | None:
        """Return the place in the channel, or None when the position does not know it."""
        return self._places.get(name_hash(name))

    def __len__(self) -> int:
        return len(self._places)

    @classmethod
    def decode(cls, text: str) -> Position:
        """Decode a position string; raise `BadPosition` when it is not one."""
        if len(text) > MAX_POSITION_CHARACTERS or _ALPHABET.match(text) is None:
            raise BadPosition("this is no position; use one that the server gave you, or earliest, or latest")
        try:
            raw = binascii.a2b_base64(text.translate(_FROM_URL) + "=" * (-len(text) % 4))
            return cls(_decode_places(raw))
        except (IndexError, ValueError):  # binascii.Error and UnicodeDecodeError are ValueErrors
            raise BadPosition("this position is damaged; use one that this server gave you") from None


def _decode_places(raw: bytes) -> dict[bytes, Place]:
    if raw[0] != _VERSION:
        raise ValueError("another version")
    places: dict[bytes, Place] = {}
    at = 1
    while at < len(raw):
        length = raw[at]
        epoch = raw[at + 1 : at + 1 + length].decode("ascii")
        at += 1 + length
        if not 0 < length <= MAX_EPOCH_CHARACTERS:
            raise ValueError("bad epoch")
        count = raw[at]
        at += 1
        for _ in range(count):
            key = raw[at : at + _HASH_BYTES]
            at += _HASH_BYTES
            offset, at = _decode_varint(raw, at)
            places[key] = Place(epoch, offset)
    if not places:
        raise ValueError("empty")
    return places


def _decode_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 49:
            raise ValueError("too long")
    if number > MAX_OFFSET:
        raise ValueError("beyond any offset")
    return number, at
