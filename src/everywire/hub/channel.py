"""A channel that has readers in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everywire.core.errors import EverywireError
from everywire.core.log import Budget, ChannelLog
from everywire.core.publication import Publication
from everywire.core.settings import ChannelSettings

__all__ = ["Channel"]


class Channel:
    """What the hub knows of a channel it has readers on.

    ``head`` is the offset up to which publications were heard; ``fresh`` are the newest of
    them, those that some cohort may not have been given yet. They outlive the log's window,
    so that a burst larger than the window reaches everyone who keeps up.
    """

    __slots__ = (
        "_unused_from",
        "_unused_to",
        "epoch",
        "exists",
        "fresh",
        "fresh_bytes",
        "head",
        "is_known",
        "is_outdated",
        "is_repairing",
        "name",
        "readers",
        "settings",
        "tail",
        "waiting",
    )

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        self.name = name
        self.settings = settings
        self.epoch = ""
        self.head = 0
        self.exists = False
        self.is_known = False
        self.is_repairing = False
        """Whether the log is being read for what this node did not hear of."""
        self.is_outdated = False
        """Whether a hint came that could not be followed at that moment."""
        self.readers = 0
        self.fresh: list[Publication] = []
        self.fresh_bytes = 0
        self.waiting: list[Callable[[EverywireError | None], None]] = []
        """Readers that begin once it is known where the log stands, or that it cannot be known."""
        self.tail: ChannelLog | None = None
        self._unused_from = self._unused_to = 0

    def extend(self, publications: Sequence[Publication]) -> None:
        """Take publications that follow the head."""
        self.exists = True
        self.fresh.extend(publications)
        self.head = publications[-1].offset
        for publication in publications:
            self.fresh_bytes += publication.cost_bytes
        if self.tail is not None:
            for publication in publications:
                self.tail.append(publication)

    def fresh_after(self, offset: int) -> list[Publication] | None:
        """Return the publications after an offset up to the head; None when some are not here."""
        begin = offset - (self.head - len(self.fresh))
        return self.fresh[begin:] if begin >= 0 else None

    def drop_fresh(self, up_to: int) -> None:
        """Forget the fresh publications up to an offset: every cohort has them."""
        count = up_to - (self.head - len(self.fresh))
        if count > 0:
            del self.fresh[:count]
            self.fresh_bytes = sum(publication.cost_bytes for publication in self.fresh)

    def stand_at(self, epoch: str, offset: int, exists: bool) -> None:
        """Take over where the log stands, with nothing fresh."""
        self.epoch = epoch
        self.head = offset
        self.exists = exists
        self.fresh = []
        self.fresh_bytes = 0
        self._unused_from = self._unused_to = 0

    def begin_after(self, offset: int) -> None:
        """Learn that the first publication will follow this offset: those up to it are never used."""
        if self._unused_to != self.head:
            self._unused_from = self.head
        self._unused_to = self.head = offset

    def settled(self, offset: int) -> int:
        """Return where a reader at an offset stands; on offsets never used it has missed nothing."""
        return self._unused_to if self._unused_from <= offset < self._unused_to else offset

    def keep_tail(self, budget: Budget) -> None:
        """Keep the newest publications in this process, because the log is elsewhere."""
        if self.tail is not None:
            budget.forget(self.tail)
        self.tail = ChannelLog(self.settings.window, budget, after=self.head)
