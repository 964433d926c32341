"""Sums over workers that come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everywire.server.workers_totals import Totals


def row(name: str, value: float, label_value: str = ""):
    return (name, "help", value, "label" if label_value else "", label_value)


def sums(totals: Totals) -> dict[tuple[str, str], float]:
    return {(name, label_value): value for name, _, value, _, label_value in totals.sum()}


def test_living_workers_are_added_up_label_by_label() -> None:
    totals = Totals()
    totals.heard(1, [row("a_total", 1, "x"), row("b", 2)])
    totals.heard(2, [row("a_total", 10, "x"), row("a_total", 5, "y"), row("b", 3)])
    assert sums(totals) == {("a_total", "x"): 11, ("a_total", "y"): 5, ("b", ""): 5}


def test_what_the_gone_counted_stays_and_what_they_had_does_not() -> None:
    totals = Totals()
    totals.heard(1, [row("a_total", 7), row("b", 2)])
    totals.gone(1)
    totals.gone(1)
    totals.heard(2, [row("a_total", 1), row("b", 3)])
    assert sums(totals) == {("a_total", ""): 8, ("b", ""): 3}


def test_the_largest_since_the_last_time() -> None:
    totals = Totals()
    totals.heard(1, [row("turn_max", 3)])
    totals.heard(1, [row("turn_max", 1)])
    totals.heard(2, [row("turn_max", 2)])
    assert sums(totals) == {("turn_max", ""): 3}
    totals.heard(2, [row("turn_max", 0.5)])
    assert sums(totals) == {("turn_max", ""): 0.5}


def test_what_is_kept_of_the_gone_is_bounded() -> None:
    totals = Totals()
    for process in range(30):
        totals.heard(process, [row("a_total", 1, f"{process}-{number}") for number in range(1_000)])
        totals.gone(process)
    assert 10_000 <= len(totals.sum()) < 12_000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans())))
def test_no_total_ever_goes_backwards(steps: list[tuple[int, int, bool]]) -> None:
    totals, counted, last = Totals(), {}, 0.0
    process = {number: number for number in range(4)}
    for number, more, dies in steps:
        id = process[number]
        counted[id] = counted.get(id, 0) + more
        totals.heard(id, [row("a_total", counted[id])])
        if dies:
            totals.gone(id)
            process[number] += 4
        now = sums(totals)[("a_total", "")]
        assert now >= last
        last = now
    assert last == sum(counted.values())
