"""Several nodes over one nats-server: what each promises the others."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from everywire.brokers.base import Appended, Head
from everywire.brokers.nats.broker import NatsBroker
from everywire.core.errors import KeyReused
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Gap, Publication
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.testing.broker_driving import (
    Call,
    RecordingSink,
    StoreClock,
    append,
    heads,
    offsets,
    publish,
    read,
    until,
)
from tests.brokers.nats_nodes import LIMITS, live_node, nats_broker
from tests.engines import Engine, nats_server

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with nats_server(Path(tmp_path_factory.mktemp("nats"))) as engine:
        yield engine


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


def told(reader: object) -> list[bytes]:
    return [one.data for _, one in reader.told if isinstance(one, Publication)]  # type: ignore[attr-defined]


async def test_what_one_node_publishes_readers_of_another_get(engine: Engine, prefix: str) -> None:
    async with live_node(engine, prefix) as one, live_node(engine, prefix) as two:
        readers = [await one.subscribe("a"), await two.subscribe("a"), await two.subscribe("a", "b")]
        for number in range(50):
            await publish((one, two)[number % 2].broker, "a", b"%d" % number)
        expected = [b"%d" % number for number in range(50)]
        await until(lambda: all(told(reader) == expected for reader in readers))
        figures = two.broker.statistics()
        assert figures["hints_received"] == 25
        assert one.broker.statistics()["hints_received"] == 25


async def test_eight_nodes_on_one_channel_make_no_hole_and_lose_nothing(engine: Engine, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(nats_broker(engine, prefix)) for _ in range(8)]
        node = await stack.enter_async_context(live_node(engine, prefix))
        reader = await node.subscribe("a")

        async def write(index: int, broker: NatsBroker) -> list[tuple[int, bytes]]:
            found = []
            for number in range(20):
                drafts = [Draft("a", b"%d-%d-%d" % (index, number, part)) for part in range(5)]
                for draft, result in zip(drafts, await append(broker, *drafts), strict=True):
                    assert isinstance(result, Appended), result
                    found.append((result.offset, draft.data))
            return found

        written = await asyncio.gather(*[write(index, broker) for index, broker in enumerate(brokers)])
        acknowledged = sorted(one for part in written for one in part)
        assert [offset for offset, _ in acknowledged] == list(range(1, 801))
        for part in written:
            assert [offset for offset, _ in part] == sorted(offset for offset, _ in part), "each in its order"
        page = await read(brokers[3], "a")
        assert [(one.offset, one.data) for one in page.publications] == acknowledged
        await until(lambda: len(told(reader)) == 800)
        assert told(reader) == [data for _, data in acknowledged]
        assert sum(broker.statistics()["conflicts"] for broker in brokers) > 0


async def test_a_key_counts_on_every_node(engine: Engine, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(nats_broker(engine, prefix)) for _ in range(4)]
        draft = Draft("a", b"1", key="k", fingerprint=b"f")
        found = [one for part in await asyncio.gather(*[append(b, draft) for b in brokers]) for one in part]
        assert all(isinstance(one, Appended) and one.offset == 1 for one in found)
        assert sum(not one.replayed for one in found if isinstance(one, Appended)) == 1
        for number in range(10):
            await publish(brokers[number % 4], "a", b"more")
        late = await stack.enter_async_context(nats_broker(engine, prefix))
        assert (await publish(late, "a", b"1", key="k", fingerprint=b"f")).offset == 1
        (other,) = await append(late, Draft("a", b"2", key="k", fingerprint=b"g"))
        assert isinstance(other, KeyReused)


async def test_keys_outlive_the_publications_that_the_window_drops(engine: Engine, prefix: str) -> None:
    clock = StoreClock()
    async with nats_broker(engine, prefix, clock_ms=clock) as one:
        first = await publish(one, "small.a", b"1", key="first", fingerprint=b"f")
        for number in range(150):
            await publish(one, "small.a", b"%d" % number, key=f"k{number}", fingerprint=b"f")
        purged = one.statistics()["purges"]
        for _ in range(500):
            one.sweep()
            if one.statistics()["purges"] > purged:
                break
            await asyncio.sleep(0.01)
        assert one.statistics()["purges"] > purged
        async with nats_broker(engine, prefix, clock_ms=clock) as other:
            assert offsets(await read(other, "small.a")) == [149, 150, 151]
            again = await publish(other, "small.a", b"1", key="first", fingerprint=b"f")
            assert again == first._replace(replayed=True)
            assert (await publish(other, "small.a", b"x", key="k149", fingerprint=b"f")).offset == 151
            clock.passes(LIMITS.idempotency_ttl_s + 1)
            assert (await publish(other, "small.a", b"1", key="first", fingerprint=b"g")).offset == 152


async def test_purging_leaves_what_the_window_keeps(engine: Engine, prefix: str) -> None:
    async with nats_broker(engine, prefix) as one, nats_broker(engine, prefix) as other:
        for number in range(300):
            await publish(one, "small.a", b"%d" % number)
        before = await one._parts.streams.info(one._names.log_stream(one._names.shard("small.a")))
        assert before.last_seq == 300
        for _ in range(300):
            one.sweep()
            if one.statistics()["purges"]:
                break
            await asyncio.sleep(0.01)
        first = await one._parts.streams.next(
            one._names.log_stream(one._names.shard("small.a")), one._names.log_subject("small.a"), 1
        )
        assert first is not None and first.seq > 200
        for broker in (one, other):
            page = await read(broker, "small.a")
            assert [one.data for one in page.publications] == [b"297", b"298", b"299"]


async def test_large_publications_go_by_reference(engine: Engine, prefix: str) -> None:
    sink = RecordingSink()
    async with nats_broker(engine, prefix) as one, nats_broker(engine, prefix, sink) as other:
        other.log.watch("a")
        await heads(other, "a")
        big = secrets.token_bytes(1024 * 1024)
        await append(one, Draft("a", b"small"), Draft("a", big, "image/png"), Draft("a", b"after"))
        await until(lambda: sink.last("a") == 3)
        assert all(hint.publications is None for hint in sink.hints if hint.last >= 2)
        assert other.statistics()["bus_bytes_in"] < 100_000
        page = await read(other, "a")
        assert [one.data for one in page.publications] == [b"small", big, b"after"]
        assert offsets(await read(other, "a", 0, 10, 1_000)) == [1]
        assert offsets(await read(other, "a", 1, 10, 1_000)) == [2]


async def test_large_publications_go_with_what_the_window_drops(engine: Engine, prefix: str) -> None:
    clock = StoreClock()
    async with nats_broker(engine, prefix, clock_ms=clock) as one:
        await publish(one, "a", bytes(300_000))
        await publish(one, "small.a", bytes(100_000))
        for _ in range(80):
            await publish(one, "small.a", b"small")

        async def stored() -> int:
            found = await one._parts.streams._api(f"STREAM.INFO.{one._names.large_stream}")
            return int(found["state"]["messages"])

        assert await stored() == 3
        for expected in (2, 0):
            async with asyncio.timeout(10):
                while await stored() != expected:
                    one.sweep()
                    await asyncio.sleep(0.02)
            clock.passes(10_000)


async def test_a_channel_that_another_node_watches_is_not_forgotten(engine: Engine, prefix: str) -> None:
    clock, sink = StoreClock(), RecordingSink()
    async with (
        nats_broker(engine, prefix, clock_ms=clock) as one,
        nats_broker(engine, prefix, sink, clock_ms=clock) as other,
    ):
        other.log.watch("a")
        await heads(other, "a")
        await append(one, Draft("a", b"1"), Draft("b", b"1"), Draft("b", b"2"))
        clock.passes(4_000)
        for _ in range(300):
            one.sweep()
            if not (await heads(other, "b"))["b"].exists:
                break
            await asyncio.sleep(0.01)
        for _ in range(20):
            one.sweep()
            await asyncio.sleep(0.01)
        found = await heads(other, "a", "b")
        assert found["a"][1:4] == (2, 1, True)
        assert found["b"][1:4] == (3, 2, False)
        assert (await publish(other, "b", b"3")).offset == 3


async def test_a_channel_whose_writer_is_gone_is_kept_in_order_by_others(engine: Engine, prefix: str) -> None:
    clock = StoreClock()
    async with nats_broker(engine, prefix, clock_ms=clock) as one:
        await publish(one, "a")
    clock.passes(10_000)
    async with nats_broker(engine, prefix, clock_ms=clock) as other:
        for _ in range(300):
            other.log.upkeep._strolled_s = -1_000.0
            other.sweep()
            if other.statistics()["channels_forgotten"]:
                break
            await asyncio.sleep(0.02)
        assert not (await heads(other, "a"))["a"].exists


async def test_a_lost_hint_is_found_by_comparing_heads(engine: Engine, prefix: str) -> None:
    async with live_node(engine, prefix) as one, live_node(engine, prefix) as two:
        reader = await two.subscribe("a")
        await publish(one.broker, "a", b"heard")
        await until(lambda: told(reader) == [b"heard"])
        deaf = two.broker
        deaf._link.want(deaf._names.hint_subject("a"), None)
        await deaf._link.settle()
        await append(one.broker, Draft("a", b"lost 1"), Draft("a", b"lost 2"))
        await publish(one.broker, "a", b"lost 3")
        await until(lambda: told(reader) == [b"heard", b"lost 1", b"lost 2", b"lost 3"])


async def test_many_channels_are_compared_at_once(engine: Engine, prefix: str) -> None:
    async with nats_broker(engine, prefix) as one, nats_broker(engine, prefix) as other:
        names = [f"c{number}" for number in range(600)]
        for at in range(0, 600, 200):
            await append(one, *[Draft(name, b"1") for name in names[at : at + 200]])
        found = await heads(other, *names)
        assert {head.last for head in found.values()} == {1}
        await append(one, *[Draft(name, b"2") for name in names[:300]])
        other_heads = await heads(other, *names[:50])
        assert {head.last for head in other_heads.values()} == {2}

        async def all_known() -> bool:
            found = await heads(other, *names)
            return [head.last for head in found.values()] == [2] * 300 + [1] * 300

        async with asyncio.timeout(10):
            while not await all_known():
                await asyncio.sleep(0.1)


async def test_a_page_is_found_in_the_middle_by_a_node_that_knows_nothing(
    engine: Engine, prefix: str
) -> None:
    async with nats_broker(engine, prefix) as one:
        for number in range(200):
            await publish(one, "a", b"%d" % number)
            if not number % 10:
                await publish(one, "b", b"between")
        for after in (0, 1, 57, 120, 198, 199, 200):
            async with nats_broker(engine, prefix) as other:
                page = await read(other, "a", after, 5)
                assert offsets(page) == list(range(after + 1, min(after + 6, 201)))
        assert offsets(await read(one, "a", 0, 2**30)) == list(range(1, 201))


async def test_a_window_by_age_and_bytes_is_the_same_for_every_node(engine: Engine, prefix: str) -> None:
    clock = StoreClock()
    table = SettingsTable(
        [("young.*", ChannelSettings(Window(10_000, 10_000_000, 60.0)))],
        ChannelSettings(Window(10_000, 12_000, 3_600.0)),
    )
    async with nats_broker(engine, prefix, clock_ms=clock, settings=table) as one:
        for number in range(100):
            await append(one, Draft("young.a", b"%d" % number), Draft("heavy", bytes(100)))
            clock.passes(1)
        async with nats_broker(engine, prefix, clock_ms=clock, settings=table) as other:
            for broker in (one, other):
                page = await read(broker, "young.a")
                assert offsets(page) == list(range(41, 101))
                assert (page.head.first, page.head.is_whole) == (41, False)
                assert offsets(await read(broker, "young.a", 70, 3)) == [71, 72, 73]
                page = await read(broker, "heavy")
                assert offsets(page) == list(range(61, 101))
                assert (page.head.first, page.head.is_whole) == (61, False)


async def test_nodes_ask_and_tell_each_other(engine: Engine, prefix: str) -> None:
    sinks = [RecordingSink(), RecordingSink()]
    async with nats_broker(engine, prefix, sinks[0]) as one, nats_broker(engine, prefix, sinks[1]) as two:
        assert await one.control.ask(two.node, "t", b"question", 5) == b"answer to question"
        await two.control.broadcast("t", b"all")
        await until(lambda: all(sink.broadcasts == [("t", b"all", two.node)] for sink in sinks))


async def test_of_many_nodes_one_takes_and_one_puts_first(engine: Engine, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(nats_broker(engine, prefix)) for _ in range(5)]
        found = await asyncio.gather(
            *[broker.store.put_once("k", b"%d" % index, 100) for index, broker in enumerate(brokers)]
        )
        assert sum(one is None for one in found) == 1
        taken = await asyncio.gather(*[broker.store.take("k") for broker in brokers for _ in range(3)])
        assert sum(one is not None for one in taken) == 1
        await brokers[0].leases.put("room", "ann", b"1", 100)
        assert await brokers[4].leases.members("room") == {"ann": b"1"}


async def test_values_that_ran_out_make_room(engine: Engine, prefix: str) -> None:
    clock = StoreClock()
    limits = Limits(max_stored_keys=2, max_leases=2, canary_interval_s=60)
    async with nats_broker(engine, prefix, limits=limits, clock_ms=clock) as one:
        for number in range(3):
            await one.store.put(f"k{number}", b"1", 10)
        await one.store.put("ban", b"1", 1_000)
        with pytest.raises(Exception, match="as much as it may"):
            await one.store.put("more", b"1", 10)
        await one.store.put("ban", b"2", 1_000)
        clock.passes(11)
        one._values._strolled_s = -1_000.0
        one.sweep()
        async with asyncio.timeout(10):
            while True:
                try:
                    await one.store.put("more", b"1", 10)
                    break
                except Exception:
                    await asyncio.sleep(0.05)
        assert await one.store.get("ban") == b"2"


async def test_a_kept_channel_is_kept_on_every_node(engine: Engine, prefix: str) -> None:
    async with nats_broker(engine, prefix) as one, nats_broker(engine, prefix) as two:
        call = Call()
        one.log.keep("small.a", Window(1_000, 1_000_000, 1_000.0), 100, call, anew=True)
        head = await call.result()
        assert isinstance(head, Head) and head.is_whole
        for number in range(10):
            await publish((one, two)[number % 2], "small.a", b"%d" % number)
        assert offsets(await read(two, "small.a")) == list(range(1, 11))
        assert (await heads(one, "small.a"))["small.a"].is_whole


async def test_readers_on_a_node_are_told_what_the_window_dropped(engine: Engine, prefix: str) -> None:
    async with live_node(engine, prefix) as one, live_node(engine, prefix) as two:
        reader = await one.subscribe("small.a")
        await publish(two.broker, "small.a", b"0")
        await until(lambda: told(reader) == [b"0"])
        one.broker._link.want(one.broker._names.hint_subject("small.a"), None)
        await one.broker._link.settle()
        await append(two.broker, *[Draft("small.a", b"%d" % number) for number in range(1, 21)])
        await until(lambda: told(reader)[-1:] == [b"20"])
        gaps = [gap for _, gap in reader.told if isinstance(gap, Gap)]
        assert sum(gap.missed for gap in gaps) + len(told(reader)) == 21
