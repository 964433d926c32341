"""Readers that are told the same bytes: groups, and the cohorts they are cut into.

Readers that share encoder, framing and channels form a `Group`. Those of them that stand
at the head are its live members. They are kept in cohorts of a few hundred: a cohort is
written to without a break, so all its members stand at one offset per channel, kept once
for all of them, and the event loop gets its turn between two joined writes to a cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final, Protocol

from everywire.core.position import Position
from everywire.core.publication import Publication
from everywire.hub.batch import Batch, Burst, Chunk, Format
from everywire.hub.channel import Channel
from everywire.hub.interfaces import Encoder, Framing

__all__ = ["Cohort", "Group", "Member"]

COHORT_SIZE: Final = 512
"""Members of one cohort: some 2 ms of writing."""


class Member(Protocol):
    """What a cohort asks of its members; a `everywire.hub.reader.Reader` is one."""

    send: Callable[[Any], int]

    def write(self, framed: Any) -> None:
        """Take what `send` did not take."""

    def leave(self) -> Callable[[Any], object]:
        """End: the cohort has let go of this member; return what takes its answer."""

    def fall_behind(self) -> None:
        """Leave the cohort and go on from the log."""

    def move_to(self, cohort: Cohort) -> None:
        """Count from now on with another cohort, which takes this member over."""

    def beat(self) -> None:
        """Show a sign of life."""


class Cohort:
    """Live members of a group that stand at the same offsets."""

    __slots__ = ("beaten_s", "group", "is_due", "members", "offsets", "publications", "wrote_s")

    def __init__(self, group: Group, offsets: tuple[int, ...]) -> None:
        now_s = group.clock()
        self.group = group
        self.offsets = offsets
        self.members: dict[Member, Callable[[Any], int]] = {}
        self.publications = 0
        """How many were written since the cohort was made; members count by difference."""
        self.wrote_s = now_s
        self.beaten_s = now_s
        self.is_due = False
        """Whether it waits for its turn to show a sign of life."""

    def flush(self) -> Iterator[int]:
        """Write what is fresh to every member, one joined write at a time; yield how many publications
        went out with each."""
        burst = self.group.burst(self.offsets)
        if burst is None:
            self.dissolve()
            yield 0
            return
        before = self.offsets
        for chunk in burst:
            if not self.members or self.offsets != before:
                return  # something else moved it while the event loop had its turn
            if self.group.encoder.once:
                self._advance(chunk)
                delivered = chunk.publications * len(self.members)
                self._answer(chunk)
                yield delivered
                return
            delivered = chunk.publications * len(self.members)
            self._write(chunk)
            before = self.offsets
            yield delivered

    def _advance(self, chunk: Chunk) -> None:
        self.offsets = chunk.offsets
        self.publications += chunk.publications
        self.wrote_s = self.group.clock()

    def _write(self, chunk: Chunk) -> None:
        before = self.offsets, self.publications
        self._advance(chunk)
        if not chunk.framed:
            return
        # What is not taken stalls its member, which then leaves the members: walk over a copy.
        members = iter(list(self.members.items()))
        try:
            self._send(chunk.framed, members)
        except BaseException:
            # A fault in one member's host is not to be a loss for those behind it: they go on from the
            # log, from where they stood before.
            after, (self.offsets, self.publications) = (self.offsets, self.publications), before
            for member, _ in members:
                member.fall_behind()
            self.offsets, self.publications = after
            raise

    def _send(self, framed: Any, members: Iterator[tuple[Member, Callable[[Any], int]]]) -> None:
        """Send to every member; what one cannot take at once goes its own way.

        This loop is what fan-out costs beside the system call, so it does nothing else.
        """
        size = len(framed)
        while True:
            try:
                for member, send in members:
                    taken = send(framed)
                    if taken != size:
                        member.write(framed[taken:])
                return
            except OSError:
                # Full, or gone: the host finds out which. The walk goes on behind this member.
                member.write(framed)

    def _answer(self, chunk: Chunk) -> None:
        members, self.members = self.members, {}
        # First all leave, then all are answered: an answer may bring the next request of its
        # connection at once, and with it a new reader in this very group.
        writes = [member.leave() for member in members]
        framed = chunk.framed
        fault: Exception | None = None
        for write in writes:
            try:
                write(framed)
            except Exception as error:  # raised again once everyone has the answer
                fault = error
        if fault is not None:
            raise fault

    def dissolve(self) -> None:
        """Send every member back to the log: what it needs is no longer fresh."""
        for member in list(self.members):
            member.fall_behind()

    def beat(self) -> None:
        """Let every member show a sign of life."""
        self.is_due = False
        self.beaten_s = self.group.clock()
        for member in list(self.members):
            member.beat()


class Group(Format):
    """All readers of this process with the same encoder, framing and channels."""

    __slots__ = (
        "_burst",
        "_burst_key",
        "_known_heads",
        "_known_position",
        "clock",
        "cohorts",
        "heartbeat_s",
        "key",
        "readers",
        "round",
    )

    def __init__(
        self,
        key: Hashable,
        channels: Sequence[Channel],
        encoder: Encoder,
        framing: Framing,
        *,
        clock: Callable[[], float],
        max_bytes: int,
        max_publications: int,
    ) -> None:
        super().__init__(channels, encoder, framing, max_bytes=max_bytes, max_publications=max_publications)
        self.key = key
        self.clock = clock
        self.heartbeat_s = min(channel.settings.heartbeat_s for channel in channels)
        self.cohorts: list[Cohort] = []
        self.readers = 0
        self.round = 0
        self._burst: Burst | None = None
        self._burst_key: Hashable = None
        self._known_position: Position | None = None
        self._known_heads: tuple[int, ...] = ()

    def stands_at(self, position: Position | None, heads: tuple[int, ...]) -> bool:
        """Say whether a position is that of the heads. A crowd asks for the same again and again."""
        if position is None:
            return False
        if position is not self._known_position or heads != self._known_heads:
            for channel, head in zip(self.channels, heads, strict=True):
                place = position.place(channel.name)
                if place is None or place.offset != head or place.epoch != channel.epoch:
                    return False
            self._known_position = position
            self._known_heads = heads
        return True

    def forget_epochs(self) -> None:
        """Look at the epochs again: a channel has another one."""
        super().forget_epochs()
        self._known_position = None

    def join(self, member: Member, heads: tuple[int, ...]) -> Cohort:
        """Make a reader that stands at the heads a live member."""
        for cohort in reversed(self.cohorts):
            if cohort.offsets == heads and len(cohort.members) < COHORT_SIZE:
                break
        else:
            cohort = Cohort(self, heads)
            self.cohorts.append(cohort)
        cohort.members[member] = member.send
        return cohort

    def tidy(self) -> None:
        """Merge small cohorts at the same offsets and drop empty ones."""
        kept: list[Cohort] = []
        for cohort in self.cohorts:
            if not cohort.members:
                continue
            last = kept[-1] if kept else None
            if (
                last is not None
                and last.offsets == cohort.offsets
                and len(last.members) + len(cohort.members) <= COHORT_SIZE
            ):
                for member in cohort.members:
                    member.move_to(last)
                last.members.update(cohort.members)
                last.wrote_s = min(last.wrote_s, cohort.wrote_s)
                last.beaten_s = min(last.beaten_s, cohort.beaten_s)
                cohort.members = {}
            else:
                kept.append(cohort)
        self.cohorts = kept

    def burst(self, offsets: tuple[int, ...]) -> Burst | None:
        """Join what follows the offsets up to the heads into writes; None when it is no longer fresh.

        Cohorts that stand at the same offsets share the result.
        """
        key = (offsets, self.heads())
        if self._burst is None or key != self._burst_key:
            news: list[tuple[int, Publication]] = []
            for index, channel in enumerate(self.channels):
                if offsets[index] != channel.head:
                    found = channel.fresh_after(offsets[index])
                    if found is None:
                        return None
                    news += [(index, publication) for publication in found]
            self._burst = Burst(self._join(offsets, news))
            self._burst_key = key
        return self._burst

    def forget_burst(self) -> None:
        """Let go of the last joined writes: every cohort has them."""
        self._burst = None
        self._burst_key = None

    def _join(self, offsets: tuple[int, ...], news: list[tuple[int, Publication]]) -> Iterator[Chunk]:
        batch = Batch(self, offsets, self.epochs)
        for index, publication in news:
            if not batch.has_room(publication):
                yield batch.chunk()
                batch = Batch(self, tuple(batch.offsets), batch.epochs)
            batch.add(index, publication)
        if batch.items:
            yield batch.chunk()
