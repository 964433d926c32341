"""The broker over Redis with everything that can go wrong with one server, on two nodes with hubs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.brokers.redis.broker import RedisBroker
from everywire.brokers.redis.log import Watch
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.hub.recovery import EARLIEST
from everywire.testing.broker_driving import RecordingSink
from tests.brokers.redis_nodes import LIMITS, Node, nodes, until
from tests.client.certificates import make_certificate
from tests.engines import Engine, free_port, redis_command, redis_engine, running

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Engine]:
    engine = redis_engine(tmp_path / "redis")
    with running(engine):
        yield engine


def url(engine: Engine, query: str = "") -> str:
    return f"redis://127.0.0.1:{engine.port}/0{query}"


async def run(engine: Engine, *arguments: str) -> str:
    return await asyncio.to_thread(redis_command, engine.port, *arguments)


async def test_what_one_node_publishes_the_other_delivers(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        here, there = await one.read(), await two.read()
        for number in range(50):
            await (one, two)[number % 2].publish(b"%d" % number)
        expected = [b"%d" % number for number in range(50)]
        await until(lambda: here.data() == there.data() == expected)
        assert not one.broker.statistics()["hints_lost"]


async def test_eight_writers_of_one_channel_on_two_nodes_keep_one_order(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        here, there = await one.read(), await two.read()

        async def write(writer: int) -> None:
            for number in range(50):
                await (one, two)[writer % 2].publish(b"%d:%d" % (writer, number))

        await asyncio.gather(*(write(writer) for writer in range(8)))
        await until(lambda: len(here.data()) == len(there.data()) == 400)
        assert here.data() == there.data()
        for writer in range(8):
            own = [data for data in here.data() if data.startswith(b"%d:" % writer)]
            assert own == [b"%d:%d" % (writer, number) for number in range(50)]
        assert not here.gaps() + there.gaps()


async def test_a_large_publication_goes_by_reference(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        there = await two.read()
        before = two.broker.statistics()["bus_bytes_in"]
        await one.publish(b"x" * 500_000)
        await until(lambda: bool(there.data()))
        assert there.data() == [b"x" * 500_000]
        assert two.broker.statistics()["bus_bytes_in"] - before < 10_000


async def test_hints_come_only_to_nodes_that_have_readers(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        there = await two.read("a")
        before = one.broker.statistics()["hints_received"], two.broker.statistics()["hints_received"]
        for number in range(100):
            await one.publish(b"%d" % number, "b")
            await one.publish(b"%d" % number, "a")
        await until(lambda: len(there.data()) == 100)
        assert one.broker.statistics()["hints_received"] - before[0] < 50, "nobody reads there"
        assert two.broker.statistics()["hints_received"] - before[1] < 150, "nobody reads b"


async def test_lost_hints_only_delay(server: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(url(server)) as (one, two):
        there = await two.read()
        monkeypatch.setattr(two.broker.log, "heard", lambda channel, payload: None)
        for number in range(20):
            await one.publish(b"%d" % number)
        await until(lambda: len(there.data()) == 20)
        assert not there.gaps()


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_killed_connections_are_made_again(server: Engine, kind: str) -> None:
    async with nodes(url(server)) as (one, two):
        here, there = await one.read(), await two.read()
        for number in range(60):
            if number % 20 == 10:
                await run(server, "CLIENT", "KILL", "TYPE", kind)
            await one.publish_stubbornly(b"%d" % number)
        expected = [b"%d" % number for number in range(60)]
        await until(lambda: here.data() == there.data() == expected)
        assert not here.gaps() + there.gaps()
        await until(lambda: one.is_ready and two.is_ready)


async def test_a_subscriber_that_does_not_keep_up_is_dropped_and_comes_back(server: Engine) -> None:
    await run(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 32kb 1")
    async with nodes(url(server)) as (one, two):
        there = await two.read()
        reconnects = two.broker.statistics()["reconnects"]
        burst = "for i = 1, 100 do redis.call('PUBLISH', KEYS[1], string.rep('x', 8000)) end"
        for turn in range(3):
            # More in one turn of Redis' loop than its buffer for a subscriber may hold.
            await run(server, "EVAL", burst, "1", "everywire:{a}h")
            for number in range(20):
                await one.publish(b"%d:%d" % (turn, number))
        await until(lambda: len(there.data()) == 60)
        assert there.data() == [data for _, data in one.acknowledged]
        assert not there.gaps()
        await until(lambda: two.is_ready)
        assert two.broker.statistics()["reconnects"] > reconnects, "the buffer was not overrun"


async def test_a_paused_server_is_an_error_in_time_and_then_goes_on(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        there = await two.read()
        await one.publish(b"before")
        server.pause()
        started = one.loop.time()
        with pytest.raises(BrokerError):
            await one.publish(b"lost")
        assert one.loop.time() - started < LIMITS.broker_timeout_s + 2.0
        await until(lambda: not one.is_ready and not two.is_ready)
        assert one.broker.statistics()["canaries_lost"]
        server.go_on()
        await until(lambda: one.is_ready and two.is_ready)
        await one.publish_stubbornly(b"after")
        await until(lambda: there.data()[-1:] == [b"after"])
        assert not there.gaps()
        assert set(there.data()) <= {b"before", b"lost", b"after"}


async def test_a_restarted_server_that_lost_nothing_goes_on(tmp_path: Path) -> None:
    engine = redis_engine(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    with running(engine):
        async with nodes(url(engine)) as (one, two):
            here, there = await one.read(), await two.read()
            first = await one.publish(b"before")
            await asyncio.to_thread(engine.restart)
            for number in range(10):
                await two.publish_stubbornly(b"%d" % number)
            await until(lambda: len(here.data()) == len(there.data()) == 11)
            assert not here.gaps() + there.gaps()
            again = await one.publish(b"end")
            assert (again.epoch, again.offset) == (first.epoch, first.offset + 11)


async def test_a_server_that_lost_everything_begins_a_new_epoch(
    server: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async with nodes(url(server)) as (one, two):
        there = await two.read()
        for number in range(5):
            first = await one.publish(b"%d" % number)
        await asyncio.to_thread(server.restart)
        await one.publish_stubbornly(b"after")
        await until(lambda: there.data()[-1:] == [b"after"])
        again = one.acknowledged[-1][0]
        assert again.epoch != first.epoch
        assert there.gaps() == ["reset"]
        # The operator is told, too; once, whichever node was first.
        assert sum(node.broker.statistics()["new_epochs"] for node in (one, two)) == 1
        assert caplog.text.count("Redis has lost") == 1


async def test_a_flushed_server_begins_a_new_epoch(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        here, there = await one.read(), await two.read()
        for number in range(5):
            await one.publish(b"%d" % number)
        await until(lambda: len(here.data()) == len(there.data()) == 5)
        await run(server, "FLUSHALL")
        await two.publish_stubbornly(b"after")
        await until(lambda: here.data()[-1:] == there.data()[-1:] == [b"after"])
        assert here.gaps() == there.gaps() == ["reset"]


async def _back_to_a_snapshot(engine: Engine, one: Node, count: int) -> None:
    """Publish, save, publish more, and start again with what was saved."""
    for number in range(5):
        await one.publish(b"saved %d" % number)
    await run(engine, "SAVE")
    for number in range(count):
        await one.publish(b"lost %d" % number)
    await asyncio.to_thread(engine.kill)
    await asyncio.to_thread(engine.start)


async def test_an_old_snapshot_begins_a_new_epoch(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        here, there = await one.read(), await two.read()
        await _back_to_a_snapshot(server, one, 5)
        old = one.acknowledged[-1][0].epoch
        await until(lambda: one.is_ready and two.is_ready)
        await two.publish_stubbornly(b"after")
        await until(lambda: here.data()[-1:] == there.data()[-1:] == [b"after"])
        assert here.gaps() == there.gaps() == ["reset"]
        places = [(found.epoch, found.offset) for found, _ in one.acknowledged + two.acknowledged]
        assert len(places) == len(set(places)), "an offset of an epoch was used twice"
        assert two.acknowledged[-1][0].epoch != old


async def test_of_two_nodes_only_the_one_that_knows_better_sees_an_old_snapshot(server: Engine) -> None:
    """The other publishes at once, and must not get ahead of what the first one knew."""
    async with nodes(url(server)) as (one, two):
        await _back_to_a_snapshot(server, one, 3)
        await asyncio.gather(*(two.publish_stubbornly(b"new %d" % number) for number in range(20)))
        places = [(found.epoch, found.offset) for found, _ in one.acknowledged + two.acknowledged]
        assert len(places) == len(set(places)), "an offset of an epoch was used twice"


async def test_another_content_under_a_known_offset_is_a_new_epoch(
    server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was cut off while others went past what it knew sees that it is not what it knew."""
    async with nodes(url(server), 1) as (one,):
        there = await one.read()
        for number in range(5):
            await one.publish(b"saved %d" % number)
        await run(server, "SAVE")
        for number in range(3):
            old = await one.publish(b"lost %d" % number)

        async def cut(*_: object) -> None:
            raise BrokerError("it is cut off")

        with monkeypatch.context() as patch:
            patch.setattr(one.broker._servers, "_open", cut)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            async with nodes(url(server), 1) as (other,):
                # It has no marks: what is there is all right for it.
                for number in range(10):
                    again = await other.publish(b"other %d" % number)
                assert (again.epoch, again.offset) == (old.epoch, old.offset + 7)
        await one.publish_stubbornly(b"after")
        await until(lambda: there.data()[-1:] == [b"after"])
        assert one.acknowledged[-1][0].epoch != old.epoch
        assert "reset" in there.gaps()


async def test_a_server_that_is_away_fails_publishers_and_nothing_acknowledged_is_lost(
    server: Engine,
) -> None:
    """One that is stopped for two seconds under 100 publications a second."""
    async with nodes(url(server)) as (one, two):
        there = await two.read()

        async def publish(number: int) -> None:
            with contextlib.suppress(EverywireError):
                await one.publish(b"%d" % number)

        tasks = []
        for number in range(400):
            if number == 100:
                server.pause()
            if number == 300:
                server.go_on()
            tasks.append(asyncio.create_task(publish(number)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        await one.publish_stubbornly(b"end")
        await until(lambda: there.data()[-1:] == [b"end"])
        delivered = there.data()
        assert len(delivered) == len(set(delivered)), "one was delivered twice"
        assert {data for _, data in one.acknowledged} <= set(delivered), "an acknowledged one was lost"
        assert not there.gaps()


async def test_a_buffer_keeps_what_is_published_while_the_server_is_away(server: Engine) -> None:
    async with nodes(url(server, "?buffer=1000")) as (one, two):
        there = await two.read()
        await one.publish(b"first")
        server.pause()
        calls = [asyncio.create_task(one.publish(b"%d" % number)) for number in range(50)]
        await asyncio.sleep(LIMITS.broker_timeout_s + 1.0)
        assert not any(call.done() for call in calls)
        server.go_on()
        await asyncio.gather(*calls)
        expected = [b"first", *(b"%d" % number for number in range(50))]
        await until(lambda: there.data() == expected)
        assert one.broker.statistics()["buffered"]


async def test_hints_that_overtake_an_answer_are_no_reason_to_doubt_the_store(
    server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(url(server)) as (one, two):
        there = await one.read()
        await two.publish(b"0")
        await until(lambda: there.data() == [b"0"])
        log, registry = one.broker.log, one.broker._registry
        insist = log._insist
        doubts: list[str] = []

        async def answer_late(lane: Any, command: Any) -> Any:
            answer = await insist(lane, command)
            monkeypatch.setattr(log, "_insist", insist)
            await two.publish(b"1")
            await until(lambda: there.data() == [b"0", b"1"])
            return answer

        monkeypatch.setattr(registry, "suspect", doubts.append)
        monkeypatch.setattr(log, "_insist", answer_late)
        found: list[Any] = []
        log.heads(["a"], found.append)
        await until(lambda: bool(found))
        assert found[0]["a"].last == 1
        assert not doubts, "hints would count for nothing until the store was compared again"
        await two.publish(b"2")
        await until(lambda: there.data() == [b"0", b"1", b"2"])
        assert one.broker.statistics()["hints_lost"] == 0


async def test_unfinished_appends_are_bounded(server: Engine) -> None:
    limits = Limits(max_unfinished_appends=10, broker_timeout_s=2.0)
    async with nodes(url(server), 1, limits) as (one,):
        results: list[object] = []
        log = one.broker.log
        log.append([Draft("a", b"1")] * 10, results.extend)
        log.append([Draft("a", b"1")], results.extend)
        assert [type(one) for one in results] == [BrokerBusy]
        await until(lambda: len(results) == 11)
        log.append([Draft("a", b"1")], results.extend)
        await until(lambda: len(results) == 12)


async def test_nodes_ask_each_other(server: Engine) -> None:
    async with nodes(url(server)) as (one, two):
        heard: list[tuple[bytes, str]] = []
        two.hub.on_broadcast("topic", lambda payload, node: heard.append((payload, node)))
        await one.broker.control.broadcast("topic", b"hello")
        await until(lambda: bool(heard))
        assert heard == [(b"hello", one.broker.node)]

        async def answer(payload: bytes, node: str) -> bytes:
            return payload + b"!"

        two.hub.on_ask("topic", answer)
        assert await one.broker.control.ask(two.broker.node, "topic", b"well", 2.0) == b"well!"
        with pytest.raises(BrokerError, match="no node"):
            await one.broker.control.ask("nobody", "topic", b"well", 2.0)


async def test_an_evicted_part_of_a_channel_is_begun_anew(server: Engine) -> None:
    async with nodes(url(server), 1) as (one,):
        there = await one.read()
        await one.publish(b"1")
        await run(server, "DEL", "everywire:{a}s")
        assert (await one.publish(b"2")).offset == 2
        await until(lambda: there.data() == [b"1", b"2"])


async def test_a_server_without_the_scripts_is_given_them(server: Engine) -> None:
    async with nodes(url(server), 1) as (one,):
        await one.publish(b"1")
        await run(server, "SCRIPT", "FLUSH")
        assert (await one.publish(b"2")).offset == 2


async def test_a_node_that_starts_before_its_server_is_ready_later(tmp_path: Path) -> None:
    engine = redis_engine(tmp_path / "redis")
    limits = Limits(canary_interval_s=0.2, canary_timeout_s=0.6, broker_timeout_s=0.5)
    async with nodes(url(engine), 1, limits) as (one,):
        assert not one.is_ready
        with pytest.raises(BrokerError):
            await one.publish(b"early")
        with running(engine):
            await until(lambda: one.is_ready)
            await one.publish_stubbornly(b"late")


async def test_a_wrong_password_is_told_without_the_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = redis_engine(tmp_path / "redis", "--requirepass", "right")
    limits = Limits(broker_timeout_s=0.5)
    with running(engine):
        place = f"127.0.0.1:{engine.port}"
        async with nodes(f"redis://:mistaken@{place}/0", 1, limits) as (one,):
            assert not one.is_ready
            assert "mistaken" not in caplog.text + repr(one.broker) + repr(one.broker.address)
            assert "refuses" in caplog.text
        async with nodes(f"redis://:right@{place}/0", 1, limits) as (one,):
            assert one.is_ready


async def test_a_server_whose_memory_is_full_refuses_and_later_goes_on(server: Engine) -> None:
    narrow = SettingsTable((), ChannelSettings(Window(3, 1_000_000, 300.0)))
    async with nodes(url(server), settings=narrow) as (one, two):
        there = await two.read()
        for number in range(4):
            await one.publish(b"%d" % number)
        await run(server, "CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(BrokerError, match="memory"):
            await one.publish(b"refused")
        await run(server, "CONFIG", "SET", "maxmemory", "0")
        await one.publish_stubbornly(b"after")
        await until(lambda: there.data()[-1:] == [b"after"])
        assert b"refused" not in there.data()
        assert not there.gaps()
        fresh = await one.read(start=EARLIEST)
        await until(lambda: fresh.data() == [b"2", b"3", b"after"])


async def test_over_tls(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    port = free_port()
    tls = (
        "--tls-port",
        str(port),
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-auth-clients",
        "no",
    )
    with running(redis_engine(tmp_path / "redis", *tls)):
        async with nodes(f"rediss://127.0.0.1:{port}/0?ca={cert}") as (one, two):
            there = await two.read()
            await one.publish(b"1")
            await until(lambda: there.data() == [b"1"])
        async with nodes(f"rediss://127.0.0.1:{port}/0", 1, Limits(broker_timeout_s=0.5)) as (one,):
            assert not one.is_ready, "it took a certificate that nobody vouches for"


HINTS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda line, body: line.encode() + b"\n" + body,
        st.from_regex(r"[0-9a-f]{1,3}-x [0-9-]{1,3} [0-9-]{1,3} [0-9-]{1,3} n?", fullmatch=True),
        st.binary(max_size=30) | st.just(b"\0\0\0\1\x96"),
    ),
)


@given(payload=HINTS)
def test_what_is_no_hint_is_dropped(payload: bytes) -> None:
    """Whoever can publish on Redis can send anything."""
    broker = RedisBroker("redis://127.0.0.1:1")
    sink = broker.log.sink = RecordingSink()
    broker._registry._verified = 0
    broker.log.watched["a"] = Watch()
    broker._heard("everywire:{a}h", payload)
    assert all(hint.previous < hint.last for hint in sink.hints)
    broker._heard(broker._own, payload)
    broker._heard(broker._names.all, payload)


async def test_a_user_that_may_only_what_the_documents_say(server: Engine) -> None:
    rules = ["~app:*", "&app:*", "+@all", "-@dangerous", "+info", "+role", "+cluster"]
    await run(server, "ACL", "SETUSER", "everywire", "on", ">secret", *rules)
    place = f"redis://everywire:secret@127.0.0.1:{server.port}/0?prefix=app"
    async with nodes(place) as (one, two):
        there = await two.read()
        await one.publish(b"1", key="k")
        await until(lambda: there.data() == [b"1"])
        await one.broker.store.put("key", b"value", 10)
        assert await two.broker.store.take("key") == b"value"
        await one.broker.leases.put("room", "ann", b"1", 10)
        assert await two.broker.leases.members("room") == {"ann": b"1"}
        one.broker.sweep()
        assert await one.broker.store.put_once("once", b"1", 10) is None
    async with nodes(place.replace("prefix=app", "prefix=other"), 1, Limits(broker_timeout_s=0.5)) as (one,):
        assert not one.is_ready
