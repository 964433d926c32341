"""Workers that are killed, and presence, over the engines of several machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import cluster
from tests.e2e.crowd import WIRES, crowd
from tests.e2e.test_cluster import CHANNEL, WORKERS, Alone, many_publishers, through_each, under_fire
from tests.e2e.test_cluster_authority import one_word_for_all
from tests.e2e.test_cluster_presence import LEASE_S, come_and_go, lose_a_node
from tests.engines import nats_server, redis_server


@pytest.fixture(params=["redis", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An engine's address."""
    if request.param == "redis":
        with redis_server(tmp_path) as engine:
            yield f"redis://127.0.0.1:{engine.port}/0"
    else:
        with nats_server(tmp_path) as engine:
            yield f"nats://127.0.0.1:{engine.port}"


async def test_all_hear_what_is_published_through_any_worker(broker: str) -> None:
    async with cluster(WORKERS, broker=broker) as found, crowd(found.url, CHANNEL, len(WIRES)) as readers:
        await through_each(found, readers, 10)
        assert not any(reader.cuts for reader in readers.readers)


async def test_whoever_is_killed_nothing_is_lost_doubled_or_out_of_order(broker: str) -> None:
    async with cluster(WORKERS, broker=broker) as found, crowd(found.url, CHANNEL, 3 * len(WIRES)) as readers:
        await under_fire(Alone(found), readers, 6, pause_s=0.5, pace_s=0.02)


async def test_members_of_a_killed_node_leave_once(broker: str) -> None:
    assert await lose_a_node(300, broker) <= LEASE_S + 1.0


async def test_one_word_for_all(broker: str) -> None:
    await one_word_for_all(broker)


async def test_after_many_joins_and_leaves_the_list_is_the_truth(broker: str) -> None:
    await come_and_go(3_000, broker)


async def test_the_log_holds_what_was_acknowledged_to_whom_and_when(broker: str) -> None:
    async with cluster(WORKERS, broker=broker) as found:
        count, again = await many_publishers(found, 10)
        assert count > 500 and again > 0
