"""When a socket is in a room: from one offset of its channel to another.

A socket gets what follows its joining and what stands there when it leaves, however late it reads: the rooms
of a slow client are those of its own past. So a stay is a pair of offsets, not a flag, and whether a
publication is for a socket is a question that has one answer for ever, on every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from everywire.core.publication import RESET, Gap

__all__ = ["Stay", "Stays", "includes", "overlaps"]


class Stay(NamedTuple):
    """One time in a room: publications after ``since`` up to ``until``, both of one epoch."""

    epoch: str
    since: int
    until: int | None = None
    """None while the socket is in the room."""

    def has(self, offset: int) -> bool:
        """Say whether a publication is for who stayed so long."""
        return self.since < offset and (self.until is None or offset <= self.until)


Stays = Mapping[str, Sequence[Stay]]
"""The stays of one socket by channel, oldest first; the last one may last."""


def includes(stays: Stays, channel: str, offset: int) -> bool:
    """Say whether a socket was in a room when a publication was made there."""
    return any(stay.has(offset) for stay in stays.get(channel, ()))


def overlaps(stays: Stays, channel: str, gap: Gap) -> bool:
    """Say whether anything that is missing was for the socket; of a reset nobody knows."""
    found = stays.get(channel, ())
    if gap is RESET or gap.first is None or gap.last is None:
        return bool(found) and found[-1].until is None
    first, last = gap.first, gap.last
    return any(stay.since < last and (stay.until is None or first <= stay.until) for stay in found)
