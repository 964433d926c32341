"""The broker over a real Redis cluster of three servers, and over Sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from everywire.brokers.base import Broker, Sink
from everywire.brokers.redis.broker import RedisBroker
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, StoreClock
from tests.brokers.redis_nodes import nodes, until
from tests.engines import Cluster, redis_cluster, redis_sentinels

pytestmark = pytest.mark.xdist_group("engines")

_count = iter(range(1_000_000))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


def url(cluster: Cluster) -> str:
    """Return an address with names of its own."""
    return f"redis+cluster://{cluster.places}?prefix=t{next(_count)}"


@pytest.fixture
async def make_broker(cluster: Cluster) -> AsyncIterator[MakeBroker]:
    brokers: list[RedisBroker] = []

    async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
        broker = RedisBroker(url(cluster), limits, settings, clock_ms=clock)
        brokers.append(broker)
        await broker.start(sink)
        return broker

    yield make
    for broker in brokers:
        await broker.close()


class TestRedisClusterBroker(BrokerContract):
    """The contract, with channels on three servers."""


CHANNELS = tuple(f"c{number}" for number in range(12))


async def test_channels_on_three_servers_reach_readers_on_another_node(cluster: Cluster) -> None:
    async with nodes(url(cluster)) as (one, two):
        there = await two.read(*CHANNELS)
        for number in range(10):
            await asyncio.gather(*(one.publish(b"%d" % number, channel) for channel in CHANNELS))
        expected = [b"%d" % number for number in range(10)]
        await until(lambda: all(there.data(channel) == expected for channel in CHANNELS))
        assert not there.gaps()
        assert {cluster.owner(one.broker.log._lanes.lane(name).slot) for name in CHANNELS} == {0, 1, 2}
        assert two.broker.statistics()["hints_received"] > 50, "it was not told by hints"


async def test_a_slot_is_moved_under_load(cluster: Cluster) -> None:
    async with nodes(url(cluster)) as (one, two):
        here, there = await one.read("moved"), await two.read("moved")
        names = one.broker._names
        slot = names.slot(names.meta("moved"))
        is_moving = True
        published = 0

        async def publish() -> None:
            nonlocal published
            while is_moving:
                await one.publish_stubbornly(b"%d" % published, "moved")
                published += 1
                await asyncio.sleep(0.005)

        publishing = asyncio.create_task(publish())
        for _ in range(2):
            to = (cluster.owner(slot) + 1) % 3
            await asyncio.to_thread(cluster.move, slot, to, 0.1)
        is_moving = False
        await publishing
        assert published > 20
        expected = [b"%d" % number for number in range(published)]
        await until(lambda: here.data("moved") == there.data("moved") == expected)
        assert not here.gaps() + there.gaps()
        # Hints find their way from the slot's new place.
        received = two.broker.statistics()["hints_received"]
        await asyncio.sleep(1.2)
        await one.publish(b"end", "moved")
        await until(lambda: there.data("moved")[-1:] == [b"end"])
        assert two.broker.statistics()["hints_received"] > received


async def test_a_channel_is_made_while_its_slot_is_moved(cluster: Cluster) -> None:
    async with nodes(url(cluster)) as (one, two):
        names = one.broker._names
        slot = names.slot(names.meta("new"))
        to = (cluster.owner(slot) + 1) % 3
        moving = asyncio.create_task(asyncio.to_thread(cluster.move, slot, to, 1.0))
        await asyncio.sleep(0.5)
        assert (await one.publish(b"1", "new")).offset == 1
        assert not moving.done(), "the slot was moved before"
        assert (await two.publish(b"2", "new")).offset == 2
        await moving
        assert (await one.publish(b"3", "new")).offset == 3


async def test_a_server_of_the_cluster_that_is_away_takes_only_its_own_channels_along(
    cluster: Cluster,
) -> None:
    async with nodes(url(cluster)) as (one, two):
        names = one.broker._names
        owners = {name: cluster.owner(names.slot(names.meta(name))) for name in CHANNELS}
        at = next(owner for owner in owners.values() if owner != cluster.owner(names.slot(names.store)))
        here, gone = (
            next(name for name in CHANNELS if (owners[name] == at) == is_gone) for is_gone in (False, True)
        )
        there = await two.read(here, gone)
        await one.publish(b"before", here)
        await one.publish(b"before", gone)
        cluster.engines[at].pause()
        try:
            with pytest.raises(BrokerError):
                await one.publish(b"lost", gone)
            for number in range(10):
                await one.publish_stubbornly(b"%d" % number, here)
            await until(lambda: there.data(here)[-1:] == [b"9"])
        finally:
            cluster.engines[at].go_on()
        await one.publish_stubbornly(b"after", gone)
        await until(lambda: there.data(gone)[-1:] == [b"after"])
        await until(lambda: one.is_ready and two.is_ready)
        assert there.data(here) == [b"before", *(b"%d" % number for number in range(10))]
        assert not there.gaps()


async def test_a_failover_to_a_lagging_replica_begins_a_new_epoch(tmp_path: Path) -> None:
    with redis_sentinels(tmp_path) as set:
        address = f"redis+sentinel://127.0.0.1:{set.sentinel.port}/main"
        async with nodes(address) as (one, two):
            here, there = await one.read(), await two.read()
            for number in range(5):
                first = await one.publish(b"%d" % number)
            await asyncio.to_thread(set.wait_replicated)
            await asyncio.to_thread(set.cut_replica)
            for number in range(5):
                await one.publish(b"lost %d" % number)
            await until(lambda: len(there.data()) == 10)
            set.master.kill()
            await asyncio.to_thread(set.wait_promoted)
            await two.publish_stubbornly(b"after")
            await until(lambda: here.data()[-1:] == there.data()[-1:] == [b"after"])
            assert here.gaps() == there.gaps() == ["reset"]
            assert two.acknowledged[-1][0].epoch != first.epoch
            places = [(found.epoch, found.offset) for found, _ in one.acknowledged + two.acknowledged]
            assert len(places) == len({*places}), "an offset of an epoch was used twice"


async def test_a_failover_to_a_replica_that_has_everything_goes_on(tmp_path: Path) -> None:
    with redis_sentinels(tmp_path) as set:
        address = f"redis+sentinel://127.0.0.1:{set.sentinel.port}/main"
        async with nodes(address) as (one, two):
            there = await two.read()
            first = await one.publish(b"before")
            await asyncio.to_thread(set.wait_replicated)
            set.master.kill()
            await asyncio.to_thread(set.wait_promoted)
            await one.publish_stubbornly(b"after")
            await until(lambda: there.data() == [b"before", b"after"])
            assert not there.gaps()
            assert one.acknowledged[-1][0].epoch == first.epoch
