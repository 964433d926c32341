"""One channel, one publisher, and a reader on every wire: all receive the same, in the same order.

And one reader that is cut and comes back on another wire, Socket.IO and SockJS among them, again and again:
it misses nothing, whatever carried it before.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import pytest

from everywire.client.client import Client
from everywire.client.items import Received
from everywire.client.links import LINKS
from everywire.core.position import Place, Position, encode_position
from tests.readers import READERS, TELLING
from tests.serving import DEADLINE_S, Site, serving, until
from tests.socket_wires import SOCKJS_TRANSPORTS, Session, SocketIo, SockJs

CHANNEL: Final = "numbers"
NUMBER: Final = 150
CUTS: Final = 80

Read = Callable[[Site, Callable[[], None]], Coroutine[Any, Any, list[Any]]]
"""Reads `NUMBER` publications; calls the function when it is sure that it will hear them all."""


def published(number: int) -> tuple[Any, str]:
    """Return the data and the type of the publication of a number."""
    values: list[Any] = [number, f"number {number} ä", {"number": number, "in": [None, True]}, [[number]]]
    if number % 10 == 9:
        return bytes([number % 256, 0, 255]), "application/octet-stream"
    return values[number % len(values)], "application/json"


async def publish(site: Site, numbers: range) -> None:
    """Publish by POST, one after the other."""
    for number in numbers:
        data, kind = published(number)
        more = {"content": data} if isinstance(data, bytes) else {"json": data}
        answer = await site.http.post(f"/channels/{CHANNEL}", **more, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text


# -- a reader for each wire ------------------------------------------------------------------------


async def read_plain(wire: str, site: Site, ready: Callable[[], None]) -> list[Any]:
    found: list[Any] = []
    is_poll = "poll" in wire
    if is_poll:
        ready()  # it begins with what is there already
    async for seen in READERS[wire](site, CHANNEL, **({"after": "earliest"} if is_poll else {})):
        assert "gap" not in seen
        if "open" in seen:
            if not is_poll:
                ready()
        elif "data_base64" in seen:
            found.append(base64.b64decode(seen["data_base64"]))
        else:
            found.append(seen["data"])
        if len(found) == NUMBER:
            break
    return found


async def read_session(wire: str, site: Site, ready: Callable[[], None]) -> list[Any]:
    found: list[Any] = []
    async with Client(site.url, transports=[wire]) as client, client.channel(CHANNEL) as subscription:
        ready()
        async for item in subscription:
            assert isinstance(item, Received), item
            found.append(item.data)
            if len(found) == NUMBER:
                break
    return found


async def read_socketio(transport: str, protocol: int, site: Site, ready: Callable[[], None]) -> list[Any]:
    socket = SocketIo(site.url, transport, protocol)
    try:
        await socket.connect()
        answer = (await socket.call("subscribe", CHANNEL))[0]
        assert answer.get("channel") == CHANNEL, answer
        ready()
        found = []
        for _ in range(NUMBER):
            name, data = await socket.event()
            assert name == "message"
            found.append(data)
        return found
    finally:
        await socket.abort()


async def read_sockjs(transport: str, site: Site, ready: Callable[[], None]) -> list[Any]:
    session = Session(SockJs(site.url, transport))
    try:
        await session.subscribe(CHANNEL)
        ready()
        found = []
        for _ in range(NUMBER):
            publication = await session.publication()
            data = publication["data"]
            is_binary = isinstance(data, dict) and "data_base64" in data
            found.append(base64.b64decode(data["data_base64"]) if is_binary else data)
        return found
    finally:
        await session.carrier.abort()


ALL: Final[Mapping[str, Read]] = {
    **{wire: partial(read_plain, wire) for wire in READERS},
    **{f"session by {wire}": partial(read_session, wire) for wire in LINKS},
    **{
        f"socket.io by {transport}, engine.io {protocol}": partial(read_socketio, transport, protocol)
        for transport in ("polling", "websocket")
        for protocol in (4, 3)
    },
    **{f"session in sockjs by {wire}": partial(read_sockjs, wire) for wire in SOCKJS_TRANSPORTS},
}


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_all_receive_the_same(host: str) -> None:
    ready: set[str] = set()
    async with (
        serving(host, ("", "")) as site,
        asyncio.timeout(3 * DEADLINE_S),
        asyncio.TaskGroup() as group,
    ):
        readings = {
            wire: group.create_task(read(site, partial(ready.add, wire))) for wire, read in ALL.items()
        }
        await until(lambda: ready == set(ALL))
        await publish(site, range(NUMBER))
    expected = [published(number)[0] for number in range(NUMBER)]
    for wire, reading in readings.items():
        assert reading.result() == expected, wire


# -- one reader on all of them in turn -------------------------------------------------------------


class Cut(Exception):
    """The reader's connection is cut now."""


class Journey:
    """One reader's life: what it read, where it stands, and what carried it."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self.position = "earliest"
        self.read: list[int] = []
        self.carried = Counter[str]()
        """How many publications came by each wire."""
        self.recovered = 0
        self._last = 0
        self.pid = ""
        self.wires: dict[str, Callable[[], Awaitable[None]]] = {
            **{wire: partial(self._plain, wire) for wire in TELLING},
            **{
                f"{what} by {transport}": partial(act, transport)
                for what, act in (("socket.io", self._socketio), ("socket.io again", self._recover))
                for transport in ("polling", "websocket")
            },
            **{f"sockjs by {wire}": partial(self._sockjs, wire) for wire in SOCKJS_TRANSPORTS},
        }

    def choose(self) -> str:
        """Draw a wire; more often than by chance that of a connection which can be recovered."""
        again = [wire for wire in self.wires if "again" in wire]
        return self.chance.choice(again if self.pid and self.chance.random() < 0.5 else [*self.wires])

    async def once(self, wire: str, seconds: float, number: int = 1_000_000) -> None:
        """Read by one connection until it is cut: at a moment, or after so many publications."""
        before = len(self.read)
        self._last = before + number
        with suppress(TimeoutError, Cut):
            async with asyncio.timeout(seconds):
                await self.wires[wire]()
        self.carried[wire] += len(self.read) - before

    def _take(self, number: int, position: str) -> None:
        self.read.append(number)
        self.position = position
        if len(self.read) >= self._last:
            raise Cut

    async def _plain(self, wire: str) -> None:
        async for seen in READERS[wire](self.site, CHANNEL, after=self.position):
            assert "gap" not in seen, seen
            if "data" in seen:
                self._take(seen["data"], seen["position"])

    async def _socketio(self, transport: str) -> None:
        """A new connection, which subscribes where this reader stands."""
        async with cut_at_last(SocketIo(self.site.url, transport)) as socket:
            await socket.connect()
            self.pid = ""
            answer = (await socket.call("subscribe", CHANNEL, self.position))[0]
            assert answer.get("channel") == CHANNEL, answer
            self.pid = socket.pid
            await self._follow(socket)

    async def _recover(self, transport: str) -> None:
        """The last connection once more, wherever this reader got to meanwhile."""
        if not self.pid:
            return
        async with cut_at_last(SocketIo(self.site.url, transport)) as socket:
            await socket.connect(self.pid, self.position)
            assert socket.is_recovered
            self.recovered += 1
            await self._follow(socket)

    async def _follow(self, socket: SocketIo) -> None:
        while True:
            name, number = await socket.event()
            assert name == "message", name
            self._take(number, socket.offset)

    async def _sockjs(self, transport: str) -> None:
        async with cut_at_last(SockJs(self.site.url, transport)) as carrier:
            session = Session(carrier)
            place = None if self.position == "earliest" else Position.decode(self.position).place(CHANNEL)
            place = place or Place("", 0)
            reply = await session.subscribe(CHANNEL, place.epoch, place.offset)
            assert reply["recovered"] or not place.epoch, reply
            while True:
                publication = await session.publication()
                place = Place(reply["epoch"], publication["offset"])
                self._take(publication["data"], encode_position([(CHANNEL, place)]))


@asynccontextmanager
async def cut_at_last(carrier: Any) -> Any:
    """Cut a connection when its reader is told to stop."""
    try:
        yield carrier
    finally:
        await carrier.abort()


async def travel(seed: int, cuts: int) -> Journey:
    """Be cut so many times, then read on to the end."""
    async with serving("own", ("", "")) as site, asyncio.timeout(600):
        number = 0

        async def keep_publishing() -> None:
            nonlocal number
            while True:
                await site.publish(CHANNEL, number)
                number += 1
                await asyncio.sleep(0.003)

        await site.publish(CHANNEL, number)
        number += 1
        publishing = asyncio.create_task(keep_publishing())
        journey = Journey(site, seed)
        for wire in journey.chance.sample([*journey.wires], len(journey.wires)):
            await journey.once(wire, DEADLINE_S, 2)
        for _ in range(cuts):
            if journey.chance.random() < 0.5:
                await journey.once(journey.choose(), journey.chance.random() * 0.05)
            else:
                await journey.once(journey.choose(), DEADLINE_S, journey.chance.randrange(1, 8))
        publishing.cancel()
        await asyncio.wait([publishing])
        async with asyncio.timeout(DEADLINE_S):
            while not journey.read or journey.read[-1] < number - 1:
                await journey.once("poll", 0.2)
    assert journey.read == list(range(number))
    assert len(journey.read) > cuts
    return journey


async def test_changing_wires_loses_nothing() -> None:
    journey = await travel(int(os.environ.get("EVERYWIRE_SEED", "20264")), CUTS)
    idle = [wire for wire in journey.wires if "again" not in wire and not journey.carried[wire]]
    assert not idle, journey.carried
    assert journey.recovered > 5
