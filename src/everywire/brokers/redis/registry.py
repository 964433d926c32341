"""What all nodes share in Redis: the store's epoch, the floor, and the proof that nothing was lost.

**Epochs.** The store has one epoch. A node knows it, and gives it to every script; a channel takes over a
newer one. A node that sees the store stand lower than it did sets a new one, by compare-and-set: of several
that see it one wins, and the others take the winner's.

**Seeing it.** A node remembers the newest publication of the last channels it wrote or heard: epoch, offset
and a digest (`Marks`). Whenever a link was opened, before anything else goes over it, the marks are
compared with what is there: an offset that is not there yet, another publication under a known offset, a
channel gone above the floor, or an epoch older than one that was known, each mean that the store fell
behind (an old snapshot, a failover to a replica that had not heard everything). A server that was never
seen before is given a second before anything is written, so that every node can compare first.

**The floor.** A channel that is forgotten first raises the floor to its last offset. A channel is made
above a floor that was read at most 30 s before (`TICKET_MS`), and a forgotten one leaves behind for two
minutes where it ended. So whoever makes it again either read the floor after it was raised, or is refused:
no offset of an epoch is used twice, though nothing of the channel is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from everywire.brokers.redis.address import Names
from everywire.brokers.redis.channels import PROBE
from everywire.brokers.redis.link import Argument, Reply
from everywire.brokers.redis.scripts import ENTER, REGISTER, RENEW
from everywire.brokers.redis.servers import Changed, Servers
from everywire.core.errors import BrokerError

__all__ = ["Grant", "Marks", "Registry", "epoch_of"]

_HOLD_MS: Final = 1_000
"""How long nothing is written to a server that was not there before: every node is to look at it first."""
_PROBE_S: Final = 1.0
_RETRY_S: Final = 0.1
_MARKS: Final = 1_000
_IDLE_MS: Final = 60_000
"""A new channel is looked at after this, or its window's age; longer than any ticket."""

_EPOCH: Final = re.compile(r"[0-9a-f]{1,15}-[A-Za-z0-9_\-]{1,16}\Z")

_log: Final = logging.getLogger("everywire.brokers")


class Mark(NamedTuple):
    """The newest publication that was seen of a channel; ``digest`` is empty when its record was not."""

    epoch: str
    offset: int
    digest: str


class Marks:
    """The marks of the channels that were written or heard last."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: OrderedDict[str, tuple[str, int, bytes | None]] = OrderedDict()

    def saw(self, channel: str, epoch: str, offset: int, record: bytes | None) -> bool:
        """Remember a publication; False when it stands no higher than what was seen before."""
        known = self._marks.get(channel)
        if known is not None and known[0] == epoch and known[1] >= offset:
            return False
        self._marks[channel] = (epoch, offset, record if record is None or len(record) <= 1_024 else None)
        self._marks.move_to_end(channel)
        if len(self._marks) > _MARKS:
            self._marks.popitem(last=False)
        return True

    def offsets(self, channels: Iterable[str]) -> Mapping[str, tuple[str, int]]:
        """Return how far channels were seen so far: their epoch and offset."""
        marks = self._marks
        return {channel: marks[channel][:2] for channel in channels if channel in marks}

    def all(self, only: set[str] | None) -> list[tuple[str, Mark]]:
        """Return all marks, or those of some channels."""
        return [
            (channel, Mark(epoch, offset, "" if record is None else _digest(record)))
            for channel, (epoch, offset, record) in self._marks.items()
            if only is None or channel in only
        ]


def _digest(record: bytes) -> str:
    return hashlib.sha1(record, usedforsecurity=False).hexdigest()[:16]


class Grant(NamedTuple):
    """Leave to make channels: above which floor, and when that was read."""

    floor: int
    ticket: int


class Registry:
    """What this node knows of the store as a whole. ``now`` gives the time for scripts, or an empty text."""

    def __init__(
        self, names: Names, servers: Servers, now: Callable[[], Argument], max_channels: int
    ) -> None:
        self.epoch = ""
        self.marks = Marks()
        self.verified: Callable[[], object] = lambda: None
        """Called when the store was compared after a link was lost."""
        self.renewed = 0
        """How often this node found that the store fell behind."""
        self._names = names
        self._servers = servers
        self._now = now
        self._max_channels = max_channels
        self._slot = names.slot(names.store)
        self._verified = -1
        self._newest = ""
        self._suspects: set[str] = set()
        """Channels that seem to stand lower than they were seen; an empty name is for all of them."""
        self._is_comparing = False
        self._verifying: asyncio.Task[None] | None = None
        self._is_shaken = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the store was compared since the last link was opened, and nothing is doubted."""
        is_compared = self._verified == self._servers.generation and not self._is_comparing
        return is_compared and not self._suspects

    def suspect(self, channel: str = "") -> None:
        """Compare a channel, or everything, again before anything else is done, and soon: until then no hint
        counts."""
        self._suspects.add(channel)
        self._is_shaken.set()

    async def ask(self, slot: int, command: Callable[[], Sequence[Argument]]) -> Reply:
        """Ask what may be asked only of a store that was compared."""
        while True:
            await self.verify()
            try:
                return await self._servers.ask(slot, command(), self._is_verified)
            except Changed:
                continue

    def _is_verified(self) -> bool:
        return self.is_verified

    # -- comparing --------------------------------------------------------------

    async def verify(self) -> None:
        """Compare the store with what was seen of it, once for all who wait; `BrokerError` if it is away."""
        while not self.is_verified:
            if self._verifying is None or self._verifying.done():
                self._verifying = asyncio.get_running_loop().create_task(self._verify(), name="compare Redis")
                self._verifying.add_done_callback(_retrieve)
            await asyncio.shield(self._verifying)

    async def _verify(self) -> None:
        await self._servers.link(self._slot)
        if self._names.is_cluster:
            await self._servers.open_all()
        generation = self._servers.generation
        suspects, self._suspects = self._suspects, set()
        only = None if generation != self._verified or "" in suspects else suspects
        # On a cluster a server that is away makes comparing last, and must not hold up all the others.
        self._is_comparing = not self._names.is_cluster
        try:
            wait_s = await self._enter()
            above = self._newest if _is_newer(self._newest, self.epoch) else ""
            if above or await self._is_behind(only):
                self.renewed += 1
                _log.warning("Redis has lost publications: its channels begin a new epoch")
                await self.renew(above)
                # Each channel takes over the new epoch now, so that whoever has not heard of it is refused.
                await asyncio.gather(
                    *(self._probe(channel, mark, self.epoch) for channel, mark in self.marks.all(None))
                )
        except BaseException:
            self._suspects.add("")
            raise
        finally:
            self._is_comparing = False
        if wait_s:
            await asyncio.sleep(wait_s)
            await self.where()  # another node may have found what this one did not know
        self._verified = generation

    async def _enter(self) -> float:
        runs = [link.run for link in self._servers.links]
        names = self._names
        random, known = secrets.token_urlsafe(6), self._newest
        found = await self._ask(ENTER.sha, 2, names.store, names.runs, random, _HOLD_MS, *runs)
        self._know(found)
        if known and self.epoch.endswith(f"-{random}"):  # there was none, and this node has made one
            self.renewed += 1
            _log.warning("Redis has lost everything: its channels begin a new epoch")
        return max(0.0, int(found[2]) / 1000)

    async def _is_behind(self, only: set[str] | None) -> bool:
        marks = [(channel, mark) for channel, mark in self.marks.all(only) if mark.epoch == self.epoch]
        if not marks:
            return False
        found = await asyncio.gather(*(self._probe(channel, mark) for channel, mark in marks))
        _, floor = await self.where()
        return any(self._is_lower(mark, reply, floor) for (_, mark), reply in zip(marks, found, strict=True))

    async def _probe(self, channel: str, mark: Mark, adopted: str = "") -> Reply:
        meta = self._names.meta(channel)
        slot = self._names.slot(meta)
        command = ("EVALSHA", PROBE.sha, 1, meta, mark.offset, adopted)
        if not self._names.is_cluster:
            return await self._servers.ask(slot, command)
        try:
            async with asyncio.timeout(_PROBE_S):
                return await self._servers.ask(slot, command)
        except (BrokerError, TimeoutError):
            # One server of several is away. What is there is compared when it is back: by another link.
            self._servers.drop_link(slot, "a server of the cluster does not answer")
            return [b"again"]

    def _is_lower(self, mark: Mark, found: Reply, floor: int) -> bool:
        if not found:
            return floor < mark.offset
        if found[0] == b"again":
            return False
        epoch, first, last, digest = found[0].decode(), int(found[1]), int(found[2]), found[3].decode()
        if epoch != mark.epoch:
            return not _is_newer(epoch, mark.epoch)
        return last < mark.offset or (bool(mark.digest) and first <= mark.offset and digest != mark.digest)

    def start(self) -> None:
        """Begin to compare whenever a link was lost, and not only when somebody needs it: others may already
        write to a server that is there again."""
        self._servers.shaken = self.suspect
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="keep to Redis")

    async def _keep(self) -> None:
        while True:
            await self._is_shaken.wait()
            self._is_shaken.clear()
            try:
                await self._servers.link(self._slot)
                await self.verify()
                self.verified()
            except BrokerError as error:
                _log.debug("comparing waits: %s", error.sentence)
                await asyncio.sleep(_RETRY_S)
                self._is_shaken.set()
            except Exception:
                # The top of a task, which must not end: the store may hold anything, and be put right.
                _log.exception("Redis could not be compared with what was seen of it")
                await asyncio.sleep(_PROBE_S)
                self._is_shaken.set()

    async def close(self) -> None:
        """Stop comparing."""
        tasks = [task for task in (self._keeper, self._verifying) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- epoch and floor ----------------------------------------------------------

    async def _ask(self, *command: Argument) -> Reply:
        return await self._servers.ask(self._slot, ("EVALSHA", *command))

    def _know(self, found: Reply) -> int:
        self.epoch = epoch_of(found[0])
        if _is_newer(self.epoch, self._newest):
            self._newest = self.epoch
        return int(found[1])

    async def where(self) -> tuple[str, int]:
        """Return the epoch and the highest offset ever forgotten."""
        found = await self._servers.ask(self._slot, ("HMGET", self._names.store, "epoch", "floor"))
        if found[0] is None:
            await self._enter()
            return self.epoch, 0
        epoch = epoch_of(found[0])
        if epoch != self.epoch and _is_newer(self.epoch, epoch):
            self.suspect()
        return epoch, self._know((found[0], found[1] or 0))

    async def renew(self, above: str = "") -> None:
        """Begin a new epoch, unless somebody did already; newer than ``above`` in any case."""
        random = secrets.token_urlsafe(6)
        self._know(await self._ask(RENEW.sha, 1, self._names.store, self.epoch, above, random))

    async def heard_of(self, epoch: str) -> None:
        """Hear that a channel has a newer epoch than this node; one that the store has not is left behind."""
        if _is_newer(epoch, self._newest):
            self._newest = epoch
        await self.where()
        if _is_newer(epoch, self.epoch):
            await self.renew(epoch)

    async def register(self, channels: Sequence[str], age_s: float) -> tuple[Grant, list[bool]]:
        """Enter channels that are to be made; say for each whether there is room for it."""
        names = self._names
        due_ms = max(int(age_s * 1000), _IDLE_MS)
        random = secrets.token_urlsafe(6)
        limits: tuple[Argument, ...] = (random, self._max_channels, self._now(), due_ms)
        found = await self._ask(REGISTER.sha, 2, names.store, names.channels, *limits, *channels)
        floor = self._know(found)
        return Grant(floor, int(found[2])), [bool(one) for one in found[3:]]


def epoch_of(found: bytes) -> str:
    """Return an epoch that was found in Redis; `BrokerError` when it is none of ours, which no position could
    hold."""
    epoch = found.decode("ascii", "replace")
    if _EPOCH.match(epoch) is None:
        raise BrokerError("what Redis holds as an epoch is none")
    return epoch


def _is_newer(one: str, other: str) -> bool:
    """Say whether an epoch is newer than another, as the scripts do."""
    return _age(one) > _age(other) or (_age(one) == _age(other) and one > other)


def _age(epoch: str) -> int:
    try:
        return int(epoch.partition("-")[0] or "0", 16)
    except ValueError:
        return 0


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waited for it has heard
