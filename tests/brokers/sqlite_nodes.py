"""Nodes over one file of SQLite: in this process, with a hub and readers that check, and in others."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.hub.hub import Hub
from everywire.hub.recovery import LATEST, Start
from everywire.testing.broker_driving import RecordingSink
from tests.hub.recording import RecordingEncoder, RecordingFraming, RecordingReader

WIDE = Window(max_publications=1_000_000, max_bytes=100_000_000, max_age_s=3_600.0)
TABLE = SettingsTable((), ChannelSettings(WIDE))
LIMITS = Limits(canary_interval_s=0.2)


class LiveNode:
    """A hub over a broker of its own, by the real loop: what a `RecordingReader` takes for its world."""

    turns = 0

    def __init__(self, broker: SqliteBroker) -> None:
        self.broker = broker
        loop = asyncio.get_running_loop()
        self.clock = self
        self.time = loop.time
        self.hub = Hub(broker, loop, settings=TABLE)
        self.encoder, self.framing = RecordingEncoder(), RecordingFraming()
        self.readers: list[RecordingReader] = []

    def wrote(self) -> None: ...

    def check(self, *_: object) -> None: ...

    def check_gap(self, *_: object) -> None: ...

    async def subscribe(self, *channels: str, start: Start = LATEST) -> RecordingReader:
        """Make a reader, and wait until it reads."""
        reader = RecordingReader(self)  # type: ignore[arg-type]
        names = tuple(sorted(channels))
        reader.reader = self.hub.reader(names, self.encoder, self.framing, reader)
        self.readers.append(reader)
        if start.position is not None:
            for name in names:
                place = start.position.place(name)
                if place is not None:
                    reader.epochs[name], reader.at[name] = place
        self.hub.open(reader.reader, start)
        await until(lambda: bool(reader.opening) or reader.end is not None)
        return reader


async def until(condition: Callable[[], object], patience_s: float = 30.0) -> None:
    """Wait for what must come true."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def sqlite_broker(
    path: Path, *, limits: Limits = LIMITS, sink: Any = None, **more: Any
) -> AsyncIterator[SqliteBroker]:
    """A started broker; it is closed at the end, unless it was before."""
    broker = SqliteBroker(path, limits, more.pop("settings", TABLE), **more)
    await broker.start(sink or RecordingSink())
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def live_node(path: Path, *, limits: Limits = LIMITS, **more: Any) -> AsyncIterator[LiveNode]:
    """A started hub over a broker; its readers are closed at the end."""
    node = LiveNode(SqliteBroker(path, limits, TABLE, **more))
    await node.hub.start()
    try:
        yield node
    finally:
        for reader in node.readers:
            reader.reader.close()
        await node.hub.close()


class Child:
    """A process that publishes as `tests.brokers.sqlite_child` says; ``acknowledged`` is what it was told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.acknowledged: list[tuple[str, int, str]] = []
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def start(cls, path: Path, **job: Any) -> Child:
        """Start it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.brokers.sqlite_child", json.dumps({"path": str(path), **job}),
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent.parent.parent,
        )  # fmt: skip
        return cls(process)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.endswith(b"\n"):
                epoch, offset, data = line.decode().split()
                self.acknowledged.append((epoch, int(offset), data))

    async def kill(self) -> None:
        """End it as the kernel would: without a word."""
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait for its end, and for all it said."""
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self._reading
        return code


def acknowledged(children: Sequence[Child]) -> list[tuple[str, int, str]]:
    """Return all that was told to be appended, in the order of offsets."""
    return sorted((one for child in children for one in child.acknowledged), key=lambda one: one[1])
