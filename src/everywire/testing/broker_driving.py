"""How the contract suite drives a broker: its clock, its sink, and calls that are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from everywire.brokers.base import Appended, Broker, Head, Page, Sink
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Publication
from everywire.core.settings import SettingsTable

__all__ = [
    "PATIENCE_S",
    "Call",
    "Hint",
    "MakeBroker",
    "RecordingSink",
    "StoreClock",
    "append",
    "heads",
    "offsets",
    "publish",
    "read",
    "until",
]

PATIENCE_S: Final = 10.0
"""How long a test waits for what must happen; nothing is measured by it."""

EVERYTHING: Final = 2**30


class StoreClock:
    """The store's UNIX time; calling it returns milliseconds."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def passes(self, seconds: float) -> None:
        """Let time pass in the store."""
        self.now_ms += round(seconds * 1000)


class MakeBroker(Protocol):
    """The fixture ``make_broker``: an empty broker, started. Whoever gives it also closes it."""

    def __call__(
        self, sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable
    ) -> Awaitable[Broker]: ...


class Hint(NamedTuple):
    """What a sink heard of a channel; ``publications`` is None when it was only how far it is."""

    channel: str
    epoch: str
    publications: tuple[Publication, ...] | None
    previous: int
    last: int


class RecordingSink:
    """A sink that remembers what it hears."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self.broadcasts: list[tuple[str, bytes, str]] = []
        self.answers: Callable[[str, bytes], Awaitable[bytes]] = self._echo

    async def _echo(self, topic: str, payload: bytes) -> bytes:
        return b"answer to " + payload

    def published(self, channel: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Remember a hint with its publications."""
        offsets = [one.offset for one in publications]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), "there are holes among them"
        self.hints.append(Hint(channel, epoch, tuple(publications), previous, offsets[-1]))

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Remember a hint without publications."""
        self.hints.append(Hint(channel, epoch, None, -1, last))

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Remember a control message."""
        self.broadcasts.append((topic, payload, node))

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Answer a control message."""
        return await self.answers(topic, payload)

    def last(self, channel: str) -> int:
        """Return how far a channel is, as far as was heard."""
        return max((hint.last for hint in self.hints if hint.channel == channel), default=0)


class Call:
    """A callback that must be called exactly once."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self._done = asyncio.Event()

    def __call__(self, result: Any) -> None:
        self.results.append(result)
        self._done.set()

    async def result(self) -> Any:
        """Wait until it was called; return with what."""
        await asyncio.wait_for(self._done.wait(), PATIENCE_S)
        assert len(self.results) == 1, "a callback was called twice"
        return self.results[0]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that must come true."""

    loop = asyncio.get_running_loop()
    end_s = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < end_s, "it never came true"
        await asyncio.sleep(0.001)


async def append(broker: Broker, *drafts: Draft) -> Sequence[Appended | EverywireError]:
    """Append drafts in one call."""
    call = Call()
    broker.log.append(drafts, call)
    results: Sequence[Appended | EverywireError] = await call.result()
    assert len(results) == len(drafts), "every draft has one result"
    return results


async def publish(broker: Broker, channel: str, data: bytes = b"1", **more: Any) -> Appended:
    """Append one draft, which must succeed."""
    (appended,) = await append(broker, Draft(channel, data, **more))
    assert isinstance(appended, Appended), appended
    return appended


async def read(
    broker: Broker, channel: str, after: int = 0, count: int = EVERYTHING, size: int = EVERYTHING
) -> Page:
    """Read a page, which must succeed."""
    call = Call()
    broker.log.read(channel, after, count, size, call)
    page = await call.result()
    assert isinstance(page, Page), page
    return page


async def heads(broker: Broker, *channels: str) -> Mapping[str, Head]:
    """Ask where channels stand, which must succeed."""
    call = Call()
    broker.log.heads(channels, call)
    found: Mapping[str, Head] | EverywireError = await call.result()
    assert not isinstance(found, EverywireError), found
    assert set(found) == set(channels)
    return found


def offsets(page: Page) -> list[int]:
    """Return the offsets of a page."""
    return [one.offset for one in page.publications]
