"""Joined writes: what one reader, or a crowd that stands at one place, is told at once.

A `Format` says how: encoder, framing, channels, and the bounds of one write. A `Batch`
collects gaps and publications until the write is full, and keeps the position after each; a
`Chunk` is the batch encoded and framed; a `Burst` is all the chunks that follow one place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from everywire.core.position import Place, encode_position
from everywire.core.publication import RESET, Gap, Publication
from everywire.hub.channel import Channel
from everywire.hub.interfaces import Encoder, Framing, Item

__all__ = ["Batch", "Burst", "Chunk", "Format"]

_ITEM_BYTES: Final = 120
"""What a publication takes in the wordiest format besides what varies: names of members, offset, time."""
_TAG_BYTES: Final = 6
"""What a tag takes besides its characters: quotes, colon and comma."""


class Chunk(NamedTuple):
    """One joined write, and where its reader stands after it."""

    framed: Any
    """Empty when the encoder had nothing to say of the items: then nothing is written."""
    offsets: tuple[int, ...]
    publications: int
    epochs: tuple[str, ...]
    missed: int = 0
    gaps: int = 0
    resets: int = 0
    """How many of the gaps are resets."""


class Burst:
    """The joined writes that follow one place, each made when the first cohort wants it."""

    __slots__ = ("_made", "_rest")

    def __init__(self, rest: Iterator[Chunk]) -> None:
        self._made: list[Chunk] = []
        self._rest = rest

    def __iter__(self) -> Iterator[Chunk]:
        index = 0
        while True:
            if index == len(self._made):
                chunk = next(self._rest, None)
                if chunk is None:
                    return
                self._made.append(chunk)
            yield self._made[index]
            index += 1


class Format:
    """How readers of a set of channels are told: see the module."""

    __slots__ = (
        "_epochs",
        "_item_bytes",
        "_position",
        "_position_key",
        "channels",
        "encoder",
        "framing",
        "max_bytes",
        "max_publications",
    )

    def __init__(
        self,
        channels: Sequence[Channel],
        encoder: Encoder,
        framing: Framing,
        *,
        max_bytes: int,
        max_publications: int,
    ) -> None:
        self.channels = tuple(channels)
        self.encoder = encoder
        self.framing = framing
        self.max_bytes = max_bytes
        self.max_publications = max_publications
        longest = max(len(channel.name) for channel in channels) if len(channels) > 1 else 0
        self._item_bytes = _ITEM_BYTES + longest
        self._epochs: tuple[str, ...] | None = None
        self._position = ""
        self._position_key: Hashable = None

    def heads(self) -> tuple[int, ...]:
        """Return where the channels stand."""
        return tuple([channel.head for channel in self.channels])

    @property
    def epochs(self) -> tuple[str, ...]:
        """The epochs of the channels; the same object until one of them changes."""
        if self._epochs is None:
            self._epochs = tuple([channel.epoch for channel in self.channels])
        return self._epochs

    def position(self, offsets: Sequence[int], epochs: tuple[str, ...] | None = None) -> str:
        """Encode offsets in this group's channels as a position; by default of the channels' epochs."""
        key = (tuple(offsets), epochs or self.epochs)
        if key != self._position_key:
            self._position = encode_position(
                (channel.name, Place(epoch, offset))
                for channel, offset, epoch in zip(self.channels, *key, strict=True)
            )
            self._position_key = key
        return self._position

    def forget_epochs(self) -> None:
        """Look at the epochs again: a channel has another one."""
        self._epochs = None

    def written_bytes(self, publication: Publication, position_bytes: int) -> int:
        """Estimate what a publication takes in a write, on the high side: it is encoded only when it is
        known which publications share the write."""
        size = len(publication.data)
        if self.encoder.once:
            return size  # a page is bounded by its data
        if not publication.is_json:
            size += size // 3 + len(publication.content_type)  # base64
        if publication.event is not None:
            size += len(publication.event)
        if publication.tags:
            for key, value in publication.tags.items():
                size += len(key) + len(value) + _TAG_BYTES
        return size + self._item_bytes + position_bytes


class Batch:
    """What one joined write is going to tell, and where its reader stands after each item."""

    __slots__ = (
        "_position_bytes",
        "_size",
        "epochs",
        "format",
        "gaps",
        "items",
        "missed",
        "offsets",
        "resets",
    )

    def __init__(self, format_: Format, offsets: tuple[int, ...], epochs: tuple[str, ...]) -> None:
        self.format = format_
        self.offsets = list(offsets)
        self.epochs = epochs
        self.items: list[Item] = []
        self.gaps = self.resets = self.missed = 0
        self._size = 0
        has_positions = format_.encoder.wants_positions
        self._position_bytes = len(format_.position(offsets, epochs)) if has_positions else 0

    def has_room(self, publication: Publication) -> bool:
        """Say whether a publication may share this write; the first always may, however large."""
        form = self.format
        if len(self.items) == self.gaps:
            return True
        if len(self.items) - self.gaps >= form.max_publications:
            return False
        return self._size + form.written_bytes(publication, self._position_bytes) <= form.max_bytes

    @property
    def is_small(self) -> bool:
        """Whether it keeps to the bounds of one write, as only a single large publication does not."""
        return self._size <= self.format.max_bytes

    def add(self, index: int, publication: Publication) -> None:
        """Tell the publication that follows in a channel."""
        form = self.format
        self._size += form.written_bytes(publication, self._position_bytes)
        self.offsets[index] = publication.offset
        position = form.position(self.offsets, self.epochs) if form.encoder.wants_positions else ""
        self.items.append(Item(form.channels[index].name, publication, position))

    def add_gap(self, index: int, gap: Gap, epoch: str, offset: int) -> None:
        """Tell a gap in a channel, after which its reader stands at an offset of the epoch."""
        form = self.format
        self.offsets[index] = offset
        self.epochs = (*self.epochs[:index], epoch, *self.epochs[index + 1 :])
        position = form.position(self.offsets, self.epochs)
        self.items.append(Item(form.channels[index].name, gap, position))
        self.gaps += 1
        self.resets += gap is RESET
        self.missed += gap.missed

    def chunk(self) -> Chunk:
        """Encode and frame the items."""
        form = self.format
        offsets = tuple(self.offsets)
        payload = form.encoder.encode(self.items, form.position(offsets, self.epochs))
        return Chunk(
            form.framing.frame(payload) if payload else b"",
            offsets,
            len(self.items) - self.gaps,
            self.epochs,
            self.missed,
            self.gaps,
            self.resets,
        )
