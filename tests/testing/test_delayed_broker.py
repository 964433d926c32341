"""The delayed broker is a broker: slow and out of order, but within the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from everywire.brokers.base import Broker, Sink
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, StoreClock
from everywire.testing.delayed_broker import DelayedBroker, Faults


class TestDelayedBroker(BrokerContract):
    @pytest.fixture
    async def make_broker(self) -> AsyncIterator[MakeBroker]:
        made: list[Broker] = []

        async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
            loop = asyncio.get_running_loop()
            faults = Faults(max_delay_s=0.001)
            broker = DelayedBroker(
                loop, seed=3, faults=faults, limits=limits, settings=settings, store_clock_ms=clock
            )
            made.append(broker)
            await broker.start(sink)
            return broker

        yield make
        for broker in made:
            await broker.close()
