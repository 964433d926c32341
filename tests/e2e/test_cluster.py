"""Four workers over SQLite, and readers on every wire: all hear all that was acknowledged, whoever dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import httpx
import pytest

from tests.e2e.cluster import Cluster, cluster
from tests.e2e.crowd import WIRES, Crowd, crowd
from tests.server import workers as served
from tests.serving import DEADLINE_S

pytestmark = pytest.mark.xdist_group("busy")

CHANNEL: Final = "numbers"
WORKERS: Final = 4
READERS: Final = 2 * len(WIRES)
"""Four hundred are in ``tests/soak``."""


class Publisher:
    """Publishes numbers one after the other, through whichever worker it is told to, until each is
    acknowledged: who hears nothing tries again elsewhere, by the same key."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.acknowledged = 0
        self.again = 0

    async def publish(self, urls: Sequence[str]) -> None:
        """Publish the next number, through the first of some workers that acknowledges it."""
        number = self.acknowledged
        headers = {"Idempotency-Key": f"number {number}"}
        for url in itertools.cycle(urls):
            try:
                answer = await self.http.post(f"{url}/channels/{CHANNEL}", json=number, headers=headers)
            except httpx.HTTPError:
                self.again += 1
                await asyncio.sleep(0.01)
                continue
            assert answer.status_code in (200, 201), answer.text
            assert answer.json()["offset"] == number + 1, (number, answer.text)
            self.acknowledged += 1
            return


async def through_each(found: Cluster, readers: Crowd, rounds: int) -> None:
    """Publish through each worker in turn; all hear all, each time."""
    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as http:
        publisher = Publisher(http)
        for _ in range(rounds):
            for worker in found.workers:
                await publisher.publish([worker.url])
            await readers.have(publisher.acknowledged)


async def test_all_hear_what_is_published_through_any_worker() -> None:
    async with cluster(WORKERS) as found, crowd(found.url, CHANNEL, READERS) as readers:
        await through_each(found, readers, 3)
        assert not any(reader.cuts for reader in readers.readers)


class Range(Protocol):
    """Where workers are killed."""

    def urls(self, turn: int) -> Sequence[str]:
        """Return where to publish next, and where to try again."""

    async def kill(self, turn: int) -> None:
        """Kill one, and wait until another has its place."""


class Alone(NamedTuple):
    """Workers without a parent, each with an address of its own."""

    cluster: Cluster

    def urls(self, turn: int) -> Sequence[str]:
        """Return one after the other, without those that are dead."""
        workers = self.cluster.workers
        workers = [*workers[turn % WORKERS :], *workers[: turn % WORKERS]]
        return [worker.url for worker in workers if worker.is_serving]

    async def kill(self, turn: int) -> None:
        """Kill one, and put another in its place."""
        victim = self.cluster.workers[turn % WORKERS]
        await self.cluster.kill(victim)
        await self.cluster.start(victim)


class OfAParent(NamedTuple):
    """The workers of ``everywire serve``."""

    cluster: served.Cluster

    def urls(self, turn: int) -> Sequence[str]:
        """Return the address of all."""
        return [self.cluster.url]

    async def kill(self, turn: int) -> None:
        """Kill one, and wait until its parent has put another in its place."""
        pid = self.cluster.kill(turn % WORKERS)
        await self.cluster.replaced(turn % WORKERS, pid)


async def under_fire(
    range_: Range, readers: Crowd, kills: int, *, pause_s: float = 0.1, pace_s: float = 0.005
) -> list[float]:
    """Publish all the time, and kill a worker now and then; return after how long all were back."""
    loop = asyncio.get_running_loop()
    silences = []
    never_kept = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=5.0, trust_env=False, limits=never_kept) as http:
        publisher = Publisher(http)
        is_over = False

        async def keep_publishing() -> None:
            for turn in itertools.count():
                if is_over:
                    return
                await publisher.publish(range_.urls(turn))
                await asyncio.sleep(pace_s)

        publishing = asyncio.create_task(keep_publishing())
        await readers.until(lambda reader: len(reader.numbers) > 10)
        for turn in range(kills):
            before = [sum(reader.cuts.values()) for reader in readers.readers]
            killed_s = loop.time()
            await range_.kill(turn)
            last = publisher.acknowledged + 1
            await readers.until(lambda reader, last=last: len(reader.numbers) > last)  # type: ignore[misc]
            cut = [
                reader
                for reader, cuts in zip(readers.readers, before, strict=True)
                if sum(reader.cuts.values()) > cuts
            ]
            assert cut, "whoever was killed had nobody to read from it"
            silences.append(loop.time() - killed_s)
            await asyncio.sleep(pause_s)
        is_over = True
        await publishing
        await readers.have(publisher.acknowledged)
    return silences


async def test_whoever_is_killed_nothing_is_lost_doubled_or_out_of_order() -> None:
    async with cluster(WORKERS) as found, crowd(found.url, CHANNEL, READERS) as readers:
        await under_fire(Alone(found), readers, 2)
        assert sum(reader.recovered for reader in readers.readers) > 0


async def test_nor_by_the_workers_of_a_parent() -> None:
    async with served.workers(WORKERS) as found, crowd(found.url, CHANNEL, len(WIRES)) as readers:
        await under_fire(OfAParent(found), readers, 2)


async def many_publishers(found: Cluster, kills: int, publishers: int = 8) -> tuple[int, int]:
    """Publish from many sides at once while workers are killed: the log holds each acknowledged publication
    where its publisher was told, each once, and those of one publisher in its order. Returns how many there
    were, and how many had to be tried again."""
    told: dict[int, tuple[int, int]] = {}
    again = 0
    is_over = False

    async def publish(http: httpx.AsyncClient, who: int) -> None:
        nonlocal again
        for number in itertools.count():
            key = {"Idempotency-Key": f"{who}:{number}"}
            while True:
                if is_over and not number % 10:
                    return
                serving = [worker for worker in found.workers if worker.process is not None]
                url = serving[(who + number) % len(serving)].url
                try:
                    answer = await http.post(f"{url}/channels/{CHANNEL}", json=[who, number], headers=key)
                except httpx.HTTPError:
                    again += 1
                    continue
                if answer.status_code < 500:
                    break
                again += 1
                await asyncio.sleep(0.01)
            assert answer.status_code in (200, 201), answer.text
            offset = answer.json()["offset"]
            assert told.setdefault(offset, (who, number)) == (who, number)

    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as http:
        tasks = [asyncio.create_task(publish(http, who)) for who in range(publishers)]
        for turn in range(kills):
            await asyncio.sleep(0.5)
            victim = found.workers[turn % WORKERS]
            await found.kill(victim)
            await found.start(victim)
        is_over = True
        await asyncio.gather(*tasks)
        for worker in found.workers:
            log = await whole_log(http, worker.url)
            assert log == [(offset, *told[offset]) for offset in range(1, len(told) + 1)]
    for who in range(publishers):
        numbers = [number for _, its, number in log if its == who]
        assert numbers == [*range(len(numbers))]
    return len(told), again


async def whole_log(http: httpx.AsyncClient, url: str) -> list[tuple[int, int, int]]:
    """Return offset, publisher and number of all that a worker tells."""
    rows: list[tuple[int, int, int]] = []
    position = "earliest"
    while True:
        page = (await http.get(f"{url}/channels/{CHANNEL}?after={position}&limit=1000")).json()
        assert "gap" not in page, page["gap"]
        if not page["publications"]:
            return rows
        rows += [(row["offset"], *row["data"]) for row in page["publications"]]
        position = page["position"]


async def test_the_log_holds_what_was_acknowledged_to_whom_and_when() -> None:
    async with cluster(WORKERS) as found:
        count, _ = await many_publishers(found, 2)
        assert count > 100
