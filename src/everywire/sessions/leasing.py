"""Leases of the members that this node knows at first hand: written, renewed, dropped, told to other nodes.

One task writes everything, so what happens to a member reaches the store in its order, and what happens
twice before it is written is written once. Only what is written is told to other nodes: whoever hears of a
member finds its lease. What the store does not take is tried again a second later.

An open connection's lease names this node, whose own lease it hangs on (if this node holds one), lasts
`Limits.presence_ttl_s`, and is renewed by this node at every third of it,
only so many per second, so that a crowd which came at once spreads out. A polling client's lease outlives
its last sign of life by that time; signs of life that a written lease covers already write nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from msgspec import Raw

from everywire.brokers.base import Lease
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.hub.hub import Hub
from everywire.sessions.membership import PRESENCE, VERSION, Changes, Membership, encode_changes, held
from everywire.sessions.nodes import Nodes

__all__ = ["Leasing"]

_MAX_BATCH: Final = 500
"""Members in one write."""
_MAX_BATCH_BYTES: Final = 256 * 1024
"""Bytes of what other nodes are told in one message; at least one member's."""
_RETRY_S: Final = 1.0
_log = logging.getLogger("everywire.sessions")


class Move(NamedTuple):
    """Something that is to be written: a member that is here (``ttl_s`` above 0) or gone."""

    value: bytes
    ttl_s: float
    is_told: bool
    """Whether other nodes must hear of it; renewals are nobody's business."""
    is_open: bool = False
    """Whether it ends with this node."""


Moves: TypeAlias = dict[str, dict[str, Move]]
"""By channel and client."""


class Leasing:
    """The writer; see the module."""

    def __init__(self, hub: Hub, nodes: Nodes) -> None:
        self._hub = hub
        self._nodes = nodes
        self._broker = hub.broker
        self._limits = hub.limits
        self._moves: Moves = {}
        self._writing: Moves = {}
        self._drops = 0
        self._renewals: OrderedDict[Membership, float] = OrderedDict()
        self._updates: list[tuple[str, str, Raw]] = []
        self._room = 0.0
        self._wake = asyncio.Event()
        self._retry_s = 0.0
        self._is_behind = self._is_full = False
        self._task: asyncio.Task[None] | None = None
        self.writes = 0
        """Leases written or dropped."""
        self.failures = 0
        """Writes that the store did not take."""

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="write presence leases")

    async def close(self) -> None:
        """Write what is left, in a bounded time, and stop."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._take_back()
        try:
            async with asyncio.timeout(self._limits.node_answer_timeout_s):
                while self._moves or self._updates:
                    await self._write()
        except (TimeoutError, EverywireError) as error:
            _log.warning("leases of this node were left to run out: %s", error)

    # -- what is to be written ---------------------------------------------------------

    def put(self, member: Membership, ttl_s: float, *, is_told: bool) -> None:
        """Write a member's lease; an open one's is renewed until `drop`."""
        now_s = self._hub.time()
        if member.is_open:
            self._renewals[member] = now_s + self._limits.presence_ttl_s / 3
            self._renewals.move_to_end(member)
        member.ends_s = now_s + ttl_s
        self._move(member.channel, member.client, Move(member.value, ttl_s, is_told, member.is_open))

    def release(self, member: Membership) -> None:
        """Renew a member's lease no more."""
        self._renewals.pop(member, None)

    def drop(self, channel: str, client: str, value: bytes, *, is_told: bool) -> None:
        """Drop a lease, whatever node wrote it. When the store takes nothing for so long that very many
        are to be dropped, they are left to run out."""
        if self._drops < self._limits.max_leases:
            self._drops += 1
            self._move(channel, client, Move(value, 0.0, is_told))

    def _move(self, channel: str, client: str, move: Move) -> None:
        moves = self._moves.setdefault(channel, {})
        known = moves.pop(client, None)
        if known is not None and not known.ttl_s:
            self._drops -= 1
        moves[client] = _merged(known, move)
        self._wake.set()

    def tell_update(self, channel: str, client: str, state: bytes | None) -> None:
        """Let the node that has a client give it another state; too many at once are left out."""
        if len(self._updates) < _MAX_BATCH:
            self._updates.append((channel, client, Raw(b"null" if state is None else state)))
            self._wake.set()

    def unwritten(self, channel: str) -> dict[str, bytes | None]:
        """Return a channel's members whose last move is on its way: their info, or None for who is gone."""
        found: dict[str, bytes | None] = {}
        for moves in (self._writing, self._moves):
            for client, move in moves.get(channel, {}).items():
                found[client] = move.value if move.ttl_s else None
        return found

    @property
    def is_idle(self) -> bool:
        """Whether everything is written."""
        return not self._moves and not self._writing and not self._updates

    # -- time ----------------------------------------------------------------------------

    def advance(self, now_s: float, passed_s: float) -> None:
        """Renew what is due, and try again what the store did not take."""
        ttl_s = self._limits.presence_ttl_s
        renewals = self._renewals
        # Twice what an even stream would need: enough to catch up, too little for a burst.
        rate = 2 * (len(renewals) / (ttl_s / 3) + 1)
        self._room = min(rate + 1, self._room + rate * passed_s)
        while renewals and self._room >= 1:
            member = next(iter(renewals))
            if renewals[member] > now_s:
                break
            self._room -= 1
            self.put(member, ttl_s, is_told=False)
        if self._moves and now_s >= self._retry_s:
            self._wake.set()

    # -- the task --------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (self._moves or self._updates) and self._hub.time() >= self._retry_s:
                try:
                    await self._write()
                    self._is_behind = False
                    await asyncio.sleep(0)  # a store in memory waits for nothing
                except EverywireError as error:
                    self.failures += 1
                    self._retry_s = self._hub.time() + _RETRY_S
                    self._take_back()
                    if not self._is_behind:  # one line, not one a second as long as it lasts
                        _log.warning("presence is behind, the store did not take it: %s", error)
                    self._is_behind = True

    def _take_back(self) -> None:
        """Put what was being written before what came later."""
        writing, self._writing = self._writing, {}
        for channel, moves in writing.items():
            later = self._moves.setdefault(channel, {})
            for client, move in moves.items():
                if client in later:
                    later[client] = _merged(move, later[client])
                else:
                    later[client] = move
                    self._drops += not move.ttl_s

    def _take(self) -> Moves:
        """Take one batch: from each channel in turn, so that a crowd in one does not hold up the others."""
        taken: Moves = {}
        room = _MAX_BATCH
        while self._moves and room:
            channel = next(iter(self._moves))
            moves = self._moves.pop(channel)
            batch = taken.setdefault(channel, {})
            while moves and room:
                client = next(iter(moves))
                batch[client] = moves.pop(client)
                room -= 1
            if moves:
                self._moves[channel] = moves
        return taken

    async def _write(self) -> None:
        """Write one batch, then tell of it."""
        batch = self._writing = self._take()
        node = self._nodes.own if self._nodes.is_found else ""
        puts = [
            Lease(channel, client, held(node, one.value) if one.is_open and node else one.value, one.ttl_s)
            for channel, client, one in _each(batch)
            if one.ttl_s
        ]
        drops = [(channel, client) for channel, client, one in _each(batch) if not one.ttl_s]
        self._drops -= len(drops)
        if puts:
            try:
                await self._broker.leases.put_many(puts)
                self._is_full = False
            except BrokerBusy as error:
                # The rest of them is written; whoever had no room is tried again when its renewal is due.
                self.failures += 1
                if not self._is_full:  # one line, not one for each batch as long as it lasts
                    _log.warning("presence is incomplete: %s", error)
                self._is_full = True
        if drops:
            await self._broker.leases.drop_many(drops)
        self.writes += len(puts) + len(drops)
        self._writing = {}
        await self._tell(batch)

    async def _tell(self, batch: Moves) -> None:
        updates, self._updates = self._updates, []
        changes, size = Changes(VERSION, update=updates), sum(len(state) for _, _, state in updates)
        for channel, _, move in _each(batch):
            if move.is_told:
                (changes.entered if move.ttl_s else changes.gone).append((channel, Raw(move.value)))
                size += len(move.value)
            if size >= _MAX_BATCH_BYTES:
                await self._broadcast(changes)
                changes, size = Changes(VERSION), 0
        if changes.entered or changes.gone or changes.update:
            await self._broadcast(changes)

    async def _broadcast(self, changes: Changes) -> None:
        try:
            await self._broker.control.broadcast(PRESENCE, encode_changes(changes))
        except EverywireError as error:
            # Rosters compare themselves with the leases: this only delays what they know.
            _log.warning("other nodes were not told who came and went: %s", error)


def _each(moves: Moves) -> Iterator[tuple[str, str, Move]]:
    return ((channel, client, move) for channel, found in moves.items() for client, move in found.items())


def _merged(earlier: Move | None, later: Move) -> Move:
    """Return what is to be written of two moves: the later, told if the earlier was to be."""
    return later._replace(is_told=True) if earlier is not None and earlier.is_told else later
