"""Redis away for twenty seconds at a hundred publications a second: acknowledged is delivered, once."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from tests.brokers.redis_nodes import Node, nodes, until
from tests.engines import Engine, redis_engine, running

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


@pytest.mark.parametrize("how", ["paused", "killed"])
@pytest.mark.parametrize("query", ["", "?buffer=10000"])
async def test_redis_is_away(tmp_path: Path, how: str, query: str) -> None:
    # What Redis acknowledges is on its disk, so that nothing of it is lost with the process.
    engine = redis_engine(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    limits = Limits()
    with running(engine):
        async with nodes(f"redis://127.0.0.1:{engine.port}/0{query}", 2, limits) as (one, two):
            here, there = await one.read(), await two.read()
            # The window has room for a thousand: who is behind by more would be told of a gap.
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
