"""The broker that several nodes share: each keeps the contract, and they reach one another."""

from __future__ import annotations

import secrets

import pytest

from everywire.brokers.base import Broker, Sink
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.testing.broker_contract import BrokerContract
from everywire.testing.broker_driving import MakeBroker, RecordingSink, StoreClock
from everywire.testing.shared_broker import SharedStore


class TestSharedBroker(BrokerContract):
    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        async def make(sink: Sink, clock: StoreClock, limits: Limits, settings: SettingsTable) -> Broker:
            store = SharedStore(limits, settings, clock_ms=clock)
            await store.node("idle").start(RecordingSink())
            broker = store.node(secrets.token_hex(4))
            await broker.start(sink)
            return broker

        return make


async def test_nodes_share_and_hear_one_another_until_one_is_cut_off() -> None:
    store = SharedStore()
    sinks = {name: RecordingSink() for name in "abc"}
    nodes = {name: store.node(name) for name in sinks}
    for name, sink in sinks.items():
        await nodes[name].start(sink)
    await nodes["a"].leases.put("room", "ann", b"1", 10)
    assert await nodes["b"].leases.members("room") == {"ann": b"1"}
    await nodes["a"].control.broadcast("topic", b"hello")
    assert all(sink.broadcasts == [("topic", b"hello", "a")] for sink in sinks.values())
    store.kill("c")
    await nodes["a"].control.broadcast("topic", b"again")
    assert len(sinks["c"].broadcasts) == 1
    with pytest.raises(BrokerError):
        await nodes["c"].leases.put("room", "cid", b"1", 10)
    with pytest.raises(BrokerError):
        await nodes["a"].control.ask("c", "topic", b"", 1)
