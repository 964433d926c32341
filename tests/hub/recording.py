"""A hub on a bench: a clock turned by hand, and readers that check what they are told as it comes.

A `RecordingReader` knows for each of its channels where it stands, and accepts nothing but what
follows: the next publication, or a gap that begins with it. So whatever a test does, order is
kept, nothing comes twice, and delivered plus told as missing is all there was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from everywire.brokers.base import Appended, Broker, Head, Page
from everywire.brokers.memory import MemoryBroker
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.position import Place, Position, encode_position
from everywire.core.publication import Draft, Gap, Publication
from everywire.core.settings import ChannelSettings, SettingsTable, SlowReader, Window
from everywire.hub.hub import Hub
from everywire.hub.interfaces import Encoder, Framing, Item
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST, Start
from everywire.testing.clock import ManualScheduler, finish
from everywire.testing.delayed_broker import DelayedBroker, Faults


class Batch(NamedTuple):
    """The payload of the recording format, which is not encoded at all."""

    items: tuple[Item, ...]
    position: str


class RecordingEncoder:
    """A format that can tell everything; ``encoded`` counts."""

    def __init__(
        self,
        *,
        once: bool = False,
        tells_gaps: bool = True,
        wants_positions: bool = True,
        beats_always: bool = False,
    ) -> None:
        self.once = once
        self.tells_gaps = tells_gaps
        self.wants_positions = wants_positions
        self.beats_always = beats_always
        self.encoded = 0

    def encode(self, items: Sequence[Item], position: str) -> Batch:
        assert items, "a write that tells nothing"
        assert self.tells_gaps or not any(isinstance(item.content, Gap) for item in items)
        self.encoded += 1
        return Batch(tuple(items), position)


class Framed:
    """What the socket takes: a batch as so many bytes, or what is left of them."""

    def __init__(self, batch: Batch, size: int) -> None:
        self.batch = batch
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rest: slice) -> Framed:
        return Framed(self.batch, self.size - rest.start)


class RecordingFraming:
    """A framing that says how large a batch is; ``framed`` counts."""

    def __init__(self) -> None:
        self.framed = 0

    def frame(self, payload: Batch) -> Framed:
        self.framed += 1
        sizes = (len(one.content.data) for one in payload.items if isinstance(one.content, Publication))
        return Framed(payload, len(payload.items) + sum(sizes))


class RecordingReader:
    """A subscriber whose socket has room for so many bytes; see the module."""

    def __init__(self, world: World, *, room: int | None = None) -> None:
        self.world = world
        self.room = room
        """Bytes that the socket still takes; None when it takes all."""
        self.reader: Reader
        self.position = ""
        self.opening = ""
        self.new: tuple[str, ...] = ()
        self.at: dict[str, int] = {}
        self.epochs: dict[str, str] = {}
        self.told: list[tuple[str, Publication | Gap]] = []
        self.writes: list[tuple[int, Batch]] = []
        """The turn of each write, and what was written."""
        self.beats: list[float] = []
        self.end: tuple[Code, Gap | None] | None = None
        self.when_written: Callable[[], None] = lambda: None
        self._begun: Batch | None = None

    # -- as the hub sees it ---------------------------------------------------

    @property
    def send(self) -> Callable[[Framed], int]:
        return self._send

    def _send(self, framed: Framed) -> int:
        """Take as much as the socket has room for, as a socket does."""
        self._arrive(framed.batch)
        if self.room is None or self.room >= framed.size:
            self._took(framed.size)
            return framed.size
        if self.world.refuses_whole:
            self._begun = framed.batch
            raise BlockingIOError
        taken, self.room = self.room, 0
        self._begun = framed.batch
        return taken

    def write(self, framed: Framed) -> None:
        """Take all, and stall when there is more than the socket has room for."""
        if self._begun is None:
            self._arrive(framed.batch)
        else:
            assert self._begun is framed.batch, "the rest of something else"
            self._begun = None
        self._took(framed.size)
        if self.room is not None and self.room < 0:
            self.reader.stalled()

    def _took(self, size: int) -> None:
        if self.room is not None:
            self.room -= size
        self.when_written()

    def opened(self, position: str, new: Sequence[str]) -> None:
        assert not self.opening, "opened twice"
        self.opening = self.position = position
        self.new = tuple(new)
        decoded = Position.decode(position)
        for channel in self.reader.group.channels:
            place = decoded.place(channel.name)
            assert place is not None
            # Who gave a position stands where it says until told of a gap.
            self.at.setdefault(channel.name, place.offset)
            self.epochs.setdefault(channel.name, place.epoch)

    def beat(self) -> None:
        assert not self.reader.is_closed
        self.beats.append(self.world.clock.time())

    def ended(self, code: Code, gap: Gap | None) -> None:
        assert self.end is None
        self.end = (code, gap)

    # -- what is written ----------------------------------------------------------

    def _arrive(self, batch: Batch) -> None:
        assert self.opening, "written to before it was opened"
        assert self.end is None
        assert self.reader.group.encoder.once or not self.reader.is_closed, "written to after its end"
        assert not self.reader.is_stalled, "written to while bytes hang on its socket"
        assert self._begun is None, "a write that was not taken was forgotten"
        self.world.wrote()
        self.writes.append((self.world.clock.turns, batch))
        for item in batch.items:
            self._take(item)
            if item.position:
                self._check_position(item.position)
        self.position = batch.position
        self._check_position(batch.position)

    def _take(self, item: Item) -> None:
        channel, content, _ = item
        at = self.at[channel]
        if isinstance(content, Publication):
            assert content.offset == at + 1, f"{channel}: {content} does not follow {at}"
            self.at[channel] = content.offset
            self.world.check(channel, self.epochs[channel], content)
        elif content.first is None or content.last is None:
            place = Position.decode(item.position).place(channel)
            assert place is not None
            self.epochs[channel], self.at[channel] = place
        else:
            assert content.first == at + 1 <= content.last, f"{channel}: {content} does not follow {at}"
            self.at[channel] = content.last
            self.world.check_gap(channel, self.epochs[channel], content)
        self.told.append((channel, content))

    def _check_position(self, text: str) -> None:
        position = Position.decode(text)
        for channel, at in self.at.items():
            place = position.place(channel)
            assert place is not None
            if place.epoch == self.epochs[channel]:
                assert place.offset == at, f"{channel}: its position says {place.offset}, it stands at {at}"
            else:
                raise AssertionError(f"{channel}: its position is of an epoch that it was not told of")

    # -- as the test sees it --------------------------------------------------------

    def publications(self, channel: str | None = None) -> list[Publication]:
        return [
            content
            for name, content in self.told
            if isinstance(content, Publication) and channel in (None, name)
        ]

    def data(self, channel: str | None = None) -> list[bytes]:
        return [publication.data for publication in self.publications(channel)]

    def gaps(self, channel: str | None = None) -> list[Gap]:
        return [
            content for name, content in self.told if isinstance(content, Gap) and channel in (None, name)
        ]

    def drain(self, room: int | None = None) -> None:
        """Let the socket take all bytes; then it has this much room again."""
        self.room = room
        self.reader.writable()

    def check_counts(self) -> None:
        assert self.reader.delivered == len(self.publications())
        told = sum(gap.missed for gap in self.gaps())
        ended = self.end[1].missed if self.end is not None and self.end[1] is not None else 0
        assert self.reader.missed == told + ended


def settings(
    window: Window | None = None, slow: SlowReader = SlowReader.GAP, heartbeat_s: float = 20.0
) -> SettingsTable:
    return SettingsTable((), ChannelSettings(window or Window(), slow, heartbeat_s))


class World:
    """A hub, its broker and its clock."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        table: SettingsTable | None = None,
        delayed: Faults | None = None,
        seed: int = 0,
        write_s: float = 0.0,
        refuses_whole: bool = False,
        budget_bytes: int | None = None,
    ) -> None:
        self.clock = ManualScheduler()
        self.limits = limits or Limits()
        self.table = table or SettingsTable()
        self.write_s = write_s
        self.refuses_whole = refuses_whole
        """Whether a full socket takes nothing at all rather than a part."""
        self.budget = Budget(budget_bytes or self.limits.log_budget_bytes)
        self.delayed: DelayedBroker | None = None
        self.broker: Broker
        if delayed is None:
            self.broker = MemoryBroker(
                self.limits, self.table, budget=self.budget, clock_ms=self.clock.unix_ms
            )
        else:
            self.broker = self.delayed = DelayedBroker(
                self.clock,
                seed=seed,
                faults=delayed,
                limits=self.limits,
                settings=self.table,
                store_clock_ms=self.clock.unix_ms,
            )
        self.hub = Hub(self.broker, self.clock, limits=self.limits, settings=self.table, budget=self.budget)
        self.encoder = RecordingEncoder()
        self.framing = RecordingFraming()
        self.readers: list[RecordingReader] = []
        self.published: dict[tuple[str, str, int], bytes] = {}
        self.results: list[Appended | EverywireError] = []
        self.count = 0
        finish(self.hub.start())

    # -- what readers report -----------------------------------------------------

    def wrote(self) -> None:
        if self.write_s:
            self.clock.spend(self.write_s)

    def check(self, channel: str, epoch: str, publication: Publication) -> None:
        """What is delivered is what was appended there (or will be told to have been, when delayed)."""
        known = self.published.setdefault((channel, epoch, publication.offset), publication.data)
        assert known == publication.data, f"{channel} {publication} has another content than before"

    def check_gap(self, channel: str, epoch: str, gap: Gap) -> None:
        """Only what is gone is told as missing; a local log can be asked."""
        policy = self.table.of(channel).slow_reader
        if isinstance(self.broker, MemoryBroker) and policy is SlowReader.GAP:
            assert gap.last is not None
            assert gap.last < self.head(channel).first, f"{channel}: {gap} is told, but still kept"

    # -- what tests do --------------------------------------------------------------

    def publish(self, channel: str = "a", count: int = 1, size: int = 0) -> bool:
        """Publish so many, each with its own data."""
        goes_on = True
        for _ in range(count):
            self.count += 1
            data = b"%d" % self.count
            goes_on = self.publish_draft(Draft(channel, data.ljust(size, b" ")))
        return goes_on

    def publish_draft(self, draft: Draft) -> bool:
        def done(result: Appended | EverywireError) -> None:
            self.results.append(result)
            if isinstance(result, Appended):
                place = (draft.channel, result.epoch, result.offset)
                assert self.published.setdefault(place, draft.data) == draft.data

        return self.hub.publish(draft, done)

    def subscribe(
        self,
        *channels: str,
        start: Start = LATEST,
        room: int | None = None,
        encoder: Encoder | None = None,
        framing: Framing | None = None,
        most: int | None = None,
        opens: bool = True,
    ) -> RecordingReader:
        reader = RecordingReader(self, room=room)
        names = tuple(sorted(channels or ("a",)))
        reader.reader = self.hub.reader(
            names, encoder or self.encoder, framing or self.framing, reader, max_publications=most
        )
        self.readers.append(reader)
        if start.position is not None:
            for name in names:
                place = start.position.place(name)
                if place is not None:
                    reader.epochs[name], reader.at[name] = place
        if opens:
            self.hub.open(reader.reader, start)
        return reader

    def head(self, channel: str = "a") -> Head:
        """Ask the store, at once."""
        log = self.broker.log if self.delayed is None else self.delayed.log.far.log
        found: list[Any] = []
        log.heads([channel], found.append)
        head: Head = found[0][channel]
        return head

    def kept(self, channel: str = "a") -> list[int]:
        log = self.broker.log if self.delayed is None else self.delayed.log.far.log
        found: list[Any] = []
        log.read(channel, 0, 2**31, 2**31, found.append)
        page: Page = found[0]
        return [one.offset for one in page.publications]

    def position(self, *places: tuple[str, int], epoch: str | None = None) -> Start:
        """Make a start at offsets of channels."""
        epoch = epoch or self.head().epoch
        text = encode_position((name, Place(epoch, offset)) for name, offset in places)
        return Start(Position.decode(text))

    def run(self) -> None:
        self.clock.run()

    def settle(self, seconds: float = 5.0) -> None:
        """Let everything come to rest; over a delayed broker that takes its time."""
        self.clock.advance(seconds)

    def check_everything(self) -> None:
        """What the counters say is what the readers heard."""
        for reader in self.readers:
            reader.check_counts()
        counters = self.hub.counters
        assert counters.delivered == sum(len(reader.publications()) for reader in self.readers)
        assert counters.missed == sum(reader.reader.missed for reader in self.readers)
        ends = sum(reader.end is not None and reader.end[1] is not None for reader in self.readers)
        assert counters.gaps_told == sum(len(reader.gaps()) for reader in self.readers) + ends

    def check_empty(self) -> None:
        """After everyone has gone, nothing is kept."""
        for reader in self.readers:
            reader.reader.close()
        self.clock.advance(3.0)
        hub = self.hub
        assert hub.statistics()["readers"] == 0
        assert hub.statistics()["channels_read"] == hub.statistics()["groups"] == 0
        for part in (hub._channels, hub._groups, hub._listeners, hub._stalled, hub._pages._flights):
            assert not part
        assert not hub._catch_up._chunks
        fanout = hub._fanout
        assert not fanout._dirty
        assert not fanout._behind
        assert not fanout._beats
        assert fanout._work is None
        if self.delayed is not None:
            assert not self.delayed.log._watched
            assert hub.statistics()["log_bytes"] == 0, "a tail was left behind"
            assert not self.budget._logs
