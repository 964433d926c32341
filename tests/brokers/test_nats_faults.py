"""The NATS broker when the engine is killed, paused, cut off, emptied, or put back to an old copy."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from everywire.brokers.base import Appended
from everywire.brokers.nats.broker import NatsBroker
from everywire.brokers.nats.link import LinkLost
from everywire.core.errors import BrokerBusy, BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Gap, Publication
from everywire.testing.broker_driving import RecordingSink, append, heads, offsets, publish, read, until
from tests.brokers.nats_nodes import LIMITS, TABLE, live_node, make_broker, nats_broker
from tests.brokers.sqlite_nodes import LiveNode
from tests.brokers.sqlite_nodes import until as patiently
from tests.engines import Engine, nats_server
from tests.hub.recording import RecordingReader

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with nats_server(tmp_path / "nats") as engine:
        yield engine


def told(reader: RecordingReader) -> list[bytes]:
    return [one.data for _, one in reader.told if isinstance(one, Publication)]


def gaps(reader: RecordingReader) -> list[Gap]:
    return [one for _, one in reader.told if isinstance(one, Gap)]


class Publisher:
    """Publishes at 100 a second through a broker, and remembers what it was told."""

    def __init__(self, broker: NatsBroker, channel: str = "a") -> None:
        self.acknowledged: list[bytes] = []
        self.refused: list[bytes] = []
        self.reasons: set[str] = set()
        self.slowest_s = 0.0
        self._broker, self._channel = broker, channel
        self._unfinished = 0
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            data = b"%s-%d" % (self._broker.node.encode(), number)
            began_s = loop.time()

            def done(results: object, data: bytes = data, began_s: float = began_s) -> None:
                (result,) = results  # type: ignore[misc]
                self._unfinished -= 1
                self.slowest_s = max(self.slowest_s, loop.time() - began_s)
                if isinstance(result, Appended):
                    self.acknowledged.append(data)
                else:
                    self.refused.append(data)
                    self.reasons.add(str(result))

            self._unfinished += 1
            self._broker.log.append([Draft(self._channel, data)], done)
            number += 1
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await patiently(lambda: not self._unfinished)


def check(reader: RecordingReader, *publishers: Publisher) -> None:
    """All that was acknowledged was told, nothing twice, and nothing that nobody published."""
    assert not gaps(reader)
    found = told(reader)
    assert len(found) == len(set(found)), "something came twice"
    acknowledged = {data for one in publishers for data in one.acknowledged}
    refused = {data for one in publishers for data in one.refused}
    assert acknowledged <= set(found), "something acknowledged is lost"
    assert set(found) <= acknowledged | refused
    for one in publishers:
        own = set(one.acknowledged)
        assert [data for data in found if data in own] == one.acknowledged, "the order of a publisher"


async def all_told(reader: RecordingReader, *publishers: Publisher) -> None:
    wanted = {data for one in publishers for data in one.acknowledged}
    await patiently(lambda: wanted <= set(told(reader)))


async def test_an_engine_away_for_seconds_loses_nothing_acknowledged(engine: Engine) -> None:
    async with live_node(engine, "p") as one, live_node(engine, "p") as two:
        readers = [await one.subscribe("a"), await two.subscribe("a")]
        publishers = [Publisher(one.broker), Publisher(two.broker)]  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        engine.kill()
        await patiently(lambda: not one.broker.health().ready)
        await asyncio.sleep(4.0)  # longer than the broker's time-out: some are refused
        refused = [len(publisher.refused) for publisher in publishers]
        assert all(refused), "nobody waits longer than the time-out"
        engine.start()
        await patiently(lambda: one.broker.health().ready and two.broker.health().ready)
        await asyncio.sleep(0.5)
        for publisher in publishers:
            await publisher.end()
            assert publisher.slowest_s < LIMITS.broker_timeout_s + 1.0
            assert len(publisher.acknowledged) > 50
        figures = [node.broker.statistics() for node in (one, two)]  # type: ignore[attr-defined]
        for reader in readers:
            await all_told(reader, *publishers)
            check(reader, *publishers)
        assert all(one["reconnects"] >= 1 for one in figures)
        assert sum(one["epochs_made"] for one in figures) == 1, "nothing was lost"


async def test_a_buffer_keeps_what_is_published_while_the_engine_is_away(engine: Engine) -> None:
    limits = replace(LIMITS, broker_timeout_s=1.0, max_unfinished_appends=10)
    more = {"query": "&buffer=1000", "limits": limits}
    async with live_node(engine, "p", **more) as one, live_node(engine, "p") as two:
        readers = [await one.subscribe("a"), await two.subscribe("a")]
        publisher = Publisher(one.broker)  # type: ignore[arg-type]
        for end, start, away_s in ((engine.kill, engine.start, 3.0), (engine.pause, engine.go_on, 3.0)):
            await asyncio.sleep(0.3)
            end()
            await asyncio.sleep(away_s)
            start()
            await patiently(lambda: one.broker.health().ready and two.broker.health().ready)
        await asyncio.sleep(0.3)
        await publisher.end()
        assert publisher.slowest_s > 2.0
        assert not publisher.refused
        for reader in readers:
            await all_told(reader, publisher)
            check(reader, publisher)
            assert told(reader) == publisher.acknowledged
        assert one.broker.statistics()["buffered"] > 100  # type: ignore[attr-defined]


async def test_a_buffer_has_an_end(engine: Engine) -> None:
    limits = replace(LIMITS, max_unfinished_appends=10)
    async with nats_broker(engine, "p", query="&buffer=100", limits=limits) as broker:
        engine.pause()
        results: list[object] = []
        for number in range(101):
            broker.log.append([Draft("a", b"%d" % number)], results.extend)
        assert [type(one) for one in results] == [BrokerBusy]
        engine.go_on()
        await until(lambda: len(results) == 101)
        assert all(type(one) is Appended for one in results[1:])


async def test_what_may_stand_is_not_published_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        nats_broker(engine, "p", query="&buffer=100") as one,
        nats_broker(engine, "p") as two,
    ):
        await publish(one, "small.a", b"first")
        streams = one._parts.streams
        really = streams.append

        async def lose_the_answer(*args: object) -> int:
            """The message arrives and goes out of the window, and nobody says so."""
            await really(*args)  # type: ignore[arg-type]
            monkeypatch.undo()
            for number in range(10):
                await publish(two, "small.a", b"%d" % number)
            channel = two._parts.channels.of("small.a")
            await two.log.upkeep.purge(channel, channel.seq)
            raise LinkLost

        monkeypatch.setattr(streams, "append", lose_the_answer)
        (result,) = await append(one, Draft("small.a", b"once"))
        assert isinstance(result, BrokerError) and "may have been published" in result.sentence, result
        assert offsets(await read(one, "small.a"))[-1] == 12, "it was published again"


async def test_a_short_absence_is_not_even_noticed_by_publishers(engine: Engine) -> None:
    async with live_node(engine, "p") as node:
        reader = await node.subscribe("a")
        publisher = Publisher(node.broker)  # type: ignore[arg-type]
        for end in (engine.kill, engine.stop, engine.kill):
            await asyncio.sleep(0.3)
            end()
            engine.start()
        await patiently(lambda: node.broker.health().ready)
        await asyncio.sleep(0.3)
        await publisher.end()
        assert not publisher.refused
        await all_told(reader, publisher)
        check(reader, publisher)
        assert told(reader) == publisher.acknowledged


async def test_a_paused_engine_fails_publishers_in_time_and_makes_the_node_not_ready(engine: Engine) -> None:
    limits = Limits(canary_interval_s=0.2, canary_timeout_s=0.5, broker_timeout_s=1.0)
    async with live_node(engine, "p", limits=limits) as node:
        reader = await node.subscribe("a")
        await publish(node.broker, "a", b"before")
        publisher = Publisher(node.broker)  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        engine.pause()
        await asyncio.sleep(0.05)
        try:
            began_s = time.monotonic()
            with pytest.raises(BrokerError):
                await node.broker.store.get("k")
            assert time.monotonic() - began_s < 2.0
            await patiently(lambda: not node.broker.health().ready)
            await asyncio.sleep(1.5)
            assert publisher.refused
        finally:
            engine.go_on()
        await patiently(lambda: node.broker.health().ready)
        await asyncio.sleep(0.3)
        await publisher.end()
        assert publisher.slowest_s < 2.0
        await all_told(reader, publisher)
        found = told(reader)[1:]
        assert len(found) == len(set(found))
        assert set(publisher.acknowledged) <= set(found)
        assert not gaps(reader)


async def test_connections_that_are_cut_again_and_again_lose_nothing(engine: Engine) -> None:
    async with live_node(engine, "p") as one, live_node(engine, "p") as two:
        readers = [await one.subscribe("a"), await two.subscribe("a")]
        publishers = [Publisher(one.broker), Publisher(two.broker)]  # type: ignore[arg-type]
        for round_number in range(10):
            await asyncio.sleep(0.1)
            node = (one, two)[round_number % 2]
            client = node.broker._link._client  # type: ignore[attr-defined]
            if client is not None and client._transport is not None and client.is_connected:
                client._transport._io_writer.transport.abort()
        await asyncio.sleep(0.5)
        for publisher in publishers:
            await publisher.end()
            assert not publisher.refused, publisher.reasons
        for reader in readers:
            await all_told(reader, *publishers)
            check(reader, *publishers)


async def test_when_no_hint_arrives_readers_are_told_by_comparing_heads(engine: Engine) -> None:
    async with live_node(engine, "p") as one, live_node(engine, "p") as two:
        two.broker.log._hinted = lambda channel, msg: None  # type: ignore[attr-defined,method-assign]
        reader = await two.subscribe("a")
        publisher = Publisher(one.broker)  # type: ignore[arg-type]
        await asyncio.sleep(2.5)
        await publisher.end()
        await all_told(reader, publisher)
        check(reader, publisher)
        assert told(reader) == publisher.acknowledged


async def test_a_node_that_was_cut_off_for_not_reading_reads_what_it_missed(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_pending: 4194304\nwrite_deadline: '200ms'\n")
    slow = Limits(canary_interval_s=60.0)  # it is the engine that ends the connection
    with nats_server(tmp_path / "nats", "--config", str(config)) as engine:
        async with live_node(engine, "p") as one, live_node(engine, "p", limits=slow) as two:
            reader = await two.subscribe("a")
            await publish(one.broker, "a", b"first")
            await patiently(lambda: told(reader) == [b"first"])
            transport = two.broker._link._client._transport._io_writer.transport  # type: ignore[attr-defined]
            transport.pause_reading()
            for number in range(500):
                await publish(one.broker, "a", b"%d " % number + bytes(40_000))
            transport.resume_reading()
            await patiently(lambda: two.broker.statistics()["reconnects"] >= 1)  # type: ignore[attr-defined]
            await patiently(lambda: len(told(reader)) == 501)
            assert [data.split()[0] for data in told(reader)[1:]] == [b"%d" % one for one in range(500)]
            assert not gaps(reader)


async def test_credentials_are_used_and_never_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with nats_server(tmp_path / "nats", "--user", "ann", "--pass", "hunter2") as engine:
        limits = Limits(broker_timeout_s=1.0)
        for login, is_right in (("ann:hunter2@", True), ("ann:hunter3@", False), ("", False)):
            url = f"nats://{login}127.0.0.1:{engine.port}?shards=1&prefix=p"
            broker = NatsBroker.from_url(url, limits, TABLE)
            if is_right:
                await broker.start(RecordingSink())
                await publish(broker, "a")
            else:
                with pytest.raises(BrokerError) as caught:
                    await broker.start(RecordingSink())
                assert "hunter" not in str(caught.value)
            await broker.close()
    assert "hunter" not in caplog.text


async def lose_everything(engine: Engine) -> None:
    engine.kill()
    shutil.rmtree(engine.directory / "jetstream")
    await asyncio.sleep(0)
    engine.start()


async def test_a_store_that_lost_its_data_gets_a_new_epoch_and_readers_are_told(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async with live_node(engine, "p") as one, live_node(engine, "p") as two:
        readers = [await one.subscribe("a"), await two.subscribe("a")]
        for number in range(5):
            await publish(one.broker, "a", b"old %d" % number)
        for reader in readers:
            await until(lambda reader=reader: len(told(reader)) == 5)  # type: ignore[misc]
        before = (await heads(one.broker, "a"))["a"]
        await lose_everything(engine)
        await patiently(lambda: one.broker.health().ready and two.broker.health().ready)
        after = await publish(two.broker, "a", b"new")
        assert (after.offset, after.epoch != before.epoch) == (1, True)
        for reader in readers:
            await patiently(lambda reader=reader: told(reader)[-1] == b"new")  # type: ignore[misc]
            assert [gap.reason for gap in gaps(reader)] == ["reset"]
        assert {(await heads(node.broker, "a"))["a"].epoch for node in (one, two)} == {after.epoch}
        assert one.broker.statistics()["epochs_made"] + two.broker.statistics()["epochs_made"] == 2
        assert one.broker.statistics()["new_epochs"] + two.broker.statistics()["new_epochs"] == 1
        assert "the store of NATS lost data" in caplog.text  # operators are told, too


async def grown_store(engine: Engine, nodes: list[LiveNode]) -> str:
    """Copy the engine's directory when there are three publications, and publish three more."""
    for number in range(3):
        await publish(nodes[0].broker, "a", b"kept %d" % number)
    engine.stop()
    shutil.copytree(engine.directory / "jetstream", engine.directory.parent / "copy")
    engine.start()
    await patiently(lambda: all(node.broker.health().ready for node in nodes))
    for number in range(3):
        await publish(nodes[-1].broker, "a", b"lost %d" % number)
    return (await heads(nodes[0].broker, "a"))["a"].epoch


def go_back(engine: Engine) -> None:
    engine.kill()
    shutil.rmtree(engine.directory / "jetstream")
    shutil.copytree(engine.directory.parent / "copy", engine.directory / "jetstream")
    engine.start()


async def test_a_store_put_back_to_an_old_copy_gets_a_new_epoch(engine: Engine) -> None:
    async with live_node(engine, "p") as one, live_node(engine, "p") as two:
        readers = [await one.subscribe("a"), await two.subscribe("a")]
        epoch = await grown_store(engine, [one, two])
        for reader in readers:
            await until(lambda reader=reader: len(told(reader)) == 6)  # type: ignore[misc]
        go_back(engine)
        await patiently(lambda: one.broker.health().ready and two.broker.health().ready)
        after = await publish(one.broker, "a", b"new")
        assert (after.offset, after.epoch != epoch) == (4, True)
        for reader in readers:
            await patiently(lambda reader=reader: told(reader)[-1] == b"new")  # type: ignore[misc]
            assert "reset" in [gap.reason for gap in gaps(reader)]
        page = await read(two.broker, "a")
        assert [one.data for one in page.publications] == [b"kept 0", b"kept 1", b"kept 2", b"new"]
        assert page.head.epoch == after.epoch


async def test_an_old_copy_that_grew_as_far_is_noticed_all_the_same(engine: Engine) -> None:
    async with live_node(engine, "p") as one:
        epoch = await grown_store(engine, [one])
        # Another node comes first, and does not know of what was lost.
        one.broker._link._restored = never  # type: ignore[attr-defined]
        go_back(engine)
        await patiently(lambda: not one.broker._link.is_up)  # type: ignore[attr-defined]
        async with nats_broker(engine, "p") as other:
            for number in range(5):
                assert (await publish(other, "a", b"other %d" % number)).epoch == epoch
            one.broker._link._restored = one.broker._restored  # type: ignore[attr-defined]
            await patiently(lambda: one.broker.health().ready)
            after = await publish(one.broker, "a", b"new")
            assert after.epoch != epoch
            async with asyncio.timeout(10):
                while (await heads(other, "a"))["a"].epoch != after.epoch:
                    await asyncio.sleep(0.01)


async def never() -> None:
    raise BrokerError("not yet")


async def test_streams_deleted_under_a_running_node_are_made_anew_with_a_new_epoch(engine: Engine) -> None:
    async with nats_broker(engine, "p") as broker:
        before = await publish(broker, "a")
        await broker._parts.streams._api(
            f"STREAM.DELETE.{broker._names.log_stream(broker._names.shard('a'))}"
        )
        results = await append(broker, Draft("a", b"2"))
        if not isinstance(results[0], Appended):
            await patiently(lambda: broker._link.is_up)
            results = await append(broker, Draft("a", b"2"))
        assert isinstance(results[0], Appended), results
        assert results[0].epoch != before.epoch


async def test_what_is_told_by_an_append_whose_answer_was_lost(engine: Engine) -> None:
    """The engine took the message, and the connection ended before it said so: it is not appended again."""
    async with nats_broker(engine, "p") as broker:
        await publish(broker, "a", b"first")
        link = broker._link
        real = link.request

        async def lossy(subject: str, *rest: object, **more: object) -> object:
            found = await real(subject, *rest, **more)  # type: ignore[arg-type]
            if subject == broker._names.log_subject("a"):
                link.request = real  # type: ignore[method-assign]
                client = link._client
                assert client is not None and client._transport is not None
                client._transport._io_writer.transport.abort()  # type: ignore[attr-defined]
                await asyncio.sleep(0.05)
                from everywire.brokers.nats.link import LinkLost

                raise LinkLost("cut")
            return found

        link.request = lossy  # type: ignore[method-assign,assignment]
        appended = await publish(broker, "a", b"second", key="k", fingerprint=b"f")
        assert (appended.offset, appended.replayed) == (2, False)
        assert offsets(await read(broker, "a")) == [1, 2]
        assert (await publish(broker, "a", b"second", key="k", fingerprint=b"f")).replayed


async def test_unfinished_appends_are_bounded_while_the_engine_is_away(engine: Engine) -> None:
    limits = Limits(max_unfinished_appends=10, broker_timeout_s=1.0)
    async with nats_broker(engine, "p", limits=limits) as broker:
        engine.kill()
        results: list[EverywireError | Appended] = []
        for _ in range(20):
            broker.log.append([Draft("a", b"1")], results.extend)
        assert [type(one) for one in results] == [BrokerBusy] * 10
        await patiently(lambda: len(results) == 20)
        assert all(isinstance(one, BrokerError) for one in results)
        engine.start()
        await patiently(lambda: broker.health().ready)
        assert (await publish(broker, "a")).offset == 1
        assert broker.statistics()["unfinished_appends"] == 0


async def test_an_engine_that_is_not_there_is_an_error_at_start() -> None:
    class Nowhere:
        port = 9

    broker = make_broker(Nowhere(), "p", limits=Limits(broker_timeout_s=0.5), settings=TABLE)  # type: ignore[arg-type]
    with pytest.raises(BrokerError):
        await broker.start(RecordingSink())
    await broker.close()


async def test_an_engine_without_jetstream_is_an_error_at_start(tmp_path: Path) -> None:
    from tests.engines import free_port, program, running

    port = free_port()
    plain = Engine(
        [program("nats-server", "nats-server"), "--addr", "127.0.0.1", "--port", str(port)], tmp_path, port
    )
    with running(plain):
        broker = make_broker(plain, "p", limits=Limits(broker_timeout_s=1.0))
        with pytest.raises(BrokerError, match="JetStream"):
            await broker.start(RecordingSink())
        await broker.close()
