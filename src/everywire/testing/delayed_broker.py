"""A broker with everything that can go wrong on the way to a store elsewhere.

`DelayedBroker` puts a `MemoryBroker` at the far end of a bad link. Appends, reads and heads
complete later, after seeded random delays, and answers may overtake each other. Hints to the
sink may be lost, doubled, reordered, or coalesced to `Sink.advanced`. Calls may fail. The
store may be replaced by an older copy of itself, under a new epoch. With one seed everything
happens the same way every time, as long as the scheduler does.

Appends keep their order, as they do on one connection. Leases, store and control are those
of the memory broker: nothing hot passes through them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from everywire.brokers.base import Appended, Head, Health, Page, Sink
from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Publication
from everywire.core.settings import SettingsTable, Window
from everywire.hub.interfaces import Scheduler

__all__ = ["Copy", "DelayedBroker", "Faults"]


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong; each share is a probability from 0 to 1."""

    max_delay_s: float = 0.02
    """A request, an answer and a hint are each under way up to this long."""
    lost: float = 0.0
    """Share of hints that never arrive."""
    doubled: float = 0.0
    """Share of hints that arrive twice."""
    coalesced: float = 0.0
    """Share of hints that say only how far the channel is."""
    reorders_hints: bool = False
    failed: float = 0.0
    """Share of reads and heads that fail."""
    appends_failed: float = 0.0
    """Share of appends that fail, and append nothing."""


class Copy(NamedTuple):
    """What a store held at some time: the publications of each channel, and where they stood."""

    forgotten: int
    channels: Mapping[str, tuple[Head, tuple[Publication, ...]]]


class DelayedBroker:
    """A memory broker at the far end of a bad link; ``store_clock_ms`` is the store's UNIX time."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        store_clock_ms: Callable[[], int] = _unix_ms,
    ) -> None:
        self._make_far: Callable[[], MemoryBroker] = partial(
            MemoryBroker, limits, settings, clock_ms=store_clock_ms
        )
        far = self._make_far()
        self.node = far.node
        self.leases = far.leases
        self.store = far.store
        self.control = far.control
        self.log = DelayedLog(scheduler, far, Random(seed), faults or Faults())

    async def start(self, sink: Sink) -> None:
        """Call the sink back from now on, when hints arrive."""
        await self.log.far.start(sink)
        self.log.start(sink)

    async def close(self) -> None:
        """Fail what is unfinished."""
        self.log.close()
        await self.log.far.close()

    def health(self) -> Health:
        """Say that it is ready."""
        return Health(ready=True)

    def sweep(self) -> None:
        """Let the store keep house, at once."""
        self.log.sweep()

    def copy(self) -> Copy:
        """Copy what the store holds now."""
        return self.log.copy()

    def restore(self, copy: Copy) -> str:
        """Replace the store by a copy; return its epoch, which is new."""
        return self.log.restore(copy, self._make_far())


class Lane:
    """What is under way one after the other."""

    __slots__ = ("free_s", "under_way")

    def __init__(self) -> None:
        self.free_s = 0.0
        self.under_way: deque[Callable[[], None]] = deque()

    def arrive(self) -> None:
        """Let what was sent first arrive."""
        self.under_way.popleft()()


class DelayedLog:
    """The far store's logs, near enough to be asked; see `everywire.brokers.base.Log`."""

    is_local = False

    def __init__(self, scheduler: Scheduler, far: MemoryBroker, random: Random, faults: Faults) -> None:
        self.faults = faults
        self._scheduler = scheduler
        self.far = far
        """The broker at the far end: ask it what is true now."""
        self._random = random
        self._sink: Sink | None = None
        self._is_closed = False
        self._watched: dict[str, int] = {}
        self._names: dict[str, None] = {}
        self._unfinished: dict[int, Callable[[EverywireError], None]] = {}
        self._count = 0
        # What is under way in order, one after the other as on one connection.
        self._appends = Lane()
        self._answers = Lane()
        self._hints = Lane()

    def start(self, sink: Sink) -> None:
        """Tell the sink from now on."""
        self._sink = sink
        self.far.log.sink = self

    def close(self) -> None:
        """Fail what is unfinished, and tell nothing more."""
        self._is_closed = True
        unfinished, self._unfinished = self._unfinished, {}
        for fail in unfinished.values():
            fail(BrokerError("the link was closed"))

    def sweep(self) -> None:
        """Let the store keep house."""
        self.far.sweep()

    @property
    def unfinished(self) -> int:
        """How many calls have not been answered yet."""
        return len(self._unfinished)

    # -- the log's calls --------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append later, in the order of the calls; answer later still, in that order too."""
        drafts = tuple(drafts)
        finish = self._begin(lambda error: done([error] * len(drafts)))

        def arrive() -> None:
            if self._is_closed:
                return
            if self._chance(self.faults.appends_failed):
                answer: Sequence[Appended | EverywireError] = [BrokerError("the store is away")] * len(drafts)
            else:
                found: list[Appended | EverywireError] = []
                self._names.update((draft.channel, None) for draft in drafts)
                self.far.log.append(drafts, found.extend)
                answer = found
            self._send(lambda: finish(lambda: done(answer)), self._answers)

        self._send(arrive, self._appends)

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read what is kept when the request arrives; answer later."""
        self._ask(lambda answer: self.far.log.read(channel, after, max_publications, max_bytes, answer), done)

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where channels stand when the request arrives; answer later."""
        names = tuple(channels)
        self._ask(lambda answer: self.far.log.heads(names, answer), done)

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop the publications of a channel when the request arrives; answer later."""
        self._ask(lambda answer: self.far.log.trim(channel, answer), done)

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by a window of its own when the request arrives; answer later."""
        self._names[channel] = None
        self._ask(lambda answer: self.far.log.keep(channel, window, ttl_s, answer, anew=anew), done)

    def watch(self, channel: str) -> None:
        """Begin to tell the sink of a channel."""
        self._watched[channel] = self._watched.get(channel, 0) + 1
        self.far.log.watch(channel)

    def unwatch(self, channel: str) -> None:
        """Stop to tell the sink of a channel: hints on their way are dropped here."""
        self.far.log.unwatch(channel)
        self._watched[channel] -= 1
        if not self._watched[channel]:
            del self._watched[channel]

    # -- hints, told by the far store ---------------------------------------------

    def published(self, channel: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Send a hint on its way, or lose it."""
        faults = self.faults
        if self._chance(faults.lost):
            return
        for _ in range(2 if self._chance(faults.doubled) else 1):
            is_short = self._chance(faults.coalesced)

            def arrive(is_short: bool = is_short) -> None:
                if self._is_closed or self._sink is None or channel not in self._watched:
                    return
                if is_short:
                    self._sink.advanced(channel, epoch, publications[-1].offset)
                else:
                    self._sink.published(channel, epoch, publications, previous)

            self._send(arrive, None if faults.reorders_hints else self._hints)

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Hear nothing: a store in memory tells whole publications."""

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Hear nothing: control does not pass here."""

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Answer nothing: control does not pass here."""
        raise BrokerError("control does not pass here")

    # -- another store ------------------------------------------------------------

    def copy(self) -> Copy:
        """Copy what the store holds."""
        held: dict[str, tuple[Head, tuple[Publication, ...]]] = {}

        def keep(page: Page | EverywireError) -> None:
            assert isinstance(page, Page)
            if page.head.exists:
                held[name] = (page.head, tuple(page.publications))

        for name in self._names:
            self.far.log.read(name, 0, 2**31, 2**31, keep)
        return Copy(self.far.log.forgotten, held)

    def restore(self, copy: Copy, far: MemoryBroker) -> str:
        """Put the copy into a fresh store, and use that from now on."""
        for name, (head, publications) in copy.channels.items():
            # A channel that is made begins after the highest offset forgotten.
            far.log.forgotten = (head.first if publications else head.last) - 1
            drafts = [
                Draft(name, one.data, one.content_type, one.event, one.tags, one.info) for one in publications
            ] or [Draft(name, b"null")]
            far.log.append(drafts, lambda _: None)
            if not publications:
                far.log.trim(name, lambda _: None)
        far.log.forgotten = copy.forgotten
        for name, count in self._watched.items():
            for _ in range(count):
                far.log.watch(name)
        self.far.log.sink = None
        self.far = far
        far.log.sink = self
        return far.log.epoch

    # -- the link -----------------------------------------------------------------

    def _chance(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _send(self, arrive: Callable[[], None], lane: Lane | None = None) -> None:
        """Let something arrive later; in a lane not before what was sent there earlier."""
        now_s = self._scheduler.time()
        when_s = now_s + self._random.random() * self.faults.max_delay_s
        if lane is None:
            self._scheduler.call_later(when_s - now_s, arrive)
            return
        lane.free_s = when_s = max(lane.free_s, when_s)
        # Timers of the same time may fire in any order, so it is the lane that knows whose turn it is.
        lane.under_way.append(arrive)
        self._scheduler.call_later(when_s - now_s, lane.arrive)

    def _begin(self, fail: Callable[[EverywireError], None]) -> Callable[[Callable[[], None]], None]:
        """Note an unfinished call; return what finishes it, unless it failed meanwhile."""
        self._count = number = self._count + 1
        self._unfinished[number] = fail

        def finish(answer: Callable[[], None]) -> None:
            if self._unfinished.pop(number, None) is not None:
                answer()

        return finish

    def _ask(self, request: Callable[[Callable[[object], None]], None], done: Callable[..., None]) -> None:
        finish = self._begin(done)

        def answer(found: object) -> None:
            self._send(lambda: finish(lambda: done(found)))

        def arrive() -> None:
            if self._is_closed:
                return
            if self._chance(self.faults.failed):
                answer(BrokerError("the store is away"))
            else:
                request(answer)

        self._send(arrive)
