"""Pages for readers that keep no place here: what polls and history are given."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.position import Position
from everywire.core.publication import RESET, Gap
from everywire.core.settings import Window
from everywire.hub.fetch import Fetched
from everywire.hub.recovery import EARLIEST, LATEST, UNREADABLE, Start
from everywire.testing.delayed_broker import Faults
from tests.hub.recording import World, settings

FEW = settings(Window(max_publications=5))


def ask(world: World, *channels: str, start: Start = EARLIEST, most: int = 1_000) -> Any:
    done: list[Any] = []
    world.hub.fetch(channels or ("a",), start, most, done.append)
    for _ in range(1_000):
        if done:
            break
        world.clock.advance(0.01)
    (found,) = done
    return found


def page(world: World, *channels: str, start: Start = EARLIEST, most: int = 1_000) -> Fetched:
    found = ask(world, *channels, start=start, most=most)
    assert isinstance(found, Fetched)
    return found


def after(fetched: Fetched) -> Start:
    return Start(Position.decode(fetched.position))


def offsets(fetched: Fetched) -> list[list[int]]:
    return [[one.offset for one in here.publications] for here in fetched.slices]


@pytest.fixture(params=[None, Faults()], ids=["memory", "delayed"])
def world(request: pytest.FixtureRequest) -> World:
    return World(delayed=request.param, table=FEW)


def publish(world: World, channel: str = "a", count: int = 1, size: int = 0) -> None:
    world.publish(channel, count, size)
    world.settle(1.0)


def test_the_window_and_then_what_follows(world: World) -> None:
    publish(world, count=8)
    first = page(world)
    assert offsets(first) == [[4, 5, 6, 7, 8]]
    assert first.slices[0].gap is None
    assert not first.has_more
    empty = page(world, start=after(first))
    assert offsets(empty) == [[]]
    assert empty.position == first.position
    publish(world, count=2)
    assert offsets(page(world, start=after(empty))) == [[9, 10]]


def test_the_outcomes(world: World) -> None:
    publish(world, count=9)
    assert page(world, start=world.position(("a", 6))).slices[0].gap is None
    trimmed = page(world, start=world.position(("a", 2)))
    assert trimmed.slices[0].gap == Gap(3, 4, "trimmed")
    assert offsets(trimmed) == [[5, 6, 7, 8, 9]]
    for start in (world.position(("a", 10)), world.position(("a", 6), epoch="other"), UNREADABLE):
        reset = page(world, start=start)
        assert reset.slices[0].gap is RESET
        assert offsets(reset) == [[5, 6, 7, 8, 9]]
    counters = world.hub.counters
    assert (counters.gaps_told, counters.resets_told, counters.missed) == (4, 3, 2)
    assert counters.delivered == 3 + 5 * 4


def test_latest_and_channels_that_are_new(world: World) -> None:
    publish(world, "a", 3)
    publish(world, "b", 3)
    latest = page(world, "b", "a", start=LATEST)
    assert [here.channel for here in latest.slices] == ["a", "b"]
    assert offsets(latest) == [[], []]
    known = page(world, "a", "b", "c", start=world.position(("a", 1)))
    assert known.new == ["b", "c"]
    assert offsets(known) == [[2, 3], [], []]
    publish(world, "b")
    publish(world, "c")
    assert offsets(page(world, "a", "b", "c", start=after(known))) == [[], [4], [1]]


def test_reading_makes_no_channel(world: World) -> None:
    found = page(world, "absent")
    assert offsets(found) == [[]]
    assert found.slices[0].last == 0
    assert not world.head("absent").exists


def test_a_page_is_bounded_and_says_so(world: World) -> None:
    publish(world, count=5)
    first = page(world, most=2)
    assert offsets(first) == [[1, 2]]
    assert first.has_more
    rest = page(world, start=after(first), most=3)
    assert offsets(rest) == [[3, 4, 5]]
    assert not rest.has_more


@pytest.mark.parametrize(
    ("most", "max_bytes"), [(1, 10**6), (3, 10**6), (1_000, 250), (1_000, 1_000), (7, 400)]
)
def test_however_small_the_pages_all_is_read_once_in_order(most: int, max_bytes: int) -> None:
    random = Random(most)
    world = World(limits=Limits(max_page_bytes=max_bytes), table=settings(Window()))
    for _ in range(60):
        world.publish(random.choice("abc"), 1, random.choice([1, 100, 300]))
    found: dict[str, list[int]] = {name: [] for name in "abc"}
    start = EARLIEST
    for _ in range(200):
        fetched = page(world, "a", "b", "c", start=start, most=most)
        sizes = [len(one.data) for here in fetched.slices for one in here.publications]
        assert 0 < len(sizes) <= most
        assert sum(sizes) <= max_bytes or len(sizes) == 1
        for here in fetched.slices:
            assert here.gap is None
            found[here.channel] += [one.offset for one in here.publications]
        if not fetched.has_more:
            break
        start = after(fetched)
    assert found == {name: list(range(1, world.head(name).last + 1)) for name in "abc"}


def test_a_busy_channel_does_not_starve_another_in_small_pages() -> None:
    world = World()
    world.publish("a", 5)
    world.publish("b", 5)
    start, seen = EARLIEST, 0
    for _ in range(12):
        world.publish("a")
        fetched = page(world, "a", "b", start=start, most=1)
        seen += len(fetched.slices[1].publications)
        start = after(fetched)
    assert seen == 5


def test_what_the_window_lost_between_asking_and_reading_is_told() -> None:
    world = World(delayed=Faults(max_delay_s=0.01), table=FEW)
    publish(world, count=5)
    log = world.broker.log
    read = log.read

    def read_late(*asked: Any) -> None:
        world.publish(count=6)
        world.settle(0.5)
        read(*asked)

    log.read = read_late  # type: ignore[method-assign]
    found = page(world, start=world.position(("a", 2)))
    assert found.slices[0].gap == Gap(3, 6, "trimmed")
    assert offsets(found) == [[7, 8, 9, 10, 11]]


@pytest.mark.parametrize("offset", [2, 4])
def test_a_store_that_fell_back_between_asking_and_reading_is_a_reset(offset: int) -> None:
    world = World(delayed=Faults(max_delay_s=0.01), table=FEW)
    assert world.delayed is not None
    publish(world, count=3)
    copy = world.delayed.copy()
    publish(world, count=2)
    start = world.position(("a", offset))
    log = world.delayed.log
    read, delayed = log.read, world.delayed

    def read_late(*asked: Any) -> None:
        delayed.restore(copy)
        read(*asked)

    log.read = read_late  # type: ignore[method-assign]
    found = page(world, start=start)
    assert found.slices[0].gap is RESET
    log.read = read  # type: ignore[method-assign]
    rest = page(world, start=after(found))
    seen = [*offsets(found)[0], *offsets(rest)[0]]
    assert seen == [1, 2, 3]
    assert rest.slices[0].gap is None


@pytest.mark.parametrize("failing", ["heads", "read"])
def test_a_store_that_is_away_is_an_error(failing: str) -> None:
    world = World(delayed=Faults(max_delay_s=0.001))
    publish(world, "a", 3)
    publish(world, "b", 3)

    def fail(names: Sequence[str] | str, *more: Any) -> None:
        more[-1](BrokerError("away"))

    setattr(world.broker.log, failing, fail)
    assert isinstance(ask(world, "a", "b"), BrokerError)
    assert world.hub.counters.delivered == 0


def test_a_channel_named_twice_counts_once(world: World) -> None:
    publish(world)
    assert offsets(page(world, "a", "a")) == [[1]]
