"""One reader: a subscription of one or several channels that ends in one subscriber.

A reader is in one of three states. *Live*: it is a member of a cohort and stands where
the cohort stands. *Behind*: it has offsets of its own, and re-reads the log whenever its
socket has taken all bytes, until it reaches the head. *Closed*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from everywire.core.codes import Code
from everywire.core.publication import Gap
from everywire.hub.group import Cohort, Group
from everywire.hub.interfaces import Subscriber

__all__ = ["Home", "Reader"]


class Home(Protocol):
    """What a reader asks of its hub."""

    def queue(self, reader: Reader) -> None:
        """Let a reader that is behind catch up when its turn comes."""

    def note_stalled(self, reader: Reader) -> None:
        """Hear that a reader's socket holds unsent bytes."""

    def note_writable(self, reader: Reader) -> None:
        """Hear that it holds none any more, or that the reader ended."""

    def note_closed(self, reader: Reader) -> None:
        """Hear that a reader ended."""


class _Nobody:
    """The subscriber of a reader that has ended."""

    def send(self, framed: Any) -> int:
        """Take it and do nothing."""
        return len(framed)

    def write(self, framed: Any, /) -> None:
        """Do nothing."""

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Do nothing."""

    def beat(self) -> None:
        """Do nothing."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Do nothing."""


_NOBODY: Final = _Nobody()


class Reader:
    """A reader in the hub. Transports call `stalled`, `writable` and `close`."""

    __slots__ = (
        "_base",
        "_delivered",
        "cohort",
        "epochs",
        "group",
        "hub",
        "is_beginning",
        "is_closed",
        "is_queued",
        "is_reading",
        "is_stalled",
        "missed",
        "offsets",
        "send",
        "subscriber",
        "turn",
    )

    def __init__(self, hub: Home, group: Group, subscriber: Subscriber) -> None:
        self.hub = hub
        self.group = group
        self.subscriber = subscriber
        self.send: Callable[[Any], int] = subscriber.send
        self.cohort: Cohort | None = None
        self.offsets: tuple[int, ...] = ()
        self.epochs: tuple[str, ...] = ()
        """The epochs that the offsets are of, which may be past; both are the cohort's while live."""
        self.is_beginning = True
        """Whether nothing was told yet: what it missed before it came is not for being slow."""
        self.is_closed = False
        self.is_stalled = False
        self.is_reading = False
        self.is_queued = False
        self.turn = 0
        self.missed = 0
        self._delivered = 0
        self._base = 0

    @property
    def delivered(self) -> int:
        """How many publications were written to this reader."""
        if self.cohort is None:
            return self._delivered
        return self._delivered + self.cohort.publications - self._base

    def stand_at(self, offsets: tuple[int, ...], epochs: tuple[str, ...]) -> None:
        """Take a place of its own in each channel."""
        self.offsets = offsets
        self.epochs = epochs

    def join(self, heads: tuple[int, ...]) -> None:
        """Become a live member of the group: this reader stands at its heads."""
        self.cohort = cohort = self.group.join(self, heads)
        self._base = cohort.publications
        self.offsets = self.epochs = ()
        self.is_beginning = False

    def move_to(self, cohort: Cohort) -> None:
        """Change to another cohort at the same offsets."""
        self._delivered = self.delivered
        self._base = cohort.publications
        self.cohort = cohort

    def count(self, publications: int, missed: int) -> None:
        """Count what was written to a reader that is behind."""
        self._delivered += publications
        self.missed += missed
        self.is_beginning = False

    def leave(self) -> Callable[[Any], object]:
        """End: the cohort has let go of this reader and is about to answer it."""
        self._delivered = self.delivered
        write = self.subscriber.write
        self.cohort = None
        self._end()
        return write

    def fall_behind(self) -> None:
        """Leave the cohort and go on from the log."""
        cohort = self.cohort
        if cohort is None:
            return
        self._delivered = self.delivered
        self.stand_at(cohort.offsets, self.group.epochs)
        self.cohort = None
        del cohort.members[self]
        if not self.is_stalled:
            self.hub.queue(self)

    def pass_over(self, channel: str, offset: int) -> bool:
        """Stand behind a publication that the others are about to be given; say whether that is possible: it
        is when this reader is live and has all that comes before it in the channel."""
        cohort, group = self.cohort, self.group
        if cohort is None:
            return False
        offsets = cohort.offsets
        for index, read in enumerate(group.channels):
            if read.name == channel and offsets[index] == offset - 1:
                del cohort.members[self]
                self.move_to(group.join(self, (*offsets[:index], offset, *offsets[index + 1 :])))
                return True
        return False

    def write(self, framed: Any) -> None:
        """Let the subscriber take a framed chunk, whatever its socket holds."""
        self.subscriber.write(framed)

    def beat(self) -> None:
        """Let the subscriber show a sign of life."""
        self.subscriber.beat()

    def stalled(self) -> None:
        """Hear that bytes remain unsent."""
        if self.is_closed or self.is_stalled:
            return
        self.is_stalled = True
        self.hub.note_stalled(self)
        self.fall_behind()

    def writable(self) -> None:
        """Hear that all bytes were taken."""
        if self.is_stalled:
            self.is_stalled = False
            self.hub.note_writable(self)
            if not self.is_closed:
                self.hub.queue(self)

    def close(self) -> None:
        """End this reader; nothing more is written."""
        if self.is_closed:
            return
        cohort = self.cohort
        if cohort is not None:
            self._delivered = self.delivered
            self.cohort = None
            cohort.members.pop(self, None)
        self._end()

    def _end(self) -> None:
        self.is_closed = True
        if self.is_stalled:
            self.is_stalled = False
            self.hub.note_writable(self)
        self.hub.note_closed(self)
        # Reader and subscriber know each other: part them, so that both are freed at once and the
        # garbage collector has nothing to find.
        self.subscriber = _NOBODY
        self.send = _NOBODY.send
