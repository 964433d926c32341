"""Forgetting idle channels, so that a store does not fill up with what nobody reads any more.

The registry knows all channels by when they should be looked at. About once a second a node claims some
whose time has come, and looks: what is still kept, watched or in its window comes back later; the rest is
forgotten. First the floor is raised to the highest offset among them, then each is deleted, if nothing was
published to it meanwhile, and then it leaves the registry, unless it was made again since the claim. A node
that dies in between leaves the claim, which runs out.

When there are too many channels, those go first that would have been looked at next, though they are not
idle, but not what is watched or kept.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Container, Sequence
from typing import Final

from everywire.brokers.chore import Chore
from everywire.brokers.redis.address import Names
from everywire.brokers.redis.channels import DROP, LOOK
from everywire.brokers.redis.lanes import Lane, Lanes
from everywire.brokers.redis.link import Argument, Reply
from everywire.brokers.redis.registry import Registry
from everywire.brokers.redis.scripts import CLAIM, FINISH, RAISE
from everywire.brokers.redis.servers import Servers
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.names import is_name
from everywire.core.position import MAX_OFFSET

__all__ = ["Forgetter"]

_AT_ONCE: Final = 200
_ROUNDS: Final = 5
"""Of so many channels in one sweep: some 50 µs each in Redis."""
_ROOM_AT_ONCE: Final = 8
_LATER_MS: Final = 60_000

_log: Final = logging.getLogger("everywire.brokers")


class Forgetter:
    """One node's part in forgetting. ``watched`` has the channels that this node watches."""

    def __init__(
        self,
        names: Names,
        servers: Servers,
        registry: Registry,
        lanes: Lanes,
        limits: Limits,
        watched: Container[str],
        now: Callable[[], Argument],
    ) -> None:
        self.forgotten = 0
        self._names = names
        self._servers = servers
        self._registry = registry
        self._lanes = lanes
        self._key_ttl_ms = int(limits.idempotency_ttl_s * 1000)
        self._watched = watched
        self._now = now
        self._slot = names.slot(names.store)
        self._sweeping = Chore(self._sweep, "forgetting idle channels at Redis", logging.DEBUG)
        self._making: asyncio.Task[int] | None = None

    def sweep(self) -> None:
        """Begin to look at some channels, unless that is still going on."""
        self._sweeping.begin()

    async def _sweep(self) -> None:
        if self._registry.is_verified:
            for _ in range(_ROUNDS):
                if await self._look(is_forced=False, most=_AT_ONCE) < _AT_ONCE:
                    break

    async def make_room(self) -> None:
        """Forget some channels, idle or not, once for all who wait for room."""
        if self._making is None or self._making.done():
            self._making = asyncio.get_running_loop().create_task(
                self._look(is_forced=True, most=_ROOM_AT_ONCE), name="make room for channels"
            )
        await asyncio.shield(self._making)

    async def close(self) -> None:
        """Stop."""
        await self._sweeping.close()
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    async def _look(self, *, is_forced: bool, most: int) -> int:
        """Look at some channels, and forget what can be; return how many were looked at."""
        names = self._names
        # Two claims of the same millisecond must not be taken for each other.
        mark = 1 + secrets.randbelow(4095)
        claimed = await self._ask(CLAIM.sha, 1, names.channels, self._now(), most, int(is_forced), mark)
        if len(claimed) == 2:
            return 0
        claim, now_ms = claimed[0].decode(), int(claimed[1])
        entered = [(name.decode("utf-8", "replace"), name, _whole(due)) for name, due in claimed[2:]]
        channels = [(channel, due) for channel, _, due in entered if is_name(channel)]
        lanes = [self._lanes.lane(channel) for channel, _ in channels]
        found = await asyncio.gather(*(self._look_at(lane, is_forced) for lane in lanes))
        idle = [(lane, int(one[1])) for lane, one in zip(lanes, found, strict=True) if one[0] == b"idle"]
        if idle:
            floor = max(last for _, last in idle)
            await self._ask(RAISE.sha, 1, names.store, floor)
        dropped = await asyncio.gather(*(self._drop(lane, last, is_forced) for lane, last in idle))
        after = dict(zip((lane.channel for lane, _ in idle), dropped, strict=True))
        # What is no channel's name somebody else has entered; it goes.
        finish: list[Argument] = []
        for channel, name, _ in entered:
            if not is_name(channel):
                finish += (name, "")
        for (channel, due_ms), one in zip(channels, found, strict=True):
            finish += (channel, self._due(after.get(channel, one), due_ms, now_ms))
        await self._ask(FINISH.sha, 1, names.channels, claim, *finish)
        return len(entered)

    def _due(self, found: Reply, due_ms: int, now_ms: int) -> Argument:
        """Return when a channel is to be looked at again; an empty text when it is no more."""
        if found[0] == b"dropped":
            self.forgotten += 1
            return ""
        if found[0] == b"gone":
            # It was entered to be made, and may be made yet; when its own time has come it was not.
            return "" if due_ms <= now_ms else due_ms
        if found[0] == b"watched":
            return now_ms + _LATER_MS
        return max(int(found[1]), now_ms + 1)

    async def _look_at(self, lane: Lane, is_forced: bool) -> Reply:
        if lane.channel in self._watched:
            return [b"watched", 0]
        try:
            return await self._servers.ask(
                lane.slot, ("EVALSHA", LOOK.sha, *self._arguments(lane, is_forced))
            )
        except BrokerError as error:
            # One that is damaged must not keep the others from being forgotten.
            _log.debug("an idle channel cannot be looked at: %s", error.sentence)
            return [b"watched", 0]

    async def _drop(self, lane: Lane, last: int, is_forced: bool) -> Reply:
        command = ("EVALSHA", DROP.sha, *self._arguments(lane, is_forced), last)
        return await self._servers.ask(lane.slot, command)

    def _arguments(self, lane: Lane, is_forced: bool) -> Sequence[Argument]:
        window = lane.window
        bounds = (window.max_publications, window.max_bytes, int(window.max_age_s * 1000))
        return (1, lane.meta, self._now(), *bounds, self._key_ttl_ms, int(is_forced))

    async def _ask(self, *command: Argument) -> Reply:
        return await self._servers.ask(self._slot, ("EVALSHA", *command))


def _whole(due: bytes) -> int:
    """Return a time in the registry, which knows infinite ones, too."""
    return int(min(max(float(due), -MAX_OFFSET), MAX_OFFSET))
