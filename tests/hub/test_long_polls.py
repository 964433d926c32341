"""Readers that are answered once: a crowd shares one answer, and comes back from within it."""

from __future__ import annotations

import pytest

from everywire.core.limits import Limits
from everywire.core.position import Position
from everywire.core.publication import Gap
from everywire.core.settings import Window
from everywire.hub.recovery import EARLIEST, Start
from everywire.testing.delayed_broker import Faults
from tests.hub.recording import RecordingEncoder, RecordingReader, World, settings


@pytest.fixture
def page() -> RecordingEncoder:
    return RecordingEncoder(once=True, wants_positions=False)


def test_a_thousand_that_wait_cost_one_encoding(page: RecordingEncoder) -> None:
    world = World()
    waiting = [world.subscribe(encoder=page) for _ in range(1_000)]
    world.publish(count=3)
    world.run()
    assert page.encoded == world.framing.framed == 1
    assert all(len(reader.writes) == 1 and len(reader.data()) == 3 for reader in waiting)
    assert all(reader.reader.is_closed for reader in waiting)
    world.publish()
    world.run()
    assert all(len(reader.writes) == 1 for reader in waiting), "an answer is given once"
    world.check_everything()
    world.check_empty()


def test_an_answer_counts_before_it_is_given(page: RecordingEncoder) -> None:
    # The transport notes how much it delivered as it answers.
    world = World()
    noted: list[int] = []
    reader = world.subscribe(encoder=page)
    reader.when_written = lambda: noted.append(reader.reader.delivered)
    world.publish(count=3)
    world.run()
    assert noted == [3]


def test_who_asks_again_from_within_the_answer_gets_what_follows(page: RecordingEncoder) -> None:
    world = World()
    received: list[list[bytes]] = [[] for _ in range(50)]

    def ask(index: int, start: Start) -> None:
        reader = world.subscribe(start=start, encoder=page)

        def answered() -> None:
            received[index] += reader.data()
            ask(index, Start(Position.decode(reader.position)))

        if reader.writes:  # it was answered at once
            answered()
        else:
            reader.when_written = answered

    for index in range(50):
        ask(index, world.position(("a", 0)))
    for count in (1, 2, 30):
        world.publish(count=count)
        world.run()
    expected = [b"%d" % number for number in range(1, 34)]
    assert received == [expected] * 50
    assert page.encoded == 3
    assert world.hub.statistics()["readers"] == 50
    world.check_everything()
    world.check_empty()


def test_who_comes_late_is_answered_at_once(page: RecordingEncoder) -> None:
    world = World()
    world.publish(count=5)
    reader = world.subscribe(start=world.position(("a", 2)), encoder=page)
    assert len(reader.data()) == 3
    assert reader.reader.is_closed
    world.check_everything()
    world.check_empty()


def test_an_answer_has_at_most_a_page(page: RecordingEncoder) -> None:
    world = World(limits=Limits(max_page_bytes=1_000))
    few = world.subscribe(encoder=page, most=4)
    light = world.subscribe(encoder=page)
    world.publish(count=10, size=300)
    world.run()
    assert len(few.data()) == 3, "bytes bound it first"
    assert len(light.data()) == 3
    late = world.subscribe(encoder=page, most=2, start=EARLIEST)
    assert len(late.data()) == 2
    rest = world.subscribe(encoder=page, most=2, start=Start(Position.decode(late.position)))
    assert rest.data() == [one.ljust(300, b" ") for one in (b"3", b"4")]
    world.check_everything()


def test_a_gap_is_an_answer(page: RecordingEncoder) -> None:
    world = World(table=settings(Window(max_publications=3)))
    world.publish(count=10)
    reader = world.subscribe(start=world.position(("a", 1)), encoder=page)
    assert reader.gaps() == [Gap(2, 7, "trimmed")]
    assert len(reader.data()) == 3
    world.check_everything()


def test_several_channels_share_one_answer(page: RecordingEncoder) -> None:
    world = World()
    reader = world.subscribe("a", "b", encoder=page)
    world.publish("b")
    world.publish("a", 2)
    world.run()
    assert [len(reader.data(name)) for name in "ab"] == [2, 1]
    position = Position.decode(reader.position)
    assert [position.place(name).offset for name in "ab"] == [2, 1]  # type: ignore[union-attr]


def test_an_answer_whose_neighbour_fails_is_not_lost(page: RecordingEncoder) -> None:
    world = World()
    readers = [world.subscribe(encoder=page) for _ in range(3)]

    def fail() -> None:
        raise RuntimeError("a fault in the host")

    readers[1].when_written = fail
    world.publish()
    with pytest.raises(RuntimeError):
        world.run()
    world.run()
    assert all(len(reader.data()) == 1 for reader in readers)


def test_over_a_slow_store_a_poll_is_answered_too(page: RecordingEncoder) -> None:
    world = World(delayed=Faults(max_delay_s=0.05, lost=0.5))
    received: list[bytes] = []

    def ask(start: Start) -> None:
        reader = RecordingReader(world)
        reader.reader = world.hub.reader(("a",), page, world.framing, reader)
        world.readers.append(reader)
        reader.when_written = lambda: (received.extend(reader.data()), ask_again(reader))  # type: ignore[assignment]
        world.hub.open(reader.reader, start)

    def ask_again(reader: RecordingReader) -> None:
        world.clock.call_soon(lambda: ask(Start(Position.decode(reader.position))))

    ask(EARLIEST)
    for _ in range(20):
        world.publish(count=2)
        world.clock.advance(0.3)
    world.settle()
    assert received == [b"%d" % number for number in range(1, 41)]
