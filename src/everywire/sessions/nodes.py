"""Nodes: which processes share this broker, and how to ask all of them.

Each node holds a lease among the broker's leases and renews it every third of `Limits.node_ttl_s`, so a
node that was killed is no longer asked after that time. What did not answer in time is told, never hidden.

What hangs on a node (its members in channels) hangs on its lease, too: `Nodes.ended`. A lease that is missed
after the store was away tells nothing, since its node could not renew it either; so nobody is held for
ended in the first `Limits.node_ttl_s` after this node's own renewals went wrong.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from everywire.core import codes
from everywire.core.errors import EverywireError, RequestError
from everywire.core.wheel import Slot
from everywire.hub.hub import Hub

__all__ = ["Answers", "Nodes"]

GROUP: Final = "/nodes"
"""The group of leases; no channel has a slash in its name."""
_MAX_ASKED: Final = 64
"""Nodes asked at the same time."""
_RETRY_S: Final = 1.0
_FRESH_S: Final = 0.5
"""What was read of the leases so long ago is good enough."""
_MAX_REMEMBERED: Final = 10_000
_log = logging.getLogger("everywire.sessions")


class Answers(NamedTuple):
    """What the nodes said, and which said nothing in time."""

    answers: Mapping[str, bytes]
    silent: list[str]


class Nodes:
    """This node among the others."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._broker = hub.broker
        self._limits = hub.limits
        self._is_due = asyncio.Event()
        self._deadline: Slot | None = None
        self._task: asyncio.Task[None] | None = None
        self._living: frozenset[str] = frozenset()
        self._read_s = self._failed_s = -math.inf
        self._lost_s = 0.0
        self._missed: set[str] = set()
        """Nodes that were asked about and had no lease."""
        self._dead: set[str] = set()
        """Nodes that have ended for certain."""
        self.value = b"{}"
        """What this node's lease tells the others: a JSON object; to be set before `start`."""

    @property
    def own(self) -> str:
        """This node's name."""
        return self._broker.node

    @property
    def is_found(self) -> bool:
        """Whether this node holds a lease, or means to."""
        return self._task is not None

    async def start(self) -> None:
        """Be found by the others from now on."""
        await self._put()
        self._task = asyncio.get_running_loop().create_task(self._renew(), name="renew this node's lease")

    async def close(self) -> None:
        """Be found no longer."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._deadline is not None:
            self._hub.deadlines.disarm(self, self._deadline)
        try:
            await self._broker.leases.drop(GROUP, self.own)
        except EverywireError:
            pass  # it runs out by itself

    async def _put(self) -> None:
        await self._broker.leases.put(GROUP, self.own, self.value, self._limits.node_ttl_s)
        self._wait(self._limits.node_ttl_s / 3)

    def _wait(self, seconds: float) -> None:
        self._is_due.clear()
        self._deadline = self._hub.deadlines.arm(self, self._hub.time() + seconds, Nodes._set_due)

    @staticmethod
    def _set_due(self: Nodes) -> None:  # the wheel gives callbacks their owner
        self._is_due.set()

    async def _renew(self) -> None:
        is_told = False  # once for each time that the engine is away, which may be long
        while True:
            await self._is_due.wait()
            try:
                await self._put()
                if is_told:
                    _log.info("this node's lease is renewed again")
                is_told = False
            except EverywireError as error:
                if not is_told:
                    _log.warning("this node's lease was not renewed: %s", error)
                is_told = True
                self._failed_s = self._hub.time()
                self._wait(_RETRY_S)
            except Exception:
                # The top of a task, which must not end: the others would take this node for dead.
                _log.exception("this node's lease was not renewed")
                self._failed_s = self._hub.time()
                self._wait(_RETRY_S)

    async def names(self) -> list[str]:
        """Return the nodes that there are, this one included; sorted."""
        return sorted({self.own, *await self._broker.leases.members(GROUP)})

    async def values(self) -> Mapping[str, bytes]:
        """Return what the leases of the nodes tell, this one's included."""
        return await self._broker.leases.members(GROUP)

    async def ended(self, names: Collection[str]) -> list[str]:
        """Return which of some nodes have ended for all that is known. Raises `BrokerError`."""
        others = [name for name in names if name != self.own]
        if not others:
            return []
        now_s = self._hub.time()
        if self._hub.deadlines.lost_s > self._lost_s:  # this whole machine may have been asleep
            self._lost_s, self._failed_s = self._hub.deadlines.lost_s, now_s
        is_fresh = now_s - self._read_s < _FRESH_S
        if not is_fresh or any(name not in self._living and name not in self._missed for name in others):
            self._living = frozenset(await self._broker.leases.members(GROUP)) - self._dead
            self._read_s = now_s
            missed = self._missed.union(others) - self._living
            self._missed = missed if len(missed) <= _MAX_REMEMBERED else set()
        gone = [name for name in others if name not in self._living]
        if now_s - self._failed_s < self._limits.node_ttl_s:
            return [name for name in gone if name in self._dead]
        return gone

    async def end(self, name: str) -> None:
        """Hear for certain that a node has ended, and let its lease end, too."""
        if len(self._dead) >= _MAX_REMEMBERED:
            self._dead.clear()
        self._dead.add(name)
        self._living -= {name}
        try:
            await self._broker.leases.drop(GROUP, name)
        except EverywireError as error:
            _log.warning("the lease of node %s, which has ended, was left to run out: %s", name, error)

    async def ask(self, node: str, topic: str, payload: bytes) -> bytes:
        """Ask one node; raise an error with code 102 when there is no such node, `BrokerError` when it
        does not answer in time."""
        if node != self.own and node not in await self._broker.leases.members(GROUP):
            raise RequestError("there is no such node", code=codes.UNKNOWN_CHANNEL)
        return await self._broker.control.ask(node, topic, payload, self._limits.node_answer_timeout_s)

    async def ask_all(self, topic: str, payload: bytes) -> Answers:
        """Ask every node, this one included, at the same time."""
        names = await self.names()
        answers: dict[str, bytes] = {}
        turns = asyncio.Semaphore(_MAX_ASKED)

        async def ask_one(node: str) -> None:
            async with turns:
                try:
                    answers[node] = await self._broker.control.ask(
                        node, topic, payload, self._limits.node_answer_timeout_s
                    )
                except EverywireError as error:  # it may also not know the question: another version
                    _log.warning("node %s did not answer about %s: %s", node, topic, error)

        await asyncio.gather(*map(ask_one, names))
        return Answers(answers, [node for node in names if node not in answers])
