"""The promise that everything rests on: a reader that comes back misses nothing, on whatever wire.

One publisher, 100 publications a second. A reader is cut abruptly, a thousand times, each time at a
random moment (before the request, in its middle, after so many bytes of the answer, after a while) and
comes back with its last position on a transport drawn by lot. What it received must be what was
published, in order, none twice. Where the window is too small, every hole must have been told.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.commands import DEADLINE_S, running
from tests.e2e.bare import TRANSPORTS, Wire, connect, request

RATE_HZ: Final = 100
SETTINGS: Final = """
[[channels]]
pattern = "small"
window = { max_publications = 3 }
"""


class Cut(Exception):
    """The reader's connection is cut now."""


class Journey:
    """One reader's life, over many connections."""

    def __init__(self, url: str, channel: str, seed: int, tls: ssl.SSLContext | None) -> None:
        self.url = url
        self.channel = channel
        self.tls = tls
        self.chance = random.Random(seed)
        self.position: str | None = None
        self.received: list[int] = []
        self.gaps: list[tuple[int, int]] = []
        self.connections = dict.fromkeys(TRANSPORTS, 0)

    def take(self, wire: Wire, data: bytes) -> None:
        """Note what these bytes bring; a position counts for all that came before it."""
        pending: list[dict[str, Any]] = []
        for position, value in wire.feed(data):
            pending.append(value)
            if position:
                self._keep(pending)
                self.position = position
                pending = []
        assert all("data" not in value and "gap" not in value for value in pending)

    def _keep(self, values: list[dict[str, Any]]) -> None:
        for value in values:
            if "gap" in value:
                gap = value["gap"]
                assert gap["reason"] == "trimmed", gap
                self.gaps.append((gap["from"], gap["to"]))
            elif "data" in value:
                self.received.append(value["data"])

    async def once(self, transport: str) -> None:
        """Read by one connection until it is cut."""
        chance = self.chance
        self.connections[transport] += 1
        limits = {"limit": 4096}
        reader, writer = await connect(self.url, self.tls, **limits)
        try:
            asked = request(self.channel, transport, self.position, by_header=chance.random() < 0.3)
            moment = chance.random()
            if moment < 0.05:
                writer.write(asked[: chance.randrange(len(asked))])
                await asyncio.sleep(chance.random() * 0.005)
                return
            # In a third of all cases after so many bytes, in the rest after so long.
            left_bytes = chance.randrange(1, 1500) if moment < 0.35 else 1 << 30
            async with asyncio.timeout(chance.random() * 0.04):
                await self._read(transport, reader, writer, asked, left_bytes)
        except (Cut, TimeoutError):
            pass
        finally:
            writer.transport.abort()

    async def _read(
        self,
        transport: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: bytes,
        left_bytes: int,
    ) -> None:
        wire = Wire(transport)
        writer.write(asked)
        while data := await reader.read(self.chance.choice([1, 7, 100, 4096])):
            self.take(wire, data[:left_bytes])
            left_bytes -= len(data)
            if left_bytes <= 0:
                raise Cut
            if wire.is_answered:
                wire.is_answered = False
                writer.write(request(self.channel, transport, self.position))
                await asyncio.sleep(0.002)

    async def travel(self, cuts: int, ends: asyncio.Event) -> None:
        """Be cut so many times, then read on to the end."""
        for _ in range(cuts):
            await self.once(self.chance.choice(TRANSPORTS))
            if self.chance.random() < 0.1:
                await asyncio.sleep(self.chance.random() * 0.06)
        ends.set()

    async def read_to(self, last: int) -> None:
        """Read until the last publication has come."""
        reader, writer = await connect(self.url, self.tls)
        try:
            wire = Wire("sse")
            writer.write(request(self.channel, "sse", self.position))
            async with asyncio.timeout(DEADLINE_S):
                while not self.received or self.received[-1] < last:
                    data = await reader.read(65536)
                    assert data, "the server ended it"
                    self.take(wire, data)
        finally:
            writer.close()


async def publish(url: str, channel: str, tls: ssl.SSLContext | None, ends: asyncio.Event) -> int:
    """Publish 0, 1, 2, … by POST over one connection until told to end; return how many."""
    reader, writer = await connect(url, tls)
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    number = 0
    try:
        while not ends.is_set():
            body = str(number).encode()
            writer.write(
                b"POST /channels/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                % (channel.encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201 "), head
            await reader.readuntil(b"}")
            number += 1
            due_s += 1 / RATE_HZ
            await asyncio.sleep(max(0.0, due_s - loop.time()))
    finally:
        writer.close()
    return number


@asynccontextmanager
async def server(tmp_path: Path, *arguments: str) -> AsyncIterator[str]:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    log = tmp_path / "log"
    arguments = ("--dev", "--config", str(tmp_path / "settings.toml"), *arguments)
    async with running(*arguments, deadline_s=20 * DEADLINE_S, EVERYWIRE_LOG__FILE=str(log)) as serving:
        yield serving.url
    assert '"level":"error"' not in log.read_text()


async def journey(
    url: str, channel: str, cuts: int, seed: int, tls: ssl.SSLContext | None
) -> tuple[Journey, int]:
    traveller = Journey(url, channel, seed, tls)
    ends = asyncio.Event()
    publishing = asyncio.ensure_future(publish(url, channel, tls, ends))
    try:
        # From the very first one: the channel is new.
        traveller.position = "earliest"
        await traveller.travel(cuts, ends)
    finally:
        ends.set()
        number = await publishing
    await traveller.read_to(number - 1)
    assert all(traveller.connections.values()), traveller.connections
    return traveller, number


Journeys = tuple[tuple[Journey, int], tuple[Journey, int]]


async def journeys(url: str, cuts: int, seed: int, tls: ssl.SSLContext | None) -> Journeys:
    """Read two channels at once: one that keeps enough, and one whose window is too small."""
    return await asyncio.gather(
        journey(url, "wide", cuts, seed, tls), journey(url, "small", cuts, seed + 1, tls)
    )


def check_journeys(wide: tuple[Journey, int], small: tuple[Journey, int]) -> None:
    """Check that nothing is missing but what was told."""
    traveller, published = wide
    assert traveller.received == list(range(published))
    assert traveller.gaps == []
    traveller, published = small
    # Offsets begin with 1, data with 0.
    missed = [offset - 1 for first, last in traveller.gaps for offset in range(first, last + 1)]
    assert missed, "the window was never too small: nothing was shown"
    assert sorted(missed + traveller.received) == list(range(published))
    assert traveller.received == sorted(traveller.received)


@pytest.mark.parametrize(("scheme", "cuts"), [("http", 1000), ("https", 200)])
async def test_a_reader_that_is_cut_and_comes_back_on_any_wire_misses_nothing(
    scheme: str, cuts: int, certificate: tuple[str, str], tmp_path: Path
) -> None:
    tls = ["--tls-cert", certificate[0], "--tls-key", certificate[1]] if scheme == "https" else []
    context = ssl.create_default_context(cafile=certificate[0]) if tls else None
    seed = int(os.environ.get("EVERYWIRE_SEED", "20260"))
    async with server(tmp_path, *tls) as url:
        check_journeys(*await journeys(url, cuts, seed, context))
