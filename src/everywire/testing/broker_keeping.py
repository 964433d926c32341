"""What every broker must do for whoever keeps something whole: a part of the broker contract.

`everywire.testing.broker_contract.BrokerContract` brings it along.
"""

from __future__ import annotations

import asyncio

from everywire.brokers.base import Broker, Head
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable, Window
from everywire.testing.broker_driving import (
    Call,
    MakeBroker,
    RecordingSink,
    StoreClock,
    heads,
    offsets,
    publish,
    read,
)

__all__ = ["KeepingContract"]

ALL = Window(max_publications=1_000, max_bytes=10_000_000, max_age_s=100_000.0)


async def keep(broker: Broker, channel: str, ttl_s: float, *, anew: bool = False) -> Head:
    """Keep a channel by a wide window, which must succeed."""
    call = Call()
    broker.log.keep(channel, ALL, ttl_s, call, anew=anew)
    head = await call.result()
    assert isinstance(head, Head), head
    return head


class KeepingContract:
    """The part of the suite; see the module. Its channels have a window of 100 publications and 300 s."""

    async def _open(self, make_broker: MakeBroker, limits: Limits | None = None) -> tuple[Broker, StoreClock]:
        clock = StoreClock()
        return await make_broker(RecordingSink(), clock, limits or Limits(), SettingsTable()), clock

    async def test_a_channel_is_whole_until_something_is_dropped(self, make_broker: MakeBroker) -> None:
        broker, _ = await self._open(make_broker)
        assert (await heads(broker, "a"))["a"].is_whole
        for _ in range(1_000):
            await publish(broker, "a")
        assert (await heads(broker, "a"))["a"].is_whole
        await publish(broker, "a")
        assert not (await heads(broker, "a"))["a"].is_whole

    async def test_a_kept_channel_goes_by_a_window_of_its_own(self, make_broker: MakeBroker) -> None:
        broker, clock = await self._open(make_broker)
        head = await keep(broker, "a", 10_000)
        assert head.exists and head.is_whole
        big = Window().max_bytes // 4
        for _ in range(8):
            await publish(broker, "a", b"1" * big)
            clock.passes(Window().max_age_s)
        broker.sweep()
        assert offsets(await read(broker, "a")) == list(range(1, 9))
        assert (await heads(broker, "a"))["a"].is_whole

    async def test_a_kept_channel_is_dropped_when_its_time_is_over(self, make_broker: MakeBroker) -> None:
        broker, clock = await self._open(make_broker)
        await keep(broker, "a", 10)
        await publish(broker, "a")
        clock.passes(9)
        await keep(broker, "a", 10)
        clock.passes(9)
        broker.sweep()
        assert offsets(await read(broker, "a")) == [1]
        clock.passes(2)
        assert offsets(await read(broker, "a")) == []
        for _ in range(3):
            broker.sweep()
        assert (await heads(broker, "a"))["a"].last == 1

    async def test_a_channel_that_is_kept_anew_is_whole_again(self, make_broker: MakeBroker) -> None:
        broker, _ = await self._open(make_broker)
        for _ in range(3):
            await publish(broker, "a")
        head = await keep(broker, "a", 10, anew=True)
        assert (head.first, head.last, head.is_whole) == (4, 3, True)
        await publish(broker, "a")
        assert offsets(await read(broker, "a")) == [4]
        assert (await keep(broker, "a", 10)).is_whole

    async def test_a_kept_channel_gives_way_to_no_other(self, make_broker: MakeBroker) -> None:
        limits = Limits(log_budget_bytes=100_000, max_channels=3)
        broker, _ = await self._open(make_broker, limits)
        await keep(broker, "a", 10)
        await publish(broker, "a", b"1" * 10_000)
        for number in range(50):
            await publish(broker, f"other-{number % 10}", b"1" * 10_000)
        assert offsets(await read(broker, "a")) == [1]

    async def test_of_ten_who_put_once_one_is_first(self, make_broker: MakeBroker) -> None:
        broker, clock = await self._open(make_broker)
        found = await asyncio.gather(
            *[broker.store.put_once("claim", b"%d" % number, 10) for number in range(10)]
        )
        (first,) = [number for number, standing in enumerate(found) if standing is None]
        assert [standing for standing in found if standing is not None] == [b"%d" % first] * 9
        assert await broker.store.get("claim") == b"%d" % first
        clock.passes(11)
        assert await broker.store.put_once("claim", b"late", 10) is None
        assert await broker.store.get("claim") == b"late"
