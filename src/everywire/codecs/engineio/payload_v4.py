"""Payloads of polling in Engine.IO 4: packets joined by the record separator. No I/O.

After the Engine.IO protocol 4, "Packet encoding / HTTP long-polling": a binary message is ``b`` and its
base64, without a type. A payload that is encoded already can be joined with another by `JOINER`.

Refused: what is no UTF-8, an empty packet, base64 that is none, more packets than allowed (they are
counted before anything is split).
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Final

from everywire.codecs.engineio.packets import Packet, PacketType, Wire, decode_text
from everywire.core.errors import BadPacket

__all__ = ["JOINER", "decode_payload", "encode_payload"]

JOINER: Final = b"\x1e"


def encode_payload(packets: Sequence[Wire]) -> bytes:
    """Return packets as one payload."""
    return JOINER.join(
        [
            b"b" + binascii.b2a_base64(data, newline=False) if is_binary else data
            for is_binary, data in packets
        ]
    )


def decode_payload(body: bytes, *, max_packets: int) -> list[Packet]:
    """Return the packets of a payload; raise `BadPacket` when it is none, or has more than allowed."""
    if body.count(JOINER) >= max_packets:
        raise BadPacket(f"More than {max_packets} packets in a payload.")
    check_utf8(body)
    return [_decode(part) for part in body.split(JOINER)]


def _decode(part: bytes) -> Packet:
    if part.startswith(b"b"):
        return Packet(PacketType.MESSAGE, decode_base64(part[1:]), True)
    return decode_text(part)


def check_utf8(body: bytes) -> None:
    """Raise `BadPacket` when it is no UTF-8."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise BadPacket("A payload is UTF-8.") from None


def decode_base64(text: bytes) -> bytes:
    """Decode base64 to the letter (RFC 4648 §4); raise `BadPacket` when it is none."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise BadPacket("A binary message is base64.") from None
