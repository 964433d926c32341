"""Publishing: where it stands, what is counted, and back-pressure while the store is slow."""

from __future__ import annotations

from everywire.brokers.base import Appended
from everywire.core.errors import BrokerBusy, BrokerError, KeyReused
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.testing.delayed_broker import Faults
from tests.hub.recording import World


def test_a_publisher_hears_where_its_publication_stands() -> None:
    world = World()
    assert world.publish(count=3)
    assert [one.offset for one in world.results if isinstance(one, Appended)] == [1, 2, 3]
    assert world.hub.counters.publications == 3


def test_replays_and_reused_keys_are_counted_apart() -> None:
    world = World()
    for fingerprint in (b"f", b"f", b"g"):
        world.publish_draft(Draft("a", b"1", key="k", fingerprint=fingerprint))
    first, again, refused = world.results
    assert isinstance(first, Appended) and isinstance(again, Appended)
    assert (again.offset, again.replayed) == (first.offset, True)
    assert isinstance(refused, KeyReused)
    counters = world.hub.counters
    assert (counters.publications, counters.replayed, counters.appends_failed) == (1, 1, 1)


def test_a_local_store_never_holds_up_a_publisher() -> None:
    world = World(limits=Limits(max_unfinished_appends=1))
    assert world.publish(count=100)


def test_unfinished_appends_are_bounded() -> None:
    world = World(delayed=Faults(max_delay_s=0.01), limits=Limits(max_unfinished_appends=10))
    goes_on = [world.publish() for _ in range(30)]
    assert goes_on == [True] * 9 + [False] * 21, "from the tenth on the publisher is to pause"
    assert [type(one) for one in world.results] == [BrokerBusy] * 10, "and at twice as many it is refused"
    assert world.hub.statistics()["appends_unfinished"] == 20
    world.settle()
    assert world.hub.statistics()["appends_unfinished"] == 0
    assert len(world.results) == 30
    assert world.kept() == list(range(1, 21))
    counters = world.hub.counters
    assert (counters.publications, counters.appends_failed) == (20, 10)
    assert world.publish()


def test_a_publisher_that_waits_for_its_own_is_never_refused() -> None:
    world = World(delayed=Faults(max_delay_s=0.01), limits=Limits(max_unfinished_appends=4))
    for _ in range(50):
        while not world.publish():
            before = len(world.results)
            while len(world.results) == before:
                world.clock.advance(0.001)
            break
    world.settle()
    assert all(isinstance(one, Appended) for one in world.results)


def test_a_failed_append_gives_its_place_back() -> None:
    world = World(delayed=Faults(max_delay_s=0.001, appends_failed=1.0))
    world.publish(count=5)
    world.settle()
    assert all(isinstance(one, BrokerError) for one in world.results)
    assert len(world.results) == world.hub.counters.appends_failed == 5
    assert world.hub.statistics()["appends_unfinished"] == 0


def test_publishing_from_within_a_publishers_answer() -> None:
    world = World()
    reader = world.subscribe()
    offsets: list[int] = []

    def again(appended: object) -> None:
        assert isinstance(appended, Appended)
        offsets.append(appended.offset)
        if len(offsets) < 5:
            world.hub.publish(Draft("a", b"1"), again)

    world.hub.publish(Draft("a", b"1"), again)
    world.run()
    assert offsets == [1, 2, 3, 4, 5]
    assert len(reader.data()) == 5
    assert len(reader.writes) == 1


def test_publishing_from_within_a_readers_write() -> None:
    world = World()
    reader = world.subscribe()
    reader.when_written = lambda: world.publish() and None if world.count < 20 else None
    world.publish()
    world.run()
    assert len(reader.data()) == 20
    world.check_everything()
