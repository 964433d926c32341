"""Packets of Socket.IO as they come: text, and the attachments that follow it. No I/O.

After the Socket.IO protocol, versions 5 and 4. A packet with attachments is complete when the last of them
has come; no text may come between them. A decoder serves one connection, all of its namespaces.

Bounded: attachments of one packet, and the bytes of a packet with all its attachments. Refused: types and
payloads that the protocol does not have, event names that are reserved or neither text nor number, ids that
are no ASCII digits, attachments that were not announced, and placeholders that do not name each attachment
exactly once. While a packet is not complete its text is kept, and not its values, so that what waits takes
no more than what came. In a packet without attachments a placeholder is plain data. Time is linear, and no
depth of nesting does harm.

Half of a surrogate pair, which JavaScript may send escaped, becomes U+FFFD, as in every UTF-8 encoder of
the web: no other transport could carry it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from everywire.codecs.socketio.packet import PacketType, SocketPacket, is_event_name
from everywire.core.errors import BadPacket

__all__ = ["DEFAULT_MAX_ATTACHMENTS", "BadPacket", "Decoder", "check_packet"]

DEFAULT_MAX_ATTACHMENTS: Final = 10
"""As many as the reference implementation takes."""

_MAX_ID_DIGITS: Final = 16
_MAX_ATTACHMENT_DIGITS: Final = 9
_MAX_ID: Final = 2**53 - 1
"""The largest integer that JavaScript counts with exactly."""

_FORMS: Final = {ord("0") + packet_type: packet_type for packet_type in PacketType}
_COMPLETED: Final = {
    PacketType.BINARY_EVENT: PacketType.EVENT,
    PacketType.BINARY_ACK: PacketType.ACK,
}
_DIGITS: Final = re.compile(rb"[0-9]*")
_ESCAPES: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""Escapes of JSON strings one by one; the group is half of a surrogate pair."""

_decode = msgspec.json.Decoder().decode

_Slot = tuple[Any, Any, int]
"""Where an attachment goes: the list or object, the index or key in it, and its number."""


class Decoder:
    """Puts together the packets of one connection.

    ``max_bytes`` bounds a packet with all its attachments. After `BadPacket` the connection cannot go on.
    """

    __slots__ = ("_attachments", "_bytes_left", "_due", "_max_attachments", "_max_bytes", "_pending")

    def __init__(self, *, max_attachments: int = DEFAULT_MAX_ATTACHMENTS, max_bytes: int) -> None:
        self._max_attachments = max_attachments
        self._max_bytes = max_bytes
        self._pending = b""
        """The text of a packet that is not complete: its values may take thirty times as much."""
        self._due = 0
        self._attachments: list[bytes] = []
        self._bytes_left = 0

    @property
    def is_waiting(self) -> bool:
        """Whether attachments of a packet are still to come."""
        return self._due > 0

    def feed_text(self, data: bytes) -> SocketPacket | None:
        """Decode a packet's text, without the digit of Engine.IO; return it unless attachments are due.

        Raises `BadPacket` when it is none.
        """
        if self._due:
            self.forget()
            raise BadPacket("Attachments were due, and text came.")
        if len(data) > self._max_bytes:
            raise BadPacket(f"A packet is at most {self._max_bytes} bytes.")
        packet, slots = self._decode(data)
        if not slots:
            return packet
        self._pending, self._due, self._bytes_left = data, len(slots), self._max_bytes - len(data)
        return None

    def feed_binary(self, data: bytes) -> SocketPacket | None:
        """Take an attachment; return the packet when it was the last one.

        Raises `BadPacket` when none was due, or the packet has become too large.
        """
        if not self._due:
            raise BadPacket("An attachment came that was not announced.")
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self.forget()
            raise BadPacket(f"A packet with its attachments is at most {self._max_bytes} bytes.")
        self._attachments.append(data)
        if len(self._attachments) < self._due:
            return None
        packet, slots = self._decode(self._pending)
        for container, key, number in slots:
            container[key] = self._attachments[number]
        self.forget()
        return packet

    def forget(self) -> None:
        """Let go of a packet that is not complete."""
        self._pending, self._due, self._attachments = b"", 0, []

    def _decode(self, text: bytes) -> tuple[SocketPacket, list[_Slot]]:
        """Return a packet, and where its attachments go; what was decoded once can be once more."""
        packet, count = _decode_text(text, self._max_attachments)
        is_whole = packet.type not in _COMPLETED
        if not is_whole:
            packet = packet._replace(type=_COMPLETED[packet.type])
        check_packet(packet)  # a placeholder can be no event's name, so it need not be complete for it
        return packet, [] if is_whole else _find_slots(packet.data, count)


def check_packet(packet: SocketPacket) -> None:
    """Raise `BadPacket` unless a packet's data and id are such as its type has.

    What differs between versions, or between sides, is let through: CONNECT with or without data,
    CONNECT_ERROR with any.
    """
    packet_type, _, data, packet_id = packet
    if packet_type is PacketType.EVENT:
        if not (isinstance(data, list) and data and is_event_name(data[0])):
            raise BadPacket("An event is a list that begins with its name.")
    elif packet_type is PacketType.ACK:
        if not isinstance(data, list) or packet_id is None:
            raise BadPacket("An acknowledgement is a list, and has an id.")
    elif packet_type is PacketType.CONNECT:
        if not (data is None or isinstance(data, dict)):
            raise BadPacket("A connection is asked for with an object, if with anything.")
    elif packet_type is PacketType.DISCONNECT and data is not None:
        raise BadPacket("A disconnection has no data.")


def _decode_text(data: bytes, max_attachments: int) -> tuple[SocketPacket, int]:
    packet_type = _FORMS.get(data[0]) if data else None
    if packet_type is None:
        raise BadPacket("No such type of packet.")
    at, count, namespace = 1, 0, "/"
    if packet_type in _COMPLETED:
        count, at = _attachment_count(data, max_attachments)
    if data.startswith(b"/", at):
        comma = data.find(b",", at)
        end = len(data) if comma < 0 else comma
        namespace, at = _text(data[at:end]), end + 1
    digits = _DIGITS.match(data, at)
    packet_id, at = _id(digits[0]) if digits else None, digits.end() if digits else at
    value = _value(data[at:]) if at < len(data) else None
    if value is None and at < len(data):
        raise BadPacket("The data of a packet is not null.")
    return SocketPacket(packet_type, namespace, value, packet_id), count


def _attachment_count(data: bytes, max_attachments: int) -> tuple[int, int]:
    dash = data.find(b"-", 1, _MAX_ATTACHMENT_DIGITS + 2)
    digits = data[1:dash] if dash > 0 else b""
    if not digits.isdigit():  # of bytes: ASCII digits only
        raise BadPacket("A number of attachments is one to nine digits.")
    count = int(digits)
    if count > max_attachments:
        raise BadPacket(f"A packet has at most {max_attachments} attachments.")
    return count, dash + 1


def _id(digits: bytes) -> int | None:
    if not digits:
        return None
    if len(digits) > _MAX_ID_DIGITS or (number := int(digits)) > _MAX_ID:
        raise BadPacket(f"An id is at most {_MAX_ID}.")
    return number


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadPacket("A namespace is UTF-8.") from None


def _value(text: bytes) -> Any:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if b"\\u" not in text:
            raise BadPacket("The data of a packet is JSON.") from None
    try:
        return _decode(_ESCAPES.sub(_without_half, text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadPacket("The data of a packet is JSON.") from None


def _without_half(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _find_slots(data: list[Any], count: int) -> list[_Slot]:
    """Find the placeholders in a packet's data; raise `BadPacket` unless they name each attachment once."""
    slots: list[_Slot] = []
    found: set[int] = set()
    stack: list[Any] = [data]
    while stack:
        container = stack.pop()
        items = container.items() if type(container) is dict else enumerate(container)
        for key, item in items:
            if type(item) is dict and item.get("_placeholder") is True:
                number = item.get("num")
                if type(number) is not int or not 0 <= number < count or number in found:
                    raise BadPacket("A placeholder names no attachment, or one that has its place.")
                found.add(number)
                slots.append((container, key, number))
            elif type(item) is dict or type(item) is list:
                stack.append(item)
    if len(found) != count:
        raise BadPacket("An attachment has no place in its packet.")
    return slots
