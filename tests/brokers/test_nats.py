"""The NATS broker over a real nats-server: the contract."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from everywire.brokers.base import Broker, Sink
from everywire.brokers.nats.address import NatsAddress
from everywire.brokers.nats.broker import NatsBroker
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, StoreClock
from tests.engines import Engine, nats_server

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with nats_server(Path(tmp_path_factory.mktemp("nats"))) as engine:
        yield engine


class TestNatsBroker(BrokerContract):
    @pytest.fixture
    async def make_broker(self, engine: Engine) -> AsyncIterator[MakeBroker]:
        brokers: list[NatsBroker] = []
        url = f"nats://127.0.0.1:{engine.port}?shards=2&prefix=t{secrets.token_hex(4)}"

        async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
            broker = NatsBroker(NatsAddress.parse(url), limits, settings, clock_ms=clock)
            brokers.append(broker)
            await broker.start(sink)
            return broker

        yield make
        for broker in brokers:
            await broker.close()
