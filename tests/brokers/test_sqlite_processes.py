"""The sqlite broker in several processes: nothing lost, doubled or out of order, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path
from random import Random

import pytest

from everywire.brokers.base import Appended
from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.brokers.sqlite.turns import Turns
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.testing.broker_driving import Call, RecordingSink, append, heads, publish, read
from tests.brokers.sqlite_nodes import Child, acknowledged, live_node, sqlite_broker, until

pytestmark = pytest.mark.xdist_group("engines")


async def log_of(broker: SqliteBroker, channel: str) -> list[tuple[int, str]]:
    """Read a whole log."""
    found: list[tuple[int, str]] = []
    while True:
        page = await read(broker, channel, found[-1][0] if found else 0, 1_000)
        if not page.publications:
            return found
        found += [(one.offset, one.data.decode()) for one in page.publications]


def is_stopped(child: Child) -> bool:
    """Say whether all threads of a process have been stopped."""
    threads = Path(f"/proc/{child.process.pid}/task").iterdir()
    return all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in threads)


async def test_what_processes_publish_is_heard_in_order_by_all_and_each_has_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as one, live_node(path) as other:
        readers = [await one.subscribe("a"), await other.subscribe("a")]
        children = [
            await Child.start(path, channel="a", name=f"w{at}", begin=0, count=1_000, open=16)
            for at in range(4)
        ]
        assert [await child.ended() for child in children] == [0] * 4
        for reader in readers:
            await until(lambda reader=reader: len(reader.publications()) == 4_000)
            assert not reader.gaps()
        told = [(one.offset, one.data.decode()) for one in readers[0].publications()]
        assert told == await log_of(one.broker, "a")
        assert [place for place, _ in told] == list(range(1, 4_001))
        assert told == [(offset, data) for _, offset, data in acknowledged(children)]
        for name in ("w0", "w1", "w2", "w3"):
            numbers = [int(data[3:]) for _, data in told if data.startswith(name)]
            assert numbers == list(range(1_000)), "one process's publications changed places"
        assert one.broker.statistics()["hints_received"] > 0


@pytest.mark.parametrize("open_at_a_time", [1, 32])
async def test_processes_killed_at_any_moment_lose_and_double_nothing(
    tmp_path: Path, open_at_a_time: int
) -> None:
    path = tmp_path / "e.sqlite3"
    random = Random(open_at_a_time)
    gone: list[Child] = []
    nexts = dict.fromkeys(("x", "y", "z"), 0)

    async def one_writer(name: str) -> None:
        for _ in range(6):
            child = await Child.start(
                path, channel="a", name=name, begin=nexts[name], count=1_000_000, open=open_at_a_time
            )
            gone.append(child)
            await until(lambda child=child: child.acknowledged)
            await asyncio.sleep(random.random() * 0.3)
            await child.kill()
            known = {int(data.rpartition("-")[2]) for _, _, data in child.acknowledged}
            # Whoever goes on publishes again what was not acknowledged, under the same key.
            while nexts[name] in known:
                nexts[name] += 1

    async with live_node(path) as node:
        reader = await node.subscribe("a")
        await asyncio.gather(*[one_writer(name) for name in nexts])
        log = await log_of(node.broker, "a")
        assert [offset for offset, _ in log] == list(range(1, len(log) + 1))
        kept = dict(log)
        told = acknowledged(gone)
        assert len(told) > 50
        assert len({epoch for epoch, _, _ in told}) == 1
        assert [one for one in told if kept.get(one[1]) != one[2]] == [], "acknowledged and lost"
        assert len(set(kept.values())) == len(kept), "one publication stands twice"
        await until(lambda: len(reader.publications()) == len(log))
        assert not reader.gaps()
        assert node.broker.health().ready


async def test_what_a_killed_process_watched_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path) as broker:
        child = await Child.start(path, channel="a", name="w", begin=0, count=1_000_000, open=1)
        await until(lambda: child.acknowledged)
        (node,) = broker._bus.nodes()
        assert broker._bus.is_alive(node)
        await broker._writer.thread.ask(
            lambda at: at.connection.execute("insert into watches values ('a', ?)", (node,))
        )
        await child.kill()
        await publish(broker, "a")  # a hint that nobody takes shows who is gone

        def watches() -> object:
            return broker._reader.thread.ask(
                lambda view: view.connection.execute("select count(*) from watches").fetchone()[0]
            )

        async with asyncio.timeout(30):
            while await watches():
                await asyncio.sleep(0.01)
        assert broker._bus.nodes() == []
        assert os.listdir(tmp_path / "e.sqlite3-nodes") == [f"{broker.node}.socket"]


async def test_all_hints_lost_only_delays(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as one, live_node(path) as other:
        one.broker._bus.hint = lambda *_: None  # type: ignore[method-assign]
        reader = await other.subscribe("a", "b")
        for number in range(20):
            await publish(one.broker, "ab"[number % 2], b"%d" % number)
        await until(lambda: len(reader.publications()) == 20)
        assert not reader.gaps()
        assert other.broker.statistics()["hints_received"] == 0


async def test_heads_are_told_when_hints_of_the_channel_will_come(tmp_path: Path) -> None:
    """Else what is published between the two would only be found by the next comparison."""
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path) as broker:
        await publish(broker, "b")
        turns = Turns(path)
        turns.take()
        broker.log.watch("a")
        asked, other = Call(), Call()
        broker.log.heads(["b", "a"], asked)
        broker.log.heads(["b"], other)
        assert (await other.result())["b"].last == 1
        assert not asked.results
        turns.leave()
        turns.close()
        assert set(await asked.result()) == {"a", "b"}
        assert await broker._reader.thread.ask(
            lambda view: view.connection.execute("select channel, node from watches").fetchall()
        ) == [("a", broker.node)]


async def test_a_hint_reaches_only_nodes_that_watch(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    sinks = [RecordingSink() for _ in range(3)]
    async with (
        sqlite_broker(path, sink=sinks[0]) as one,
        sqlite_broker(path, sink=sinks[1]) as two,
        sqlite_broker(path, sink=sinks[2]) as three,
    ):
        two.log.watch("a")
        await heads(two, "a")  # answered when it is registered
        await publish(one, "a", b"small")
        await until(lambda: sinks[1].last("a") == 1)
        (hint,) = sinks[1].hints
        assert hint.publications is not None
        assert (hint.previous, hint.publications[0].data) == (0, b"small")
        await publish(one, "a", bytes(100_000))
        await until(lambda: sinks[1].last("a") == 2)
        assert sinks[1].hints[-1].publications is None, "what is large goes by reference"
        assert [one.statistics()["hints_sent"], three.statistics()["hints_received"]] == [2, 0]
        two.log.unwatch("a")
        await heads(two, "a")
        await publish(one, "a")
        await publish(three, "a")
        assert one.statistics()["hints_sent"] == 2
        assert not sinks[0].hints
        assert not sinks[2].hints


async def test_a_process_that_is_stopped_for_a_while_loses_nothing(tmp_path: Path) -> None:
    path, random = tmp_path / "e.sqlite3", Random(3)
    limits = Limits(canary_interval_s=0.1, canary_timeout_s=0.5, broker_timeout_s=0.5)
    async with live_node(path, limits=limits) as node:
        reader = await node.subscribe("a")
        child = await Child.start(path, channel="a", name="w", begin=0, count=1_000_000, open=8)
        own: list[tuple[str, int, str]] = []
        for number in range(60):
            if number % 10 == 0:
                await until(lambda: child.acknowledged)
                await asyncio.sleep(random.random() * 0.1)
                child.process.send_signal(signal.SIGSTOP)
            data = f"own-{number}"
            (result,) = await append(node.broker, Draft("a", data.encode(), key=data))
            # Only when it was stopped in the middle of its turn, others cannot have theirs, and are told so.
            assert isinstance(result, Appended | BrokerError)
            if isinstance(result, Appended):
                own.append((result.epoch, result.offset, data))
            if number % 10 == 5:
                child.process.send_signal(signal.SIGCONT)
        await child.kill()
        await until(lambda: node.broker.health().ready)
        log = dict(await log_of(node.broker, "a"))
        told = sorted([*own, *child.acknowledged], key=lambda one: one[1])
        assert [one for one in told if log.get(one[1]) != one[2]] == []
        assert own
        assert list(log) == list(range(1, len(log) + 1))
        await until(lambda: len(reader.publications()) == len(log))
        assert not reader.gaps()


async def test_a_forked_process_keeps_nothing_of_its_parents_node(tmp_path: Path) -> None:
    """It inherits descriptors, and with them locks and a socket that would seem alive."""
    path = tmp_path / "e.sqlite3"
    async with live_node(path) as node:
        program = (
            "import asyncio, os, sys, time\n"
            "from everywire.brokers.sqlite.broker import SqliteBroker\n"
            "from everywire.testing.broker_driving import RecordingSink\n"
            "async def main():\n"
            "    broker = SqliteBroker(sys.argv[1])\n"
            "    await broker.start(RecordingSink())\n"
            "    broker._writer.turns.take()\n"
            "    child = os.fork()\n"
            "    if child:\n"
            "        print(child, flush=True)\n"
            "    os.close(1)\n"
            "    time.sleep(60)\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        orphan = int(await process.stdout.readline())
        try:
            (other,) = node.broker._bus.nodes()
            process.kill()
            await process.wait()
            await publish(node.broker, "a")
            assert not node.broker._bus.is_alive(other)
        finally:
            os.kill(orphan, signal.SIGKILL)


async def test_a_file_removed_under_several_processes_is_begun_anew_by_all(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path) as broker:
        child = await Child.start(path, channel="a", name="w", begin=0, count=1_000_000, open=4)
        await until(lambda: len(child.acknowledged) > 300)
        turns = Turns(path)
        turns.take()  # so that it is not stopped in its own
        child.process.send_signal(signal.SIGSTOP)
        await until(lambda: is_stopped(child))
        path.unlink()
        turns.leave()
        turns.close()
        before = len(child.acknowledged)
        for number in range(300):
            await publish(broker, f"c{number % 7}", bytes(1_000))
        child.process.send_signal(signal.SIGCONT)
        await until(lambda: len(child.acknowledged) > before + 300)
        await child.kill()
        epoch = (await heads(broker, "a"))["a"].epoch
        log = dict(await log_of(broker, "a"))
        later = [one for one in child.acknowledged if one[0] == epoch]
        assert len(later) > 100
        assert [one for one in later if log.get(one[1]) != one[2]] == []
        assert list(log) == list(range(1, len(log) + 1))
        checked = sqlite3.connect(path)
        assert checked.execute("pragma integrity_check").fetchone() == ("ok",)
        checked.close()
