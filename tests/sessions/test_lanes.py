"""Lanes, passes and tasks by themselves."""

from __future__ import annotations

import asyncio
import logging
from uuid import uuid4

import pytest

from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import Forbidden
from everywire.sessions.lanes import IN_ORDER, Lane, Lanes
from everywire.sessions.passes import Passes
from everywire.sessions.tasks import Tasks


class Work:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.state = "waiting"

    async def __call__(self) -> None:
        self.state = "running"
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.state = "cancelled"
            raise
        self.state = "done"


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_lane_is_in_order() -> None:
    tasks = Tasks()
    freed: list[int] = []
    lanes = Lanes(tasks, lambda: freed.append(lanes.busy))
    works = [Work() for _ in range(4)]
    for work in works:
        lanes.put(IN_ORDER, work)
    await turns()
    assert [work.state for work in works] == ["running", "waiting", "waiting", "waiting"]
    works[1].gate.set()
    await turns()
    assert works[1].state == "waiting"
    works[0].gate.set()
    await turns()
    assert [work.state for work in works] == ["done", "done", "running", "waiting"]
    for work in works:
        work.gate.set()
    await turns()
    assert lanes.busy == 0 and freed == [3, 2, 1, 0] and len(tasks) == 0
    lanes.put(IN_ORDER, again := Work())
    await turns()
    assert again.state == "running"
    await tasks.close()
    assert again.state == "cancelled"


async def test_lanes_know_nothing_of_each_other() -> None:
    tasks = Tasks()
    lanes = Lanes(tasks)
    works = {key: Work() for key in "abc"}
    for key, work in works.items():
        lanes.put(Lane(key), work)
    lanes.put(Lane("a"), behind := Work())
    await turns()
    assert [work.state for work in works.values()] == ["running"] * 3 and behind.state == "waiting"
    await tasks.close()


@pytest.mark.parametrize("concurrency", [0, 1, 3])
async def test_so_many_at_once(concurrency: int) -> None:
    tasks = Tasks()
    lanes = Lanes(tasks)
    works = [Work() for _ in range(5)]
    for work in works:
        lanes.put(Lane("x", concurrency), work)
    await turns()
    assert [work.state for work in works].count("running") == max(concurrency, 1)
    await tasks.close()


async def test_work_that_fails_is_logged_and_the_next_has_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ValueError("boom")

    tasks = Tasks()
    lanes = Lanes(tasks)
    lanes.put(IN_ORDER, broken)
    lanes.put(IN_ORDER, work := Work())
    with caplog.at_level(logging.ERROR):
        await turns()
    assert work.state == "running" and "boom" in caplog.text
    await tasks.close()


async def test_nothing_is_left_of_lanes_that_were_closed() -> None:
    tasks = Tasks()
    freed: list[int] = []
    left: list[int] = []
    lanes = Lanes(tasks, lambda: freed.append(1))
    cancelled, kept = [Work() for _ in range(3)], [Work() for _ in range(2)]
    for work in cancelled:
        lanes.put(Lane("c", is_cancelled=True), work, 10)
    for work in kept:
        lanes.put(Lane("k"), work, 100)
    await turns()
    assert tasks.held_bytes == 230
    lanes.close(lambda: left.append(tasks.held_bytes))
    lanes.close()
    assert lanes.busy == 3 and tasks.held_bytes == 210
    await turns()
    assert [work.state for work in cancelled] == ["cancelled", "waiting", "waiting"] and lanes.busy == 2
    assert left == []
    for work in kept:
        work.gate.set()
    await turns()
    assert [work.state for work in kept] == ["done", "done"]
    assert lanes.busy == 0 and not lanes._tracks and freed == [] and len(tasks) == 0
    assert left == [0]
    Lanes(tasks).close(lambda: left.append(1))
    assert left == [0, 1]


async def test_closing_waits_a_while_before_it_cancels() -> None:
    tasks = Tasks()
    quick, stuck = Work(), Work()
    for work in (quick, stuck):
        tasks.start(work(), "work")
    asyncio.get_running_loop().call_later(0.01, quick.gate.set)
    await tasks.close(0.1)
    assert (quick.state, stuck.state) == ("done", "cancelled")
    await tasks.close(0.1)


def test_a_pass_says_whose_it_is() -> None:
    passes = Passes()
    client = str(uuid4())
    text = passes.issue(client, "ann")
    assert text == passes.issue(client, "ann") and text.isascii() and "=" not in text
    found = passes.read(text)
    assert found is not None and found.client == client
    passes.check(found, "ann")
    for other in ("", "bob", "ann "):
        with pytest.raises(Forbidden):
            passes.check(found, other)
    nobodys = passes.read(passes.issue(client, ""))
    assert nobodys is not None
    passes.check(nobodys, "")
    assert Passes().read(text) is None


def test_a_pass_that_was_touched_is_none() -> None:
    passes = Passes(b"s" * 32)
    text = passes.issue(str(uuid4()), "ann")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    genuine = passes.read(text)
    for index, character in enumerate(text):
        other = alphabet[(alphabet.index(character) + 16) % 64]
        touched = passes.read(text[:index] + other + text[index + 1 :])
        assert touched is None or touched == genuine, "only bits that say nothing may differ"
    for bad in (text[:-1], text + "AAAA", text[1:], "", " ", "é" * 10, "!" * 54):
        assert passes.read(bad) is None


async def test_nodes_of_a_store_read_each_others_passes() -> None:
    broker = MemoryBroker()
    first, second, stranger = Passes(), Passes(), Passes()
    await first.agree(broker.store)
    await second.agree(broker.store)
    client = str(uuid4())
    found = second.read(first.issue(client, "ann"))
    assert found is not None and found.client == client
    assert stranger.read(first.issue(client, "ann")) is None
