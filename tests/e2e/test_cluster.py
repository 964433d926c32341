"""Four workers over SQLite, and readers on every wire: all hear all that was acknowledged, whoever dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

import httpx
import pytest

from tests.e2e.cluster import Cluster, cluster
from tests.e2e.crowd import WIRES, Crowd, crowd
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


async def under_fire(found: Cluster, readers: Crowd, kills: int, pause_s: float) -> list[float]:
    """Publish all the time, and kill a worker now and then; return how long its readers heard nothing."""
    loop = asyncio.get_running_loop()
    silences = []
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as http:
        publisher = Publisher(http)
        is_over = False

        async def keep_publishing() -> None:
            for turn in itertools.count():
                if is_over:
                    return
                workers = [*found.workers[turn % WORKERS :], *found.workers[: turn % WORKERS]]
                await publisher.publish([worker.url for worker in workers if worker.process is not None])
                await asyncio.sleep(0.005)

        publishing = asyncio.create_task(keep_publishing())
        await readers.until(lambda reader: len(reader.numbers) > 10)
        for turn in range(kills):
            victim = found.workers[turn % WORKERS]
            before = [sum(reader.cuts.values()) for reader in readers.readers]
            killed_s = loop.time()
            await found.kill(victim)
            await found.start(victim)
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
        await under_fire(found, readers, 2, 0.1)
        assert sum(reader.recovered for reader in readers.readers) > 0
