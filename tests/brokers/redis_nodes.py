"""Nodes over one Redis, or NATS, on a bench: each a broker, its hub, and readers that check what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from everywire.brokers.base import Appended
from everywire.brokers.opening import open_broker
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.position import Place, Position
from everywire.core.publication import Draft, Gap, Publication
from everywire.core.settings import SettingsTable
from everywire.hub.hub import Hub
from everywire.hub.recovery import LATEST, Start
from tests.hub.recording import Framed, RecordingEncoder, RecordingFraming

PATIENCE_S = 15.0
"""For what must happen; nothing is measured by it."""

LIMITS = Limits(canary_interval_s=0.2, canary_timeout_s=0.6, broker_timeout_s=2.0)


async def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait for a condition that must come true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < end, f"{what} never came true"
        await asyncio.sleep(0.005)


class Reader:
    """A subscriber that takes all at once, and accepts nothing but what follows."""

    def __init__(self) -> None:
        self.at: dict[str, Place] = {}
        self.told: list[tuple[str, Publication | Gap]] = []
        self.end: Code | None = None
        self.is_open = False

    @property
    def send(self) -> Callable[[Framed], int]:
        return self._send

    def write(self, framed: Framed) -> None:
        self._send(framed)

    def opened(self, position: str, new: Sequence[str]) -> None:
        self.is_open = True
        decoded = Position.decode(position)
        for channel in self.reader.group.channels:  # type: ignore[attr-defined]
            place = decoded.place(channel.name)
            assert place is not None
            self.at[channel.name] = place

    def beat(self) -> None:
        pass

    def ended(self, code: Code, gap: Gap | None) -> None:
        self.end = code

    def _send(self, framed: Framed) -> int:
        for channel, content, position in framed.batch.items:
            at = self.at[channel]
            place = Position.decode(position).place(channel)
            assert place is not None
            if isinstance(content, Publication):
                assert content.offset == at.offset + 1 or place.epoch == at.epoch, (content, at)
                assert content.offset > at.offset, f"{content} is no news at {at}"
            elif content.first is not None:
                assert content.first == at.offset + 1
            self.at[channel] = place
            self.told.append((channel, content))
        return framed.size

    def data(self, channel: str = "a") -> list[bytes]:
        return [one.data for name, one in self.told if name == channel and isinstance(one, Publication)]

    def gaps(self) -> list[str]:
        return [one.reason for _, one in self.told if isinstance(one, Gap)]


class Node:
    """A broker and its hub; what was acknowledged is written down."""

    def __init__(self, url: str, limits: Limits = LIMITS, settings: SettingsTable | None = None) -> None:
        self.broker: Any = open_broker(url, limits, settings or SettingsTable())
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(self.broker, self.loop, limits=limits, settings=settings)
        self.encoder, self.framing = RecordingEncoder(), RecordingFraming()
        self.acknowledged: list[tuple[Appended, bytes]] = []
        self.refused: list[EverywireError] = []

    async def publish(self, data: bytes, channel: str = "a", key: str | None = None) -> Appended:
        """Publish, and raise the error if there is one."""
        future: asyncio.Future[Appended] = self.loop.create_future()

        def done(result: Appended | EverywireError) -> None:
            if isinstance(result, Appended):
                self.acknowledged.append((result, data))
                future.set_result(result)
            else:
                self.refused.append(result)
                future.set_exception(result)

        self.hub.publish(Draft(channel, data, key=key, fingerprint=data), done)
        return await future

    async def publish_stubbornly(self, data: bytes, channel: str = "a") -> None:
        """Publish under a key until it is acknowledged."""
        end = self.loop.time() + PATIENCE_S
        while True:
            try:
                await self.publish(data, channel, key=data.decode())
                return
            except EverywireError:
                assert self.loop.time() < end
                await asyncio.sleep(0.05)

    async def read(self, *channels: str, start: Start = LATEST) -> Reader:
        """Begin to read, and wait until the reader is told where."""
        subscriber = Reader()
        names = tuple(sorted(channels or ("a",)))
        reader = self.hub.reader(names, self.encoder, self.framing, subscriber)
        subscriber.reader = reader  # type: ignore[attr-defined]
        self.hub.open(reader, start)
        await until(lambda: subscriber.is_open, "the reader's beginning")
        return subscriber

    @property
    def is_ready(self) -> bool:
        return self.broker.health().ready


@asynccontextmanager
async def nodes(
    url: str, count: int = 2, limits: Limits = LIMITS, settings: SettingsTable | None = None
) -> AsyncIterator[list[Node]]:
    """Start so many nodes over one store."""
    made = [Node(url, limits, settings) for _ in range(count)]
    try:
        for node in made:
            await node.hub.start()
        yield made
    finally:
        for node in made:
            await node.hub.close()
