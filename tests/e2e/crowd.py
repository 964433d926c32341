"""A crowd that reads one channel, on every wire, and comes back by itself whenever it is cut.

Publications are numbers. Each reader keeps those that it was told, and where it stands; it goes on from
there, wherever it gets to. What it is told out of its turn is a failure at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx
import websockets

from everywire.client.client import Client
from everywire.client.errors import ConnectionLost
from everywire.client.items import Received
from everywire.client.links import LINKS
from everywire.core.position import Place, Position, encode_position
from tests.readers import READERS, TELLING, Closed, Refused
from tests.serving import DEADLINE_S, Site
from tests.socket_wires import SOCKJS_TRANSPORTS, Ended, Session, SocketIo, SockJs

__all__ = ["WIRES", "Crowd", "Reader", "crowd"]

AGAIN_S: Final = 0.05
PATIENCE_S: Final = 3 * DEADLINE_S
"""Readers, and workers that begin, share a machine."""
CUT: Final = (httpx.HTTPError, OSError, websockets.WebSocketException, Closed, Ended, Refused, ConnectionLost)
"""What a reader hears when whoever it read from is gone."""


class Reader:
    """One reader, for as long as the test lasts."""

    def __init__(self, site: Site, channel: str, wire: str) -> None:
        self.site = site
        self.channel = channel
        self.wire = wire
        self.numbers: list[int] = []
        self.position = "earliest"
        self.cuts = Counter[str]()
        self.is_ready = False
        """Whether it is sure to be told of what is published from now on."""
        self.recovered = 0
        """How often Socket.IO's own recovery brought it back."""
        self.told_s = 0.0
        """When it was last told something."""
        self._pid = ""

    async def live(self) -> None:
        """Read, be cut, and come back."""
        read = READ[self.wire]
        while True:
            try:
                await read(self)
                self.cuts["ended"] += 1
            except CUT as error:
                self.cuts[repr(error)] += 1
            await asyncio.sleep(AGAIN_S)

    def take(self, number: Any, position: str) -> None:
        """Keep what it was told."""
        assert isinstance(number, int), (self.wire, number)
        assert number == len(self.numbers), (self.wire, self.numbers[-3:], number, self.cuts)
        self.numbers.append(number)
        self.position = position
        self.told_s = asyncio.get_running_loop().time()

    # -- one connection of each kind ------------------------------------------------------

    async def read_plain(self, wire: str) -> None:
        """Read by one of `READERS`."""
        self.is_ready = "poll" in wire  # it begins with what is there already
        async for seen in READERS[wire](self.site, self.channel, after=self.position):
            assert "gap" not in seen, (wire, seen)
            self.is_ready = True
            if "data" in seen:
                self.take(seen["data"], seen["position"])

    async def read_session(self, wire: str) -> None:
        """Read by a session, which comes back by itself."""
        async with (
            Client(self.site.url, transports=[wire], lost=self._lost) as client,
            client.channel(self.channel, since=self._place()) as subscription,
        ):
            self.is_ready = True
            async for item in subscription:
                assert isinstance(item, Received), (wire, item, self.cuts)
                self.take(item.data, item.position or "")

    def _lost(self, why: str, wait_s: float) -> None:
        self.cuts[why] += 1

    def _place(self) -> Place | None:
        return None if self.position == "earliest" else Position.decode(self.position).place(self.channel)

    async def read_socketio(self, transport: str, protocol: int) -> None:
        """Read as a client of Socket.IO: the one that it was, or where that is refused, from its position."""
        socket = SocketIo(self.site.url, transport, protocol)
        try:
            await socket.connect(self._pid, self.position if self._pid else "")
            self.recovered += socket.is_recovered
            if not socket.is_recovered:
                answer = (await socket.call("subscribe", self.channel, self.position))[0]
                assert answer.get("channel") == self.channel and "gap" not in answer, answer
            self._pid = socket.pid
            self.is_ready = True
            while True:
                name, *rest = await socket.event()
                assert name == "message", name
                # Version 3 is told no position: its readers are not cut in these tests.
                self.take(rest[0], socket.offset or self.position)
        finally:
            await socket.abort()

    async def read_sockjs(self, transport: str) -> None:
        """Read by a session in SockJS."""
        session = Session(SockJs(self.site.url, transport))
        try:
            place = self._place() or Place("", 0)
            reply = await session.subscribe(self.channel, place.epoch, place.offset)
            assert reply["recovered"] or not place.epoch, reply
            self.is_ready = True
            while True:
                publication = await session.publication()
                place = Place(reply["epoch"], publication["offset"])
                self.take(publication["data"], encode_position([(self.channel, place)]))
        finally:
            await session.carrier.abort()


READ: Final[dict[str, Callable[[Reader], Awaitable[None]]]] = {
    **{wire: partial(Reader.read_plain, wire=wire) for wire in TELLING},
    **{f"session by {wire}": partial(Reader.read_session, wire=wire) for wire in LINKS},
    **{
        f"socket.io by {transport}": partial(Reader.read_socketio, transport=transport, protocol=4)
        for transport in ("polling", "websocket")
    },
    **{f"sockjs by {wire}": partial(Reader.read_sockjs, transport=wire) for wire in SOCKJS_TRANSPORTS},
}
WIRES: Final = tuple(READ)


class Crowd:
    """Readers, and the tasks that they live by."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = readers
        self.tasks = [asyncio.create_task(reader.live(), name=reader.wire) for reader in readers]

    def check(self) -> None:
        """Raise what any of them raised."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def until(self, holds: Callable[[Reader], bool], deadline_s: float = PATIENCE_S) -> None:
        """Wait until something holds of every reader."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_s
        while waiting := [reader for reader in self.readers if not holds(reader)]:
            self.check()
            late = [(reader.wire, len(reader.numbers), reader.cuts) for reader in waiting]
            assert loop.time() < end_s, f"{len(late)} of {len(self.readers)} were not told: {late[:8]}"
            await asyncio.sleep(0.02)

    async def have(self, count: int, deadline_s: float = PATIENCE_S) -> None:
        """Wait until all were told the numbers below one, and see that they were told nothing else."""
        await self.until(lambda reader: len(reader.numbers) >= count, deadline_s)
        assert all(reader.numbers == [*range(count)] for reader in self.readers)


@asynccontextmanager
async def crowd(url: str, channel: str, count: int, wires: Sequence[str] = WIRES) -> AsyncIterator[Crowd]:
    """Let so many readers read a channel, the wires in turn; wait until all of them do."""
    site = Site("own", None, url)  # type: ignore[arg-type]  # only where it is counts for readers
    async with site.http:
        found = Crowd([Reader(site, channel, wires[number % len(wires)]) for number in range(count)])
        try:
            await found.until(lambda reader: reader.is_ready)
            yield found
            found.check()
        finally:
            for task in found.tasks:
                task.cancel()
            await asyncio.wait(found.tasks)
