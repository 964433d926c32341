"""Measures the sqlite broker: how fair turns are, and what appends cost. Prints the tables of docs/sqlite.md.

python tools/sqlite_figures.py
"""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from everywire.brokers.base import Appended
from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.brokers.sqlite.turns import Turns
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.testing.broker_driving import RecordingSink

CHANNELS = 50
SECONDS = 4.0
DATA = b"x" * 128
TABLES = (
    "create table heads (channel integer primary key, last integer not null);"
    "create table log (channel, offset, data, primary key (channel, offset)) without rowid;"
)


def lock_of(way: str, path: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return how to begin and end a turn."""
    if way == "turns":
        turns = Turns(Path(path))
        return turns.take, turns.leave
    if way == "flock":
        handle = os.open(path + "-lock", os.O_RDWR | os.O_CREAT, 0o600)
        return lambda: fcntl.flock(handle, fcntl.LOCK_EX), lambda: fcntl.flock(handle, fcntl.LOCK_UN)
    return lambda: None, lambda: None


def write(way: str, path: str, size: int, begin_s: float, results: Any) -> None:
    """Commit one transaction after the other; tell how long each took, the wait for its turn included."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("pragma synchronous = normal")
    take, leave = lock_of(way, path)
    took: list[float] = []
    time.sleep(max(0.0, begin_s - time.time()))
    while time.time() < begin_s + SECONDS:
        began_s = time.perf_counter()
        take()
        connection.execute("begin immediate")
        for number in range(size):
            channel = number % CHANNELS
            (last,) = connection.execute(
                "insert into heads values (?, 1) on conflict do update set last = last + 1 returning last",
                (channel,),
            ).fetchone()
            connection.execute("insert into log values (?, ?, ?)", (channel, last, DATA))
        connection.execute("commit")
        leave()
        took.append(time.perf_counter() - began_s)
    results.put(took)


async def publish(path: str, outstanding: int, has_readers: bool, begin_s: float, results: Any) -> None:
    """Keep so many appends under way; tell how long each took until it was acknowledged."""
    broker = SqliteBroker(path, Limits(broker_timeout_s=30.0))
    await broker.start(RecordingSink())
    if has_readers:
        for number in range(CHANNELS):
            broker.log.watch(f"c{number}")
    await asyncio.sleep(max(0.0, begin_s - time.time()))
    took: list[float] = []

    async def go_on(first: int) -> None:
        number = first
        while time.time() < begin_s + SECONDS:
            number += 1
            done: asyncio.Future[Sequence[Appended | EverywireError]] = (
                asyncio.get_running_loop().create_future()
            )
            began_s = time.perf_counter()
            broker.log.append([Draft(f"c{number % CHANNELS}", DATA)], done.set_result)
            (result,) = await done
            assert isinstance(result, Appended), result
            took.append(time.perf_counter() - began_s)

    await asyncio.gather(*[go_on(first) for first in range(outstanding)])
    results.put(took)
    await broker.close()


def run_publisher(*arguments: Any) -> None:
    """Be one process that publishes."""
    asyncio.run(publish(*arguments))


def measure(target: Callable[..., None], processes: int, *arguments: Any, unit: int = 1) -> str:
    """Run processes; return the cells of a row: per second, p50, p99, max in milliseconds, shares."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    begin_s = time.time() + 2.0
    running = [context.Process(target=target, args=(*arguments, begin_s, results)) for _ in range(processes)]
    for process in running:
        process.start()
    found = [results.get() for _ in running]
    for process in running:
        process.join()
    took = sorted(one for part in found for one in part)
    shares = sorted(round(100 * len(part) / len(took)) for part in found)
    times = " | ".join(
        f"{1000 * one:.2f}" for one in (took[len(took) // 2], took[len(took) * 99 // 100], took[-1])
    )
    return f"{len(took) * unit / SECONDS:,.0f} | {times} | {', '.join(map(str, shares))} |"


def main() -> None:
    """Print the tables."""
    print("| way | writers | appends per transaction | appends/s | p50 ms | p99 | max | shares in % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for way in ("plain", "flock", "turns"):
        for size in (1, 20, 100):
            with tempfile.TemporaryDirectory() as directory:
                path = f"{directory}/figures.sqlite3"
                with sqlite3.connect(path) as connection:
                    connection.execute("pragma journal_mode = wal")
                    connection.executescript(TABLES)
                connection.close()
                print(f"| {way} | 4 | {size} | {measure(write, 4, way, path, size, unit=size)}", flush=True)
    print()
    print("| processes | appends under way each | read | appends/s | p50 ms | p99 | max | shares in % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for processes, outstanding, has_readers in (
        (1, 1, False), (1, 64, False), (4, 1, False), (4, 64, False), (4, 64, True)
    ):  # fmt: skip
        with tempfile.TemporaryDirectory() as directory:
            row = measure(run_publisher, processes, f"{directory}/e.sqlite3", outstanding, has_readers)
            print(f"| {processes} | {outstanding} | {'by all' if has_readers else 'no'} | {row}", flush=True)


if __name__ == "__main__":
    main()
