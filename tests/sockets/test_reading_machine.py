"""Any interleaving of emitting, joining, leaving, stalling, moving and being cut off.

Nothing that is for a client is lost, doubled or out of a room's order, over the log of this process and over
one elsewhere whose hints come late, twice, in any order or never.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everywire.core.limits import Limits
from everywire.core.settings import Window
from everywire.testing.delayed_broker import Faults
from tests.sockets.rooms_bench import Bench, Client

ROOMS = ("a", "b", "c")
rooms = st.sampled_from(ROOMS)
some_rooms = st.lists(rooms, min_size=1, max_size=3, unique=True)

GOOD_LINK = Faults()
BAD_LINK = Faults(
    max_delay_s=0.3,
    lost=0.2,
    doubled=0.2,
    coalesced=0.2,
    reorders_hints=True,
    failed=0.05,
    appends_failed=0.02,
)


class Machine(RuleBasedStateMachine):
    """A few clients in a few rooms."""

    link: Faults | None = None
    window: Window | None = None
    cuts = True

    @initialize(seed=st.integers(0, 2**16), small=st.booleans(), has_offsets=st.booleans())
    def start(self, seed: int, small: bool, has_offsets: bool) -> None:
        limits = Limits(max_write_bytes=300, max_page_publications=3, slice_s=0.0) if small else Limits()
        self.bench = Bench(
            delayed=self.link,
            seed=seed,
            window=self.window,
            limits=limits,
            has_offsets=has_offsets or self.cuts,
        )

    def _client(self, index: int) -> Client:
        return self.bench.clients[index % len(self.bench.clients)]

    @precondition(lambda self: len(self.bench.clients) < 4)
    @rule(joined=some_rooms, begins=st.booleans())
    def come(self, joined: list[str], begins: bool) -> None:
        self.bench.client(*joined, begins=begins)

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3))
    def begin(self, index: int) -> None:
        client = self._client(index)
        if not client.reading._has_begun:
            client.reading.begin()

    @rule(to=some_rooms, count=st.sampled_from([1, 1, 1, 2, 5]))
    def emit(self, to: list[str], count: int) -> None:
        for _ in range(count):
            self.bench.emit(*to)

    @precondition(lambda self: self.bench.clients)
    @rule(to=some_rooms, index=st.integers(0, 3), except_=st.lists(rooms, max_size=1))
    def broadcast(self, to: list[str], index: int, except_: list[str]) -> None:
        self.bench.emit(*to, skip=(self._client(index).sid,), except_=except_)

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3), room=rooms)
    def join(self, index: int, room: str) -> None:
        self._client(index).join(room)

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3), room=rooms, at_once=st.sampled_from([False, False, True]))
    def leave(self, index: int, room: str, at_once: bool) -> None:
        self._client(index).leave(room, at_once=at_once)

    @precondition(lambda self: self.bench.clients)
    @rule(
        index=st.integers(0, 3),
        to=some_rooms,
        room=rooms,
        steps=st.lists(st.sampled_from(["emit", "emit", "leave", "join"]), min_size=2, max_size=5),
    )
    def hurry(self, index: int, to: list[str], room: str, steps: list[str]) -> None:
        """Do several things in one turn of the event loop."""
        client = self._client(index)
        for step in steps:
            if step == "emit":
                self.bench.emit(*to)
            elif step == "join":
                client.join(room)
            else:
                client.leave(room)

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3), size=st.sampled_from([0, 5, 100, 500]))
    def stall(self, index: int, size: int) -> None:
        self._client(index).link.room = size

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3), size=st.sampled_from([None, 5, 100, 500]))
    def drain(self, index: int, size: int | None) -> None:
        self._client(index).link.drain(size)

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3))
    def move(self, index: int) -> None:
        self._client(index).link.move()

    @precondition(lambda self: self.cuts and self.bench.clients)
    @rule(index=st.integers(0, 3), lost=st.integers(0, 4))
    def cut(self, index: int, lost: int) -> None:
        client = self._client(index)
        if client.reading._has_begun and client.cut(lost) is not None:
            assert self.window is not None, "only a small window loses anything"
            self.bench.clients.remove(client)  # it was told that it is a new one
            client.reading.close()

    @precondition(lambda self: self.bench.clients)
    @rule(index=st.integers(0, 3))
    def go(self, index: int) -> None:
        self._client(index).close()

    @rule()
    def turn(self) -> None:
        self.bench.clock.turn()

    @rule(seconds=st.sampled_from([0.001, 0.06, 0.5, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        for client in self.bench.clients:
            if not client.reading._has_begun:
                client.reading.begin()
        self.bench.settle()
        self.bench.check()
        self.bench.check_empty()


class FarMachine(Machine):
    link = GOOD_LINK


class LossyMachine(Machine):
    link = BAD_LINK


class SmallMachine(Machine):
    window = Window(max_publications=3, max_age_s=1e6)


MACHINES: dict[str, Callable[[], RuleBasedStateMachine]] = {
    "here": Machine,
    "far": FarMachine,
    "lossy": LossyMachine,
    "small window": SmallMachine,
}


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_lost_doubled_or_out_of_order(name: str) -> None:
    run_state_machine_as_test(
        MACHINES[name],
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True),
    )
