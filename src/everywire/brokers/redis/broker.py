"""The broker over Redis (7 or newer) or Valkey: one server, a Sentinel set, or a cluster.

The parts: `address` (URLs, names), `link` (a connection), `servers` (which server,
redirects), `channels` and `scripts` (what runs inside Redis), `registry` (epoch, floor,
comparing), `lanes` (appends), `log`, `bus` (hints), `forgetting`, `state`
(leases, values).

What it needs of Redis: a memory policy of ``noeviction``, and for publications that outlive Redis a
persistence of its own; without it Redis begins anew after a restart, and readers are told so (``reset``).
Redis acknowledges before its replicas have heard, so a failover may lose what was acknowledged last:
readers are told that, too.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final

from everywire.brokers.base import Health, Sink
from everywire.brokers.canary import Canary
from everywire.brokers.post import Post
from everywire.brokers.redis.address import Address, Names
from everywire.brokers.redis.bus import Bus
from everywire.brokers.redis.forgetting import Forgetter
from everywire.brokers.redis.lanes import Lanes
from everywire.brokers.redis.link import Argument
from everywire.brokers.redis.log import RedisLog
from everywire.brokers.redis.registry import Registry
from everywire.brokers.redis.servers import Servers
from everywire.brokers.redis.state import RedisLeases, RedisStore
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["RedisBroker"]

_log: Final = logging.getLogger("everywire.brokers")


class RedisBroker:
    """A broker whose store is Redis; ``clock_ms`` gives UNIX time in milliseconds, Redis does when None."""

    def __init__(
        self,
        url: str,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        clock_ms: Callable[[], int] | None = None,
        node: str | None = None,
    ) -> None:
        address = Address.from_url(url)
        limits, settings = limits or Limits(), settings or SettingsTable()
        self.node = node or secrets.token_hex(4)
        self.address = address

        def now() -> Argument:
            return "" if clock_ms is None else clock_ms()

        names = self._names = Names(address)
        timeout_s = limits.broker_timeout_s
        servers = self._servers = Servers(address, timeout_s)
        self._registry = Registry(names, servers, now, limits.max_channels)
        self._bus = Bus(names, servers, timeout_s, limits.canary_timeout_s, self._heard, self._restored)
        self._lanes = Lanes(names, servers, self._registry, limits, settings, self.node, now)
        self.log = RedisLog(names, servers, self._registry, self._bus, self._lanes, limits, settings, now)
        self._forgetter = Forgetter(
            names, servers, self._registry, self._lanes, limits, self.log.watched, now
        )
        self.log.make_room = self._forgetter.make_room
        self.leases = RedisLeases(names, servers, limits.max_leases, now)
        self.store = RedisStore(names, servers, clock_ms)
        self.control = Post(self.node, self._post)
        self._canary = Canary(
            self._send_canary,
            interval_s=limits.canary_interval_s,
            timeout_s=limits.canary_timeout_s,
            missed=self._missed,
            healed=self._healed,
        )
        self._patience_s = timeout_s
        self._is_ready = asyncio.Event()
        self._own = names.node(self.node)
        self._bytes_out = self._sent = 0
        # The subject of a hint is a channel's key with another last letter.
        self._before, self._after = names.subject("\0").split("\0")

    @classmethod
    def from_url(
        cls, url: str, limits: Limits, settings: SettingsTable, *, node: str | None = None
    ) -> RedisBroker:
        """Make a broker for an address; `SettingsError` when it is none."""
        return cls(url, limits, settings, node=node)

    def __repr__(self) -> str:
        return f"RedisBroker({self.address.kind}, {self.address.shown})"

    # -- life -------------------------------------------------------------------------

    async def start(self, sink: Sink) -> None:
        """Connect, and call the sink back from now on.

        Waits until the link works in both directions, but not longer than the broker's time-out: then it goes
        on trying, and `health` says that it is not ready.
        """
        self.log.sink = sink
        self.control.sink = sink
        self._bus.listen(self._own)
        self._bus.listen(self._names.all)
        self._bus.start()
        self._registry.verified = self.log.catch_up
        self._registry.start()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._registry.verify()
                await self._bus.until_heard([self._own], self._patience_s)
        except (BrokerError, TimeoutError) as error:
            _log.warning("Redis at %s is not there yet: %s", self.address.shown, str(error) or "no answer")
        self._canary.start()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._is_ready.wait()
        except TimeoutError:
            _log.warning("Redis at %s did not come so far; the link goes on trying", self.address.shown)

    async def close(self) -> None:
        """Disconnect; what is unfinished fails."""
        await self._canary.close()
        await self.control.close()
        await self._forgetter.close()
        await self._lanes.close()
        await self.log.close()
        await self._bus.close()
        await self._registry.close()
        await self._servers.close()
        await asyncio.sleep(0)  # what hung on a link hears now that it is closed

    def health(self) -> Health:
        """Say whether what this node sends to itself through Redis comes back."""
        return self._canary.health()

    def sweep(self) -> None:
        """Begin to forget some idle channels; `everywire.brokers.redis.forgetting` says how."""
        self._forgetter.sweep()

    def statistics(self) -> dict[str, int]:
        """Return what happened so far, for the metrics."""
        lanes, bus, log = self._lanes, self._bus, self.log
        return {
            "appends": lanes.appends,
            "batches": lanes.calls,
            "errors": lanes.errors,
            "buffered": lanes.buffered,
            "unfinished_appends": lanes.unfinished,
            "hints_sent": log.hints_sent + self._sent,
            "hints_received": bus.received,
            "hints_lost": log.hints_lost,
            "bus_bytes_out": log.bytes_out + self._bytes_out,
            "bus_bytes_in": bus.bytes_in,
            "reconnects": self._servers.reconnects + bus.reconnects,
            "canaries_sent": self._canary.sent,
            "canaries_lost": self._canary.lost,
            "new_epochs": self._registry.renewed,
            "channels_forgotten": self._forgetter.forgotten,
            "posts_dropped": self.control.dropped,
        }

    # -- the bus ------------------------------------------------------------------------

    def _restored(self) -> None:
        self.log.catch_up()

    def _heard(self, subject: str, payload: bytes) -> None:
        if subject == self._own:
            if payload[:1] == b"c":
                self._canary.heard(payload[1:])
            else:
                self.control.received(payload[1:])
        elif subject == self._names.all:
            self.control.received(payload[1:])
        else:
            self.log.heard(subject[len(self._before) : -len(self._after)], payload)

    async def _publish(self, subject: str, payload: bytes) -> int:
        verb = "SPUBLISH" if self._names.is_cluster else "PUBLISH"
        self._sent += 1
        self._bytes_out += len(payload)
        slot = self._names.slot(subject)
        return int(await self._servers.ask(slot, (verb, subject, payload)))

    async def _post(self, node: str | None, frame: bytes) -> None:
        if node is None:
            await self._publish(self._names.all, b"p" + frame)
        elif not await self._publish(self._names.node(node), b"p" + frame):
            raise BrokerError(f"there is no node {node}")

    # -- whether the link works -----------------------------------------------------------

    async def _send_canary(self, token: bytes) -> None:
        await self._publish(self._own, b"c" + token)

    def _missed(self, reason: str) -> None:
        self._is_ready.clear()
        self._bus.drop_link(self._own, f"deaf: {reason}")
        self._servers.drop_link(self._names.slot(self._own), f"deaf: {reason}")

    def _healed(self) -> None:
        self._is_ready.set()
        self.log.catch_up()
