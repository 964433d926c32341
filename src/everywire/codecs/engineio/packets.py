"""Packets of Engine.IO, both versions: a type, and data. No I/O.

After the Engine.IO protocol, version 4 and its predecessor 3 (the same types). As text a packet is one digit
and UTF-8; each WebSocket text frame is one packet. A binary packet is always a message: in version 4 the
bare data, in version 3 the type as a byte (4, not the digit) before it.

What is to be sent is a `Wire` everywhere: whether it is binary, and the bytes. Text has its digit in front,
binary is the bare data; `payload_v3` and `payload_v4` put them into payloads of polling.

Refused: what is no packet. Text of a WebSocket frame was checked to be UTF-8 by the WebSocket codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from everywire.codecs.json_text import dump
from everywire.core.errors import BadPacket

__all__ = [
    "CLOSE",
    "NOOP",
    "PING",
    "PONG",
    "PROBE_PING",
    "PROBE_PONG",
    "UPGRADE",
    "BadPacket",
    "Packet",
    "PacketType",
    "Wire",
    "decode_binary_v3",
    "decode_text",
    "encode_binary_v3",
    "encode_open",
    "text_of",
]

Wire: TypeAlias = tuple[bool, bytes]
"""A packet to be sent: whether it is binary, and its bytes. Text begins with the digit of its type
(``b'42["x"]'``), binary is the bare data of a message."""


class PacketType(IntEnum):
    """What a packet is for."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


class Packet(NamedTuple):
    """A packet that came: its data is UTF-8, or the bytes of a binary message."""

    type: PacketType
    data: bytes = b""
    binary: bool = False


CLOSE: Final[Wire] = (False, b"1")
PING: Final[Wire] = (False, b"2")
PONG: Final[Wire] = (False, b"3")
UPGRADE: Final[Wire] = (False, b"5")
NOOP: Final[Wire] = (False, b"6")
PROBE_PING: Final[Wire] = (False, b"2probe")
PROBE_PONG: Final[Wire] = (False, b"3probe")

_TYPES: Final = {ord("0") + packet_type: packet_type for packet_type in PacketType}
_MESSAGE_BYTE: Final = b"\x04"


def decode_text(frame: bytes) -> Packet:
    """Decode one packet of text, such as a WebSocket text frame; raise `BadPacket` when it is none."""
    packet_type = _TYPES.get(frame[0]) if frame else None
    if packet_type is None:
        raise BadPacket("No such type of packet.")
    return Packet(packet_type, frame[1:])


def decode_binary_v3(frame: bytes) -> Packet:
    """Decode a binary frame of version 3, which begins with its type as a byte.

    Raises `BadPacket` when it is no message: version 3 has no other binary packets.
    """
    if not frame.startswith(_MESSAGE_BYTE):
        raise BadPacket("Only messages can be binary.")
    return Packet(PacketType.MESSAGE, frame[1:], True)


def encode_binary_v3(data: bytes) -> bytes:
    """Return a binary message as a WebSocket binary frame of version 3."""
    return _MESSAGE_BYTE + data


def text_of(packet: Packet) -> Wire:
    """Return a packet as it is sent."""
    if packet.binary:
        return True, packet.data
    return False, b"%d%b" % (packet.type, packet.data)


def encode_open(
    sid: str, upgrades: Sequence[str], ping_interval_ms: int, ping_timeout_ms: int, max_payload: int
) -> Wire:
    """Return the packet that opens a connection: exactly the five members that the protocol names."""
    members = {
        "sid": sid,
        "upgrades": list(upgrades),
        "pingInterval": ping_interval_ms,
        "pingTimeout": ping_timeout_ms,
        "maxPayload": max_payload,
    }
    return False, b"0" + dump(members)
