"""Readers that stop reading while a flood of publications comes: what it costs, and what they are told.

200 readers, on four transports, ask for the channel `flood` and then read nothing. 1,000 publications of
10 KiB a second are made; meanwhile the server's memory and that of its sockets are looked at, and a healthy
reader of the channel `calm` measures how long publications take to come. Then the stalled ones read on:
each must have been told of whatever it was not given.

What is bounded is stated here, and argued in ARCHITECTURE.md: a slow reader has no queue.
"""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tests.cli.commands import DEADLINE_S, Serving, running
from tests.e2e.bare import Wire, connect, request
from tests.e2e.conftest import program, run

READERS: Final = 200
TRANSPORTS: Final = ("stream", "sse", "websocket", "long-poll")
PUBLICATION_BYTES: Final = 10 * 1024
RATE_HZ: Final = 1_000
CALM_HZ: Final = 50

KIB: Final = 1024
LOG_BUDGET_BYTES: Final = 4 * KIB * KIB
PENDING_BYTES: Final = 64 * KIB
"""One joined write that may hang on each stalled reader."""
CONSTANT_BYTES: Final = 24 * KIB * KIB
"""What the interpreter's allocator, the log's waiting lines (1 MiB) and the joined writes that are kept for
the next reader (2 MiB) may add."""
SEND_QUEUE_BYTES: Final = 512 * KIB
"""What the kernel may hold for each stalled reader: its unsent bytes are bounded by TCP_NOTSENT_LOWAT, what
was sent and not taken by the peer's window; both with the kernel's own overhead, which doubles them."""
RECEIVE_BUFFER_BYTES: Final = 64 * KIB

SETTINGS: Final = f"""
[limits]
log_budget_bytes = {LOG_BUDGET_BYTES}
"""


class Figures(NamedTuple):
    """What was measured, for whoever runs this by hand."""

    published: int
    growth_bytes: int
    largest_send_queue_bytes: int
    send_queues_bytes: int
    calm_ms: tuple[float, float]
    """Median and 99th percentile of the healthy reader's latency before the flood."""
    flooded_ms: tuple[float, float]
    """The same while it lasted."""

    def told(self) -> str:
        """Return the figures as a line."""
        return (
            f"{self.published} publications; memory grew by {self.growth_bytes / KIB / KIB:.1f} MiB; "
            f"largest send queue {self.largest_send_queue_bytes / KIB:.0f} KiB, "
            f"all {self.send_queues_bytes / KIB / KIB:.1f} MiB; healthy reader: median and 99 % "
            f"{self.calm_ms[0]:.1f} and {self.calm_ms[1]:.1f} ms before, "
            f"{self.flooded_ms[0]:.1f} and {self.flooded_ms[1]:.1f} ms during"
        )


class Stalled:
    """A reader that asks and then reads nothing until `finish`."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.received: list[int] = []
        self.missed: list[int] = []
        self.position: str | None = None
        self._wire = Wire(transport)

    async def begin(self, url: str) -> None:
        """Ask; read where it begins, and no more."""
        host, port = url.partition("://")[2].split(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        self.reader, self.writer = await asyncio.open_connection(sock=connection)
        self.writer.write(request("flood", self.transport))
        if self.transport != "long-poll":
            while self.position is None:
                self._take(await self.reader.read(4096))
        self.writer.transport.pause_reading()

    def _take(self, data: bytes) -> None:
        assert data, f"the server ended a {self.transport} reader"
        for position, value in self._wire.feed(data):
            self.position = position or self.position
            if "gap" in value:
                gap = value["gap"]
                assert gap["reason"] == "trimmed"
                # Offsets begin with 1, numbers with 0.
                self.missed += range(gap["from"] - 1, gap["to"])
            elif "data" in value:
                self.received.append(value["data"]["n"])

    async def finish(self, last: int) -> None:
        """Read on, up to the last publication."""
        self.writer.transport.resume_reading()
        while not self.received or self.received[-1] < last:
            self._take(await self.reader.read(256 * KIB))
            if self._wire.is_answered:
                self._wire.is_answered = False
                self.writer.write(request("flood", self.transport, self.position))
        self.writer.close()


class Publisher:
    """Publishes over one connection, its requests pipelined."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: str) -> None:
        self._reader = reader
        self._writer = writer
        self._head = b"POST /channels/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: " % channel.encode()

    async def publish(self, bodies: list[bytes]) -> None:
        """Publish some at once and wait until they are."""
        self._writer.write(b"".join([b"%b%d\r\n\r\n%b" % (self._head, len(body), body) for body in bodies]))
        for _ in bodies:
            head = await self._reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201 "), head
            await self._reader.readuntil(b"}")

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@asynccontextmanager
async def publisher(url: str, channel: str) -> AsyncIterator[Publisher]:
    """Connect a publisher."""
    one = Publisher(*await connect(url), channel)
    try:
        yield one
    finally:
        one.close()


class Healthy:
    """A reader of `calm` that keeps up, and its publisher."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.received: list[int] = []
        self.published = 0
        self.ends = asyncio.Event()

    async def publish(self, url: str) -> None:
        """Publish the time, again and again."""
        async with publisher(url, "calm") as one:
            while not self.ends.is_set():
                await one.publish([b'{"n":%d,"at":%f}' % (self.published, time.monotonic())])
                self.published += 1
                await asyncio.sleep(1 / CALM_HZ)
            await one.publish([b'{"n":-1}'])

    async def read(self, url: str) -> None:
        """Read to the end."""
        reader, writer = await connect(url)
        wire = Wire("stream")
        writer.write(request("calm", "stream", "earliest"))
        try:
            while self.received[-1:] != [-1]:
                async with asyncio.timeout(DEADLINE_S):
                    self._take(wire, await reader.read(65536))
        finally:
            writer.close()

    def _take(self, wire: Wire, data: bytes) -> None:
        assert data, "the server ended the healthy reader"
        for _, value in wire.feed(data):
            assert "gap" not in value
            if "data" in value:
                self.received.append(value["data"]["n"])
                if "at" in value["data"]:
                    self.latencies_ms.append((time.monotonic() - value["data"]["at"]) * 1000)

    def so_far(self) -> tuple[float, float]:
        """Return median and 99th percentile since last asked."""
        latencies_ms, self.latencies_ms = self.latencies_ms, []
        return statistics.median(latencies_ms), statistics.quantiles(latencies_ms, n=100)[98]


async def send_queues(serving: Serving) -> list[int]:
    """Ask ``ss -m`` what the kernel holds to be sent, for each of the server's connections."""
    port = serving.url.rsplit(":", 1)[1]
    # tcp(7) and ss(8): skmem's "w" is the memory that the send queue takes.
    line = [program("ss", "iproute2"), "-tmnH", "state", "established", "sport", "=", f":{port}"]
    code, out, err = await run(*line)
    assert code == 0, err
    return [int(found) for found in re.findall(r"skmem:\([^)]*?\bw(\d+)", out)]


async def flood(url: str, bodies_per_turn: int, number: int) -> None:
    """Publish at the rate; late is late, nothing is left out."""
    loop = asyncio.get_running_loop()
    fill = b"x" * (PUBLICATION_BYTES - 30)
    async with publisher(url, "flood") as one:
        began_s = loop.time()
        for begin in range(0, number, bodies_per_turn):
            turn = range(begin, min(begin + bodies_per_turn, number))
            await one.publish([b'{"n":%d,"fill":"%b"}' % (each, fill) for each in turn])
            await asyncio.sleep(max(0.0, began_s + turn[-1] / RATE_HZ - loop.time()))


@asynccontextmanager
async def stalled(url: str) -> AsyncIterator[list[Stalled]]:
    """Open the crowd that reads nothing."""
    readers = [Stalled(TRANSPORTS[index % len(TRANSPORTS)]) for index in range(READERS)]
    try:
        await asyncio.gather(*[one.begin(url) for one in readers])
        yield readers
    finally:
        for one in readers:
            one.writer.transport.abort()


async def watch(serving: Serving, flooding: asyncio.Task[None]) -> tuple[int, int, int]:
    """Look at memory while the flood lasts: growth, largest send queue, all send queues."""
    server = psutil.Process(serving.process.pid)
    before_bytes = server.memory_full_info().pss
    largest = queued = grown = 0
    while not flooding.done():
        await asyncio.wait([flooding], timeout=0.25)
        queues = await send_queues(serving)
        largest, queued = max(largest, *queues), max(queued, sum(queues))
        grown = max(grown, server.memory_full_info().pss - before_bytes)
    return grown, largest, queued


async def stall_and_flood(folder: Path, seconds: float) -> Figures:
    """Run the whole of it, check what is promised, and return what was measured."""
    (folder / "settings.toml").write_text(SETTINGS)
    log = folder / "log"
    arguments = ("--dev", "--config", str(folder / "settings.toml"))
    number = int(seconds * RATE_HZ)
    deadline_s = 5 * DEADLINE_S + 4 * seconds
    async with (
        running(*arguments, deadline_s=deadline_s, EVERYWIRE_LOG__FILE=str(log)) as serving,
        stalled(serving.url) as readers,
        asyncio.TaskGroup() as tasks,
    ):
        url = serving.url
        healthy = Healthy()
        tasks.create_task(healthy.publish(url))
        tasks.create_task(healthy.read(url))
        await asyncio.sleep(1.0)
        calm_ms = healthy.so_far()
        memory = await watch(serving, tasks.create_task(flood(url, 10, number)))
        flooded_ms = healthy.so_far()
        await asyncio.gather(*[one.finish(number - 1) for one in readers])
        healthy.ends.set()
    figures = Figures(number, *memory, calm_ms, flooded_ms)
    print(figures.told())
    check(readers, healthy, figures)
    assert '"level":"error"' not in log.read_text()
    return figures


def check(readers: list[Stalled], healthy: Healthy, figures: Figures) -> None:
    """Check that all was delivered or told, and that memory stayed within its bounds."""
    for one in readers:
        assert one.missed, f"a {one.transport} reader missed nothing: it never stalled"
        assert one.received == sorted(one.received)
        whole = sorted(one.received + one.missed)
        assert whole == list(range(figures.published)), f"{one.transport}: {len(whole)}"
    assert healthy.received == [*range(healthy.published), -1]
    assert figures.growth_bytes <= LOG_BUDGET_BYTES + READERS * PENDING_BYTES + CONSTANT_BYTES
    assert figures.largest_send_queue_bytes <= SEND_QUEUE_BYTES
