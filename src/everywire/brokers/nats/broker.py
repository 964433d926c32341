"""The NATS broker: JetStream as the log, the leases and the store; core NATS between the nodes.

Address: ``nats://[user:password@ | token@]host:port[,host:port…][?prefix=everywire&replicas=1&shards=16&tls=1
&creds=/path&buffer=0]``. ``prefix`` begins the name of every stream and subject, so that several systems
share an engine; ``replicas`` and ``shards`` are what the streams are made with, and must be the same on
every node; ``buffer`` publications wait here while the engine is away.

Wants nats-server 2.9: expected sequences per subject, direct get and ``republish`` are all of it that is
used. Per-message time to live (2.11), batched direct get (2.11) and atomic batches (2.12) are not. See
docs/decisions for what was measured.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from everywire.brokers.base import Health, Sink
from everywire.brokers.canary import Canary
from everywire.brokers.nats.address import Names, NatsAddress
from everywire.brokers.nats.channels import Channels, Keys
from everywire.brokers.nats.epochs import Epochs
from everywire.brokers.nats.link import Link, Msg
from everywire.brokers.nats.log import NatsLog
from everywire.brokers.nats.parts import Parts
from everywire.brokers.nats.streams import Streams
from everywire.brokers.nats.values import NatsLeases, NatsStore, Values
from everywire.brokers.post import Post
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["NatsBroker"]

_log: Final = logging.getLogger("everywire.brokers")


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class NatsBroker:
    """One node's link to NATS; ``clock_ms`` gives UNIX time in milliseconds. See
    `everywire.brokers.base.Broker`."""

    def __init__(
        self,
        address: NatsAddress,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        clock_ms: Callable[[], int] = _wall_ms,
        node: str | None = None,
    ) -> None:
        limits, settings = limits or Limits(), settings or SettingsTable()
        self.node = node or secrets.token_hex(4)
        names = Names(address.prefix, address.shards)
        self._names = names
        self._link = link = Link(address, limits.broker_timeout_s, self._restored)
        streams = Streams(link, limits.broker_timeout_s, address.replicas)
        self._epochs = Epochs(streams, names, _configs(names, limits))
        self._parts = Parts(
            names,
            link,
            streams,
            self._epochs,
            Channels(names, settings),
            Keys(limits.max_idempotency_keys),
            limits,
            clock_ms,
            address.buffer,
        )
        self._epochs.changed = self._changed
        self.log = NatsLog(self._parts)
        self._values = values = Values(link, streams, names, limits, clock_ms)
        self.leases = NatsLeases(values)
        self.store = NatsStore(values)
        self.control = Post(self.node, self._send)
        self._canary_subject = f"{names.prefix}.n.canary.{secrets.token_hex(8)}"
        self._is_ready = asyncio.Event()
        self._canary = Canary(
            self._send_canary,
            interval_s=limits.canary_interval_s,
            timeout_s=limits.canary_timeout_s,
            missed=link.renew,
            healed=self._is_ready.set,
        )
        self._refreshing: asyncio.Task[None] | None = None

    @classmethod
    def from_url(
        cls, url: str, limits: Limits, settings: SettingsTable, *, node: str | None = None
    ) -> NatsBroker:
        """Make a broker from its address; `SettingsError` when that is wrong."""
        return cls(NatsAddress.parse(url), limits, settings, node=node)

    # -- life -------------------------------------------------------------------

    async def start(self, sink: Sink) -> None:
        """Connect, and call the sink back from now on; `BrokerError` when the engine cannot be reached."""
        self._parts.sink = self.control.sink = sink
        names, link = self._names, self._link
        link.want(names.node_all, self._posted)
        link.want(names.node_subject(self.node), self._posted)
        link.want(names.epoch_subject, self._epoch_told)
        link.want(self._canary_subject, lambda msg: self._canary.heard(msg.data))
        await link.open()
        self._canary.start()
        try:
            async with asyncio.timeout(self._parts.limits.canary_timeout_s):
                await self._is_ready.wait()
        except TimeoutError:
            pass  # `health` tells

    async def close(self) -> None:
        """Fail what is unfinished, and disconnect."""
        await self._canary.close()
        await self.log.close()
        await self._values.close()
        await self.control.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._link.close()

    async def _restored(self) -> None:
        """Look at the store after a connect, before anybody uses it."""
        made = self._epochs.made
        await self._epochs.check()
        self.log.upkeep.recount(self._epochs.channels)
        if self._epochs.made > made:
            await self._link.publish(self._names.epoch_subject, self._epochs.epoch.encode())

    def _changed(self) -> None:
        """Know nothing of the channels any more: the store is another one."""
        self._parts.channels.forget_all()
        self._parts.keys.clear()

    def _epoch_told(self, msg: Msg) -> None:
        if msg.data.decode("ascii", "replace") != self._epochs.epoch and (
            self._refreshing is None or self._refreshing.done()
        ):
            self._refreshing = asyncio.get_running_loop().create_task(
                self._refresh(), name="refresh the epoch"
            )

    async def _refresh(self) -> None:
        try:
            await self._epochs.refresh()
        except BrokerError as error:
            _log.info("the epoch of the store is not known yet: %s", error.sentence)

    # -- between nodes ---------------------------------------------------------------

    async def _send(self, node: str | None, frame: bytes) -> None:
        subject = self._names.node_all if node is None else self._names.node_subject(node)
        await self._link.publish(subject, frame)

    def _posted(self, msg: Msg) -> None:
        self.control.received(msg.data)

    async def _send_canary(self, token: bytes) -> None:
        # That JetStream answers belongs to it; and the store may have another epoch.
        await self._link.ready(self._parts.limits.canary_timeout_s)
        await self._epochs.refresh()
        await self._link.publish(self._canary_subject, token)

    # -- the rest -----------------------------------------------------------------------

    def health(self) -> Health:
        """Say whether there is a link, and the canary comes back."""
        if not self._link.is_up:
            return Health(False, f"the broker cannot be reached: {self._link.reason}")
        return self._canary.health()

    def sweep(self) -> None:
        """Do a bounded part of the housekeeping, in the background."""
        self.log.sweep()
        self._values.sweep()

    def statistics(self) -> dict[str, int]:
        """Return what was counted since the start."""
        link, canary = self._link, self._canary
        return asdict(self._parts.counters) | {
            "bus_bytes_in": link.bytes_in,
            "bus_bytes_out": link.bytes_out,
            "canaries_lost": canary.lost,
            "canaries_sent": canary.sent,
            "channels": self.log.upkeep.count,
            "epochs_made": self._epochs.made,
            "new_epochs": self._epochs.renewed,
            "hints_lost": link.lost,
            "posts_dropped": self.control.dropped,
            "reconnects": link.reconnects,
            "unfinished_appends": self.log.writer.unfinished,
        }


def _configs(names: Names, limits: Limits) -> dict[str, tuple[str, dict[str, object]]]:
    """Return the streams: the subjects of each, and what is particular to it."""
    prefix = names.prefix
    configs: dict[str, tuple[str, dict[str, object]]] = {
        names.meta_stream: (f"{prefix}.m.>", {"max_msgs_per_subject": 2}),
        names.values_stream: (
            f"{prefix}.v.>",
            {
                "max_msgs_per_subject": 1,
                "max_msgs": limits.max_stored_keys + limits.max_leases,
                "discard": "new",
            },
        ),
        names.large_stream: (f"{prefix}.b.>", {}),
        names.keys_stream: (
            f"{prefix}.k.>",
            # Ours is the time in them; this only cleans up behind it.
            {"max_age": max(int(2 * limits.idempotency_ttl_s), 60) * 1_000_000_000},
        ),
    }
    for shard in range(names.shards):
        subjects = f"{prefix}.c.{shard}.>"
        republish = {"src": subjects, "dest": f"{prefix}.h.{shard}.>"}
        configs[names.log_stream(shard)] = (subjects, {"republish": republish})
    return configs
