"""What every broker must do, as tests: the contract of `everywire.brokers.base`.

A broker's test module subclasses `BrokerContract` and gives it one fixture, ``make_broker``:
a callable as `everywire.testing.broker_driving.MakeBroker` says. The tests are for pytest with
asyncio support, and need nothing of it but plain asserts::

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        def make_broker(self):
            async def make(sink, clock, limits, settings):
                broker = MyBroker(limits, settings, clock_ms=clock)
                await broker.start(sink)
                return broker
            return make

A store elsewhere completes later and hints travel on their own; what cannot be promised
there (that the sink hears of an append before the publisher does) is asked only of brokers
whose log `is_local`. Losses on the way are no part of this suite.
"""

from __future__ import annotations

import asyncio
from random import Random

from everywire.brokers.base import Appended, Broker, Lease, Page
from everywire.core.errors import BrokerError, KeyReused
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Publication
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.testing.broker_driving import (
    PATIENCE_S,
    Call,
    MakeBroker,
    RecordingSink,
    StoreClock,
    append,
    heads,
    offsets,
    publish,
    read,
    until,
)
from everywire.testing.broker_keeping import KeepingContract

__all__ = ["BrokerContract"]


class BrokerContract(KeepingContract):
    """The suite; see the module. Each test makes its own broker."""

    LIMITS = Limits(idempotency_ttl_s=300.0, max_channels=64)
    WINDOW = Window(max_publications=100, max_bytes=1_000_000, max_age_s=300.0)
    SMALL = Window(max_publications=3, max_bytes=1_000_000, max_age_s=300.0)
    LIGHT = Window(max_publications=100, max_bytes=2_000, max_age_s=300.0)

    async def open(self, make_broker: MakeBroker) -> tuple[Broker, RecordingSink, StoreClock]:
        """Make a broker with its sink and its clock."""
        sink, clock = RecordingSink(), StoreClock()
        table = SettingsTable(
            [("small.*", ChannelSettings(self.SMALL)), ("light.*", ChannelSettings(self.LIGHT))],
            ChannelSettings(self.WINDOW),
        )
        return await make_broker(sink, clock, self.LIMITS, table), sink, clock

    async def forget(self, broker: Broker, clock: StoreClock, channel: str) -> None:
        """Let the store forget a channel: nobody watches it, and its publications become too old."""
        clock.passes(self.WINDOW.max_age_s + 1)
        for _ in range(1_000):
            if not (await heads(broker, channel))[channel].exists:
                return
            broker.sweep()
        raise AssertionError("an idle channel was never forgotten")

    # -- log: append ------------------------------------------------------------

    async def test_many_are_appended_in_order_with_one_callback(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        drafts = [Draft("a", b"1"), Draft("b", b"2"), Draft("a", b"3"), Draft("a", b"4")]
        results = await append(broker, *drafts)
        assert all(isinstance(one, Appended) and not one.replayed for one in results)
        assert [one.offset for one in results if isinstance(one, Appended)] == [1, 1, 2, 3]
        assert len({one.epoch for one in results if isinstance(one, Appended)}) == 1
        assert [one.data for one in (await read(broker, "a")).publications] == [b"1", b"3", b"4"]
        assert [one.data for one in (await read(broker, "b")).publications] == [b"2"]

    async def test_calls_that_do_not_wait_for_each_other_keep_their_order(
        self, make_broker: MakeBroker
    ) -> None:
        broker, _, _ = await self.open(make_broker)
        calls = [Call() for _ in range(50)]
        for number, call in enumerate(calls):
            broker.log.append([Draft("a", b"%d" % number)], call)
        results = [(await call.result())[0] for call in calls]
        assert [one.offset for one in results] == list(range(1, 51))
        assert [one.data for one in (await read(broker, "a")).publications] == [b"%d" % n for n in range(50)]

    async def test_a_publication_is_kept_as_it_was_given(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        data = bytes(range(256))
        tags = {"key": "value", "ключ": "значение"}
        await publish(broker, "a", data, content_type="image/png", event="naïve", tags=tags, info=b'{"u":1}')
        await publish(broker, "a", b"")
        first, second = (await read(broker, "a")).publications
        expected = Publication(1, data, first.time_ms, "image/png", "naïve", tags, b'{"u":1}')
        assert first == expected
        assert abs(first.time_ms - clock()) < 60_000
        assert second == Publication(2, b"", second.time_ms)

    # -- log: read, heads, trim -----------------------------------------------------

    async def test_a_log_is_read_in_pages_by_count(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await append(broker, *[Draft("a", b"%d" % number) for number in range(10)])
        assert offsets(await read(broker, "a", 0, 4)) == [1, 2, 3, 4]
        assert offsets(await read(broker, "a", 4, 4)) == [5, 6, 7, 8]
        assert offsets(await read(broker, "a", 8, 4)) == [9, 10]
        page = await read(broker, "a", 10, 4)
        assert offsets(page) == []
        assert (page.head.first, page.head.last, page.head.exists) == (1, 10, True)

    async def test_a_log_is_read_in_pages_by_bytes_and_one_at_least(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await append(broker, *[Draft("a", bytes(100)) for _ in range(5)])
        assert offsets(await read(broker, "a", 0, 10, 250)) == [1, 2]
        assert offsets(await read(broker, "a", 2, 10, 300)) == [3, 4, 5]
        assert offsets(await read(broker, "a", 2, 10, 99)) == [3]
        assert offsets(await read(broker, "a", 2, 10, 1)) == [3]

    async def test_an_offset_beyond_the_head_reads_nothing(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await publish(broker, "a")
        page = await read(broker, "a", 2**53 - 1)
        assert offsets(page) == []
        assert page.head.last == 1

    async def test_reading_makes_no_channel(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        page = await read(broker, "absent")
        assert offsets(page) == []
        assert page.head == (await heads(broker, "absent"))["absent"]
        assert (page.head.first, page.head.last, page.head.exists) == (1, 0, False)
        assert page.head.epoch == (await publish(broker, "present")).epoch
        assert not (await heads(broker, "absent"))["absent"].exists

    async def test_heads_tell_several_channels_at_once(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await append(broker, Draft("a", b"1"), Draft("a", b"2"), Draft("b", b"1"))
        found = await heads(broker, "a", "b", "absent")
        assert {name: (head.first, head.last, head.exists) for name, head in found.items()} == {
            "a": (1, 2, True),
            "b": (1, 1, True),
            "absent": (1, 0, False),
        }
        assert await heads(broker) == {}

    async def test_the_window_bounds_count_bytes_and_age(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        await append(broker, *[Draft("small.a", b"%d" % number) for number in range(10)])
        page = await read(broker, "small.a")
        assert (offsets(page), page.head.first, page.head.last) == ([8, 9, 10], 8, 10)

        await append(broker, *[Draft("light.a", bytes(500)) for _ in range(10)])
        page = await read(broker, "light.a")
        assert sum(len(one.data) for one in page.publications) <= self.LIGHT.max_bytes
        assert page.head.last == 10
        assert offsets(page) == list(range(page.head.first, 11))
        assert offsets(page)

        await publish(broker, "a", b"old")
        clock.passes(self.WINDOW.max_age_s - 10)
        await publish(broker, "a", b"new")
        clock.passes(11)
        page = await read(broker, "a")
        assert (offsets(page), page.head.first, page.head.last) == ([2], 2, 2)

    async def test_trimming_drops_everything_and_offsets_go_on(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await append(broker, Draft("a", b"1"), Draft("a", b"2"))
        call = Call()
        broker.log.trim("a", call)
        head = await call.result()
        assert (head.first, head.last) == (3, 2)
        assert offsets(await read(broker, "a")) == []
        assert (await publish(broker, "a")).offset == 3
        absent = Call()
        broker.log.trim("absent", absent)
        assert (await absent.result()).exists is False

    # -- log: hints -------------------------------------------------------------------

    async def test_nothing_is_told_of_channels_that_nobody_watches(self, make_broker: MakeBroker) -> None:
        broker, sink, _ = await self.open(make_broker)
        await publish(broker, "a", b"before")
        broker.log.watch("a")
        await publish(broker, "a", b"during")
        await publish(broker, "b", b"other")
        await until(lambda: sink.last("a") == 2)
        broker.log.unwatch("a")
        await publish(broker, "a", b"after")
        broker.log.watch("c")
        await publish(broker, "c", b"later")
        await until(lambda: sink.last("c") == 1)  # what was sent before it has arrived too
        assert {(hint.channel, hint.last) for hint in sink.hints} == {("a", 2), ("c", 1)}

    async def test_hints_prove_that_nothing_lies_between_them(self, make_broker: MakeBroker) -> None:
        broker, sink, _ = await self.open(make_broker)
        broker.log.watch("a")
        broker.log.watch("b")
        await append(broker, *[Draft("ab"[number % 2], b"%d" % number) for number in range(20)])
        await append(broker, *[Draft("a", b"more") for _ in range(5)])
        await until(lambda: sink.last("a") == 15 and sink.last("b") == 10)
        for channel, data in (
            ("a", [b"%d" % number for number in range(0, 20, 2)] + [b"more"] * 5),
            ("b", [b"%d" % number for number in range(1, 20, 2)]),
        ):
            at, heard = 0, []
            for hint in sink.hints:
                if hint.channel == channel and hint.publications is not None:
                    assert hint.previous == at
                    at = hint.last
                    heard += [one.data for one in hint.publications]
            if broker.log.is_local:
                assert heard == data
        assert len({hint.epoch for hint in sink.hints}) == 1

    async def test_a_local_sink_hears_of_an_append_before_the_publisher(
        self, make_broker: MakeBroker
    ) -> None:
        broker, sink, _ = await self.open(make_broker)
        broker.log.watch("a")
        heard: list[int] = []
        broker.log.append([Draft("a", b"1"), Draft("a", b"2")], lambda _: heard.append(sink.last("a")))
        if broker.log.is_local:
            assert heard == [2]
        await until(lambda: bool(heard) and sink.last("a") == 2)

    # -- log: forgetting ----------------------------------------------------------------

    async def test_a_forgotten_channel_goes_on_above_what_was_forgotten(
        self, make_broker: MakeBroker
    ) -> None:
        broker, sink, clock = await self.open(make_broker)
        await append(broker, *[Draft("long", b"1") for _ in range(7)])
        await append(broker, *[Draft("short", b"1") for _ in range(2)])
        await self.forget(broker, clock, "long")
        await self.forget(broker, clock, "short")
        found = await heads(broker, "short", "never")
        assert found["short"][1:4] == found["never"][1:4] == (8, 7, False)
        broker.log.watch("short")
        again = await publish(broker, "short")
        assert again.offset == 8
        await until(lambda: sink.last("short") == 8)
        hint = sink.hints[-1]
        assert hint.publications is None or hint.previous == 0, "0 says that the channel was just made"
        assert (await heads(broker, "short"))["short"][1:4] == (8, 8, True)

    async def test_a_watched_channel_is_not_forgotten(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        broker.log.watch("a")
        await publish(broker, "a")
        await publish(broker, "b")
        await self.forget(broker, clock, "b")
        head = (await heads(broker, "a"))["a"]
        assert (head.first, head.last, head.exists) == (2, 1, True)
        broker.log.unwatch("a")
        await self.forget(broker, clock, "a")

    async def test_no_offset_of_an_epoch_is_used_twice(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        random = Random(7)
        seen: set[tuple[str, str, int]] = set()
        last: dict[str, int] = {}
        for _ in range(30):
            name = random.choice("abcd")
            for _ in range(random.randrange(1, 4)):
                appended = await publish(broker, name)
                place = (name, appended.epoch, appended.offset)
                assert place not in seen
                assert appended.offset > last.get(name, 0)
                seen.add(place)
                last[name] = appended.offset
            if random.random() < 0.3:
                await self.forget(broker, clock, random.choice("abcd"))

    async def test_the_number_of_channels_is_bounded(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        most = self.LIMITS.max_channels
        results = await append(broker, *[Draft(f"c{number}", b"1") for number in range(3 * most)])
        assert all(isinstance(one, Appended | BrokerError) for one in results)
        found = await heads(broker, *[f"c{number}" for number in range(3 * most)])
        assert sum(head.exists for head in found.values()) <= most
        assert len({(name, head.epoch) for name, head in found.items()}) == 3 * most

    # -- log: idempotency -----------------------------------------------------------------

    async def test_a_replay_stands_where_the_first_one_does(self, make_broker: MakeBroker) -> None:
        broker, sink, _ = await self.open(make_broker)
        broker.log.watch("a")
        first = await publish(broker, "a", b"1", key="k", fingerprint=b"f")
        await publish(broker, "a", b"2")
        again = await publish(broker, "a", b"1", key="k", fingerprint=b"f")
        assert not first.replayed
        assert again == first._replace(replayed=True)
        assert offsets(await read(broker, "a")) == [1, 2]
        third = await publish(broker, "a", b"3")
        await until(lambda: sink.last("a") == third.offset)
        told = [one.data for hint in sink.hints for one in hint.publications or ()]
        assert told.count(b"1") <= 1

    async def test_a_key_with_another_body_is_refused(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await publish(broker, "a", b"1", key="k", fingerprint=b"f")
        results = await append(
            broker, Draft("a", b"2", key="k", fingerprint=b"g"), Draft("a", b"3", key="l", fingerprint=b"g")
        )
        assert isinstance(results[0], KeyReused)
        assert isinstance(results[1], Appended)
        assert [one.data for one in (await read(broker, "a")).publications] == [b"1", b"3"]

    async def test_a_key_counts_per_channel(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        first = await publish(broker, "a", b"1", key="k", fingerprint=b"f")
        other = await publish(broker, "b", b"2", key="k", fingerprint=b"g")
        assert not first.replayed
        assert not other.replayed

    async def test_a_key_counts_for_its_time(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        await publish(broker, "a", b"1", key="k", fingerprint=b"f")
        clock.passes(self.LIMITS.idempotency_ttl_s - 1)
        assert (await publish(broker, "a", b"1", key="k", fingerprint=b"f")).replayed
        clock.passes(2)
        again = await publish(broker, "a", b"2", key="k", fingerprint=b"g")
        assert (again.offset, again.replayed) == (2, False)

    async def test_key_and_append_are_one_step(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        calls = [Call() for _ in range(20)]
        for call in calls:
            draft = Draft("a", b"1", key="k", fingerprint=b"f")
            broker.log.append([draft, draft], call)
        results = [one for call in calls for one in await call.result()]
        assert len(results) == 40
        assert {one.offset for one in results} == {1}
        assert sum(not one.replayed for one in results) == 1
        assert offsets(await read(broker, "a")) == [1]

    # -- leases ---------------------------------------------------------------------------

    async def test_leases_run_out_unless_renewed(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        leases = broker.leases
        await leases.put("room", "ann", b"1", 10)
        await leases.put("room", "bob", b"2", 10)
        await leases.put("other", "ann", b"3", 100)
        clock.passes(8)
        await leases.put("room", "ann", b"4", 10)
        assert await leases.members("room") == {"ann": b"4", "bob": b"2"}
        clock.passes(4)
        assert await leases.members("room") == {"ann": b"4"}
        clock.passes(10)
        broker.sweep()
        assert await leases.members("room") == {}
        assert await leases.members("other") == {"ann": b"3"}

    async def test_a_lease_can_be_dropped(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        leases = broker.leases
        await leases.put("room", "ann", b"1", 10)
        await leases.put("room", "bob", b"2", 10)
        await leases.drop("room", "ann")
        await leases.drop("room", "ann")
        await leases.drop("nowhere", "ann")
        assert await leases.members("room") == {"bob": b"2"}
        assert await leases.members("nowhere") == {}

    async def test_many_leases_are_made_renewed_and_dropped_at_once(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        leases = broker.leases
        await leases.put_many([])
        await leases.drop_many([])
        await leases.put("room", "ann", b"1", 10)
        await leases.put_many([Lease("room", "ann", b"2", 20), Lease("room", "bob", b"3", 10)])
        await leases.put_many([Lease("other", f"m{number}", b"", 10) for number in range(300)])
        assert await leases.members("room") == {"ann": b"2", "bob": b"3"}
        assert len(await leases.members("other")) == 300
        await leases.drop_many([("other", f"m{number}") for number in range(299)] + [("nowhere", "ann")])
        assert await leases.members("other") == {"m299": b""}
        clock.passes(11)
        assert await leases.members("room") == {"ann": b"2"}

    # -- store ----------------------------------------------------------------------------

    async def test_a_value_is_kept_for_its_time(self, make_broker: MakeBroker) -> None:
        broker, _, clock = await self.open(make_broker)
        store = broker.store
        await store.put("short", bytes(range(256)), 10)
        await store.put("long", b"", 1_000)
        assert await store.get("short") == bytes(range(256))
        assert await store.get("long") == b""
        assert await store.get("absent") is None
        await store.put("renewed", b"1", 10)
        clock.passes(9)
        await store.put("renewed", b"2", 10)
        clock.passes(2)
        assert await store.get("short") is None
        assert await store.take("short") is None
        assert await store.get("renewed") == b"2"
        broker.sweep()
        assert await store.get("long") == b""

    async def test_of_ten_takers_one_gets_the_value(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await broker.store.put("ticket", b"value", 10)
        await broker.store.put("other", b"stays", 10)
        taken = await asyncio.gather(*[broker.store.take("ticket") for _ in range(10)])
        assert sorted(taken, key=lambda one: one is None) == [b"value"] + [None] * 9
        assert await broker.store.get("ticket") is None
        assert await broker.store.get("other") == b"stays"

    # -- control ----------------------------------------------------------------------------

    async def test_a_broadcast_reaches_every_node_this_one_included(self, make_broker: MakeBroker) -> None:
        broker, sink, _ = await self.open(make_broker)
        await broker.control.broadcast("topic", b"\0payload")
        await until(lambda: bool(sink.broadcasts))
        assert sink.broadcasts == [("topic", b"\0payload", broker.node)]

    async def test_a_node_that_is_asked_answers(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        assert await broker.control.ask(broker.node, "topic", b"payload", PATIENCE_S) == b"answer to payload"

    async def test_a_node_that_does_not_answer_in_time_is_an_error(self, make_broker: MakeBroker) -> None:
        broker, sink, _ = await self.open(make_broker)

        async def never(topic: str, payload: bytes) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        sink.answers = never
        for node in (broker.node, "nobody"):
            asking = broker.control.ask(node, "topic", b"payload", 0.01)
            try:
                await asyncio.wait_for(asking, PATIENCE_S)
            except BrokerError:
                continue
            raise AssertionError(f"{node} answered")

    # -- health and life ----------------------------------------------------------------------

    async def test_a_broker_that_works_is_ready(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        await publish(broker, "a")
        assert broker.health().ready
        assert broker.node
        other, _, _ = await self.open(make_broker)
        assert other.node != broker.node

    async def test_closing_finishes_or_fails_what_is_unfinished(self, make_broker: MakeBroker) -> None:
        broker, _, _ = await self.open(make_broker)
        appending, reading = Call(), Call()
        broker.log.append([Draft("a", b"1"), Draft("a", b"2")], appending)
        broker.log.read("a", 0, 10, 10, reading)
        await broker.close()
        results = await appending.result()
        assert len(results) == 2
        assert all(isinstance(one, Appended | BrokerError) for one in results)
        assert isinstance(await reading.result(), Page | BrokerError)
