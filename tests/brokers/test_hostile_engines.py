"""Redis and NATS with what somebody wrote there who is none of us: nodes say so, and go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest

from everywire.brokers.nats.address import token
from everywire.brokers.nats.message import Message, State
from everywire.brokers.record import pack
from everywire.core.publication import Draft
from everywire.testing.broker_driving import publish, until
from tests.brokers.nats_nodes import nats_broker
from tests.brokers.redis_nodes import nodes
from tests.brokers.redis_nodes import until as patiently
from tests.engines import Engine, nats_server, redis_command, redis_engine, running

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Engine]:
    engine = redis_engine(tmp_path / "redis")
    with running(engine):
        yield engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with nats_server(tmp_path / "nats") as engine:
        yield engine


async def run(engine: Engine, *arguments: str) -> str:
    return await asyncio.to_thread(redis_command, engine.port, *arguments)


# -- Redis ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "x", "1", " ", "9" * 30 + "x", "-1 x"])
async def test_a_lease_on_redis_that_is_none_hides_no_other(redis: Engine, value: str) -> None:
    async with nodes(f"redis://127.0.0.1:{redis.port}", 1) as (one,):
        leases = one.broker.leases
        await leases.put("group", "ann", b"1", 60.0)
        key = one.broker._names.group("group")
        await run(redis, "HSET", key, "stranger", value)
        assert await leases.members("group") == {"ann": b"1"}
        await run(redis, "HSET", key, "stranger", value)
        await leases.put("group", "bob", b"2", 60.0)
        assert await leases.members("group") == {"ann": b"1", "bob": b"2"}
        assert await run(redis, "HEXISTS", key, "stranger") == "0"


@pytest.mark.parametrize(("field", "value"), [("epoch", "\\xff"), ("floor", "x")])
async def test_a_node_goes_on_when_the_store_of_redis_is_put_right(
    redis: Engine, field: str, value: str
) -> None:
    async with nodes(f"redis://127.0.0.1:{redis.port}", 1) as (one,):
        there = await one.read()
        await one.publish(b"1")
        store, registry = one.broker._names.store, one.broker._registry
        right = await run(redis, "HGET", store, field)
        await run(redis, "EVAL", f"redis.call('HSET', KEYS[1], ARGV[1], '{value}')", "1", store, field)
        await run(redis, "CLIENT", "KILL", "TYPE", "normal")
        await patiently(lambda: not registry.is_verified)
        await asyncio.sleep(0.3)
        assert registry._keeper is not None and not registry._keeper.done(), "nobody compares any more"
        if right:
            await run(redis, "HSET", store, field, right)
        else:
            await run(redis, "HDEL", store, field)
        await patiently(lambda: registry.is_verified)
        await one.publish_stubbornly(b"2")
        await patiently(lambda: there.data() == [b"1", b"2"])


async def test_nothing_is_appended_while_a_doubt_is_looked_into(
    redis: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(f"redis://127.0.0.1:{redis.port}", 1) as (one,):
        await one.publish(b"1")
        registry, is_over, is_asked = one.broker._registry, asyncio.Event(), asyncio.Event()
        probe = registry._probe

        async def slowly(*arguments: Any) -> Any:
            is_asked.set()
            await is_over.wait()
            return await probe(*arguments)

        monkeypatch.setattr(registry, "_probe", slowly)
        registry.suspect("a")
        await is_asked.wait()
        assert not registry.is_verified
        publishing = asyncio.ensure_future(one.publish(b"2"))
        await asyncio.sleep(0.2)
        assert not publishing.done(), "it was appended to a store that was doubted"
        is_over.set()
        assert (await publishing).offset == 2


# -- NATS -------------------------------------------------------------------------------


async def test_a_value_at_nats_that_is_none_hides_no_other_and_goes(engine: Engine) -> None:
    stranger = await nats.connect(f"nats://127.0.0.1:{engine.port}")
    async with nats_broker(engine, "x") as broker:
        await broker.leases.put("group", "ann", b"1", 60.0)
        subject = f"x.v.l.{token('group')}.stranger"
        for data in (b"\xc1", b"\x93\xa1\xff\x00\xc4\x00", b"\x94\xa0\x00\xc4\x00" + b"\x91" * 50_000):
            await stranger.publish(subject, data)
            await stranger.flush()
            assert await broker.leases.members("group") == {"ann": b"1"}
        await broker._values._stroll()
        assert await broker._values.newest(subject) is None, "it would be there for ever"
        assert await broker.leases.members("group") == {"ann": b"1"}
    await stranger.close()


async def test_messages_of_strangers_do_not_end_the_housekeeping(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    stranger = await nats.connect(f"nats://127.0.0.1:{engine.port}")
    async with nats_broker(engine, "x") as broker:
        await publish(broker, "a")
        message = Message.make(("w", 1), 0, State("e", 1, 1, 1, 0), (pack(Draft("a", b"1"), 0),)).encode()
        for shard in range(2):
            for name in ("bad!name", "a.b", "zoé"):
                await stranger.publish(f"x.c.{shard}.{name}", b"\xc1")
                await stranger.publish(f"x.c.{shard}.{name}", message)
        await stranger.flush()
        for _ in range(4):
            await broker.log.upkeep._stroll()
        assert not caplog.records
        assert (await publish(broker, "a")).offset == 2
    await stranger.close()


@pytest.mark.parametrize("data", [b"\x92\xa1\xff\x00", b"\x93\xa1x\x00" + b"\x91" * 50_000, b"\x92\xa0\x00"])
async def test_a_node_goes_on_when_the_epoch_at_nats_is_put_right(engine: Engine, data: bytes) -> None:
    stranger = await nats.connect(f"nats://127.0.0.1:{engine.port}")
    async with nats_broker(engine, "x") as broker:
        first = await publish(broker, "a")
        await stranger.publish(broker._names.meta_subject, data)
        await stranger.flush()
        await until(lambda: not broker.health().ready)
        broker._link.renew("the test wants it to look at the store anew")
        await asyncio.sleep(0.5)
        assert not broker.health().ready
        await stranger.publish(broker._names.meta_subject, msgspec.msgpack.encode([first.epoch, 0]))
        await stranger.flush()
        await until(lambda: broker.health().ready)
        assert (await publish(broker, "a"))[:2] == (first.epoch, 2)
    await stranger.close()
