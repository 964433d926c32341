"""Nodes over one nats-server: brokers with a sink that remembers, and hubs with readers that check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from everywire.brokers.nats.address import NatsAddress
from everywire.brokers.nats.broker import NatsBroker
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.testing.broker_driving import RecordingSink
from tests.brokers.sqlite_nodes import LiveNode
from tests.engines import Engine

WIDE = Window(max_publications=1_000_000, max_bytes=100_000_000, max_age_s=3_600.0)
SMALL = Window(max_publications=3, max_bytes=100_000_000, max_age_s=3_600.0)
TABLE = SettingsTable([("small.*", ChannelSettings(SMALL))], ChannelSettings(WIDE))
LIMITS = Limits(canary_interval_s=0.2, canary_timeout_s=0.6, broker_timeout_s=3.0)


def make_broker(engine: Engine, prefix: str, **more: Any) -> NatsBroker:
    """Return a broker that is not started; those with one prefix share a store."""
    query = f"shards=2&prefix={prefix}{more.pop('query', '')}"
    address = NatsAddress.parse(f"nats://127.0.0.1:{engine.port}?{query}")
    return NatsBroker(address, more.pop("limits", LIMITS), more.pop("settings", TABLE), **more)


@asynccontextmanager
async def nats_broker(
    engine: Engine, prefix: str, sink: Any = None, **more: Any
) -> AsyncIterator[NatsBroker]:
    """A started broker."""
    broker = make_broker(engine, prefix, **more)
    await broker.start(sink or RecordingSink())
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def live_node(engine: Engine, prefix: str, **more: Any) -> AsyncIterator[LiveNode]:
    """A started hub over a broker; its readers are closed at the end."""
    node = LiveNode(make_broker(engine, prefix, **more))  # type: ignore[arg-type]
    await node.hub.start()
    try:
        yield node
    finally:
        for reader in node.readers:
            reader.reader.close()
        await node.hub.close()
