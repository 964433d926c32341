"""Three nats-servers with three replicas of each stream: one after the other is killed while nodes publish.

Debian's nats-server is older than what replicas want; a newer one is named by `EVERYWIRE_NATS_SERVER`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from everywire.brokers.nats.address import NatsAddress
from everywire.brokers.nats.broker import NatsBroker
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.testing.broker_driving import RecordingSink, publish
from tests.brokers.nats_nodes import TABLE
from tests.brokers.sqlite_nodes import LiveNode, until
from tests.brokers.test_nats_faults import Publisher, all_told, check
from tests.engines import Engine, free_port, nats_engine, running

pytestmark = pytest.mark.xdist_group("engines")

LIMITS = Limits(canary_interval_s=0.3, canary_timeout_s=2.0, broker_timeout_s=8.0)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[Engine]]:
    if not os.environ.get("EVERYWIRE_NATS_SERVER"):
        pytest.skip("EVERYWIRE_NATS_SERVER names no nats-server 2.10.20 or newer, which replicas want")
    routes = [free_port() for _ in range(3)]
    every = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
    found = []
    for number, port in enumerate(routes):
        options = ["--name", f"n{number}", "--cluster_name", "c", "--routes", every]
        cluster = f"nats://127.0.0.1:{port}"
        found.append(nats_engine(tmp_path / f"n{number}", *options, "--cluster", cluster))
    with ExitStack() as stack:
        stack.enter_context(running(*found))
        yield found


async def test_replicas_are_refused_where_they_cannot_be_trusted(tmp_path: Path) -> None:
    engine = nats_engine(tmp_path / "nats")
    asked = await asyncio.create_subprocess_exec(engine.command[0], "--version", stdout=subprocess.PIPE)
    version = (await asked.communicate())[0].decode()
    if "v2.9." not in version:
        pytest.skip(f"{version.strip()} may have replicas")
    with running(engine):
        broker = NatsBroker.from_url(
            f"nats://127.0.0.1:{engine.port}?replicas=3", Limits(broker_timeout_s=1.0), TABLE
        )
        with pytest.raises(BrokerError, match=r"replicas wants nats-server 2\.10\.20"):
            await broker.start(RecordingSink())
        await broker.close()


async def start(engines: list[Engine], first: int) -> LiveNode:
    """Start a node that connects to one of the servers first; it takes a while until they have a leader."""
    ports = [engines[(first + number) % 3].port for number in range(3)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    url = f"nats://{hosts}?shards=2&replicas=3&prefix=p"
    async with asyncio.timeout(40):
        while True:
            node = LiveNode(NatsBroker(NatsAddress.parse(url), LIMITS, TABLE))  # type: ignore[arg-type]
            try:
                await node.hub.start()
                return node
            except BrokerError:
                await node.hub.close()
                await asyncio.sleep(0.3)


async def test_a_cluster_that_loses_one_server_after_the_other_loses_nothing(engines: list[Engine]) -> None:
    one, two = await start(engines, 0), await start(engines, 1)
    try:
        readers = [await one.subscribe("a"), await two.subscribe("a")]
        publishers = [Publisher(one.broker), Publisher(two.broker)]  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        for number in (0, 1):
            engines[number].kill()
            await asyncio.sleep(2.0)
            engines[number].start()
            await until(lambda: one.broker.health().ready and two.broker.health().ready)
            await asyncio.sleep(1.0)
        for publisher in publishers:
            await publisher.end()
            assert len(publisher.acknowledged) > 50
        for reader in readers:
            await all_told(reader, *publishers)
            check(reader, *publishers)
        appended = await publish(one.broker, "a", b"k", key="k", fingerprint=b"f")
        again = await publish(two.broker, "a", b"k", key="k", fingerprint=b"f")
        assert again == appended._replace(replayed=True)
        await one.broker.store.put("ticket", b"1", 100)
        taken = await asyncio.gather(*[node.broker.store.take("ticket") for node in (one, two) * 3])
        assert sorted(taken, key=lambda found: found is None) == [b"1"] + [None] * 5
        await one.broker.leases.put("room", "ann", b"1", 100)
        assert await two.broker.leases.members("room") == {"ann": b"1"}
        made = [node.broker.statistics()["epochs_made"] for node in (one, two)]  # type: ignore[attr-defined]
        assert sum(made) == 1, "nothing was lost"
    finally:
        for node in (one, two):
            for reader in node.readers:
                reader.reader.close()
            await node.hub.close()
