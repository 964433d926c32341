"""An engine away for twenty seconds at a hundred publications a second: acknowledged is delivered, once."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from tests.brokers.redis_nodes import Node, nodes, until
from tests.brokers.sqlite_nodes import TABLE
from tests.engines import Engine, nats_engine, redis_engine, running

AWAY_S = 20
RATE = 100


async def _away(engine: Engine, how: str) -> None:
    if how == "paused":
        engine.pause()
        await asyncio.sleep(AWAY_S)
        engine.go_on()
    else:
        await asyncio.to_thread(engine.kill)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(engine.start)


def _engine(kind: str, folder: Path) -> tuple[Engine, str]:
    """Return an engine, not yet started, and the address of the broker over it."""
    if kind == "nats":
        engine = nats_engine(folder)
        return engine, f"nats://127.0.0.1:{engine.port}"
    # What Redis acknowledges is on its disk, so that nothing of it is lost with the process.
    engine = redis_engine(folder, "--appendonly", "yes", "--appendfsync", "always")
    return engine, f"redis://127.0.0.1:{engine.port}/0"


@pytest.mark.parametrize("how", ["paused", "killed"])
@pytest.mark.parametrize("query", ["", "?buffer=10000"])
@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_an_engine_is_away(tmp_path: Path, kind: str, how: str, query: str) -> None:
    engine, url = _engine(kind, tmp_path / kind)
    with running(engine):
        async with nodes(url + query, 2, Limits(), TABLE) as (one, two):
            here, there = await one.read(), await two.read()
            # The window has room for all: what a buffer lets go at once is more than a usual one holds.
            count = (AWAY_S + 10) * RATE
            away = asyncio.create_task(_away_later(engine, how))
            await asyncio.gather(*(_publish(one if n % 2 else two, n) for n in range(count)))
            await away
            await until(lambda: one.is_ready and two.is_ready)
            await one.publish_stubbornly(b"end")
            await until(lambda: here.data()[-1:] == there.data()[-1:] == [b"end"])
            delivered = there.data()
            assert here.data() == delivered
            assert len(delivered) == len(set(delivered)), "one was delivered twice"
            acknowledged = sorted(one.acknowledged + two.acknowledged)
            assert {data for _, data in acknowledged} <= set(delivered), "an acknowledged one was lost"
            order = {data: place for place, data in enumerate(delivered)}
            places = [order[data] for _, data in acknowledged]
            assert places == sorted(places), "it was delivered in another order"
            assert not here.gaps() + there.gaps()
            if query:
                assert len(acknowledged) == count + 1, "the buffer lost something"
            else:
                assert len(acknowledged) >= 5 * RATE
                assert one.refused and two.refused


async def _away_later(engine: Engine, how: str) -> None:
    await asyncio.sleep(5)
    await _away(engine, how)


async def _publish(node: Node, number: int) -> None:
    await asyncio.sleep(number / RATE)
    with contextlib.suppress(EverywireError):
        await node.publish(b"%d" % number)
