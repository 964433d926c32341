"""Where a returning reader begins, and what it is told: recovered, gap, or reset."""

from __future__ import annotations

import pytest

from everywire.core import codes
from everywire.core.limits import Limits
from everywire.core.position import Place, Position, encode_position
from everywire.core.publication import RESET, Gap, trimmed
from everywire.core.settings import Window
from everywire.hub.recovery import EARLIEST, LATEST, UNREADABLE, Start
from everywire.testing.delayed_broker import Faults
from tests.hub.recording import RecordingEncoder, World, settings


def offsets(reader: object) -> list[int]:
    return [one.offset for one in reader.publications()]  # type: ignore[attr-defined]


@pytest.fixture(params=[None, Faults()], ids=["memory", "delayed"])
def world(request: pytest.FixtureRequest) -> World:
    return World(delayed=request.param, table=settings(Window(max_publications=5)))


def test_recovered(world: World) -> None:
    world.publish(count=5)
    world.settle()
    reader = world.subscribe(start=world.position(("a", 2)))
    world.settle()
    assert offsets(reader) == [3, 4, 5]
    assert reader.gaps() == []
    assert reader.opening == encode_position([("a", Place(world.head().epoch, 2))])
    assert len(reader.writes) == 1, "what was missed is one write"
    world.publish()
    world.settle()
    assert offsets(reader) == [3, 4, 5, 6]
    world.check_everything()


def test_nothing_was_missed(world: World) -> None:
    world.publish(count=5)
    world.settle()
    reader = world.subscribe(start=world.position(("a", 5)))
    world.settle()
    assert reader.writes == []
    assert reader.new == ()
    world.publish()
    world.settle()
    assert offsets(reader) == [6]


def test_a_gap_names_the_first_and_the_last_that_were_missed(world: World) -> None:
    world.publish(count=12)
    world.settle()
    reader = world.subscribe(start=world.position(("a", 3)))
    world.settle()
    assert reader.gaps() == [Gap(4, 7, "trimmed")]
    assert offsets(reader) == [8, 9, 10, 11, 12]
    assert reader.reader.missed == 4
    assert world.hub.counters.resets_told == 0
    world.check_everything()


def test_a_gap_is_told_though_nothing_is_kept(world: World) -> None:
    world.publish(count=4)
    world.settle()
    world.broker.log.trim("a", lambda _: None)
    world.settle()
    reader = world.subscribe(start=world.position(("a", 1)))
    world.settle()
    assert reader.gaps() == [Gap(2, 4, "trimmed")]
    world.publish()
    world.settle()
    assert offsets(reader) == [5]
    world.check_everything()


def test_until_a_gap_was_told_the_position_stays() -> None:
    # Who is cut between the beginning and the gap finds the gap again.
    world = World(table=settings(Window(max_publications=5)))
    world.publish("a", 12)
    world.publish("b", 12)
    epoch = world.head().epoch
    start = world.position(("a", 3), ("b", 4))
    reader = world.subscribe("a", "b", start=start, room=0)
    assert reader.opening == encode_position([("a", Place(epoch, 3)), ("b", Place(epoch, 4))])
    reader.drain()
    world.run()
    first, second = reader.writes[0][1].items[:2]
    assert (first.content, second.content) == (trimmed(4, 7), trimmed(5, 7))
    assert first.position == encode_position([("a", Place(epoch, 7)), ("b", Place(epoch, 4))])
    assert second.position == encode_position([("a", Place(epoch, 7)), ("b", Place(epoch, 7))])
    world.check_everything()


@pytest.mark.parametrize("offset", [0, 3, 5, 6, 2**53 - 1])
@pytest.mark.parametrize("kind", ["another epoch", "beyond the head"])
def test_what_this_store_never_gave_is_a_reset(world: World, kind: str, offset: int) -> None:
    world.publish(count=7)
    world.settle()
    epoch = "another" if kind == "another epoch" else None
    if epoch is None:
        offset += 8
    reader = world.subscribe(start=world.position(("a", min(offset, 2**53 - 1)), epoch=epoch))
    world.settle()
    assert reader.gaps() == [RESET]
    assert offsets(reader) == [3, 4, 5, 6, 7]
    assert world.hub.counters.resets_told == 1
    world.publish()
    world.settle()
    assert offsets(reader)[-1] == 8
    assert world.hub.counters.resets_told == 1
    world.check_everything()


def test_a_reset_stays_in_the_position_until_it_was_told(world: World) -> None:
    world.publish(count=3)
    world.settle()
    reader = world.subscribe(start=world.position(("a", 2), epoch="another"))
    world.settle()
    assert Position.decode(reader.opening).place("a") == Place("another", 2)
    assert Position.decode(reader.position).place("a") == Place(world.head().epoch, 3)


def test_an_unreadable_position_is_a_reset_not_an_error(world: World) -> None:
    world.publish(count=2)
    world.settle()
    reader = world.subscribe(start=UNREADABLE)
    world.settle()
    assert reader.gaps() == [RESET]
    assert offsets(reader) == [1, 2]
    again = world.subscribe(start=Start(Position.decode(reader.opening)))
    world.settle()
    assert again.gaps() == [RESET], "it was cut before it was told"


def test_a_reset_of_a_channel_that_holds_nothing(world: World) -> None:
    reader = world.subscribe(start=world.position(("a", 5), epoch="another"))
    world.settle()
    assert reader.gaps() == [RESET]
    world.publish()
    world.settle()
    assert offsets(reader) == [1]
    world.check_everything()


def test_channels_that_the_position_does_not_know_start_live_and_are_named(world: World) -> None:
    world.publish("a", 3)
    world.publish("b", 3)
    world.settle()
    reader = world.subscribe("a", "b", "c", start=world.position(("a", 1)))
    world.settle()
    assert reader.new == ("b", "c")
    assert offsets(reader) == [2, 3]
    for name in "abc":
        world.publish(name)
    world.settle()
    assert [len(reader.publications(name)) for name in "abc"] == [3, 1, 1]
    world.check_everything()


def test_the_words_earliest_and_latest(world: World) -> None:
    world.publish(count=8)
    world.settle()
    early, late = world.subscribe(start=EARLIEST), world.subscribe(start=LATEST)
    world.settle()
    assert offsets(early) == [4, 5, 6, 7, 8]
    assert early.gaps() == []
    assert offsets(late) == []
    world.publish()
    world.settle()
    assert offsets(early)[-1] == 9
    assert offsets(late) == [9]
    world.check_everything()


@pytest.mark.parametrize("start", [EARLIEST, LATEST, None], ids=["earliest", "latest", "position"])
def test_a_channel_never_published_to_stands_at_0(world: World, start: Start | None) -> None:
    reader = world.subscribe(start=start or world.position(("a", 0)))
    world.settle()
    assert Position.decode(reader.opening).place("a") == Place(world.head().epoch, 0)
    assert reader.writes == []
    assert not world.head().exists, "reading makes no channel"
    world.publish(count=2)
    world.settle()
    assert offsets(reader) == [1, 2]
    world.check_everything()


# -- channels that are forgotten ----------------------------------------------


def forget(world: World, name: str, count: int) -> None:
    """Publish so many, and let the store forget the channel."""
    world.publish(name, count)
    world.settle(310.0)
    assert not world.head(name).exists


def test_a_reader_of_a_forgotten_channel_is_told(world: World) -> None:
    world.publish("a", 3)
    world.settle()
    start = world.position(("a", 1))
    forget(world, "b", 20)
    assert world.head("a").last == 20
    reader = world.subscribe(start=start)
    world.settle()
    assert reader.gaps() == [Gap(2, 20, "trimmed")]
    world.publish("a")
    world.settle()
    assert offsets(reader) == [21]
    world.check_everything()


def test_who_waits_for_the_first_publication_misses_nothing_when_others_are_forgotten(world: World) -> None:
    live = world.subscribe("a")
    several = world.subscribe("a", "c")
    world.publish("c", 2)
    world.settle()
    forget(world, "b", 20)
    for reader in (live, several):
        reader.at["a"] = 20  # what was never used is not missing
    world.publish("a", 3)
    world.settle()
    for reader in (live, several):
        assert [one.offset for one in reader.publications("a")] == [21, 22, 23]
        assert reader.gaps() == []
    world.check_everything()


def test_a_stalled_reader_that_waits_for_the_first_publication_misses_nothing_either() -> None:
    world = World(limits=Limits(stall_timeout_s=1_000))
    reader = world.subscribe("a", "c", room=0)
    world.publish("c")
    world.run()
    assert reader.reader.is_stalled
    forget(world, "b", 20)
    reader.at["a"] = 20
    world.publish("a", 2)
    world.run()
    reader.drain()
    world.run()
    assert reader.gaps("a") == [], "offsets that were never used are no publications"
    assert [one.offset for one in reader.publications("a")] == [21, 22]
    world.check_everything()


# -- beginning while the store cannot be asked ----------------------------------


def test_a_reader_is_ended_when_the_store_cannot_say_where_it_stands() -> None:
    world = World(delayed=Faults(failed=1.0))
    first, second = world.subscribe(), world.subscribe(start=EARLIEST)
    poll = world.subscribe(encoder=RecordingEncoder(once=True))
    world.settle(0.5)
    assert first.end == second.end == (codes.TRY_AGAIN_LATER, None)
    assert codes.TRY_AGAIN_LATER.reconnect
    assert poll.end == (codes.BUSY, None), "what answers a request has a status"
    assert world.delayed is not None
    world.delayed.log.faults = Faults()
    third = world.subscribe()
    world.settle()
    assert third.opening
    world.publish()
    world.settle()
    assert offsets(third) == [1]
    world.check_empty()


def test_a_reader_that_left_before_it_began_is_not_opened() -> None:
    world = World(delayed=Faults())
    reader = world.subscribe(start=EARLIEST)
    reader.reader.close()
    world.settle()
    assert reader.opening == ""
    world.check_empty()


def test_a_page_that_cannot_be_read_is_asked_for_again() -> None:
    world = World(delayed=Faults())
    world.publish(count=3)
    world.settle()
    reader = world.subscribe(start=world.position(("a", 1)))
    assert world.delayed is not None
    while not reader.opening:
        world.clock.advance(0.001)
    world.delayed.log.faults = Faults(failed=1.0)
    world.settle(0.5)
    assert reader.writes == []
    world.delayed.log.faults = Faults()
    world.settle()
    assert offsets(reader) == [2, 3]


def test_a_reader_of_a_format_that_tells_no_gaps_is_ended() -> None:
    world = World(table=settings(Window(max_publications=5)))
    raw = RecordingEncoder(tells_gaps=False, wants_positions=False)
    world.publish(count=10)
    reader = world.subscribe(start=world.position(("a", 2)), encoder=raw)
    assert reader.end == (codes.INSUFFICIENT_STATE, Gap(3, 5, "trimmed"))
    assert reader.writes == []
    reset = world.subscribe(start=UNREADABLE, encoder=raw)
    assert reset.end == (codes.INSUFFICIENT_STATE, RESET)
    fine = world.subscribe(start=world.position(("a", 6)), encoder=raw)
    assert offsets(fine) == [7, 8, 9, 10]
    assert world.hub.counters.readers_ended == 2
    world.check_everything()
    world.check_empty()


def test_pages_are_read_until_the_head() -> None:
    world = World(limits=Limits(max_page_publications=4))
    world.publish(count=30)
    reader = world.subscribe(start=EARLIEST)
    world.publish(count=2)
    world.run()
    assert offsets(reader) == list(range(1, 33))
    assert max(len(batch.items) for _, batch in reader.writes) == 4
    world.check_everything()


def test_returning_readers_at_one_place_share_encoding_and_reading() -> None:
    world = World(delayed=Faults(max_delay_s=0.01))
    world.publish(count=20)
    world.settle()
    world.subscribe()
    world.settle()
    start = world.position(("a", 5))
    readers = [world.subscribe(start=start) for _ in range(50)]
    world.settle()
    assert all(offsets(reader) == list(range(6, 21)) for reader in readers)
    assert world.encoder.encoded == 1
    world.check_everything()
