"""The timing wheel: never early, at most two ticks late, blind to time in which nobody turned it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.core.wheel import Wheel


def test_a_deadline_is_never_early_and_at_most_two_ticks_late() -> None:
    wheel = Wheel(0.25, 100.0)
    due: dict[str, float] = {"a": 100.1, "b": 100.25, "c": 101.0, "d": 175.3}
    fired: dict[str, float] = {}
    now = 100.0
    for name, deadline in due.items():
        wheel.arm(name, deadline, lambda name: fired.__setitem__(name, now))
    while len(fired) < len(due):
        now += 0.25
        wheel.advance(now)
    for name, deadline in due.items():
        assert deadline <= fired[name] <= deadline + 0.5


def test_a_disarmed_deadline_does_not_fire() -> None:
    wheel = Wheel(0.25, 0.0)
    fired: list[str] = []
    slot = wheel.arm("a", 0.5, fired.append)
    wheel.arm("b", 0.5, fired.append)
    wheel.disarm("a", slot)
    wheel.disarm("a", slot)
    wheel.advance(0.9)
    assert fired == ["b"]
    assert wheel.is_empty


def test_a_deadline_in_the_past_fires_at_the_next_turn() -> None:
    wheel = Wheel(0.25, 50.0)
    fired: list[str] = []
    wheel.arm("a", 3.0, fired.append)
    assert not wheel.is_empty
    wheel.advance(50.3)
    assert fired == ["a"]


def test_time_in_which_the_loop_was_blocked_does_not_count() -> None:
    wheel = Wheel(0.25, 0.0)
    fired: list[str] = []
    wheel.arm("a", 10.0, fired.append)
    wheel.advance(0.25)
    wheel.advance(60.25)  # a minute of a blocked loop
    assert fired == []
    assert wheel.lost_s == pytest.approx(59.75)
    now = 60.25
    while now < 60.0 + 10.0 - 0.5:
        now += 0.25
        wheel.advance(now)
    assert fired == []
    wheel.advance(now := now + 0.5)
    wheel.advance(now + 0.5)
    assert fired == ["a"]


def test_a_deadline_armed_after_a_blocked_time_counts_from_its_own_now() -> None:
    wheel = Wheel(0.25, 0.0)
    wheel.advance(60.0)
    fired: list[str] = []
    wheel.arm("a", 61.0, fired.append)
    wheel.advance(60.75)
    assert fired == []
    wheel.advance(61.5)
    assert fired == ["a"]


def test_a_callback_may_arm_and_disarm() -> None:
    wheel = Wheel(0.25, 0.0)
    fired: list[str] = []
    slot = wheel.arm("other", 0.5, fired.append)

    def again(owner: str) -> None:
        fired.append(owner)
        wheel.disarm("other", slot)
        if len(fired) < 3:
            wheel.arm(owner, wheel.now_s, again)

    wheel.arm("a", 0.5, again)
    for turn in range(1, 8):
        wheel.advance(turn * 0.25)
    assert fired.count("a") == 3


def test_a_callback_that_raises_takes_nobody_with_it() -> None:
    wheel = Wheel(0.25, 0.0)
    fired: list[str] = []

    def fail(owner: str) -> None:
        raise RuntimeError(owner)

    for name in "abc":
        wheel.arm(name, 0.3, fired.append)
    wheel.arm("bad", 0.3, fail)
    with pytest.raises(RuntimeError):
        wheel.advance(0.6)
    wheel.advance(0.7)
    assert sorted(fired) == ["a", "b", "c"]


@given(
    st.lists(st.floats(0, 30), max_size=20),
    st.lists(st.floats(0.001, 0.9), min_size=1, max_size=60),
)
def test_whatever_the_steps_each_fires_once_and_in_time(timeouts: list[float], steps: list[float]) -> None:
    wheel = Wheel(0.25, 7.0)
    fired: dict[int, float] = {}
    for index, timeout in enumerate(timeouts):
        wheel.arm(index, 7.0 + timeout, lambda index: fired.setdefault(index, wheel.now_s))
    now = 7.0
    for step in steps:
        before, now = now, now + step
        wheel.advance(now)
        for index, timeout in enumerate(timeouts):
            if index in fired:
                assert fired[index] >= 7.0 + timeout
            else:
                assert now <= 7.0 + timeout + 0.25 + 1e-6
        assert now > before
