"""Payloads of polling in Engine.IO 3: each packet with its length before it. No I/O.

After the Engine.IO protocol 3, "Encoding / Payload". As text: ``<length>:<packet>``, the length in UTF-16
code units (the length of a JavaScript string), a binary message as ``b4`` and base64. As bytes, where a
packet is binary and the client can take it: a byte 0 (text) or 1 (binary), the length in bytes with the value
of one digit per byte, 255, the packet; a binary packet begins with its type as a byte.

Clients must understand text whatever they can take. Parts can be joined as they are: `JOINER` is empty.

Refused: lengths that are no ASCII digits, or lead out of the payload or into half of a surrogate pair,
what is no UTF-8, more packets than allowed. Time is linear in the size whatever it says about itself.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from typing import Final

from everywire.codecs.engineio.packets import (
    Packet,
    PacketType,
    Wire,
    decode_binary_v3,
    decode_text,
    encode_binary_v3,
)
from everywire.codecs.engineio.payload_v4 import decode_base64
from everywire.core.errors import BadPacket

__all__ = ["JOINER", "decode_payload", "encode_binary_payload", "encode_payload"]

JOINER: Final = b""

_MAX_DIGITS: Final = 9
_TEXT: Final = 0
_BINARY: Final = 1
_OUTSIDE: Final = "A packet is longer than the payload."
_BAD_LENGTH: Final = "A length is one to nine digits."


def encode_payload(packets: Sequence[Wire]) -> bytes:
    """Return packets as one payload of text."""
    parts = []
    for is_binary, data in packets:
        packet = b"b4" + binascii.b2a_base64(data, newline=False) if is_binary else data
        parts.append(b"%d:%b" % (_utf16_units(packet), packet))
    return b"".join(parts)


def encode_binary_payload(packets: Sequence[Wire]) -> bytes:
    """Return packets as one payload of bytes (``application/octet-stream``)."""
    parts = []
    for is_binary, data in packets:
        packet = encode_binary_v3(data) if is_binary else data
        digits = bytes([int(digit) for digit in str(len(packet))])
        parts.append(b"%c%b\xff%b" % (_BINARY if is_binary else _TEXT, digits, packet))
    return b"".join(parts)


def _utf16_units(text: bytes) -> int:
    """Count the UTF-16 code units of UTF-8: characters, and those outside of the first plane twice."""
    if text.isascii():
        return len(text)
    return len(text.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")) // 2


def decode_payload(body: bytes, *, max_packets: int, binary: bool = False) -> list[Packet]:
    """Return the packets of a payload; raise `BadPacket` when it is none, or has more than allowed.

    ``binary`` says that it came as ``application/octet-stream``. An empty packet (``0:``) is none at all, but
    it counts.
    """
    if binary:
        found = _decode_bytes(body)
    elif body.isascii():
        found = _decode_ascii(body)
    else:
        found = _decode_utf16(body)
    packets: list[Packet] = []
    for number, packet in enumerate(found):
        if number == max_packets:
            raise BadPacket(f"More than {max_packets} packets in a payload.")
        if packet is not None:
            packets.append(packet)
    return packets


def _decode_ascii(body: bytes) -> Iterator[Packet | None]:
    at = 0
    while at < len(body):
        colon = body.find(b":", at, at + _MAX_DIGITS + 1)
        digits = body[at:colon] if colon > at else b""
        if not digits.isdigit():  # of bytes: ASCII digits only
            raise BadPacket(_BAD_LENGTH)
        at = colon + 1 + int(digits)
        if at > len(body):
            raise BadPacket(_OUTSIDE)
        yield _decode_packet(body[colon + 1 : at])


def _decode_utf16(body: bytes) -> Iterator[Packet | None]:
    """Do the same where lengths and bytes differ: in UTF-16, two bytes for each unit of a length."""
    try:
        units = body.decode().encode("utf-16-le")
    except UnicodeDecodeError:
        raise BadPacket("A payload is UTF-8.") from None
    at = 0
    while at < len(units):
        # The header as bytes of its own; a wide character in it becomes "?", which is no digit.
        head = units[at : at + 2 * (_MAX_DIGITS + 1)].decode("utf-16-le", "replace")
        digits, colon, _ = head.encode("ascii", "replace").partition(b":")
        if not (colon and digits.isdigit()):
            raise BadPacket(_BAD_LENGTH)
        start = at + 2 * (len(digits) + 1)
        at = start + 2 * int(digits)
        if at > len(units):
            raise BadPacket(_OUTSIDE)
        yield _decode_packet(_utf8(units[start:at]))


def _utf8(units: bytes) -> bytes:
    try:
        return units.decode("utf-16-le").encode()
    except UnicodeDecodeError:
        raise BadPacket("A length ends within a character.") from None


def _decode_packet(packet: bytes) -> Packet | None:
    if not packet:
        return None
    if packet.startswith(b"b"):
        if not packet.startswith(b"b4"):
            raise BadPacket("Only messages can be binary.")
        return Packet(PacketType.MESSAGE, decode_base64(packet[2:]), True)
    return decode_text(packet)


def _decode_bytes(body: bytes) -> Iterator[Packet | None]:
    at = 0
    while at < len(body):
        kind = body[at]
        end = body.find(b"\xff", at + 1, at + 2 + _MAX_DIGITS)
        digits = body[at + 1 : end] if end > at + 1 else b""
        if not digits or max(digits) > 9:
            raise BadPacket(_BAD_LENGTH)
        length = 0
        for digit in digits:
            length = length * 10 + digit
        at = end + 1 + length
        if at > len(body):
            raise BadPacket(_OUTSIDE)
        packet = body[end + 1 : at]
        if kind == _BINARY:
            yield decode_binary_v3(packet)
        elif kind != _TEXT:
            raise BadPacket("A packet is text or binary.")
        else:
            yield decode_text(_checked(packet)) if packet else None


def _checked(text: bytes) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise BadPacket("A packet of text is UTF-8.") from None
    return text
