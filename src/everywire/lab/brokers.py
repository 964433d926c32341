"""What brokers cost: `python -m everywire.lab.brokers`.

Each round takes every broker in turn, on an engine that is started for it alone: redis-server without
persistence, nats-server with JetStream in a folder of its own, SQLite's file in such a folder. Nodes are
processes (`everywire.lab.broker_node`), except for the memory broker, which has one.

* *latency*: one node publishes at a steady rate to some channels, another reads them: the time from before
  the append to the delivery by the reader's hub.
* *throughput*: one node, and four, publish all the time with so many appends under way: publications that
  were acknowledged per second, and the CPU time that each cost the node and the engine.
* *bus*: ten nodes, a thousand channels, ten readers on each at nodes drawn at random: bytes that came over
  the bus, of those that the nodes with a reader need.
  What one node gets that reads everything (the reader of *latency*) is what they are compared with.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from everywire.lab.plan import Cell, Figure
from everywire.lab.processes import (
    NotRunning,
    cpu_s,
    end,
    free_port,
    last_words,
    start,
    wait_until_it_listens,
)
from everywire.lab.report import markdown
from everywire.lab.tools import Missing, find_engine

__all__ = ["main"]

_BROKERS: Final = ("memory", "sqlite", "redis", "nats")
_CHANNELS, _RATE, _IN_FLIGHT, _WRITERS = 50, 200.0, 256, 4
_NODES, _BUS_CHANNELS, _READERS = 10, 1_000, 10
_PATIENCE_S: Final = 60.0
_END_S: Final = 1.0
"""For the last publications to arrive."""

Row = dict[str, Any]


class _Nodes:
    """Processes of a broker's nodes, in one folder."""

    def __init__(self, url: str, folder: Path, ending: ExitStack) -> None:
        self._url = url
        self._log = folder / "nodes.log"
        self._ending = ending
        self._processes: list[subprocess.Popen[bytes]] = []

    def add(self, channels: Sequence[str], seconds: float = 0.0, **options: Any) -> None:
        """Start a node and wait until it follows its channels."""
        values = {"url": self._url, "channels": list(channels), "seconds": seconds}
        values |= {"reads": False, "rate": 0.0, "in_flight": 0, **options}
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "everywire.lab.broker_node", json.dumps(values)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._ending.callback(end, process)
        self._processes.append(process)
        self._hear(process)

    def _hear(self, process: subprocess.Popen[bytes]) -> Row:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise NotRunning(f"a node ended: {last_words(self._log)}")
        found: Row = json.loads(line)
        return found

    def run(self, writers: int) -> list[Row]:
        """Let all begin, the last ``writers`` of them to write; return what each measured."""
        for process in self._processes:
            self._tell(process)
        readers = self._processes[: len(self._processes) - writers]
        results = [self._hear(process) for process in self._processes[len(readers) :]]
        if readers:
            time.sleep(_END_S)
        for process in readers:
            self._tell(process)
        return [self._hear(process) for process in readers] + results

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()


@contextmanager
def _engine(broker: str, folder: Path) -> Iterator[tuple[str, int | None]]:
    """Start the engine of a broker in a folder; give the broker's address, and the engine's process."""
    if broker == "memory":
        yield "memory:", None
        return
    if broker == "sqlite":
        yield f"sqlite://{folder / 'log.db'}", None
        return
    port = free_port()
    options: dict[str, list[str | Path]] = {
        "redis": ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
        "nats": ["-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder / "jetstream"],
    }
    process = start([find_engine(broker), *options[broker]], core=None, log=folder / "engine.log")
    try:
        wait_until_it_listens(process, port, _PATIENCE_S)
        yield f"{broker}://127.0.0.1:{port}", process.pid
    finally:
        end(process)


def _names(count: int) -> list[str]:
    return [f"channel-{number}" for number in range(count)]


def _latency(nodes: _Nodes, broker: str, seconds: float) -> Row:
    if broker == "memory":
        nodes.add(_names(_CHANNELS), seconds, rate=_RATE, reads=True)
        [found] = nodes.run(0)
        delivered, published = found, found
    else:
        nodes.add(_names(_CHANNELS), reads=True)
        nodes.add(_names(_CHANNELS), seconds, rate=_RATE)
        delivered, published = nodes.run(1)
    if delivered["delivered"] != published["acknowledged"] or published["failed"]:
        raise NotRunning(f"not all arrived: {published} {delivered}")
    found = {name: delivered[name] for name in ("p50_ms", "p99_ms")}
    return found | {"bytes_each": delivered["bus_bytes_in"] / delivered["delivered"]}


def _throughput(nodes: _Nodes, engine: int | None, writers: int, seconds: float) -> Row:
    for _ in range(writers):
        nodes.add(_names(_CHANNELS), seconds, in_flight=_IN_FLIGHT // writers)
    before_s = cpu_s(engine) if engine is not None else 0.0
    found = nodes.run(writers)
    engine_s = cpu_s(engine) - before_s if engine is not None else 0.0
    acknowledged = sum(one["acknowledged"] for one in found)
    if not acknowledged or any(one["failed"] for one in found):
        raise NotRunning(f"publications failed: {found}")
    return {
        "per_s": acknowledged / max(one["seconds"] for one in found),
        "node_us_each": sum(one["cpu_s"] for one in found) / acknowledged * 1e6,
        "engine_us_each": engine_s / acknowledged * 1e6,
    }


def _bus(nodes: _Nodes, seconds: float) -> Row:
    source = random.Random(1)
    read: list[set[str]] = [set() for _ in range(_NODES)]
    for name in _names(_BUS_CHANNELS):
        for _ in range(_READERS):
            source.choice(read).add(name)
    for channels in read:
        nodes.add(sorted(channels), reads=True)
    nodes.add(_names(_BUS_CHANNELS), seconds, rate=_RATE)
    *readers, writer = nodes.run(1)
    # The writer goes round and round the channels.
    rounds, more = divmod(writer["acknowledged"], _BUS_CHANNELS)
    again = set(_names(more))
    needed = sum(rounds * len(channels) + len(channels & again) for channels in read)
    came = sum(one["delivered"] for one in readers)
    if writer["failed"] or came != needed:
        raise NotRunning(f"{came} deliveries, expected {needed}")
    return {"bytes_each": sum(one["bus_bytes_in"] for one in readers) / needed}


def _measure(broker: str, phase: str, seconds: float) -> Row:
    with tempfile.TemporaryDirectory(prefix="everywire-lab-") as name, ExitStack() as ending:
        folder = Path(name)
        url, engine = ending.enter_context(_engine(broker, folder))
        nodes = _Nodes(url, folder, ending)
        if phase == "latency":
            return _latency(nodes, broker, seconds)
        if phase == "bus":
            return _bus(nodes, seconds * 2)
        return _throughput(nodes, engine, 1 if phase == "one writer" else _WRITERS, seconds)


def _phases(broker: str) -> tuple[str, ...]:
    return ("latency", "one writer") + (() if broker == "memory" else ("four writers", "bus"))


def _figures(brokers: Sequence[str]) -> Iterator[Figure]:
    def cell(title: str, broker: str, phase: str, value: str, unit: str) -> Figure:
        return Figure(title=f"{broker}: {title}", over=(Cell("brokers", broker, phase, value),), unit=unit)

    for broker in brokers:
        yield cell("publish to deliver, median", broker, "latency", "p50_ms", "ms")
        yield cell("publish to deliver, 99 of 100", broker, "latency", "p99_ms", "ms")
        for phase in _phases(broker)[1:3]:
            yield cell(f"publications per second, {phase}", broker, phase, "per_s", "/s")
            yield cell(f"CPU per publication, {phase}, nodes", broker, phase, "node_us_each", "µs")
            if broker in ("redis", "nats"):
                yield cell(f"CPU per publication, {phase}, engine", broker, phase, "engine_us_each", "µs")
        if broker != "memory":
            yield cell("bus bytes for each node that reads a publication", broker, "bus", "bytes_each", "B")
            yield Figure(
                title=f"{broker}: of what one node gets that reads everything",
                over=(Cell("brokers", broker, "bus", "bytes_each"),),
                under=(Cell("brokers", broker, "latency", "bytes_each"),),
                must=1.2,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table; 3 when an engine is missing, 1 when a run failed."""
    parser = argparse.ArgumentParser(prog="everywire.lab.brokers", description="Measure what brokers cost.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="interleaved rounds (3)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each measurement (5)")
    parser.add_argument("--broker", action="append", choices=_BROKERS, help="repeatable; all by default")
    args = parser.parse_args(arguments)
    chosen = args.broker or list(_BROKERS)
    try:
        for broker in {"redis", "nats"} & set(chosen):
            find_engine(broker)
    except Missing as missing:
        print(f"everywire.lab: {missing}", file=sys.stderr)
        return 3
    rows: list[Row] = []
    for number in range(1, args.rounds + 1):
        for broker in chosen:
            for phase in _phases(broker):
                print(f"round {number}/{args.rounds}: {broker}, {phase}", file=sys.stderr)
                row = {"round": number, "scenario": "brokers", "subject": broker, "phase": phase}
                try:
                    rows.append(row | _measure(broker, phase, args.seconds))
                except NotRunning as error:
                    rows.append(row | {"phase": "failed", "reason": str(error)})
    print(markdown(rows, tuple(_figures(chosen)), has_runs=False))
    return 1 if any(row["phase"] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
