"""Slow readers: no queue of their own, fair re-reading, and the policy when the window moved past them."""

from __future__ import annotations

import tracemalloc

import pytest

from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.limits import Limits
from everywire.core.publication import Draft, Gap, Publication
from everywire.core.settings import SlowReader, Window
from everywire.hub.interfaces import Encoder
from everywire.hub.recovery import EARLIEST
from everywire.testing.delayed_broker import Faults
from everywire.transports.encoders import ENVELOPE, NDJSON, SSE
from tests.hub.recording import Framed, RecordingReader, World, settings

WINDOW = Window(max_publications=10)


def stall(world: World, reader: RecordingReader) -> None:
    """Fill the socket with one write."""
    reader.room = 0
    world.publish("a")
    world.run()
    assert reader.reader.is_stalled


def test_a_stalled_reader_is_skipped_and_reads_the_log_again() -> None:
    world = World(table=settings(WINDOW))
    slow, quick = world.subscribe(), world.subscribe()
    stall(world, slow)
    world.publish(count=5)
    world.run()
    assert len(slow.data()) == 1
    assert len(quick.data()) == 6
    slow.drain()
    world.run()
    assert slow.data() == quick.data()
    assert len(slow.writes) == 2, "what it missed is one write"
    assert slow.reader.cohort is not None
    assert world.hub.counters.stalls == 1
    assert world.hub.statistics()["readers_stalled"] == 0
    world.check_everything()


def test_the_rest_of_a_write_is_handed_over_once() -> None:
    for refuses_whole in (False, True):
        world = World(refuses_whole=refuses_whole)
        reader = world.subscribe(room=7)
        world.publish(size=10)
        world.run()
        assert reader.reader.is_stalled
        assert len(reader.writes) == 1
        reader.drain()
        world.publish(size=10)
        world.run()
        assert len(reader.data()) == 2


def test_policy_gap_goes_on_with_the_oldest_that_is_kept() -> None:
    world = World(table=settings(WINDOW, SlowReader.GAP))
    reader = world.subscribe()
    stall(world, reader)
    world.publish(count=30)
    world.run()
    reader.drain()
    world.run()
    assert reader.gaps() == [Gap(2, 21, "trimmed")]
    assert [one.offset for one in reader.publications()] == [1, *range(22, 32)]
    world.check_everything()


def test_policy_latest_goes_on_with_the_newest() -> None:
    world = World(table=settings(WINDOW, SlowReader.LATEST))
    reader = world.subscribe()
    stall(world, reader)
    world.publish(count=30)
    world.run()
    reader.drain()
    world.run()
    assert reader.gaps() == [Gap(2, 30, "trimmed")]
    assert [one.offset for one in reader.publications()] == [1, 31]
    world.check_everything()


def test_policy_latest_tells_nothing_when_nothing_is_lost() -> None:
    world = World(table=settings(WINDOW, SlowReader.LATEST))
    reader = world.subscribe()
    stall(world, reader)
    world.publish(count=10)
    world.run()
    reader.drain()
    world.run()
    assert reader.gaps() == []
    assert len(reader.data()) == 11


def test_policy_latest_when_everything_was_trimmed() -> None:
    world = World(table=settings(WINDOW, SlowReader.LATEST))
    reader = world.subscribe()
    stall(world, reader)
    world.publish(count=3)
    world.broker.log.trim("a", lambda _: None)
    world.run()
    reader.drain()
    world.run()
    assert reader.gaps() == [Gap(2, 4, "trimmed")]
    world.publish()
    world.run()
    assert [one.offset for one in reader.publications()] == [1, 5]
    world.check_everything()


def test_policy_disconnect_ends_the_reader_which_may_come_back() -> None:
    world = World(table=settings(WINDOW, SlowReader.DISCONNECT))
    reader = world.subscribe()
    stall(world, reader)
    world.publish(count=30)
    world.run()
    reader.drain()
    world.run()
    assert reader.end == (codes.SLOW, Gap(2, 21, "trimmed"))
    assert codes.SLOW.reconnect
    assert len(reader.data()) == 1
    again = world.subscribe(start=world.position(("a", 1)))
    world.run()
    assert again.end is None, "who comes back is told, not ended again"
    assert again.gaps() == [Gap(2, 21, "trimmed")]
    assert len(again.data()) == 10
    assert world.hub.counters.readers_ended == 1
    world.check_everything()


def test_policy_disconnect_is_not_for_a_reset() -> None:
    world = World(delayed=Faults(max_delay_s=0.001), table=settings(WINDOW, SlowReader.DISCONNECT))
    assert world.delayed is not None
    world.publish(count=3)
    world.settle()
    copy = world.delayed.copy()
    reader = world.subscribe()
    world.settle()
    world.delayed.restore(copy)
    world.settle()
    assert reader.end is None
    assert [gap.reason for gap in reader.gaps()] == ["reset"]


def test_a_reader_that_takes_no_byte_is_ended() -> None:
    world = World(limits=Limits(stall_timeout_s=30.0))
    reader, other = world.subscribe(), world.subscribe()
    stall(world, reader)
    world.clock.advance(29.0)
    assert reader.end is None
    reader.reader.stalled()  # its host says so again, as for a heartbeat: that is no sign of life
    world.clock.advance(3.0)
    assert reader.end == (codes.STALE, None)
    assert other.end is None
    assert world.hub.counters.readers_ended == 1
    assert world.hub.counters.stalls == 1
    world.check_empty()


def test_a_reader_that_takes_its_bytes_in_time_is_not_ended() -> None:
    world = World(limits=Limits(stall_timeout_s=30.0))
    reader = world.subscribe()
    for _ in range(5):
        stall(world, reader)
        world.clock.advance(20.0)
        reader.drain()
        world.run()
    assert reader.end is None
    assert len(reader.data()) == 5


def test_a_stall_while_it_begins_keeps_a_reader_from_going_live() -> None:
    world = World()

    class StallsAtOnce(RecordingReader):
        def opened(self, position: str, new: object) -> None:
            super().opened(position, ())
            self.room = 0
            self.reader.stalled()

    reader = StallsAtOnce(world)
    reader.reader = world.hub.reader(("a",), world.encoder, world.framing, reader)
    world.readers.append(reader)
    world.hub.open(reader.reader, EARLIEST)
    world.publish(count=3)
    world.run()
    assert reader.writes == []
    reader.drain()
    world.run()
    assert len(reader.data()) == 3
    late = StallsAtOnce(world)
    late.reader = world.hub.reader(("a",), world.encoder, world.framing, late)
    world.hub.open(late.reader, world.position(("a", 3)))
    world.publish()
    world.run()
    assert late.writes == [], "it was at the head, and its socket is full"
    late.drain()
    world.run()
    assert len(late.data()) == 1


def test_a_page_that_arrives_for_a_stalled_reader_waits() -> None:
    world = World(delayed=Faults(max_delay_s=0.01))
    world.publish(count=3)
    world.settle()
    reader = world.subscribe(start=EARLIEST)
    while not reader.opening:
        world.clock.advance(0.001)
    assert reader.reader.is_reading
    reader.room = 0
    reader.reader.stalled()  # something else was written to its socket, and hangs there
    world.settle()
    assert reader.writes == []
    reader.drain()
    world.settle()
    assert len(reader.data()) == 3


# -- fairness -------------------------------------------------------------------


def test_a_channel_with_a_huge_backlog_holds_up_no_other_beyond_one_write() -> None:
    world = World(limits=Limits(max_write_bytes=4_000))
    reader = world.subscribe("a", "b", "c", room=0)
    world.publish("a")
    world.run()
    world.publish("a", 500, 100)
    world.publish("b", 2)
    world.publish("c", 2)
    world.run()
    assert len(reader.writes) == 1
    for _ in range(2):
        reader.drain(room=1)
        world.run()
    assert len(reader.publications("b")) == len(reader.publications("c")) == 2
    reader.drain()
    world.run()
    assert len(reader.publications("a")) == 501
    world.check_everything()


def test_large_publications_of_several_channels_take_turns() -> None:
    # Each alone fills a write, so they cannot share one; and none is starved.
    world = World(limits=Limits(max_write_bytes=4_000))
    reader = world.subscribe("a", "b", "c", room=0)
    world.publish("a")
    world.run()
    for name in "abc":
        world.publish(name, 5, 3_900)
    order = []
    for _ in range(15):
        reader.drain(room=1)
        world.run()
        items = reader.writes[-1][1].items
        assert len(items) == 1
        order.append(items[0].channel)
    assert {frozenset(order[at : at + 3]) for at in range(0, 15, 3)} == {frozenset("abc")}
    world.check_everything()


# -- what a write may hold ----------------------------------------------------------


class SizedReader:
    """A subscriber that takes everything and remembers how large each write was."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int]] = []

    def send(self, framed: Framed) -> int:
        self.writes.append((framed.size, len(framed.batch.items)))
        return len(framed)

    def write(self, framed: Framed, /) -> None:
        self.send(framed)

    def opened(self, position: str, new: object) -> None:
        pass

    def beat(self) -> None:
        pass

    def ended(self, code: object, gap: object) -> None:
        raise AssertionError


class Measured:
    """One of our formats, whose writes say how large they are and of how many items."""

    once = False
    beats_always = False

    def __init__(self, encoder: Encoder) -> None:
        self.tells_gaps = encoder.tells_gaps
        self.wants_positions = encoder.wants_positions
        self._encoder = encoder

    def encode(self, items: object, position: str) -> object:
        payload = self._encoder.encode(items, position)  # type: ignore[arg-type]
        size = len(payload) if isinstance(payload, bytes) else sum(len(data) for _, data in payload)
        return Framed(type("Items", (), {"items": items})(), size)


class Plain:
    def frame(self, payload: object) -> object:
        return payload


PUBLICATIONS = {
    "tiny": Draft("a", b"1"),
    "with an event": Draft("a", b"1", event="e" * 128),
    "with tags": Draft("a", b"1", tags={f"key {number}": "v" * 40 for number in range(16)}),
    "binary": Draft("a", bytes(1_000), "application/octet-stream"),
    "binary of a long type": Draft("a", b"\0", "application/" + "x" * 200),
    "text": Draft("a", dump("x" * 900)),
    "nearly half": Draft("a", dump("x" * 30_000)),
    "nearly whole": Draft("a", dump("x" * 65_000)),
    "larger": Draft("a", dump("x" * 200_000)),
}


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "behind"])
@pytest.mark.parametrize("several", [False, True], ids=["one channel", "many channels"])
@pytest.mark.parametrize("format_", ["sse", "ndjson", "envelope"])
@pytest.mark.parametrize("kind", PUBLICATIONS)
def test_a_joined_write_keeps_to_its_bound(kind: str, format_: str, several: bool, is_live: bool) -> None:
    world = World(table=settings(Window(max_publications=2_000, max_bytes=100_000_000)))
    encoders = {"sse": SSE, "ndjson": NDJSON, "envelope": ENVELOPE}[format_]
    names = tuple(sorted(["a", *[f"{'long' * 50}{number}" for number in range(31)]])) if several else ("a",)
    reader = SizedReader()
    subscription = world.hub.reader(names, Measured(encoders[several]), Plain(), reader)
    if is_live:
        world.hub.open(subscription, EARLIEST)
    draft = PUBLICATIONS[kind]
    count = 1_500 if len(draft.data) < 100 else 300 if len(draft.data) < 2_000 else 20
    for _ in range(count):
        world.publish_draft(draft)
    if not is_live:
        world.hub.open(subscription, EARLIEST)
    world.run()
    assert sum(items for _, items in reader.writes) == count
    for size, items in reader.writes:
        assert size <= world.limits.max_write_bytes or items == 1
    worst = 700 + 14 * len(names) * 4 // 3 if several else 300
    largest = len(draft.data) * 4 // 3 + worst + (2_000 if draft.tags else 400)
    assert len(reader.writes) <= count * largest // world.limits.max_write_bytes * 2 + 2, "writes are joined"


def test_stalled_readers_cost_no_memory_beyond_the_window() -> None:
    world = World(limits=Limits(log_budget_bytes=1_000_000, max_fresh_bytes=200_000))
    readers = [world.subscribe(room=0) for _ in range(200)]
    world.publish(size=1_000)
    world.run()
    assert all(reader.reader.is_stalled for reader in readers)

    def flood(count: int) -> None:
        for _ in range(count):
            world.hub.publish(Draft("a", bytes(10_000)), lambda _: None)
            world.run()

    flood(200)
    tracemalloc.start()
    flood(200)
    before, _ = tracemalloc.get_traced_memory()
    flood(1_000)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000
    assert peak - before < 1_000_000
    assert world.budget.used_bytes <= 1_000_000
    channel = world.hub._channels["a"]
    assert channel.fresh == []


def test_everyone_keeps_up_with_a_burst_larger_than_the_window() -> None:
    world = World(table=settings(WINDOW))
    reader = world.subscribe()
    world.publish(count=100)
    world.run()
    assert reader.gaps() == []
    assert len(reader.data()) == 100
    world.check_everything()


def test_a_burst_larger_than_what_may_wait_is_read_from_the_log() -> None:
    world = World(limits=Limits(max_fresh_bytes=5_000))
    reader = world.subscribe()
    world.publish(count=100, size=200)
    channel = world.hub._channels["a"]
    assert channel.fresh_bytes <= 5_000 + Publication(1, bytes(200), 0).cost_bytes
    world.run()
    assert len(reader.data()) == 100
    world.check_everything()
