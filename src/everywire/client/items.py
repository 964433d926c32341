"""What a reader gets: publications as received, and gaps as told, whatever transport carried them.

Shapes are those of the plain transports: JSON objects with ``data`` or ``data_base64``, ``event``,
``tags``, ``time``, ``offset``, ``channel``, ``position``, or with ``gap``.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from everywire.client.errors import ConnectionLost
from everywire.core.errors import BadPosition
from everywire.core.position import Place, Position, encode_position

__all__ = [
    "Item",
    "Missed",
    "Received",
    "decode_object",
    "items_of_answer",
    "offset_in",
    "read_gap",
    "read_object",
]


class Received(NamedTuple):
    """One publication. ``data`` is a JSON value, or bytes when it was binary; what the transport did
    not tell is None. ``position`` is where a reader stands after it."""

    channel: str
    offset: int | None
    data: Any
    event: str | None
    tags: Mapping[str, str] | None
    time: Any
    position: str | None
    content_type: str | None = None


class Missed(NamedTuple):
    """A gap: the offsets from ``first`` to ``last`` were missed (reason ``trimmed``), or nobody can
    say how many (``reset``). ``position`` is where a reader stands after it."""

    channel: str
    first: int | None
    last: int | None
    reason: str
    position: str | None


Item = Received | Missed


def decode_object(text: bytes | str) -> dict[str, Any]:
    """Decode the JSON object of a line or message."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConnectionLost(f"the server sent no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConnectionLost("the server sent something other than a JSON object")
    return value


def read_object(value: Mapping[str, Any], channels: Sequence[str]) -> Item | None:
    """Read the object of a line, an envelope or an answer's publication; None when it tells neither a
    publication nor a gap."""
    position = value.get("position")
    gap = value.get("gap")
    if gap is not None:
        return read_gap(gap, channels, position)
    channel = value.get("channel", channels[0])
    if "data" in value:
        data = value["data"]
    elif "data_base64" in value:
        data = from_base64(value["data_base64"])
    else:
        return None
    offset = value.get("offset")
    return Received(
        channel,
        offset_in(position, channel) if offset is None else offset,
        data,
        value.get("event"),
        value.get("tags"),
        value.get("time"),
        position,
        value.get("content_type"),
    )


def read_gap(gap: Mapping[str, Any], channels: Sequence[str], position: str | None) -> Missed:
    """Read the object that says what was missed."""
    channel = gap.get("channel", channels[0])
    return Missed(channel, gap.get("from"), gap.get("to"), str(gap.get("reason")), position)


def from_base64(text: str) -> bytes:
    """Decode base64 as a text transport carries binary data."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise ConnectionLost("the server sent damaged base64") from None


def offset_in(position: str | None, channel: str) -> int | None:
    """Return the offset at which a position stands in a channel."""
    place = _place(position, channel)
    return None if place is None else place.offset


def _place(position: str | None, channel: str) -> Place | None:
    try:
        return Position.decode(position).place(channel) if position else None
    except BadPosition:
        return None


def items_of_answer(answer: Mapping[str, Any], channels: Sequence[str]) -> tuple[list[Item], str | None]:
    """Read a JSON answer: its gaps and publications in order, and the position after all of them.

    An answer has one position for all that it holds. Each item is given its own here, made of the
    offsets, so that a reader that stops in the middle can go on from there.
    """
    final = answer.get("position")
    gaps = answer.get("gap") or []
    items: list[Item] = [
        read_gap(gap, channels, None) for gap in (gaps if isinstance(gaps, list) else [gaps])
    ]
    for row in answer.get("publications", ()):
        item = read_object(row, channels)
        if item is None:
            raise ConnectionLost("the server sent a publication without data")
        items.append(item)
    return _placed(items, final, channels), final


def _placed(items: list[Item], final: str | None, channels: Sequence[str]) -> list[Item]:
    """Give every item the position after it, going backwards from the last."""
    places = {name: place for name in channels if (place := _place(final, name)) is not None}
    placed: list[Item] = []
    position = final
    for item in reversed(items):
        placed.append(item._replace(position=position))
        place = places.get(item.channel)
        first = item.offset if isinstance(item, Received) else item.first
        if place is None or first is None:
            # Before a reset nothing is known: whoever stops here is told it again.
            position = position if place is None else None
        else:
            places[item.channel] = Place(place.epoch, first - 1)
            position = encode_position(places.items())
    placed.reverse()
    return placed
