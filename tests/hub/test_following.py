"""Following a log elsewhere: hints are only hints, and even a lost last one only delays."""

from __future__ import annotations

import pytest

from everywire.brokers.base import Head, Page
from everywire.core.limits import Limits
from everywire.core.position import Place, Position
from everywire.core.publication import Gap, Publication
from everywire.core.settings import Window
from everywire.hub.recovery import EARLIEST, Start
from everywire.testing.delayed_broker import DelayedBroker, Faults
from tests.hub.recording import RecordingReader, World, settings

QUICK = Faults(max_delay_s=0.001)
DEAF = Faults(max_delay_s=0.001, lost=1.0)
SHORT = Faults(max_delay_s=0.001, coalesced=1.0)


def far(world: World) -> DelayedBroker:
    assert world.delayed is not None
    return world.delayed


def live(world: World, *channels: str) -> RecordingReader:
    reader = world.subscribe(*channels)
    world.settle(0.01)
    assert reader.reader.cohort is not None
    return reader


def publications(first: int, last: int) -> list[Publication]:
    return [Publication(offset, b"x", 0) for offset in range(first, last + 1)]


def test_even_a_lost_last_hint_only_delays() -> None:
    world = World(delayed=DEAF)
    reader = live(world)
    world.publish(count=3)
    world.settle(0.01)
    assert reader.data() == []
    world.settle(1.1)
    assert len(reader.data()) == 3


def test_a_hint_without_publications_makes_the_log_be_read() -> None:
    world = World(delayed=SHORT)
    readers = [live(world) for _ in range(5)]
    world.publish(count=3)
    world.settle(0.02)
    assert all(len(reader.data()) == 3 for reader in readers)


def test_a_hole_makes_the_log_be_read_once_for_everyone() -> None:
    world = World(delayed=QUICK)
    readers = [live(world) for _ in range(5)]
    far(world).log.faults = DEAF
    world.publish(count=3)
    world.settle(0.01)
    far(world).log.faults = QUICK
    world.publish()
    world.settle(0.02)
    assert all(len(reader.data()) == 4 for reader in readers)
    assert world.encoder.encoded == 1


def test_a_hint_that_comes_while_the_log_is_read_is_not_lost() -> None:
    # Every publication is only hinted at, and comes just after the read for the one before left.
    world = World(delayed=Faults(max_delay_s=0.0))
    reader = live(world)
    log = far(world).log
    held: list[object] = []
    read = log.read

    def read_late(channel: str, after: int, most: int, size: int, done: object) -> None:
        read(channel, after, most, size, lambda page: held.append((done, page)))

    log.read = read_late  # type: ignore[method-assign, assignment]
    log.faults = Faults(max_delay_s=0.0, coalesced=1.0)
    world.publish()
    world.settle(0.01)
    world.publish()
    world.settle(0.01)
    log.read = read  # type: ignore[method-assign]
    ((done, page),) = held  # type: ignore[misc]
    assert [one.offset for one in page.publications] == [1]
    done(page)
    world.settle(0.01)
    assert len(reader.data()) == 2, "without waiting for the next comparison of heads"


def test_a_hint_that_comes_before_it_is_known_where_the_log_stands_is_not_lost() -> None:
    world = World(delayed=QUICK)
    log = far(world).log
    heads, held = log.heads, []
    log.heads = lambda names, done: heads(names, lambda found: held.append((done, found)))  # type: ignore[method-assign]
    reader = world.subscribe()
    world.settle(0.01)
    log.heads = heads  # type: ignore[method-assign]
    world.publish()
    world.settle(0.01)
    ((done, found),) = held
    assert found["a"].last == 0
    done(found)
    world.settle(0.02)
    assert reader.at == {"a": 1}
    assert len(reader.data()) == 1


@pytest.mark.parametrize(
    "hints",
    [
        [(1, 2, 0), (1, 2, 0), (3, 3, 2)],
        [(3, 3, 2), (1, 2, 0), (3, 3, 2)],
        [(2, 3, 1), (1, 1, 0), (2, 2, 1)],
    ],
    ids=["doubled", "reordered", "overlapping"],
)
def test_hints_in_any_order_tell_everything_once(hints: list[tuple[int, int, int]]) -> None:
    world = World(delayed=DEAF)
    reader = live(world)
    world.publish(count=3)
    world.settle(0.01)
    epoch = world.head().epoch
    page: list[Page] = []
    far(world).log.far.log.read("a", 0, 9, 999, page.append)  # type: ignore[arg-type]
    for first, last, previous in hints:
        world.hub.published("a", epoch, page[0].publications[first - 1 : last], previous)
        world.settle(0.02)
    assert len(reader.data()) == 3
    world.check_everything()


def test_an_old_hint_changes_nothing() -> None:
    world = World(delayed=QUICK)
    reader = live(world)
    world.publish(count=5)
    world.settle(0.02)
    epoch = world.head().epoch
    world.hub.published("a", epoch, publications(2, 3), 1)
    world.hub.published("a", epoch, publications(1, 1), 0)
    world.hub.advanced("a", epoch, 4)
    world.hub.advanced("elsewhere", epoch, 4)
    world.hub.published("elsewhere", epoch, publications(1, 1), 0)
    world.settle(0.02)
    assert len(reader.data()) == 5
    assert world.hub._channels["a"].head == 5


def test_a_hint_from_before_a_channel_was_forgotten_changes_nothing() -> None:
    world = World(delayed=QUICK)
    world.publish(count=50)
    world.settle(310.0)
    reader = live(world)
    assert reader.at == {"a": 50}
    world.hub.published("a", world.head().epoch, publications(11, 11), 0)
    world.settle(0.02)
    assert reader.writes == []
    world.publish(count=2)
    world.settle(0.02)
    assert len(reader.data()) == 2
    assert reader.gaps() == []


def test_a_log_that_was_trimmed_past_this_node_sends_everyone_back() -> None:
    world = World(delayed=QUICK, table=settings(Window(max_publications=5)))
    reader = live(world)
    world.publish(count=2)
    world.settle(0.02)
    far(world).log.faults = DEAF
    world.publish(count=20)
    world.settle(1.5)
    assert reader.gaps() == [Gap(3, 17, "trimmed")]
    assert len(reader.data()) == 7
    world.check_everything()


def test_a_long_way_behind_is_caught_up_page_by_page() -> None:
    world = World(delayed=QUICK, limits=Limits(max_page_publications=3))
    reader = live(world)
    far(world).log.faults = DEAF
    world.publish(count=50)
    world.settle(1.5)
    assert len(reader.data()) == 50


def test_what_was_read_late_is_bounded_while_it_waits() -> None:
    world = World(delayed=QUICK, limits=Limits(max_page_publications=10, max_fresh_bytes=3_000))
    live(world)
    far(world).log.faults = DEAF
    world.publish(count=200, size=100)
    world.settle(1.5)
    assert world.hub._channels["a"].fresh_bytes <= 3_000 + 10 * 300
    assert len(world.readers[0].data()) == 200


def test_a_store_that_cannot_be_read_is_asked_again() -> None:
    world = World(delayed=DEAF)
    reader = live(world)
    world.publish(count=3)
    far(world).log.faults = Faults(max_delay_s=0.001, lost=1.0, failed=1.0)
    world.settle(5.0)
    assert reader.data() == []
    far(world).log.faults = QUICK
    world.settle(1.5)
    assert len(reader.data()) == 3
    assert reader.end is None


# -- another epoch ----------------------------------------------------------------


def test_a_store_that_fell_back_is_told_to_the_live_and_to_the_stalled() -> None:
    world = World(delayed=QUICK)
    world.publish("a", 3)
    world.publish("b", 3)
    world.settle(0.02)
    copy = far(world).copy()
    quick, stalled = live(world, "a"), live(world, "a", "b")
    world.publish("a", 4)
    world.settle(0.02)
    stalled.room = 0
    world.publish("b", 2)
    world.settle(0.02)
    assert stalled.reader.is_stalled
    epoch = far(world).restore(copy)
    world.settle(2.0)
    assert [gap.reason for gap in quick.gaps()] == ["reset"]
    assert quick.at == {"a": 3}
    world.publish("a", 2)
    world.settle(0.1)
    stalled.drain()
    world.settle(2.0)
    assert [gap.reason for gap in stalled.gaps("a")] == [gap.reason for gap in stalled.gaps("b")] == ["reset"]
    assert stalled.at == {"a": 5, "b": 3}
    assert Position.decode(stalled.position).place("b") == Place(epoch, 3)
    assert world.hub.counters.resets_told == 3
    world.check_everything()
    world.check_empty()


def test_a_reader_at_the_same_offset_of_another_epoch_is_told() -> None:
    world = World(delayed=QUICK)
    world.publish(count=3)
    world.settle(0.02)
    copy = far(world).copy()
    reader = live(world)
    reader.room = 0
    world.publish()
    world.settle(0.02)
    assert reader.reader.is_stalled
    far(world).restore(copy)
    world.publish(count=1)
    world.settle(2.0)
    assert world.head().last == reader.at["a"] == 4
    reader.drain()
    world.settle(1.0)
    assert [gap.reason for gap in reader.gaps()] == ["reset"]
    assert [one.offset for one in reader.publications()][-4:] == [1, 2, 3, 4]


@pytest.mark.parametrize("start", [EARLIEST, None], ids=["earliest", "position"])
def test_who_comes_before_this_node_knows_of_the_new_epoch_begins_all_the_same(start: Start | None) -> None:
    world = World(delayed=QUICK)
    world.publish(count=3)
    world.settle(0.02)
    copy = far(world).copy()
    live(world)
    world.publish(count=3)
    world.settle(0.02)
    start = start or world.position(("a", 6))
    far(world).restore(copy)
    reader = world.subscribe(start=start)
    world.settle(1.5)
    assert [one.offset for one in reader.publications()] == [1, 2, 3]
    assert [gap.reason for gap in reader.gaps()] == ([] if start is EARLIEST else ["reset"])
    assert reader.reader.cohort is not None
    world.check_everything()


def test_a_page_of_the_epoch_before_is_not_told_under_the_new_one() -> None:
    world = World(delayed=QUICK)
    world.publish(count=5)
    world.settle(0.02)
    copy = far(world).copy()
    live(world)
    world.publish(count=5)
    world.settle(0.02)
    log = far(world).log
    read, held = log.read, []
    log.read = lambda *more: held.append(more)  # type: ignore[method-assign]
    reader = world.subscribe(start=world.position(("a", 2)))
    world.settle(0.02)
    old: list[Page] = []
    log.far.log.read("a", 2, 100, 10_000, old.append)  # type: ignore[arg-type]
    log.read = read  # type: ignore[method-assign]
    far(world).restore(copy)
    world.settle(2.0)
    held[0][-1](old[0])
    world.settle(2.0)
    assert [gap.reason for gap in reader.gaps()] == ["reset"]
    assert [one.offset for one in reader.publications()] == [1, 2, 3, 4, 5]
    world.check_everything()


# -- the tail -------------------------------------------------------------------------


def test_a_reader_that_fell_behind_a_little_is_served_from_this_process() -> None:
    world = World(delayed=QUICK)
    reader = live(world)
    reader.room = 0
    world.publish()
    world.settle(0.02)
    world.publish(count=10)
    world.settle(0.02)
    far(world).log.faults = Faults(failed=1.0)
    reader.drain()
    world.run()
    assert len(reader.data()) == 11


def test_tails_keep_to_the_budget() -> None:
    world = World(delayed=QUICK, budget_bytes=50_000)
    readers = [live(world, name) for name in "abcd"]
    for _ in range(20):
        for name in "abcd":
            world.publish(name, 1, 2_000)
        world.settle(0.02)
        assert world.hub.statistics()["log_bytes"] <= 50_000
    assert world.hub.statistics()["log_trimmed"] > 0
    late = world.subscribe("a", start=EARLIEST)
    world.settle(0.1)
    assert len(late.data()) == 20, "what the tail lost is read from the store"
    assert all(len(reader.data()) == 20 for reader in readers)


def test_the_tail_of_a_channel_begins_where_the_channel_does() -> None:
    world = World(delayed=QUICK)
    world.publish("other", 50)
    world.settle(310.0)
    assert world.head("a") == Head(world.head("a").epoch, 51, 50, exists=False)
    reader = live(world)
    world.publish("another", 60)
    world.settle(310.0)
    reader.at["a"] = 110  # what was never used is not missing
    world.publish(count=2)
    world.settle(0.02)
    tail = world.hub._channels["a"].tail
    assert tail is not None
    assert (tail.first, tail.last) == (111, 112)
    assert len(reader.data()) == 2
