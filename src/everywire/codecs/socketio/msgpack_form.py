"""Packets of Socket.IO as MessagePack: the form of npm ``socket.io-msgpack-parser``. No I/O.

Each packet is one binary message: a map of ``type`` (0 to 4), ``nsp``, ``data`` and ``id``. Bytes stand in
the data as they are, so there are no attachments. What the JavaScript library writes for ``undefined`` is
read as nothing, what it writes for a date as a datetime; dates go out as ISO texts, as in JSON, for it cannot
read MessagePack's own. Integers beyond 64 bits go out as floats, which all numbers of JavaScript are.

Refused: what `decoder.check_packet` refuses, maps with keys that are no text, extensions of other kinds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.socketio.decoder import check_packet
from everywire.codecs.socketio.packet import PacketType, SocketPacket
from everywire.core.errors import BadPacket

__all__ = ["BadPacket", "decode", "encode"]

_BYTES: Final = (bytes, bytearray, memoryview)
_TYPES: Final = {int(packet_type): packet_type for packet_type in PacketType if packet_type <= 4}
_LIBRARYS_OWN: Final = 0
"""The extension type of the JavaScript library, for what MessagePack has no type for."""
_MAX_ID: Final = 2**53 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_PACKET: Final = "A packet is a map of MessagePack."


class _Fields(msgspec.Struct, gc=False):
    type: int
    nsp: str = "/"
    data: Any = None
    id: Any = None


def encode(packet: SocketPacket) -> list[Wire]:
    """Return a packet as it is sent: one binary message.

    Raises TypeError or ValueError when the data is nothing that MessagePack can hold.
    """
    packet_type, namespace, data, packet_id = packet
    fields: dict[str, Any] = {"type": int(packet_type), "nsp": namespace}
    if packet_id is not None:
        fields["id"] = packet_id
    try:
        if data is not None:
            fields["data"] = msgspec.to_builtins(data, builtin_types=_BYTES, str_keys=True)
        return [(True, _packed(fields))]
    except RecursionError:
        raise ValueError("The data is nested too deeply, or holds itself.") from None
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None


def _packed(fields: dict[str, Any]) -> bytes:
    try:
        return _encode(fields)
    except OverflowError:
        return _encode(_within_64_bits(fields))


def _within_64_bits(value: Any) -> Any:
    if type(value) is dict:
        return {key: _within_64_bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_within_64_bits(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return None  # what JSON makes of infinity
    return value


def decode(data: bytes) -> SocketPacket:
    """Decode a binary message; raise `BadPacket` when it is no packet."""
    try:
        fields = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadPacket(_NO_PACKET) from None
    packet_type = _TYPES.get(fields.type)
    if packet_type is None:
        raise BadPacket("No such type of packet.")
    packet_id = fields.id
    if packet_id is not None and not (type(packet_id) is int and 0 <= packet_id <= _MAX_ID):
        raise BadPacket(f"An id is an integer, at most {_MAX_ID}.")
    _check_keys(fields.data)
    packet = SocketPacket(packet_type, fields.nsp, fields.data, packet_id)
    check_packet(packet)
    return packet


def _extension(code: int, data: memoryview) -> datetime | bytes | None:
    """Read what the JavaScript library has its one extension for: ``undefined`` (a zero), a date (eight
    bytes), and in Node ArrayBuffers; one of eight bytes cannot be told from a date."""
    if code != _LIBRARYS_OWN:
        raise BadPacket("No such extension of MessagePack.")
    if bytes(data) == b"\0":
        return None
    if len(data) == 8:
        try:
            return _EPOCH + timedelta(milliseconds=int.from_bytes(data, "big", signed=True))
        except OverflowError:
            pass  # no date that anybody could mean
    return bytes(data)


def _check_keys(data: Any) -> None:
    """Raise `BadPacket` when a map has a key that JSON could not have."""
    stack = [data]
    while stack:
        value = stack.pop()
        if type(value) is dict:
            if not all(type(key) is str for key in value):
                raise BadPacket("The keys of a map are texts.")
            stack.extend(value.values())
        elif type(value) is list:
            stack.extend(value)


_encode = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(_Fields, ext_hook=_extension)
