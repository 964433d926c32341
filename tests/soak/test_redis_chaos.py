"""Three nodes over one Redis to which anything may happen at any moment, drawn by a seed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from everywire.core.errors import EverywireError
from everywire.core.position import Position
from everywire.core.publication import Publication
from tests.brokers.redis_nodes import Node, Reader, nodes, until
from tests.engines import Cluster, Engine, redis_cluster, redis_command, redis_engine, running
from tests.hub.recording import Framed

CHANNELS = ("a", "b", "c", "d")
LAST_S = 10.0

Places = dict[tuple[str, str, int], bytes]


class PlacedReader(Reader):
    """A reader that writes down under which epoch and offset it was given what."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[tuple[str, str, int], bytes]] = []

    def _send(self, framed: Framed) -> int:
        for channel, content, position in framed.batch.items:
            if isinstance(content, Publication):
                place = Position.decode(position).place(channel)
                assert place is not None
                self.places.append(((channel, place.epoch, content.offset), content.data))
        return super()._send(framed)


async def work(all_nodes: list[Node], random: Random, harm: Callable[[], None]) -> Places:
    """Publish by six writers while harm is done; return what was acknowledged."""
    acknowledged: Places = {}
    end = all_nodes[0].loop.time() + LAST_S

    async def write(writer: int) -> None:
        node, number = all_nodes[writer % 3], 0
        while node.loop.time() < end:
            channel, data = random.choice(CHANNELS), b"%d:%d" % (writer, number)
            number += 1
            with contextlib.suppress(EverywireError):
                found = await node.publish(data, channel, data.decode() if writer % 2 else None)
                place = (channel, found.epoch, found.offset)
                assert place not in acknowledged, "an offset of an epoch was used twice"
                acknowledged[place] = data
            await asyncio.sleep(0.002)

    async def harm_it() -> None:
        while all_nodes[0].loop.time() < end:
            await asyncio.sleep(random.uniform(0.1, 0.7))
            await asyncio.to_thread(harm)

    await asyncio.gather(harm_it(), *(write(writer) for writer in range(6)))
    for node in all_nodes:
        await until(lambda node=node: node.is_ready, "a ready node")  # type: ignore[misc]
    for channel in CHANNELS:
        await all_nodes[0].publish_stubbornly(b"end", channel)
    return acknowledged


async def begin(all_nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> list[PlacedReader]:
    monkeypatch.setattr("tests.brokers.redis_nodes.Reader", PlacedReader)
    return [await node.read(*CHANNELS) for node in all_nodes]  # type: ignore[misc]


async def finish(readers: list[PlacedReader]) -> None:
    for reader in readers:
        await until(
            lambda reader=reader: all(reader.data(name)[-1:] == [b"end"] for name in CHANNELS),  # type: ignore[misc]
            "the end",
        )


def harm_engine(engine: Engine, random: Random, kinds: list[str]) -> None:
    kind = random.choice(kinds)
    if kind in ("normal", "pubsub"):
        redis_command(engine.port, "CLIENT", "KILL", "TYPE", kind)
    elif kind == "pause":
        engine.pause()
        time.sleep(random.uniform(0.05, 1.5))
        engine.go_on()
    elif kind == "restart":
        engine.kill()
        time.sleep(random.uniform(0.0, 0.7))
        engine.start()
    else:
        redis_command(engine.port, *kind.split(" "))


def check_whole(acknowledged: Places, readers: list[PlacedReader]) -> None:
    """All that was acknowledged was delivered, once, and in the same order to all."""
    for channel in CHANNELS:
        heard = readers[0].data(channel)
        assert len(heard) == len(set(heard)), "one was delivered twice"
        assert all(reader.data(channel) == heard for reader in readers)
        expected = [data for place, data in sorted(acknowledged.items()) if place[0] == channel]
        assert expected == [data for data in heard if data in set(expected)], "one was lost, or out of order"
    assert not any(reader.gaps() for reader in readers)


@pytest.mark.parametrize("seed", range(3))
async def test_one_server_that_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    kinds = ["normal", "pubsub", "pause", "restart", "SCRIPT FLUSH"]
    engine = redis_engine(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    with running(engine):
        async with nodes(f"redis://127.0.0.1:{engine.port}/0", 3) as all_nodes:
            readers = await begin(all_nodes, monkeypatch)
            acknowledged = await work(all_nodes, random, lambda: harm_engine(engine, random, kinds))
            await finish(readers)
            check_whole(acknowledged, readers)


@pytest.mark.parametrize("seed", range(3))
async def test_one_server_that_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """It goes back to old snapshots, or to nothing: no place ever has two contents, and readers are told."""
    random = Random(seed)
    kinds = ["normal", "restart", "restart", "SAVE", "SAVE", "FLUSHALL"]
    engine = redis_engine(tmp_path / "redis")
    with running(engine):
        async with nodes(f"redis://127.0.0.1:{engine.port}/0", 3) as all_nodes:
            readers = await begin(all_nodes, monkeypatch)
            known = await work(all_nodes, random, lambda: harm_engine(engine, random, kinds))
            await finish(readers)
            for reader in readers:
                for place, data in reader.places:
                    assert known.setdefault(place, data) == data, f"{place} has two contents"
            assert len({epoch for _, epoch, _ in known}) > 1
            assert all("reset" in reader.gaps() for reader in readers)


@pytest.mark.parametrize("seed", range(2))
async def test_a_cluster_whose_slots_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    kinds = ["normal", "pubsub", "pause", "SCRIPT FLUSH"]
    with redis_cluster(tmp_path) as cluster:
        async with nodes(f"redis+cluster://{cluster.places}", 3) as all_nodes:
            readers = await begin(all_nodes, monkeypatch)
            names = all_nodes[0].broker._names

            def harm(cluster: Cluster = cluster) -> None:
                if random.random() < 0.4:
                    slot = names.slot(names.meta(random.choice(CHANNELS)))
                    cluster.move(slot, (cluster.owner(slot) + 1) % 3, 0.02)
                else:
                    harm_engine(random.choice(cluster.engines), random, kinds)

            acknowledged = await work(all_nodes, random, harm)
            await finish(readers)
            check_whole(acknowledged, readers)
