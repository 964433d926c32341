"""What a reader gets: publications as received, and gaps as told, whatever transport carried them.

The shapes are those of the plain transports: a JSON object for each publication or gap, and a page
of them as the answer of a poll. What a server sends is checked against them; anything else is a
broken server, and so a `ConnectionLost`.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from everywire.client.errors import ConnectionLost
from everywire.core.errors import BadPosition
from everywire.core.position import Place, Position, encode_position

__all__ = [
    "GapObject",
    "Item",
    "Missed",
    "Notice",
    "PageObject",
    "PublicationObject",
    "Received",
    "decode",
    "items_of_page",
    "read_gap",
    "read_object",
]


class Received(NamedTuple):
    """One publication. ``data`` is a JSON value, or bytes when it was binary; what the transport did
    not tell is None. ``position`` is where a reader stands after it; ``info`` is who published it, if it
    was a client."""

    channel: str
    offset: int | None
    data: Any
    event: str | None
    tags: Mapping[str, str] | None
    time: Any
    position: str | None
    content_type: str | None = None
    info: Mapping[str, Any] | None = None


class Missed(NamedTuple):
    """A gap: the offsets from ``first`` to ``last`` were missed (reason ``trimmed``), or nobody can
    say how many (``reset``). ``position`` is where a reader stands after it."""

    channel: str
    first: int | None
    last: int | None
    reason: str
    position: str | None


Item = Received | Missed


class GapObject(Struct, rename={"first": "from", "last": "to"}):
    """A gap on the wire; ``channel`` when there are several."""

    reason: str
    first: int | None = None
    last: int | None = None
    channel: str | None = None


class Notice(Struct):
    """The server's last words: why, and in how many milliseconds to come back."""

    code: int = 0
    reason: str = ""
    retry: int | None = None


class PublicationObject(Struct):
    """A publication on the wire, or what else a line or envelope may say."""

    data: Any = UNSET
    data_base64: str | UnsetType = UNSET
    content_type: str | None = None
    offset: int | None = None
    event: str | None = None
    tags: dict[str, str] | None = None
    time: Any = None
    channel: str | None = None
    position: str | None = None
    gap: GapObject | None = None
    disconnect: Notice | None = None


class PageObject(Struct):
    """The answer of a poll; its gaps are a list when there are several channels."""

    publications: list[PublicationObject] = []
    position: str | None = None
    gap: GapObject | list[GapObject] | None = None


T = TypeVar("T")


def decode(text: bytes | str, kind: type[T]) -> T:
    """Decode JSON of this kind; raise `ConnectionLost` when it is none."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConnectionLost(f"the server sent what is not Everywire's: {error}") from None


def read_object(value: PublicationObject, channels: Sequence[str]) -> Item | None:
    """Read the object of a line, an envelope or a page; None when it is neither publication nor gap."""
    if value.gap is not None:
        return read_gap(value.gap, channels, value.position)
    if not isinstance(value.data_base64, UnsetType):
        data = from_base64(value.data_base64)
    elif value.data is not UNSET:
        data = value.data
    else:
        return None
    channel = value.channel or channels[0]
    offset = offset_in(value.position, channel) if value.offset is None else value.offset
    return Received(
        channel, offset, data, value.event, value.tags, value.time, value.position, value.content_type
    )


def read_gap(gap: GapObject, channels: Sequence[str], position: str | None) -> Missed:
    """Read the object that says what was missed."""
    return Missed(gap.channel or channels[0], gap.first, gap.last, gap.reason, position)


def from_base64(text: str) -> bytes:
    """Decode base64 as a text transport carries binary data."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
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


def items_of_page(page: PageObject, channels: Sequence[str]) -> list[Item]:
    """Read a page: its gaps, then its publications in order.

    A page has one position for all that it holds. Each item is given its own here, made of the
    offsets, so that a reader that stops in the middle can go on from there.
    """
    gaps = page.gap if isinstance(page.gap, list) else [] if page.gap is None else [page.gap]
    items: list[Item] = [read_gap(gap, channels, None) for gap in gaps]
    for row in page.publications:
        item = read_object(row, channels)
        if item is None:
            raise ConnectionLost("the server sent a publication without data")
        items.append(item)
    return _placed(items, page.position, channels)


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
            places[item.channel] = Place(place.epoch, max(0, first - 1))
            position = encode_position(places.items())
    placed.reverse()
    return placed
