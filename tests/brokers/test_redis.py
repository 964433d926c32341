"""The broker over Redis: the contract, against a real server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from everywire.brokers.base import Broker, Sink
from everywire.brokers.redis.broker import RedisBroker
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, StoreClock
from tests.engines import Engine, redis_server

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with redis_server(tmp_path_factory.mktemp("redis")) as engine:
        yield engine


@pytest.fixture
async def make_broker(server: Engine) -> AsyncIterator[MakeBroker]:
    brokers: list[RedisBroker] = []

    async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
        url = f"redis://127.0.0.1:{server.port}/0?prefix=t{secrets.token_hex(6)}"
        broker = RedisBroker(url, limits, settings, clock_ms=clock)
        brokers.append(broker)
        await broker.start(sink)
        return broker

    yield make
    for broker in brokers:
        await broker.close()


class TestRedisBroker(BrokerContract):
    """Every test has names of its own on one server."""
