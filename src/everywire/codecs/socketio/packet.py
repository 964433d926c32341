"""Packets of Socket.IO as JSON: what they are, and how they are sent. No I/O.

After the Socket.IO protocol, versions 5 and 4: ``<type>[<attachments>-][<namespace>,][<id>][JSON]``, each in
a message of Engine.IO. Bytes within the data travel as binary messages of their own after the text, which
has ``{"_placeholder":true,"num":i}`` in their place (`BINARY_EVENT`, `BINARY_ACK`).

What is made here is ready to be framed: text begins with the digit of an Engine.IO message. `event_wires`
splices JSON texts as they stand: a publication's data is not parsed again.

Refused: names that are reserved for the protocol's own events (`is_event_name`), data that is no JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.json_text import dump

__all__ = [
    "RESERVED_EVENTS",
    "PacketType",
    "SocketPacket",
    "encode",
    "event_wires",
    "is_event_name",
    "placeholder",
    "split_query",
    "take_attachments",
]

RESERVED_EVENTS: Final = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""Names that no event may have, for the libraries use them for what they tell the application."""

_MESSAGE: Final = b"4"
_BYTES: Final = (bytes, bytearray, memoryview)
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_TOO_DEEP: Final = "The data is nested too deeply, or holds itself."


class PacketType(IntEnum):
    """What a packet is for. The two binary types are forms only: the decoder returns EVENT and ACK."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


class SocketPacket(NamedTuple):
    """A packet: ``data`` is the value (bytes anywhere in it), or None when there is none.

    An EVENT's data is a list of its name and its arguments, an ACK's a list of arguments. ``id`` is what an
    acknowledgement is for. Type 4 is ERROR in version 4 of the protocol; its data can be any value.
    """

    type: PacketType
    namespace: str = "/"
    data: Any = None
    id: int | None = None


def is_event_name(name: object) -> bool:
    """Say whether an event may have this name: a number, or text that is not reserved."""
    return type(name) in (int, float) or (isinstance(name, str) and name not in RESERVED_EVENTS)


def split_query(namespace: str) -> tuple[str, str]:
    """Split what clients of version 4 put after a namespace when they connect: ``/chat?token=x``."""
    name, _, query = namespace.partition("?")
    return name, query


def encode(packet: SocketPacket) -> list[Wire]:
    """Return a packet as it is sent: its text, and its attachments.

    Raises TypeError or ValueError when the data is nothing that JSON can hold.
    """
    packet_type, namespace, data, packet_id = packet
    attachments: list[bytes] = []
    text = b"" if data is None else _json(take_attachments(data, attachments))
    if attachments and packet_type in (PacketType.EVENT, PacketType.ACK):
        packet_type = PacketType(packet_type + 3)
    head = _head(packet_type, len(attachments), namespace, packet_id)
    return _wires(head + text, attachments)


def event_wires(
    namespace: str,
    name: str | int | float,
    args_json: Sequence[bytes],
    *,
    ack_id: int | None = None,
    extra: bytes | None = None,
    attachments: Sequence[bytes] = (),
) -> list[Wire]:
    """Return an event whose arguments are JSON texts already, as they stand.

    ``extra`` is one more argument after them, as JSON text: the position by which a client recovers. Where
    there are ``attachments``, the arguments hold a `placeholder` for each.
    """
    packet_type = PacketType.BINARY_EVENT if attachments else PacketType.EVENT
    parts = [dump(name), *args_json]
    if extra is not None:
        parts.append(extra)
    head = _head(packet_type, len(attachments), namespace, ack_id)
    return _wires(b"%b[%b]" % (head, b",".join(parts)), attachments)


def placeholder(number: int) -> bytes:
    """Return the JSON that stands where an attachment goes."""
    return b'{"_placeholder":true,"num":%d}' % number


def _head(packet_type: PacketType, attachments: int, namespace: str, packet_id: int | None) -> bytes:
    head = b"%b%d" % (_MESSAGE, packet_type)
    if packet_type >= PacketType.BINARY_EVENT:
        head += b"%d-" % attachments
    if namespace != "/":
        head += b"%b," % namespace.encode("utf-8", "replace")
    return head if packet_id is None else head + b"%d" % packet_id


def _wires(text: bytes, attachments: Sequence[bytes]) -> list[Wire]:
    if not attachments:
        return [(False, text)]
    return [(False, text), *[(True, data) for data in attachments]]


def _json(value: Any) -> bytes:
    try:
        return dump(value)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None


def take_attachments(value: Any, attachments: list[bytes]) -> Any:
    """Return a value with a placeholder for each of the bytes in it, which are added to ``attachments``.

    The value itself when there are none. Objects of other kinds (structs, dataclasses) are looked into, too.
    """
    try:
        return _taken(value, attachments)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _taken(value: Any, attachments: list[bytes]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return _taken_members(value, attachments)
    if kind is list or kind is tuple:
        return _taken_items(value, attachments)
    if isinstance(value, _BYTES):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    plain = msgspec.to_builtins(value, builtin_types=_BYTES)
    return plain if type(plain) not in (dict, list, tuple) else _taken(plain, attachments)


def _taken_members(value: dict[Any, Any], attachments: list[bytes]) -> dict[Any, Any]:
    replaced: dict[Any, Any] | None = None
    for key, item in value.items():
        taken = _taken(item, attachments)
        if taken is not item:
            if replaced is None:
                replaced = dict(value)
            replaced[key] = taken
    return value if replaced is None else replaced


def _taken_items(value: Sequence[Any], attachments: list[bytes]) -> Sequence[Any]:
    replaced: list[Any] | None = None
    for index, item in enumerate(value):
        taken = _taken(item, attachments)
        if taken is not item:
            if replaced is None:
                replaced = list(value)
            replaced[index] = taken
    return value if replaced is None else replaced
