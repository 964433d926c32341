"""One page for a reader that keeps no place here: polls and history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from everywire.brokers.base import Head, Log, Page
from everywire.core.errors import EverywireError
from everywire.core.position import Place, encode_position
from everywire.core.publication import Gap, Publication
from everywire.hub.recovery import Begin, PageReader, Start, begin_at

__all__ = ["Fetched", "Slice", "fetch"]


class Slice(NamedTuple):
    """What one channel has for the reader."""

    channel: str
    head: Head
    gap: Gap | None
    after: int
    """The offset after which reading began, once the gap was told."""
    publications: Sequence[Publication]

    @property
    def last(self) -> int:
        """The offset that reading came to."""
        return self.publications[-1].offset if self.publications else self.after


class Fetched(NamedTuple):
    """What all channels have for the reader, and where it stands afterwards."""

    slices: Sequence[Slice]
    position: str
    new: Sequence[str]
    has_more: bool
    """Whether the page is full: the bounds left something out."""


Done = Callable[[Fetched | EverywireError], None]


def fetch(
    log: Log,
    pages: PageReader,
    channels: Sequence[str],
    start: Start,
    max_publications: int,
    max_bytes: int,
    done: Done,
) -> None:
    """Read what several channels have after a start, within the bounds; call back once."""

    def heads_known(heads: Mapping[str, Head] | EverywireError) -> None:
        if isinstance(heads, EverywireError):
            done(heads)
            return
        begins = {name: begin_at(start, name, heads[name]) for name in channels}
        behind = [(name, begins[name].offset) for name in channels if begins[name].offset < heads[name].last]
        if behind:
            finish = partial(pages_known, heads, begins, behind)
            pages.read_several(behind, max_publications, max_bytes, finish)
        else:
            done(_fetched(channels, heads, begins, {}))

    def pages_known(
        heads: Mapping[str, Head],
        begins: dict[str, Begin],
        behind: Sequence[tuple[str, int]],
        found: Sequence[Page] | EverywireError,
    ) -> None:
        if isinstance(found, EverywireError):
            done(found)
            return
        heads = dict(heads)
        kept: dict[str, Sequence[Publication]] = {}
        for (name, _), page in zip(behind, found, strict=True):
            begin = begins[name]
            if page.head.epoch != heads[name].epoch or page.head.first - 1 > begin.offset:
                # The log has moved on since its head was asked for; what counts is what was read.
                begins[name] = begin = begin_at(start, name, page.head)._replace(is_new=begin.is_new)
            heads[name] = page.head
            kept[name] = _following(begin.offset, page.publications)
        _cut(kept, sum(begin.offset for begin in begins.values()), max_publications, max_bytes)
        done(_fetched(channels, heads, begins, kept))

    log.heads(channels, heads_known)


def _following(offset: int, publications: Sequence[Publication]) -> Sequence[Publication]:
    """Return the publications behind an offset, up to the first hole."""
    found: list[Publication] = []
    for publication in publications:
        if publication.offset == offset + 1:
            found.append(publication)
            offset += 1
        elif publication.offset > offset:
            break
    return found


def _cut(kept: dict[str, Sequence[Publication]], turn: int, max_publications: int, max_bytes: int) -> None:
    """Cut what several channels have to the bounds: their shares, each at least one, may add up to more.

    The first in turn has all of its share. As a reader moves on another channel comes first.
    """
    names = list(kept)
    first = turn % len(names)
    room, size = max_publications, 0
    for name in names[first:] + names[:first]:
        taken = 0
        for publication in kept[name]:
            size += len(publication.data)
            if not room or (size > max_bytes and room < max_publications):
                break
            room -= 1
            taken += 1
        else:
            continue
        kept[name] = kept[name][:taken]
        room = 0


def _fetched(
    channels: Sequence[str],
    heads: Mapping[str, Head],
    begins: Mapping[str, Begin],
    kept: Mapping[str, Sequence[Publication]],
) -> Fetched:
    slices = [
        Slice(name, heads[name], begins[name].gap, begins[name].offset, kept.get(name, ()))
        for name in channels
    ]
    return Fetched(
        slices,
        encode_position((here.channel, Place(here.head.epoch, here.last)) for here in slices),
        [name for name in channels if begins[name].is_new],
        any(here.last < here.head.last for here in slices),
    )
