"""What is remembered, and marks of what is to be forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everywire.access.memory import Forgotten, Remembered
from tests.access.proofs import Clock

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "drop", "wait"]), st.integers(0, 9), st.floats(0, 20)),
    max_size=80,
)


@given(STEPS)
def test_nothing_is_remembered_too_long_or_too_much(steps: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    memory: Remembered[int] = Remembered(4, 30, clock)
    truth: dict[int, tuple[int, float]] = {}
    for step, (what, key, seconds) in enumerate(steps):
        if what == "put":
            memory.put(key, step, step)
            truth[key] = (step, clock.now_s + 30)
        elif what == "drop":
            memory.drop(key)
            truth.pop(key, None)
        elif what == "wait":
            clock.passes(seconds)
        entry = memory.get(key)
        if entry is not None:
            assert entry.value == truth[key][0]
            assert entry.until_s == truth[key][1] > clock.now_s
        elif what == "put":
            raise AssertionError("what was just put is there")
        assert len(memory) <= 4


MARKS = st.lists(
    st.tuples(
        st.sampled_from(["mark", "learn", "wait"]), st.sampled_from("ab"), st.sampled_from(["", "x", "y"])
    ),
    max_size=60,
)


@given(MARKS)
def test_what_was_learned_before_a_mark_is_forgotten_and_nothing_else(
    steps: list[tuple[str, str, str]],
) -> None:
    clock = Clock()
    forgotten = Forgotten(60, clock)
    learned: dict[tuple[str, str], tuple[int, float]] = {}
    for what, user, channel in steps:
        if what == "mark":
            forgotten.mark(user, channel)
            for key in list(learned):
                if key[0] == user and channel in ("", key[1]):
                    count, until_s = learned.pop(key)
                    assert forgotten.since(count, *key) or until_s <= clock.now_s
        elif what == "learn":
            learned[user, channel] = (forgotten.now, clock.now_s + 60)
        else:
            clock.passes(25)
        for key, (count, _) in learned.items():
            assert not forgotten.since(count, *key)


def test_marks_are_bounded_and_then_everything_is_forgotten() -> None:
    clock = Clock()
    forgotten = Forgotten(60, clock)
    learned = forgotten.now
    for number in range(25_000):
        forgotten.mark(f"u{number}")
        assert len(forgotten) <= 10_000
    assert forgotten.since(learned, "who was never named"), "rather too much than too little"
    assert forgotten.since(learned, "u0")
    assert not forgotten.since(forgotten.now, "u0")
    clock.passes(61)
    forgotten.mark("ann")
    assert len(forgotten) == 1, "marks go when nothing that old is remembered"
