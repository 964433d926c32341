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
        begins = [begin_at(start, name, heads[name]) for name in channels]
        behind = [
            (name, begin.offset)
            for name, begin in zip(channels, begins, strict=True)
            if begin.offset < heads[name].last
        ]
        finish = partial(_finish, channels, heads, begins, max_publications, done)
        if behind:
            pages.read_several(behind, max_publications, max_bytes, finish)
        else:
            finish([])

    log.heads(channels, heads_known)


def _finish(
    channels: Sequence[str],
    heads: Mapping[str, Head],
    begins: Sequence[Begin],
    max_publications: int,
    done: Done,
    pages: Sequence[Page] | EverywireError,
) -> None:
    if isinstance(pages, EverywireError):
        done(pages)
        return
    left = iter(pages)
    slices: list[Slice] = []
    has_more = False
    room = max_publications
    for name, begin in zip(channels, begins, strict=True):
        found: Sequence[Publication] = ()
        if begin.offset < heads[name].last:
            # Equal shares of a small limit may add up to more than it.
            found = next(left).publications[:room]
            room -= len(found)
        here = Slice(name, heads[name], begin.gap, begin.offset, found)
        has_more = has_more or here.last < heads[name].last
        slices.append(here)
    position = encode_position((here.channel, Place(here.head.epoch, here.last)) for here in slices)
    new = [name for name, begin in zip(channels, begins, strict=True) if begin.is_new]
    done(Fetched(slices, position, new, has_more))
