"""Crowds: encoded once, written in slices, and nothing lost or doubled for who comes and goes meanwhile."""

from __future__ import annotations

from random import Random

import pytest

from everywire.core.limits import Limits
from everywire.core.settings import Window
from everywire.hub.group import COHORT_SIZE
from everywire.hub.recovery import EARLIEST
from everywire.testing.delayed_broker import Faults
from tests.hub.recording import RecordingEncoder, RecordingFraming, RecordingReader, World, settings


def test_a_group_is_encoded_and_framed_once_not_each_reader() -> None:
    world = World()
    readers = [world.subscribe() for _ in range(300)]
    world.publish(count=10)
    world.run()
    assert all(len(reader.data()) == 10 for reader in readers)
    assert world.encoder.encoded == world.framing.framed == 1
    assert len({id(reader.writes[0][1]) for reader in readers}) == 1, "all were given the same object"
    world.check_everything()


def test_who_shares_not_encoder_framing_channels_and_page_is_another_group() -> None:
    world = World()
    other, chunked = RecordingEncoder(), RecordingFraming()
    readers = [
        world.subscribe(),
        world.subscribe(encoder=other),
        world.subscribe(framing=chunked),
        world.subscribe("a", "b"),
        world.subscribe(most=5),
    ]
    assert world.hub.statistics()["groups"] == 5
    again = world.subscribe(most=10_000)
    assert again.reader.group is readers[0].reader.group, "more than the most is the most"
    world.publish()
    world.run()
    assert all(len(reader.data()) == 1 for reader in [*readers, again])
    world.check_everything()


def test_what_one_turn_published_is_one_write_in_the_next() -> None:
    world = World()
    reader = world.subscribe("a", "b", "c")
    turn = world.clock.turns
    for _ in range(5):
        for name in "cab":
            world.publish(name)
    assert reader.writes == []
    world.run()
    assert [(at - turn, len(batch.items)) for at, batch in reader.writes] == [(1, 15)]
    world.check_everything()


def test_nothing_is_encoded_for_nobody() -> None:
    world = World()
    reader = world.subscribe()
    reader.reader.close()
    world.publish(count=3)
    world.run()
    assert world.encoder.encoded == 0


# -- slices ---------------------------------------------------------------------


def test_a_crowd_is_written_to_in_slices_and_all_get_the_same() -> None:
    world = World(limits=Limits(slice_s=0.005), write_s=0.000_004)
    readers = [world.subscribe() for _ in range(2_000)]
    longest_cohort_s = COHORT_SIZE * world.write_s
    began = world.clock.turns
    world.publish(count=3)
    world.run()
    assert world.clock.turns - began >= 2, "2,000 writes of 4 µs take more than one slice"
    assert world.clock.longest_turn_s <= 0.005 + longest_cohort_s + 1e-9
    assert {len(reader.writes) for reader in readers} == {1}
    assert len({tuple(reader.data()) for reader in readers}) == 1
    assert world.encoder.encoded == 1
    world.check_everything()


def test_a_burst_of_many_writes_gives_the_loop_its_turn_between_them() -> None:
    world = World(limits=Limits(slice_s=0.005, max_write_bytes=10_000), write_s=0.000_010)
    readers = [world.subscribe() for _ in range(600)]
    world.publish(count=100, size=3_000)
    world.run()
    assert world.clock.longest_turn_s <= 0.005 + COHORT_SIZE * world.write_s + 1e-9
    assert {len(reader.data()) for reader in readers} == {100}
    assert world.encoder.encoded == len(readers[0].writes), "each write is made once for both cohorts"
    world.check_everything()


def test_publishing_in_the_middle_of_a_slice_loses_and_doubles_nothing() -> None:
    world = World(limits=Limits(slice_s=0.001), write_s=0.000_01)
    readers = [world.subscribe() for _ in range(2_000)]
    world.broker.log.read = None  # type: ignore[method-assign, assignment]  # who keeps up reads no log
    for _ in range(15):
        world.publish(count=2)
        world.clock.turn()
    world.run()
    assert {len(reader.data()) for reader in readers} == {30}
    world.check_everything()


def test_a_channel_that_is_made_in_the_middle_of_a_burst_tells_no_gap() -> None:
    world = World(limits=Limits(slice_s=0.0, max_write_bytes=1_000))
    reader = world.subscribe("a", "b")
    world.publish("c", 20)
    world.settle(310.0)
    reader.at["a"] = 20  # what was never used is not missing
    world.publish("a", 50, 300)
    world.clock.turn()
    assert 0 < len(reader.writes) < 10
    reader.at["b"] = 20
    world.publish("b")
    world.run()
    assert reader.gaps() == []
    assert (len(reader.data("a")), len(reader.data("b"))) == (50, 1)
    world.check_everything()


def test_a_live_write_has_at_most_a_page() -> None:
    world = World()
    reader = world.subscribe("a", "b", "c", most=2)
    for name in "abc":
        world.publish(name, 3)
    world.run()
    assert [len(batch.items) for _, batch in reader.writes] == [2, 2, 2, 2, 1]
    behind = world.subscribe("a", "b", "c", most=2, start=EARLIEST)
    world.run()
    assert max(len(batch.items) for _, batch in behind.writes) == 2
    assert len(behind.data()) == 9
    world.check_everything()


@pytest.mark.parametrize("seed", range(2))
def test_readers_that_join_leave_and_stall_in_the_middle_of_a_slice(seed: int) -> None:
    random = Random(seed)
    world = World(limits=Limits(slice_s=0.001, max_write_bytes=2_000), write_s=0.000_01)
    for _ in range(800):
        world.subscribe("a", "b")
    for _ in range(20):
        world.publish(random.choice("ab"), random.choice([1, 20]), 100)
        world.clock.turn()
        for reader in random.sample(world.readers, 20):
            choice = random.randrange(4)
            if choice == 0:
                reader.reader.close()
            elif choice == 1:
                reader.room = 0
            elif choice == 2 and not reader.reader.is_closed:
                reader.drain()
        world.subscribe("a", "b")
    world.run()
    for reader in world.readers:
        reader.drain()
    world.run()
    heads = {name: world.head(name).last for name in "ab"}
    for reader in world.readers:
        if not reader.reader.is_closed:
            assert reader.at == heads
            assert reader.reader.cohort is not None
    world.check_everything()
    (group,) = world.hub._groups.values()
    world.publish("a")
    world.run()
    open_readers = sum(not reader.reader.is_closed for reader in world.readers)
    assert len(group.cohorts) <= 2 * (open_readers // COHORT_SIZE + 1), "small cohorts are merged"
    world.check_empty()


def test_a_write_that_closes_others_of_its_cohort_is_safe() -> None:
    world = World()
    readers = [world.subscribe() for _ in range(20)]
    for reader in readers[:5]:
        reader.when_written = reader.reader.close
    world.publish(count=2)
    world.run()
    world.publish()
    world.run()
    assert [len(reader.data()) for reader in readers] == [2] * 5 + [3] * 15
    world.check_everything()


def test_a_member_whose_host_fails_costs_the_others_nothing() -> None:
    world = World()
    readers = [world.subscribe() for _ in range(10)]
    bystander = world.subscribe("a", "b")

    def fail() -> None:
        readers[3].when_written = lambda: None
        raise RuntimeError("a fault in the host")

    readers[3].when_written = fail
    world.publish(count=3)
    with pytest.raises(RuntimeError):
        world.run()
    world.run()
    assert all(len(reader.data()) == 3 for reader in [*readers, bystander])
    world.publish()
    world.run()
    assert all(len(reader.data()) == 4 for reader in [*readers, bystander])


def test_readers_of_one_reader_are_not_mixed_up_when_their_cohorts_merge() -> None:
    world = World()
    readers = []
    for _ in range(10):
        readers.append(world.subscribe())
        world.publish()
        world.run()
    (group,) = world.hub._groups.values()
    assert len(group.cohorts) == 1
    assert [reader.reader.delivered for reader in readers] == list(range(10, 0, -1))
    world.check_everything()


# -- heartbeats -----------------------------------------------------------------


def test_heartbeats_are_shown_only_to_the_idle() -> None:
    world = World(table=settings(heartbeat_s=10.0))
    idle, busy = world.subscribe("a"), world.subscribe("b")
    for _ in range(35):
        world.publish("b")
        world.clock.advance(1.0)
    assert len(idle.beats) == 3
    assert busy.beats == []
    gaps = [after - before for before, after in zip(idle.beats, idle.beats[1:], strict=False)]
    assert all(10.0 <= gap <= 11.5 for gap in gaps)


def test_heartbeats_that_are_answered_are_always_shown() -> None:
    world = World(table=settings(heartbeat_s=10.0))
    reader = world.subscribe(encoder=RecordingEncoder(beats_always=True))
    for _ in range(35):
        world.publish()
        world.clock.advance(1.0)
    assert len(reader.beats) == 3


def test_a_flood_does_not_hold_up_heartbeats_that_are_answered() -> None:
    world = World(limits=Limits(slice_s=0.0), table=settings(heartbeat_s=10.0), write_s=0.01)
    pings = world.subscribe("b", encoder=RecordingEncoder(beats_always=True))
    flooded = world.subscribe("a")
    flooded.when_written = lambda: world.publish("a") and None  # there is always something to write
    world.publish("a")
    for _ in range(4_000):
        world.clock.turn()
    assert len(pings.beats) >= 3
    assert len(world.hub._fanout._beats) <= 1


def test_long_polls_and_stalled_readers_are_shown_none() -> None:
    world = World(table=settings(heartbeat_s=10.0))
    poll = world.subscribe(encoder=RecordingEncoder(once=True))
    stalled = world.subscribe(room=0)
    stalled.reader.stalled()
    world.clock.advance(60.0)
    assert poll.beats == stalled.beats == []


def test_a_heartbeat_may_stall_or_end_its_reader() -> None:
    world = World(table=settings(heartbeat_s=10.0))

    class Fragile(RecordingReader):
        def beat(self) -> None:
            super().beat()
            if len(world.readers) % 2:
                self.reader.stalled()
            else:
                self.reader.close()

    for _ in range(4):
        reader = Fragile(world)
        reader.reader = world.hub.reader(("a",), world.encoder, world.framing, reader)
        world.readers.append(reader)
        world.hub.open(reader.reader, world.position(("a", 0)))
    world.clock.advance(25.0)
    assert [len(reader.beats) for reader in world.readers] == [1] * 4
    world.check_empty()


def test_merged_cohorts_are_not_late_with_their_heartbeats() -> None:
    world = World(table=settings(heartbeat_s=10.0))
    encoder = RecordingEncoder(beats_always=True)
    first = [world.subscribe(encoder=encoder) for _ in range(COHORT_SIZE)]
    world.clock.advance(5.0)
    second = world.subscribe(encoder=encoder)
    world.clock.advance(7.0)
    assert [len(reader.beats) for reader in (first[0], second)] == [1, 0]
    first[-1].reader.close()
    world.publish()
    world.run()
    assert first[0].reader.cohort is second.reader.cohort
    world.clock.advance(4.5)
    assert len(second.beats) == 1


# -- what is left when they have gone ----------------------------------------------


@pytest.mark.parametrize("link", [None, Faults()], ids=["memory", "delayed"])
def test_channels_groups_and_tails_are_forgotten(link: Faults | None) -> None:
    world = World(delayed=link, table=settings(Window(max_publications=5)))
    for number in range(50):
        world.subscribe(f"c{number}", "all")
        world.publish(f"c{number}", 10)
        world.publish("all")
    world.settle()
    assert world.hub.statistics()["channels_read"] == 51
    assert world.hub.subscribers("all") == 50
    assert world.hub.subscribers("c7") == 1
    assert world.hub.subscribers("absent") == 0
    world.check_everything()
    world.check_empty()
    assert world.hub.subscribers("all") == 0


def test_an_answer_for_a_channel_that_has_ended_changes_nothing() -> None:
    world = World(delayed=Faults(max_delay_s=5.0))
    for number in range(20):
        reader = world.subscribe(f"c{number}")
        world.publish(f"c{number}", 3)
        world.clock.advance(0.5)
        reader.reader.close()
        world.clock.advance(2.1)
    world.settle(10.0)
    world.check_empty()


def test_a_channel_can_be_read_again_after_it_was_forgotten() -> None:
    world = World(delayed=Faults())
    for round_ in range(3):
        reader = world.subscribe()
        world.settle()
        world.publish(count=2)
        world.settle()
        assert len(reader.data()) == 2, round_
        world.check_empty()


def test_a_crowd_that_never_reads_is_let_go_of() -> None:
    world = World()
    for _ in range(100):
        world.subscribe(opens=False).reader.close()
    world.check_empty()


def test_counters_count_readers() -> None:
    world = World()
    for _ in range(3):
        world.subscribe()
    assert world.hub.counters.readers_opened == 3
    assert world.hub.statistics()["readers"] == 3
    world.readers[0].reader.close()
    world.readers[0].reader.close()
    assert world.hub.statistics()["readers"] == 2
