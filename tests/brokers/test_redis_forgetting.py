"""Forgetting and making channels again, on several nodes at once, and what only one of many may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random

import pytest

from everywire.brokers.base import Appended
from everywire.brokers.redis.broker import RedisBroker
from everywire.core.errors import BrokerBusy, BrokerError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import SettingsTable
from everywire.testing.broker_driving import RecordingSink, StoreClock, append, heads, publish, until
from tests.engines import Engine, redis_command, redis_server

pytestmark = pytest.mark.xdist_group("engines")

Make = Callable[..., "asyncio.Future[RedisBroker]"]
_count = iter(range(1_000_000))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with redis_server(tmp_path_factory.mktemp("redis")) as engine:
        yield engine


@pytest.fixture
async def node(server: Engine) -> AsyncIterator[Make]:
    """Make nodes of one store that share a clock."""
    url = f"redis://127.0.0.1:{server.port}/0?prefix=f{next(_count)}"
    clock = StoreClock()
    made: list[RedisBroker] = []

    async def make(limits: Limits | None = None) -> RedisBroker:
        broker = RedisBroker(url, limits or Limits(), SettingsTable(), clock_ms=clock)
        broker.clock = clock  # type: ignore[attr-defined]
        made.append(broker)
        await broker.start(RecordingSink())
        return broker

    yield lambda *arguments: asyncio.ensure_future(make(*arguments))
    for broker in made:
        await broker.close()


async def forget(broker: RedisBroker, channel: str) -> None:
    broker.clock.passes(301)  # type: ignore[attr-defined]
    for _ in range(1_000):
        broker.sweep()
        if not (await heads(broker, channel))[channel].exists:
            return
    raise AssertionError("it was never forgotten")


async def test_who_read_the_floor_before_a_channel_was_forgotten_cannot_make_it(node: Make) -> None:
    """A node that stood still between its leave to make a channel and the making of it."""
    slow, quick = await node(), await node()
    make, stale = slow.log._make, []

    async def stand_still(lane):  # type: ignore[no-untyped-def]
        leave = await make(lane)
        stale.append(leave)
        if len(stale) == 1:
            await append(quick, *[Draft("a", b"1")] * 50)
            await forget(quick, "a")
        return leave

    slow._lanes.make = stand_still
    assert (await publish(slow, "a")).offset == 51
    assert [int(floor) for floor, _ in stale] == [0, 50]


async def test_channels_made_and_forgotten_by_several_nodes_never_use_an_offset_twice(node: Make) -> None:
    limits = Limits(max_channels=6)
    brokers = [await node(limits) for _ in range(3)]
    random = Random(5)
    seen: set[tuple[str, str, int]] = set()
    last: dict[str, int] = {}
    busy = 0

    async def work(broker: RedisBroker) -> None:
        nonlocal busy
        for _ in range(20):
            channel = f"c{random.randrange(12)}"
            (result,) = await append(broker, Draft(channel, b"1"))
            if isinstance(result, Appended):
                place = (channel, result.epoch, result.offset)
                assert place not in seen, "an offset was used twice"
                seen.add(place)
                last[channel] = max(last.get(channel, 0), result.offset)
            else:
                assert isinstance(result, BrokerBusy)
                busy += 1
            broker.sweep()

    for _ in range(15):
        await asyncio.gather(*(work(broker) for broker in brokers))
        # Not meanwhile: leave to make a channel ends by Redis' clock, long before a node looks by its own.
        brokers[0].clock.passes(301)  # type: ignore[attr-defined]
    assert len(seen) > 500
    found = await heads(brokers[0], *last)
    assert sum(head.exists for head in found.values()) <= 6
    assert all(found[channel].last >= at for channel, at in last.items())


async def test_a_channel_that_another_node_watches_is_not_forgotten(node: Make) -> None:
    reads, forgets = await node(), await node()
    clock = reads.clock  # type: ignore[attr-defined]
    reads.log.watch("a")
    await publish(forgets, "a")
    await publish(forgets, "b")
    clock.passes(280)
    await heads(reads, "a")  # as its hub does every second
    clock.passes(30)
    for _ in range(1_000):
        forgets.sweep()
        if not (await heads(forgets, "b"))["b"].exists:
            break
    assert (await heads(forgets, "a"))["a"].exists
    reads.log.unwatch("a")
    await forget(forgets, "a")


async def test_a_node_that_dies_while_it_forgets_leaves_nothing_behind(
    node: Make, server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies, lives = await node(), await node()
    await publish(dies, "a")
    dies.clock.passes(301)  # type: ignore[attr-defined]

    async def die(*_: object) -> None:
        raise BrokerError("it died")

    monkeypatch.setattr(dies._forgetter, "_drop", die)
    dies.sweep()
    assert dies._forgetter._sweeping.task is not None
    await dies._forgetter._sweeping.task
    assert (await heads(lives, "a"))["a"].exists
    await forget(lives, "a")
    channels = dies._names.channels
    await until(lambda: redis_command(server.port, "ZCARD", channels) == "0")


async def test_of_two_nodes_that_see_a_loss_both_take_one_new_epoch(node: Make) -> None:
    one, two = await node(), await node()
    old = (await publish(one, "a")).epoch
    assert (await publish(two, "a")).epoch == old
    await asyncio.gather(one._registry.renew(), two._registry.renew())
    assert one._registry.epoch == two._registry.epoch != old
    appended = await publish(one, "a")
    assert (appended.epoch, appended.offset) == (one._registry.epoch, 3)


async def test_a_node_that_did_not_hear_of_a_new_epoch_takes_it_over(node: Make) -> None:
    one, two = await node(), await node()
    await publish(two, "a")
    await one._registry.renew()
    await publish(one, "a")
    assert (await publish(two, "a")).epoch == one._registry.epoch


async def test_offsets_beyond_what_lua_writes_without_an_exponent(node: Make, server: Engine) -> None:
    broker = await node()
    high = 2**53 - 10
    redis_command(server.port, "HSET", broker._names.store, "floor", str(high))
    broker.log.watch("a")
    assert [(await publish(broker, "a")).offset for _ in range(3)] == [high + 1, high + 2, high + 3]
    head = (await heads(broker, "a"))["a"]
    assert (head.first, head.last, head.is_whole) == (high + 1, high + 3, True)


async def test_leases_of_a_full_group_are_refused_until_some_end(node: Make) -> None:
    broker = await node(Limits(max_leases=2))
    await broker.leases.put("room", "ann", b"1", 10)
    await broker.leases.put("room", "bob", b"2", 1_000)
    with pytest.raises(BrokerBusy):
        await broker.leases.put("room", "cid", b"3", 10)
    await broker.leases.put("room", "bob", b"4", 1_000)
    broker.clock.passes(11)  # type: ignore[attr-defined]
    await broker.leases.put("room", "cid", b"3", 10)
    assert await broker.leases.members("room") == {"bob": b"4", "cid": b"3"}


async def test_what_strangers_entered_keeps_no_channel_from_being_forgotten(
    node: Make, server: Engine
) -> None:
    broker = await node()
    await publish(broker, "a")
    await publish(broker, "damaged")
    names = broker._names
    for score, name in (("0", "\\xff"), ("-inf", "bad name"), ("-inf", "good.name"), ("1", "")):
        enter = f"redis.call('ZADD', KEYS[1], ARGV[1], '{name}')"
        await asyncio.to_thread(redis_command, server.port, "EVAL", enter, "1", names.channels, score)
    await asyncio.to_thread(redis_command, server.port, "HSET", names.meta("damaged"), "l", "x")
    await forget(broker, "a")
    found = await asyncio.to_thread(redis_command, server.port, "ZRANGE", names.channels, "0", "-1")
    assert found.split("\n") == ["damaged"]
