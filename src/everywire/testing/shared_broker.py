"""Several nodes over one store, in one process: what a cluster looks like to hubs and to what is above them.

`SharedStore.node` gives a `everywire.brokers.base.Broker` per node. Logs, leases and values are those of one
`MemoryBroker`, at once and without faults (`everywire.testing.delayed_broker` is for those); messages
between nodes take up to ``max_delay_s`` each, in order from one node to another, and ``lost`` says what
share of broadcasts never arrives. Calls of leases take up to ``max_store_s`` to arrive and as long to be
answered. `SharedStore.kill` ends a node as a cut cable would: nothing that it
writes or sends arrives any more, and its leases run out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from everywire.brokers.base import Appended, Head, Health, Lease, Page, Sink
from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Publication
from everywire.core.settings import SettingsTable, Window
from everywire.hub.interfaces import Scheduler

__all__ = ["NodeBroker", "SharedStore"]


class SharedStore:
    """One store and the nodes over it. Without a scheduler, messages arrive within the call."""

    def __init__(
        self,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        scheduler: Scheduler | None = None,
        max_delay_s: float = 0.0,
        max_store_s: float = 0.0,
        lost: float = 0.0,
        seed: int = 0,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        make = partial(MemoryBroker, limits, settings)
        self.far = make() if clock_ms is None else make(clock_ms=clock_ms)
        """The broker that holds everything: ask it what is true now."""
        self.nodes: dict[str, NodeBroker] = {}
        """The nodes that are alive."""
        self.lost = lost
        self._scheduler = scheduler
        self._max_delay_s = max_delay_s
        self._max_store_s = max_store_s
        self._random = Random(seed)
        self._free_s: dict[tuple[str, str], float] = {}
        self._under_way: dict[tuple[str, str], deque[tuple[str, bytes]]] = {}
        self.far.log.sink = self

    def node(self, name: str) -> NodeBroker:
        """Make the broker of one more node."""
        node = self.nodes[name] = NodeBroker(self, name)
        return node

    def kill(self, name: str) -> None:
        """Cut a node off for good."""
        self.nodes.pop(name).is_dead = True

    async def travel(self) -> None:
        """Take the time of the way to the store, or back."""
        if self._max_store_s and self._scheduler is not None:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            delay_s = self._random.random() * self._max_store_s
            self._scheduler.call_later(delay_s, partial(_finish, arrived))
            await arrived

    def send(self, sender: str, to: str, topic: str, payload: bytes) -> None:
        """Let a broadcast arrive at a node, later and in order, or lose it."""
        if to != sender and self._random.random() < self.lost:
            return
        scheduler = self._scheduler
        if scheduler is None or to == sender:
            self._arrive(to, topic, payload, sender)
            return
        now_s = scheduler.time()
        when_s = max(now_s + self._random.random() * self._max_delay_s, self._free_s.get((sender, to), 0.0))
        self._free_s[sender, to] = when_s
        # Timers of the same time may fire in any order, so it is the lane that knows what comes next.
        lane = self._under_way.setdefault((sender, to), deque())
        lane.append((topic, payload))
        scheduler.call_later(when_s - now_s, partial(self._arrive_next, sender, to))

    def _arrive_next(self, sender: str, to: str) -> None:
        self._arrive(to, *self._under_way[sender, to].popleft(), sender)

    def _arrive(self, to: str, topic: str, payload: bytes, sender: str) -> None:
        node = self.nodes.get(to)
        if node is not None and node.sink is not None:
            node.sink.broadcasted(topic, payload, sender)

    # -- what the log tells --------------------------------------------------------

    def published(self, channel: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Tell the nodes that watch the channel."""
        for node in list(self.nodes.values()):
            if node.sink is not None and channel in node.log.watched:
                node.sink.published(channel, epoch, publications, previous)

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Hear nothing: a store in memory tells whole publications."""

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Hear nothing: control does not pass here."""

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Answer nothing: control does not pass here."""
        raise BrokerError("control does not pass here")


def _finish(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


class NodeBroker:
    """One node's way to the store and to the other nodes."""

    def __init__(self, shared: SharedStore, node: str) -> None:
        self.node = node
        self.sink: Sink | None = None
        self.is_dead = False
        self.shared = shared
        self.log = NodeLog(self)
        self.leases = NodeLeases(self)
        self.store = NodeStore(self)
        self.control = NodeControl(self)

    async def start(self, sink: Sink) -> None:
        """Call the sink back from now on."""
        self.sink = sink

    async def close(self) -> None:
        """Leave the others."""
        self.sink = None
        self.shared.nodes.pop(self.node, None)

    def health(self) -> Health:
        """Say whether the node was cut off."""
        return Health(ready=not self.is_dead)

    def sweep(self) -> None:
        """Let the store keep house."""
        self.shared.far.sweep()

    def check(self) -> None:
        """Raise `BrokerError` when the node was cut off."""
        if self.is_dead:
            raise BrokerError("this node was cut off")


class NodeLog:
    """The shared log, with this node's own watches; see `everywire.brokers.base.Log`."""

    is_local = True

    def __init__(self, node: NodeBroker) -> None:
        self.watched: dict[str, int] = {}
        self._far = node.shared.far.log

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append within the call."""
        self._far.append(drafts, done)

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read within the call."""
        self._far.read(channel, after, max_publications, max_bytes, done)

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where channels stand within the call."""
        self._far.heads(channels, done)

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop the publications of a channel within the call."""
        self._far.trim(channel, done)

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by a window of its own within the call."""
        self._far.keep(channel, window, ttl_s, done, anew=anew)

    def watch(self, channel: str) -> None:
        """Begin to tell this node's sink."""
        self.watched[channel] = self.watched.get(channel, 0) + 1
        self._far.watch(channel)

    def unwatch(self, channel: str) -> None:
        """Stop to tell this node's sink."""
        self._far.unwatch(channel)
        self.watched[channel] -= 1
        if not self.watched[channel]:
            del self.watched[channel]


class NodeLeases:
    """The shared leases; see `everywire.brokers.base.Leases`."""

    def __init__(self, node: NodeBroker) -> None:
        self._node = node
        self._far = node.shared.far.leases

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Make or renew a membership."""
        await self._ask(self._far.put, group, member, value, ttl_s)

    async def drop(self, group: str, member: str) -> None:
        """End a membership now."""
        await self._ask(self._far.drop, group, member)

    async def put_many(self, leases: Sequence[Lease]) -> None:
        """Make or renew memberships."""
        await self._ask(self._far.put_many, leases)

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        """End memberships now."""
        await self._ask(self._far.drop_many, members)

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Return the members whose lease has not run out."""
        found: Mapping[str, bytes] = await self._ask(self._far.members, group)
        return found

    async def _ask(self, call: Callable[..., Awaitable[Any]], *values: Any) -> Any:
        await self._node.shared.travel()
        self._node.check()
        answer = await call(*values)
        await self._node.shared.travel()
        self._node.check()
        return answer


class NodeStore:
    """The shared values; see `everywire.brokers.base.Store`."""

    def __init__(self, node: NodeBroker) -> None:
        self._node = node
        self._far = node.shared.far.store

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value under a key."""
        self._node.check()
        await self._far.put(key, value, ttl_s)

    async def put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """Keep a value unless there is one."""
        self._node.check()
        return await self._far.put_once(key, value, ttl_s)

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None."""
        self._node.check()
        return await self._far.get(key)

    async def take(self, key: str) -> bytes | None:
        """Return the value and forget it."""
        self._node.check()
        return await self._far.take(key)


class NodeControl:
    """Messages between the nodes; see `everywire.brokers.base.Control`."""

    def __init__(self, node: NodeBroker) -> None:
        self._node = node

    async def broadcast(self, topic: str, payload: bytes) -> None:
        """Send to all nodes that are alive, this one included."""
        self._node.check()
        shared = self._node.shared
        for name in list(shared.nodes):
            shared.send(self._node.node, name, topic, payload)

    async def ask(self, node: str, topic: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask a node; one that is cut off does not answer."""
        self._node.check()
        asked = self._node.shared.nodes.get(node)
        if asked is None or asked.sink is None:
            raise BrokerError(f"node {node} did not answer in time")
        try:
            async with asyncio.timeout(timeout_s):
                return await asked.sink.asked(topic, payload, self._node.node)
        except TimeoutError:
            raise BrokerError(f"node {node} did not answer in time") from None
