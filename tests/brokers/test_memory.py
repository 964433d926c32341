"""The memory broker: the contract, and what is its own."""

from __future__ import annotations

import pytest

from everywire.brokers.base import Appended, Broker, Lease, Sink
from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, StoreClock


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
            broker = MemoryBroker(limits, settings, clock_ms=clock)
            await broker.start(sink)
            return broker

        return make


def kept(broker: MemoryBroker, *channels: str) -> set[str]:
    found: list[object] = []
    broker.log.heads(channels, found.append)
    (heads,) = found
    assert isinstance(heads, dict)
    return {name for name, head in heads.items() if head.exists}


def publish(broker: MemoryBroker, channel: str, **more: str) -> Appended | EverywireError:
    results: list[Appended | EverywireError] = []
    broker.log.append([Draft(channel, b"1", key=more.get("key"))], results.extend)
    return results[0]


def test_every_call_completes_before_it_returns() -> None:
    broker = MemoryBroker()
    done: list[object] = []
    broker.log.append([Draft("a", b"1")], done.append)
    broker.log.read("a", 0, 1, 1, done.append)
    broker.log.heads(["a"], done.append)
    broker.log.trim("a", done.append)
    assert len(done) == 4
    assert broker.log.is_local


def test_room_for_a_channel_is_made_by_forgetting_the_least_recently_used() -> None:
    broker = MemoryBroker(Limits(max_channels=3))
    for name in ("a", "b", "c", "a"):
        publish(broker, name)
    publish(broker, "d")
    assert kept(broker, "a", "b", "c", "d") == {"a", "c", "d"}


def test_watched_channels_are_passed_over_however_many_there_are() -> None:
    broker = MemoryBroker(Limits(max_channels=2_500))
    for number in range(2_500):
        publish(broker, f"c{number}")
        if number != 2_100:
            broker.log.watch(f"c{number}")
    results = [publish(broker, "new") for _ in range(10)]
    assert isinstance(results[-1], Appended), "the one channel that can be forgotten is never found"
    newer = [publish(broker, "newer") for _ in range(10)]
    assert isinstance(newer[-1], Appended), "the new one, which nobody watches, makes room"


def test_a_store_full_of_watched_channels_refuses_another() -> None:
    broker = MemoryBroker(Limits(max_channels=2))
    for name in ("a", "b"):
        broker.log.watch(name)
        publish(broker, name)
    assert isinstance(publish(broker, "c"), BrokerBusy)
    assert isinstance(publish(broker, "a"), Appended)


@pytest.mark.parametrize(
    "limits", [Limits(idempotency_ttl_s=0.0), Limits(max_idempotency_keys=0), Limits(max_idempotency_keys=1)]
)
def test_keys_may_be_bounded_to_nothing(limits: Limits) -> None:
    broker = MemoryBroker(limits)
    for key in ("k", "l", "m"):
        appended = publish(broker, "a", key=key)
        assert isinstance(appended, Appended)
        assert not appended.replayed


def test_the_oldest_keys_make_room() -> None:
    broker = MemoryBroker(Limits(max_idempotency_keys=2))
    for key in ("k", "l", "m"):
        publish(broker, "a", key=key)
    replays = [publish(broker, "a", key=key) for key in ("m", "l", "k")]
    assert [one.replayed for one in replays if isinstance(one, Appended)] == [True, True, False]


async def test_a_full_store_refuses_rather_than_lose_a_value() -> None:
    clock = StoreClock()
    broker = MemoryBroker(Limits(max_stored_keys=3), clock_ms=clock)
    await broker.store.put("ban", b"1", 1_000)
    await broker.store.put("ticket", b"2", 10)
    await broker.store.put("other", b"3", 1_000)
    with pytest.raises(BrokerBusy):
        await broker.store.put("more", b"4", 1_000)
    await broker.store.put("ban", b"5", 1_000)
    clock.passes(11)
    await broker.store.put("more", b"4", 1_000)
    assert await broker.store.get("ban") == b"5"
    assert await broker.store.get("more") == b"4"


async def test_full_leases_refuse_until_some_run_out() -> None:
    clock = StoreClock()
    broker = MemoryBroker(Limits(max_leases=2), clock_ms=clock)
    await broker.leases.put("room", "ann", b"1", 10)
    await broker.leases.put("room", "bob", b"2", 1_000)
    with pytest.raises(BrokerBusy):
        await broker.leases.put("other", "cid", b"3", 10)
    assert await broker.leases.members("other") == {}
    clock.passes(11)
    await broker.leases.put("other", "cid", b"3", 10)
    assert await broker.leases.members("room") == {"bob": b"2"}
    with pytest.raises(BrokerBusy):
        await broker.leases.put_many([Lease("room", "dot", b"4", 10), Lease("room", "bob", b"5", 10)])
    assert await broker.leases.members("room") == {"bob": b"5"}


async def test_sweeping_reaches_what_ran_out_behind_what_lasts() -> None:
    clock = StoreClock()
    broker = MemoryBroker(clock_ms=clock)
    for number in range(3_000):
        await broker.store.put(f"lasts {number}", b"1", 10_000)
        await broker.leases.put("room", f"lasts {number}", b"1", 10_000)
    for number in range(100):
        await broker.store.put(f"ends {number}", b"1", 10)
        await broker.leases.put("gone", f"ends {number}", b"1", 10)
    clock.passes(11)
    for _ in range(10):
        broker.sweep()
    assert len(broker.store) == 3_000
    assert len(broker.leases) == 3_000


async def test_sweeping_forgets_idle_channels_a_part_at_a_time() -> None:
    clock = StoreClock()
    broker = MemoryBroker(clock_ms=clock)
    for number in range(2_500):
        publish(broker, f"c{number}")
    clock.passes(301)
    broker.sweep()
    assert 0 < len(broker.log) < 2_500
    broker.sweep()
    broker.sweep()
    assert len(broker.log) == 0
    assert broker.log.forgotten == 1
