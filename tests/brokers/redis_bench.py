"""What one Redis carries: `python -m tests.brokers.redis_bench` starts one, and prints what it measured."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import uvloop

from everywire.core.limits import Limits
from everywire.core.publication import Draft
from tests.brokers.redis_nodes import Node, nodes
from tests.engines import redis_server

APPENDS = 20_000
DELIVERIES = 2_000
DATA = b"x" * 100


async def write(node: Node, channel: str, count: int) -> None:
    """Append so often, each after the one before was acknowledged."""
    for _ in range(count):
        done: asyncio.Future[object] = node.loop.create_future()
        node.broker.log.append([Draft(channel, DATA)], done.set_result)
        await done


async def appends(node: Node) -> None:
    for writers, is_one_channel in ((1, True), (8, True), (8, False), (64, False)):
        count = APPENDS // 4 // writers if writers == 1 else APPENDS // writers
        began = time.perf_counter()
        channels = ["a" if is_one_channel else f"w{number}" for number in range(writers)]
        await asyncio.gather(*(write(node, channel, count) for channel in channels))
        rate = writers * count / (time.perf_counter() - began)
        print(f"{writers:3} writers, {'one channel' if is_one_channel else 'a channel each'}: {rate:,.0f}/s")


async def latency(publisher: Node, reader: Node, what: str) -> None:
    told = (await reader.read(what)).told
    found = []
    for number in range(DELIVERIES):
        heard, began = len(told), time.perf_counter()
        publishing = asyncio.ensure_future(publisher.publish(b"%d" % number, what))
        while len(told) == heard:
            await asyncio.sleep(0)
        found.append(1000 * (time.perf_counter() - began))
        await publishing
        await asyncio.sleep(0.001)
    found.sort()
    p50, p99 = found[len(found) // 2], found[len(found) * 99 // 100]
    print(f"publish to deliver, {what}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


async def measure(url: str) -> None:
    async with nodes(url, 2, Limits()) as (one, two):
        await appends(one)
        await latency(one, one, "one-node")
        await latency(one, two, "two-nodes")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as engine:
        uvloop.run(measure(f"redis://127.0.0.1:{engine.port}/0"))


if __name__ == "__main__":
    main()
