"""Lists of members: what is known better than by the leases, and who shares a reading."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest

from everywire.brokers.base import Lease
from everywire.core.errors import BrokerError
from everywire.sessions.listing import Listing
from everywire.sessions.membership import held


class SlowLeases:
    """Leases whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Mapping[str, bytes]]] = []

    async def members(self, group: str) -> Mapping[str, bytes]:
        answer: asyncio.Future[Mapping[str, bytes]] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        return await answer

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None: ...
    async def drop(self, group: str, member: str) -> None: ...
    async def put_many(self, leases: Sequence[Lease]) -> None: ...
    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None: ...


class Bench:
    """A listing and what it asks."""

    def __init__(self) -> None:
        self.leases = SlowLeases()
        self.unwritten: dict[str, bytes | None] = {}
        self.sure: dict[str, bytes] = {}
        self.lists: list[dict[str, bytes]] = []
        self.dead: list[str] = []
        self.asked_of: list[list[str]] = []
        self.listing = Listing(
            self.leases,
            self.ended,
            lambda channel: self.unwritten,
            lambda channel: self.sure,
            lambda channel, found: self.lists.append(dict(found)),
        )

    async def ended(self, names: Collection[str]) -> list[str]:
        self.asked_of.append(sorted(names))
        return self.dead

    def ask(self) -> asyncio.Task[Mapping[str, bytes]]:
        return asyncio.ensure_future(self.listing.read("room"))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_happens_on_the_way_is_applied() -> None:
    bench = Bench()
    bench.unwritten = {"here": b"1", "left": None}
    bench.sure = {"open": b"2"}
    task = bench.ask()
    await turns()
    bench.unwritten = {}
    bench.listing.moved("room", "late", b"3")
    bench.listing.moved("room", "away", None)
    bench.listing.moved("hall", "old", None)
    bench.leases.asked[0].set_result({"old": b"0", "left": b"0", "away": b"0"})
    await turns()
    assert await task == {"old": b"0", "here": b"1", "open": b"2", "late": b"3"} == bench.lists[0]


async def test_what_happens_before_the_list_is_handed_over_is_applied() -> None:
    bench = Bench()
    task = bench.ask()
    await turns()
    bench.leases.asked[0].set_result({"a": b"1", "b": b"2"})
    while not bench.lists:
        await asyncio.sleep(0)
    assert not task.done()
    bench.listing.moved("room", "a", None)
    bench.listing.moved("room", "c", b"3")
    assert await task == {"b": b"2", "c": b"3"}
    bench.listing.moved("room", "b", None)  # nobody waits for it any more
    assert not bench.listing._readings


async def test_who_asks_while_the_leases_are_read_gets_the_next_reading() -> None:
    bench = Bench()
    early = [bench.ask() for _ in range(3)]
    await turns()
    late = [bench.ask() for _ in range(3)]
    await turns()
    assert len(bench.leases.asked) == 1  # one at a time
    bench.leases.asked[0].set_result({"a": b"1"})
    await turns()
    assert [await task for task in early] == [{"a": b"1"}] * 3
    bench.leases.asked[1].set_result({"a": b"1", "b": b"2"})
    assert [await task for task in late] == [{"a": b"1", "b": b"2"}] * 3
    assert len(bench.leases.asked) == 2
    assert not bench.listing._readings


async def test_a_failure_is_everybodys_and_the_next_reading_succeeds() -> None:
    bench = Bench()
    tasks = [bench.ask(), bench.ask()]
    await turns()
    later = bench.ask()
    await turns()
    bench.leases.asked[0].set_exception(BrokerError("away"))
    for task in tasks:
        with pytest.raises(BrokerError):
            await task
    await turns()
    bench.leases.asked[1].set_result({})
    assert await later == {}
    assert not bench.listing._readings


async def test_who_gives_up_takes_the_reading_from_nobody() -> None:
    bench = Bench()
    tasks = [bench.ask(), bench.ask()]
    await turns()
    tasks[0].cancel()
    await turns()
    bench.leases.asked[0].set_result({"a": b"1"})
    assert await tasks[1] == {"a": b"1"}
    alone = bench.ask()
    await turns()
    alone.cancel()
    await turns()
    bench.leases.asked[1].set_exception(BrokerError("away"))
    await turns()
    assert not bench.listing._readings
    forgotten = bench.ask()
    await turns()
    await bench.listing.close()
    with pytest.raises(asyncio.CancelledError):
        await forgotten
    assert not bench.listing._readings


async def test_members_of_nodes_that_ended_are_none() -> None:
    bench = Bench()
    bench.dead = ["two"]
    task = bench.ask()
    await turns()
    leases = {
        "ann": held("one", b'{"client":"ann"}'),
        "ben": held("two", b'{"client":"ben"}'),
        "col": b'{"client":"col","conn_info":\n1}',
    }
    bench.leases.asked[0].set_result(leases)
    assert await task == {"ann": b'{"client":"ann"}', "col": b'{"client":"col","conn_info":\n1}'}
    assert bench.asked_of == [["one", "two"]]
