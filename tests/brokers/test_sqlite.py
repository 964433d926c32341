"""The sqlite broker: the contract, and what is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everywire.brokers.base import Broker, Sink
from everywire.brokers.sqlite import SqliteBroker
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, StoreClock


class TestSqliteBroker(BrokerContract):
    @pytest.fixture
    async def make_broker(self, tmp_path: Path) -> AsyncIterator[MakeBroker]:
        made: list[SqliteBroker] = []

        async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
            path = tmp_path / f"{len(made)}.sqlite3"
            broker = SqliteBroker(path, limits, settings, clock_ms=clock)
            made.append(broker)
            await broker.start(sink)
            return broker

        yield make
        for broker in made:
            await broker.close()
