"""What one NATS carries: `python -m tests.brokers.nats_bench` starts one, and prints what it measured.

Eight processes write to one channel, as attempts that the engine compares with what it has (what the broker
does), and blindly, as it would be if the engine's sequence were the offset.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nats

from everywire.brokers.base import Appended
from everywire.brokers.nats.broker import NatsBroker
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import SettingsTable
from everywire.testing.broker_driving import RecordingSink
from tests.engines import nats_server

SECONDS = 4.0
DATA = b"x" * 200
WRITE, BLIND, KEYS = "compare and set", "blind", "with keys"


async def write(url: str, channel: str, waiting: int, start: float, how: str) -> None:
    """Keep so many appends waiting, each begun after one was acknowledged; print what was measured."""
    broker = NatsBroker.from_url(url, Limits(), SettingsTable())
    await broker.start(RecordingSink())
    loop = asyncio.get_running_loop()
    client = await nats.connect(url.partition("?")[0])
    took: list[float] = []
    await asyncio.sleep(start - time.time())
    end = loop.time() + SECONDS

    async def one(number: int) -> None:
        while loop.time() < end:
            began = loop.time()
            if how == BLIND:
                await client.request("blind.x", DATA, timeout=5)
            else:
                done: asyncio.Future[Any] = loop.create_future()
                key = f"{broker.node}-{number}-{len(took)}-{began}" if how == KEYS else None
                broker.log.append([Draft(channel, DATA, key=key)], done.set_result)
                assert isinstance((await done)[0], Appended)
            took.append(1000 * (loop.time() - began))

    await asyncio.gather(*(one(number) for number in range(waiting)))
    figures = broker.statistics()
    print(json.dumps([len(took), took[::50], max(took), figures["batches"], figures["conflicts"]]))
    await client.close()
    await broker.close()


def measure(port: int, writers: int, waiting: int, channels: int, how: str) -> None:
    name = f"bench{writers}-{waiting}-{channels}-{how.replace(' ', '-')}"
    start = time.time() + 5
    address = f"nats://127.0.0.1:{port}?prefix={name}"
    command = [sys.executable, "-m", __spec__.name, address]
    children = [
        subprocess.Popen(
            [*command, f"c{index % channels}", str(waiting), str(start), how], stdout=subprocess.PIPE
        )
        for index in range(writers)
    ]
    found = [json.loads(child.communicate()[0]) for child in children]
    took = sorted(one for part in found for one in part[1])
    counts = [part[0] for part in found]
    messages, conflicts = sum(part[3] for part in found), sum(part[4] for part in found)
    print(
        f"{writers} writers, {waiting:2} waiting each, {channels} channels, {how}: "
        f"{sum(counts) / SECONDS:,.0f}/s "
        f"({min(counts) / SECONDS:,.0f} to {max(counts) / SECONDS:,.0f} each), "
        f"p50 {took[len(took) // 2]:.1f} ms, p99 {took[len(took) * 99 // 100]:.0f} ms, "
        f"max {max(part[2] for part in found):.0f} ms, {messages / SECONDS:,.0f} messages/s, "
        f"{conflicts / max(messages, 1):.2f} retries each",
        flush=True,
    )


async def make_blind(port: int) -> None:
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    await client.jetstream().add_stream(name="blind", subjects=["blind.>"])
    await client.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder)) as engine:
        asyncio.run(make_blind(engine.port))
        for writers, waiting, channels, how in (
            (1, 1, 1, WRITE),
            (8, 1, 1, BLIND),
            (8, 1, 1, WRITE),
            (8, 50, 1, BLIND),
            (8, 50, 1, WRITE),
            (8, 50, 1, KEYS),
            (8, 50, 8, WRITE),
        ):
            measure(engine.port, writers, waiting, channels, how)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]))
    else:
        main()
