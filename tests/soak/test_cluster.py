"""Workers that are killed, with four hundred readers; presence with three hundred members."""

from __future__ import annotations

from tests.e2e.cluster import cluster
from tests.e2e.crowd import WIRES, crowd
from tests.e2e.test_cluster import CHANNEL, WORKERS, Alone, many_publishers, through_each, under_fire
from tests.e2e.test_cluster_presence import LEASE_S, come_and_go, lose_a_node

READERS = 400
EACH_ALONE = ("poll", "long-poll")
"""Who asks for each publication alone costs this one process of readers too much to be many."""
MIXED = (*EACH_ALONE, *(11 * [wire for wire in WIRES if wire not in EACH_ALONE]))


async def test_four_hundred_of_four_hundred() -> None:
    async with cluster(WORKERS) as found, crowd(found.url, CHANNEL, READERS, MIXED) as readers:
        await through_each(found, readers, 10)
        assert not any(reader.cuts for reader in readers.readers)


async def test_four_hundred_under_fire() -> None:
    async with cluster(WORKERS) as found, crowd(found.url, CHANNEL, READERS, MIXED) as readers:
        silences = await under_fire(Alone(found), readers, 8, pause_s=1.0, pace_s=0.05)
        print(f"all were back after {', '.join(f'{silence:.1f} s' for silence in silences)}")


async def test_three_hundred_members() -> None:
    assert await lose_a_node(300) <= LEASE_S + 1.0


async def test_ten_thousand_joins_and_leaves() -> None:
    await come_and_go(10_000)


async def test_many_publishers_and_many_kills() -> None:
    async with cluster(WORKERS) as found:
        count, again = await many_publishers(found, 20)
        assert count > 1_000 and again > 0
