"""One node of a broker's benchmark, as a process of its own: it writes to channels, or reads them.

Started by `everywire.lab.brokers`. It says ``{"ready": true}`` when it follows its channels, and at its end
one line of JSON with what it measured. A publication holds the time at which it was published, by the clock
that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

from everywire.brokers.base import Appended
from everywire.brokers.opening import open_broker
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Gap, Publication
from everywire.core.settings import SettingsTable
from everywire.hub.hub import Hub
from everywire.hub.interfaces import Item
from everywire.hub.recovery import LATEST
from everywire.server.run import run

__all__ = ["main"]

_TIME: Final = Struct("<q")
_PADDING: Final = bytes(120)
_MAX_CHANNELS: Final = 20_000
_PATIENCE_S: Final = 30.0


class _Times:
    """The encoder, the framing and the subscriber of all readers: it writes down how long each item took."""

    once = tells_gaps = wants_positions = beats_always = False

    def __init__(self, readers: int) -> None:
        self.latencies_ns: list[int] = []
        self.ended_readers = 0
        self.are_open = asyncio.Event()
        self._unopened = readers

    def encode(self, items: Sequence[Item], position: str) -> list[int]:
        """Return when the items were published."""
        return [
            _TIME.unpack_from(item.content.data)[0] for item in items if isinstance(item.content, Publication)
        ]

    def frame(self, payload: list[int]) -> list[int]:
        """Leave them as they are."""
        return payload

    def send(self, framed: list[int]) -> int:
        """Write down how long ago that is."""
        now_ns = time.monotonic_ns()
        self.latencies_ns += [now_ns - published_ns for published_ns in framed]
        return len(framed)

    write = send

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Count readers that have begun."""
        self._unopened -= 1
        if not self._unopened:
            self.are_open.set()

    def beat(self) -> None:
        """Hear nothing of interest."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Count readers that did not keep up."""
        self.ended_readers += 1


class _Node:
    """A hub over the broker under test."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        limits = Limits(max_channels=_MAX_CHANNELS)
        self.broker = open_broker(options["url"], limits, SettingsTable())
        self._hub = Hub(self.broker, asyncio.get_running_loop(), limits=limits)
        self._times = _Times(len(options["channels"]))
        self._acknowledged = self._failed = 0

    async def run(self) -> None:
        options = self._options
        await self._hub.start()
        channels = options["channels"]
        if options["reads"]:
            for name in channels:
                reader = self._hub.reader((name,), self._times, self._times, self._times)
                self._hub.open(reader, LATEST)
            async with asyncio.timeout(_PATIENCE_S):
                await self._times.are_open.wait()
        _say({"ready": True})
        await asyncio.to_thread(sys.stdin.readline)
        began_s, cpu_s, was = time.monotonic(), time.process_time(), self._statistics()
        if options["rate"]:
            await self._publish_steadily(channels, options["rate"], options["seconds"])
        elif options["in_flight"]:
            await self._publish_all_the_time(channels, options["in_flight"], options["seconds"])
        seconds, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
        if options["reads"]:
            # Until the end of what others write: the parent says when.
            await asyncio.to_thread(sys.stdin.readline)
        _say(self._result(seconds, cpu_s, was))
        await self._hub.close()

    def _statistics(self) -> dict[str, int]:
        statistics = getattr(self.broker, "statistics", None)
        return dict(statistics()) if statistics is not None else {}

    def _result(self, seconds: float, cpu_s: float, was: dict[str, int]) -> dict[str, Any]:
        found = self._statistics()
        latencies = sorted(self._times.latencies_ns)
        result: dict[str, Any] = {
            "acknowledged": self._acknowledged,
            "failed": self._failed,
            "seconds": seconds,
            "cpu_s": cpu_s,
            "delivered": len(latencies),
            "ended_readers": self._times.ended_readers,
            "bus_bytes_in": found.get("bus_bytes_in", 0) - was.get("bus_bytes_in", 0),
        }
        if latencies:
            for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
                result[name] = latencies[min(len(latencies) - 1, int(len(latencies) * share))] / 1e6
        return result

    def _publish(self, channel: str, done: Callable[[], object]) -> None:
        draft = Draft(channel, _TIME.pack(time.monotonic_ns()) + _PADDING, "application/octet-stream")

        def appended(result: Appended | EverywireError) -> None:
            if isinstance(result, EverywireError):
                self._failed += 1
            else:
                self._acknowledged += 1
            done()

        self._hub.publish(draft, appended)

    async def _publish_steadily(self, channels: Sequence[str], rate: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began_s, finished = loop.time(), asyncio.Semaphore(0)
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began_s + number / rate - loop.time()))
            self._publish(channels[number % len(channels)], finished.release)
        async with asyncio.timeout(_PATIENCE_S):
            for _ in range(int(rate * seconds)):
                await finished.acquire()

    async def _publish_all_the_time(self, channels: Sequence[str], in_flight: int, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        places = asyncio.Semaphore(in_flight)
        number = 0
        while time.monotonic() < end_s:
            await places.acquire()
            self._publish(channels[number % len(channels)], places.release)
            number += 1
            if not number % 16:
                await asyncio.sleep(0)  # a store in this process leaves the loop no other turn
        for _ in range(in_flight):
            await places.acquire()


def _say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


async def _main(options: dict[str, Any]) -> None:
    await _Node(options).run()


def main() -> int:
    """Run the node that the first argument describes, as JSON."""
    run(_main(json.loads(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
