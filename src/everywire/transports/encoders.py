"""The formats of the plain transports: what readers of a channel are told, as bytes.

One object per format and number of channels (one, or several); a group of readers is
known by it. What each looks like is written in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everywire.codecs.json_text import gap_object, publication_members
from everywire.codecs.sse import encode_event
from everywire.core.publication import Gap
from everywire.hub.interfaces import Item

__all__ = ["ENVELOPE", "NDJSON", "PAGE", "RAW", "SSE", "Message", "gap_member"]

Message = tuple[bool, bytes]
"""A WebSocket message: whether it is binary, and its data."""


class SseEncoder:
    """Events: ``id:`` is the position, ``data:`` the publication's data as it stands.

    With several channels, and for binary data, ``data:`` is an object that says the rest.
    """

    once = False
    tells_gaps = True
    wants_positions = True
    beats_always = False

    def __init__(self, several: bool) -> None:
        self._several = several

    def encode(self, items: Sequence[Item], position: str) -> bytes:
        """Return the blocks of the items."""
        return b"".join([self._block(item) for item in items])

    def _block(self, item: Item) -> bytes:
        content = item.content
        if isinstance(content, Gap):
            data = gap_object(content, item.channel if self._several else None)
            return encode_event(data, event="gap", event_id=item.position)
        if content.is_json and not self._several:
            return encode_event(content.data, event=content.event, event_id=item.position)
        data = b"{%s}" % publication_members(content, item.channel if self._several else None)
        return encode_event(
            data, event=content.event if content.is_json else "binary", event_id=item.position
        )


class LineEncoder:
    """One JSON object per item, with its position: the same for NDJSON lines and envelopes."""

    once = False
    tells_gaps = True
    wants_positions = True

    def __init__(self, several: bool) -> None:
        self._several = several

    def _object(self, item: Item) -> bytes:
        content = item.content
        channel = item.channel if self._several else None
        position = item.position.encode("ascii")
        if isinstance(content, Gap):
            return b'{"gap":%s,"position":"%s"}' % (gap_object(content, channel), position)
        return b'{%s,"position":"%s"}' % (publication_members(content, channel), position)


class NdjsonEncoder(LineEncoder):
    """Lines of JSON."""

    beats_always = False

    def encode(self, items: Sequence[Item], position: str) -> bytes:
        """Return the lines of the items."""
        return b"".join([self._object(item) + b"\n" for item in items])


class EnvelopeEncoder(LineEncoder):
    """Messages of the WebSocket subprotocol ``everywire.json``."""

    beats_always = True

    def encode(self, items: Sequence[Item], position: str) -> list[Message]:
        """Return the messages of the items."""
        return [(False, self._object(item)) for item in items]


class RawEncoder:
    """WebSocket messages that are the data as published: JSON as text, anything else as binary.

    There is no place for a gap. With several channels a message is an object that names its
    channel.
    """

    once = False
    tells_gaps = False
    wants_positions = False
    beats_always = True

    def __init__(self, several: bool) -> None:
        self._several = several

    def encode(self, items: Sequence[Item], position: str) -> list[Message]:
        """Return the messages of the items."""
        messages: list[Message] = []
        for item in items:
            content = item.content
            assert not isinstance(content, Gap)
            if self._several:
                messages.append((False, b"{%s}" % publication_members(content, item.channel)))
            else:
                messages.append((not content.is_json, content.data))
        return messages


class PageEncoder:
    """The JSON answer of polls: publications, gaps and the new position."""

    once = True
    tells_gaps = True
    wants_positions = False
    beats_always = False

    def __init__(self, several: bool) -> None:
        self._several = several

    def encode(self, items: Sequence[Item], position: str) -> bytes:
        """Return the answer that tells the items."""
        return self.page(items, position)

    def page(self, items: Sequence[Item], position: str, new: Sequence[str] = ()) -> bytes:
        """Return the answer that tells the items and names the channels that start live."""
        publications: list[bytes] = []
        gaps: list[bytes] = []
        for channel, content, _ in items:
            name = channel if self._several else None
            if isinstance(content, Gap):
                gaps.append(gap_object(content, name))
            else:
                publications.append(b"{%s}" % publication_members(content, name))
        return b'{"publications":[%s],"position":"%s"%s%s}' % (
            b",".join(publications),
            position.encode("ascii"),
            gap_member(gaps, self._several),
            new_member(new),
        )


def gap_member(gaps: Sequence[bytes], several: bool) -> bytes:
    """Return the ``"gap"`` member of a JSON answer: an object, or a list of them for several channels."""
    if not gaps:
        return b""
    return b',"gap":[%s]' % b",".join(gaps) if several else b',"gap":' + gaps[0]


def new_member(new: Sequence[str]) -> bytes:
    """Return the ``"new"`` member: the channels that a position did not know and that start live."""
    return b',"new":[%s]' % b",".join([b'"%s"' % name.encode("ascii") for name in new]) if new else b""


def opening(position: str, new: Sequence[str]) -> bytes:
    """Return the object that a line or envelope stream begins with: where reading begins."""
    return b'{"position":"%s"%s}' % (position.encode("ascii"), new_member(new))


SSE: Final = (SseEncoder(False), SseEncoder(True))
NDJSON: Final = (NdjsonEncoder(False), NdjsonEncoder(True))
ENVELOPE: Final = (EnvelopeEncoder(False), EnvelopeEncoder(True))
RAW: Final = (RawEncoder(False), RawEncoder(True))
PAGE: Final = (PageEncoder(False), PageEncoder(True))
