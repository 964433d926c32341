"""Readers that are told the same bytes: groups, and the cohorts they are cut into.

Readers that share encoder, framing and channels form a `Group`. Those of them that stand
at the head are its live members. They are kept in cohorts of a few hundred: a cohort is
written to without a break, so all its members stand at one offset per channel, kept once
for all of them, and the event loop gets its turn between cohorts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from everywire.core.position import Place, Position, encode_position
from everywire.core.publication import Gap, Publication
from everywire.hub.channel import Channel
from everywire.hub.interfaces import Encoder, Framing, Item

__all__ = ["Batch", "Chunk", "Cohort", "Group", "Member", "Untold"]

COHORT_SIZE: Final = 512
"""Members of one cohort: some 2 ms of writing."""


class Chunk(NamedTuple):
    """One joined write, and where its reader stands after it."""

    framed: Any
    offsets: tuple[int, ...]
    publications: int
    missed: int = 0
    gaps: int = 0


class Member(Protocol):
    """What a cohort asks of its members; a `everywire.hub.reader.Reader` is one."""

    send: Callable[[Any], int]

    def write(self, framed: Any) -> None:
        """Take what `send` did not take."""

    def leave(self, publications: int) -> Callable[[Any], object]:
        """End, after that many publications more; return what takes the answer."""

    def fall_behind(self) -> None:
        """Leave the cohort and go on from the log."""

    def move_to(self, cohort: Cohort) -> None:
        """Count from now on with another cohort, which takes this member over."""

    def beat(self) -> None:
        """Show a sign of life."""


class Cohort:
    """Live members of a group that stand at the same offsets."""

    __slots__ = ("beaten_s", "group", "members", "offsets", "publications", "wrote_s")

    def __init__(self, group: Group, offsets: tuple[int, ...]) -> None:
        now_s = group.clock()
        self.group = group
        self.offsets = offsets
        self.members: dict[Member, Callable[[Any], int]] = {}
        self.publications = 0
        """How many were written since the cohort was made; members count by difference."""
        self.wrote_s = now_s
        self.beaten_s = now_s

    def flush(self, now_s: float) -> int:
        """Write what is fresh to every member; return how many publications went out."""
        chunks = self.group.chunks(self.offsets)
        if chunks is None:
            self.dissolve()
            return 0
        delivered = 0
        for chunk in chunks:
            self.offsets = chunk.offsets
            self.publications += chunk.publications
            self.wrote_s = now_s
            delivered += chunk.publications * len(self.members)
            if self.group.encoder.once:
                self._answer(chunk)
                break
            self._send(chunk.framed)
        return delivered

    def _send(self, framed: Any) -> None:
        """Send to every member; what one cannot take at once goes its own way.

        This loop is what fan-out costs beside the system call, so it does nothing else.
        """
        size = len(framed)
        # What is not taken stalls its member, which then leaves the members: walk over a copy.
        members = iter(list(self.members.items()))
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
        writes = [member.leave(chunk.publications) for member in members]
        framed = chunk.framed
        for write in writes:
            write(framed)

    def dissolve(self) -> None:
        """Send every member back to the log: what it needs is no longer fresh."""
        for member in list(self.members):
            member.fall_behind()

    def beat(self, now_s: float) -> None:
        """Let every member show a sign of life."""
        self.beaten_s = now_s
        for member in list(self.members):
            member.beat()


class Group:
    """All readers of this process with the same encoder, framing and channels."""

    __slots__ = (
        "_chunks",
        "_chunks_key",
        "_known_heads",
        "_known_position",
        "_position",
        "_position_offsets",
        "channels",
        "clock",
        "cohorts",
        "encoder",
        "framing",
        "heartbeat_s",
        "key",
        "max_bytes",
        "max_publications",
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
        self.key = key
        self.clock = clock
        self.channels = tuple(channels)
        self.encoder = encoder
        self.framing = framing
        self.max_bytes = max_bytes
        self.max_publications = max_publications
        self.heartbeat_s = min(channel.settings.heartbeat_s for channel in channels)
        self.cohorts: list[Cohort] = []
        self.readers = 0
        self.round = 0
        self._chunks: list[Chunk] = []
        self._chunks_key: Hashable = None
        self._position = ""
        self._position_offsets: tuple[int, ...] | None = None
        self._known_position: Position | None = None
        self._known_heads: tuple[int, ...] = ()

    def heads(self) -> tuple[int, ...]:
        """Return where the channels stand."""
        return tuple([channel.head for channel in self.channels])

    def epochs(self) -> tuple[str, ...]:
        """Return the epochs of the channels."""
        return tuple([channel.epoch for channel in self.channels])

    def position(self, offsets: Sequence[int]) -> str:
        """Encode offsets in this group's channels as a position."""
        offsets = tuple(offsets)
        if offsets != self._position_offsets:
            self._position = encode_position(
                (channel.name, Place(channel.epoch, offset))
                for channel, offset in zip(self.channels, offsets, strict=True)
            )
            self._position_offsets = offsets
        return self._position

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

    def forget_positions(self) -> None:
        """Forget what was encoded and compared: a channel has another epoch."""
        self._position_offsets = None
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
                cohort.members = {}
            else:
                kept.append(cohort)
        self.cohorts = kept

    def chunks(self, offsets: tuple[int, ...]) -> list[Chunk] | None:
        """Join what follows the offsets up to the heads into writes; None when it is no longer fresh.

        Cohorts that stand at the same offsets share the result.
        """
        key = (offsets, self.heads())
        if key != self._chunks_key:
            news: list[tuple[int, Publication]] = []
            for index, channel in enumerate(self.channels):
                if offsets[index] != channel.head:
                    found = channel.fresh_after(offsets[index])
                    if found is None:
                        return None
                    news += [(index, publication) for publication in found]
            self._chunks = self._join(list(offsets), news)
            self._chunks_key = key
        return self._chunks

    def _join(self, offsets: list[int], news: list[tuple[int, Publication]]) -> list[Chunk]:
        chunks: list[Chunk] = []
        begin = size = 0
        for end, (_, publication) in enumerate(news):
            size += len(publication.data)
            if end > begin and (size > self.max_bytes or end - begin >= self.max_publications):
                chunks.append(self._chunk(offsets, news[begin:end]))
                begin, size = end, len(publication.data)
        if begin < len(news):
            chunks.append(self._chunk(offsets, news[begin:]))
        return chunks

    def _chunk(self, offsets: list[int], news: Sequence[tuple[int, Publication]]) -> Chunk:
        """Put publications into one write; ``offsets`` move to where it ends."""
        batch = Batch(self, offsets)
        for index, publication in news:
            batch.tell(index, publication)
        return batch.chunk()

    def forget_chunks(self) -> None:
        """Let go of the last joined writes: every cohort has them."""
        self._chunks = []
        self._chunks_key = None


class Untold(NamedTuple):
    """A gap that was found when a reader came, and that it was not told of yet."""

    nth: int
    """Which of the group's channels."""
    gap: Gap
    place: Place
    """Where the reader said that it stands. Until it has heard of the gap, positions keep saying so: if
    it is cut before, the next server finds the gap again."""


class Batch:
    """What goes into one write: items in order, and how far they bring a reader of a group.

    ``offsets`` are moved along. Those gaps of ``untold`` that are not told yet are not passed over in
    any position.
    """

    __slots__ = ("_group", "_offsets", "_untold", "gaps", "items", "missed")

    def __init__(self, group: Group, offsets: list[int], untold: Sequence[Untold] = ()) -> None:
        self._group = group
        self._offsets = offsets
        self._untold = {row.nth: row.place for row in untold}
        self.items: list[Item] = []
        self.gaps = 0
        self.missed = 0

    def position(self) -> str:
        """Encode where the reader stands now."""
        group = self._group
        if not self._untold:
            return group.position(self._offsets)
        return encode_position(
            (channel.name, self._untold.get(index) or Place(channel.epoch, self._offsets[index]))
            for index, channel in enumerate(group.channels)
        )

    def tell(self, index: int, publication: Publication) -> None:
        """Add a publication of a channel."""
        group = self._group
        self._offsets[index] = publication.offset
        position = self.position() if group.encoder.wants_positions else ""
        self.items.append(Item(group.channels[index].name, publication, position))

    def tell_gap(self, index: int, gap: Gap) -> None:
        """Add a gap, after which reading goes on where ``offsets`` say."""
        self._untold.pop(index, None)
        self.gaps += 1
        self.missed += gap.missed
        self.items.append(Item(self._group.channels[index].name, gap, self.position()))

    def chunk(self) -> Chunk:
        """Encode and frame the items."""
        group = self._group
        payload = group.encoder.encode(self.items, self.position())
        told = len(self.items) - self.gaps
        return Chunk(group.framing.frame(payload), tuple(self._offsets), told, self.missed, self.gaps)
