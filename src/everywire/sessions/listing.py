"""Reading lists of members: the leases, put right by what this node knows better.

A list is as of the moment it is handed over: what this node did or heard while the leases were on their
way is applied to it, so no list contradicts a join or leave that was told before it. A channel's
leases are read once at a time; who asks meanwhile gets the next reading, which begins after the question.

Leases of open connections count as long as their node is there (`everywire.sessions.nodes.Nodes.ended`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from everywire.brokers.base import Leases
from everywire.core.errors import BrokerError, EverywireError
from everywire.sessions.membership import holder

__all__ = ["MAX_SLICE", "Listing"]

MAX_SLICE: Final = 2_000
"""Leases looked at before others have their turn: about a millisecond."""


class Reading:
    """One reading of a channel's leases, by one task, for all who asked before it began."""

    __slots__ = ("askers", "error", "found", "moves", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.askers = 0
        """Who have not been handed the list yet."""
        self.moves: dict[str, bytes | None] | None = None
        """Who moved since it began, with what is the case now; None before it began."""
        self.found: dict[str, bytes] | None = None
        self.error: EverywireError | None = None

    def move(self, client: str, value: bytes | None) -> None:
        """Apply what happened to a member."""
        if self.found is not None:
            _apply(self.found, client, value)
        elif self.moves is not None:
            self.moves[client] = value


class Listing:
    """Reads lists.

    Args:
        leases: where they are.
        ended: returns which of some nodes have ended.
        unwritten: members whose last move is still on its way to the leases; None stands for who is gone.
        sure: members that are here whatever the leases say.
        read: is called with every list in the very moment when it is known.
    """

    def __init__(
        self,
        leases: Leases,
        ended: Callable[[Collection[str]], Awaitable[Collection[str]]],
        unwritten: Callable[[str], Mapping[str, bytes | None]],
        sure: Callable[[str], Mapping[str, bytes]],
        read: Callable[[str, Mapping[str, bytes]], object],
    ) -> None:
        self._leases = leases
        self._ended = ended
        self._unwritten = unwritten
        self._sure = sure
        self._on_read = read
        self._readings: dict[str, list[Reading]] = {}
        """By channel, those that are not handed over to everybody yet; the last may not have begun."""

    async def close(self) -> None:
        """Give up what is being read."""
        tasks = [one.task for found in self._readings.values() for one in found if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read(self, channel: str) -> Mapping[str, bytes]:
        """Return the members' infos as text, by client id; it must not be kept. Raises `BrokerError`."""
        readings = self._readings.setdefault(channel, [])
        if not readings or readings[-1].moves is not None:
            reading = Reading()
            before = readings[-1].task if readings else None
            readings.append(reading)
            reading.task = asyncio.get_running_loop().create_task(
                self._run(channel, reading, before), name="read members"
            )
        else:
            reading = readings[-1]
        assert reading.task is not None
        reading.askers += 1
        try:
            await asyncio.shield(reading.task)
            if reading.found is None:
                raise reading.error or BrokerError("the members were not read")
            return reading.found
        finally:
            reading.askers -= 1
            if not reading.askers and reading.task.done():
                self._drop(channel, reading)

    def moved(self, channel: str, client: str, value: bytes | None) -> None:
        """Hear that a member came or has other info, or, with None, that it is gone."""
        for reading in self._readings.get(channel, ()):
            reading.move(client, value)

    async def _run(self, channel: str, reading: Reading, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        reading.moves = dict(self._unwritten(channel))
        try:
            found = await self._living(channel)
            for client, value in reading.moves.items():
                _apply(found, client, value)
            found.update(self._sure(channel))
            reading.found = found
            self._on_read(channel, found)
        except EverywireError as error:
            reading.error = error  # for all who asked, of whom there may be none any more
        finally:
            if not reading.askers:
                self._drop(channel, reading)

    async def _living(self, channel: str) -> dict[str, bytes]:
        """Return the members whose lease and whose node has not run out."""
        found: dict[str, bytes] = {}
        by_node: dict[str, list[str]] = {}
        for number, (client, lease) in enumerate((await self._leases.members(channel)).items(), 1):
            if not number % MAX_SLICE:
                await asyncio.sleep(0)
            node, found[client] = holder(lease)
            if node:
                by_node.setdefault(node, []).append(client)
        for node in await self._ended(by_node):
            for client in by_node[node]:
                del found[client]
        return found

    def _drop(self, channel: str, reading: Reading) -> None:
        readings = self._readings.get(channel, [])
        if reading in readings:
            readings.remove(reading)
        if not readings:
            self._readings.pop(channel, None)


def _apply(found: dict[str, bytes], client: str, value: bytes | None) -> None:
    if value is None:
        found.pop(client, None)
    else:
        found[client] = value
