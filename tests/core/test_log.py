"""The bounded log against a plain list: count, bytes, age, and one budget over several logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.core.log import Budget, ChannelLog
from everywire.core.publication import Publication
from everywire.core.settings import Window

COST = Publication(1, b"", 0).cost_bytes
UNBOUNDED = Budget(2**60)


class ModelLog:
    """What a log is, told as plainly as can be: all that was appended, and how much of it is gone."""

    def __init__(self, window: Window, after: int) -> None:
        self.window = window
        self.after = after
        self.last = after
        self.kept: list[Publication] = []

    def append(self, publication: Publication) -> None:
        self.kept.append(publication)
        self.last = publication.offset
        self.kept = self.kept[-self.window.max_publications :]
        while len(self.kept) > 1 and self.size > self.window.max_bytes:
            del self.kept[0]

    @property
    def size(self) -> int:
        return sum(one.cost_bytes for one in self.kept)

    @property
    def first(self) -> int:
        return self.kept[0].offset if self.kept else self.last + 1

    def page(self, offset: int, count: int, size: int) -> list[Publication]:
        page = [one for one in self.kept if one.offset > offset][:count]
        while len(page) > 1 and sum(len(one.data) for one in page) > size:
            del page[-1]
        return page


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 400)),
        st.tuples(st.just("age"), st.integers(0, 60)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=60,
)
windows = st.builds(
    Window,
    max_publications=st.integers(1, 20),
    max_bytes=st.integers(1, 4_000),
    max_age_s=st.just(300.0),
)


@given(windows, steps, st.integers(0, 1000), st.data())
def test_a_log_is_a_list_with_bounds(
    window: Window, script: list[tuple[str, int]], after: int, data: st.DataObject
) -> None:
    budget = Budget(2**60)
    log, model = ChannelLog(window, budget, after=after), ModelLog(window, after)
    time_ms = 0
    for step, number in script:
        if step == "append":
            time_ms += 1
            publication = Publication(log.last + 1, bytes(number), time_ms)
            log.append(publication)
            model.append(publication)
        elif step == "age":
            log.trim_before_ms(time_ms - number)
            model.kept = [one for one in model.kept if one.time_ms >= time_ms - number]
        else:
            log.clear()
            model.kept = []
        assert (log.first, log.last, len(log)) == (model.first, model.last, len(model.kept))
        assert log.size_bytes == model.size == budget.used_bytes
        assert log.after(log.first - 1, 10_000, 2**60) == model.kept
    count, size = data.draw(st.integers(0, 25)), data.draw(st.integers(0, 3_000))
    for offset in range(max(model.first - 3, 0), model.last + 3):
        assert log.after(offset, count, size) == model.page(offset, count, size)
    assert log.newest(count) == (model.kept[-count:] if count else [])


def test_a_long_life_leaves_no_dead_front() -> None:
    log = ChannelLog(Window(max_publications=10), UNBOUNDED)
    for offset in range(1, 5_001):
        log.append(Publication(offset, b"", 0))
        assert [one.offset for one in log.after(0, 99, 99)] == list(range(max(offset - 9, 1), offset + 1))
    assert len(log._items) < 200


@pytest.mark.parametrize("offset", [0, 4, 5, 7, 2**53])
def test_an_offset_that_does_not_follow_is_refused(offset: int) -> None:
    log = ChannelLog(Window(), Budget(2**60), after=4)
    log.append(Publication(5, b"1", 0))
    with pytest.raises(ValueError, match="does not follow"):
        log.append(Publication(offset, b"2", 0))
    assert (log.first, log.last, len(log), log.size_bytes) == (5, 5, 1, COST + 1)


def test_the_newest_is_kept_even_when_it_is_larger_than_the_window() -> None:
    log = ChannelLog(Window(max_bytes=500), UNBOUNDED)
    log.append(Publication(1, bytes(10), 0))
    log.append(Publication(2, bytes(10_000), 0))
    assert [one.offset for one in log.after(0, 9, 9)] == [2]
    log.append(Publication(3, bytes(10), 0))
    assert [one.offset for one in log.after(0, 9, 9)] == [3]


def test_a_clock_that_went_back_keeps_what_lies_behind() -> None:
    log = ChannelLog(Window(), UNBOUNDED)
    for offset, time_ms in enumerate([100, 50, 200], 1):
        log.append(Publication(offset, b"", time_ms))
    log.trim_before_ms(80)
    assert log.first == 1
    log.trim_before_ms(150)
    assert log.first == 3


# -- the budget ---------------------------------------------------------------


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 50, 900])), max_size=120),
)
def test_the_budget_trims_the_least_recently_used_first(most: int, script: list[tuple[int, int]]) -> None:
    budget = Budget(most * COST)
    logs = [ChannelLog(Window(max_publications=8), budget) for _ in range(4)]
    models = [ModelLog(Window(max_publications=8), 0) for _ in range(4)]
    used: list[int] = []  # least recently first
    trimmed = 0
    for index, size in script:
        publication = Publication(logs[index].last + 1, bytes(size), 0)
        logs[index].append(publication)
        models[index].append(publication)
        used = [one for one in used if one != index] + [index]
        for other in used:
            while sum(model.size for model in models) > budget.max_bytes and models[other].kept:
                # Any other than the one in use goes whole.
                count = 1 if other == index else len(models[other].kept)
                trimmed += count
                del models[other].kept[:count]
        assert budget.used_bytes == sum(log.size_bytes for log in logs) <= budget.max_bytes
        assert budget.trimmed == trimmed
        for log, model in zip(logs, models, strict=True):
            assert log.after(0, 99, 2**60) == model.kept
            assert (log.first, log.last) == (model.first, model.last)


def test_a_forgotten_log_gives_back_what_it_held() -> None:
    budget = Budget(10_000)
    one, other = ChannelLog(Window(), budget), ChannelLog(Window(), budget)
    one.append(Publication(1, bytes(100), 0))
    other.append(Publication(1, bytes(50), 0))
    budget.forget(one)
    assert budget.used_bytes == other.size_bytes == COST + 50
    budget.forget(one)
    budget.forget(other)
    assert budget.used_bytes == 0
    assert not budget._logs
    assert budget.trimmed == 0


def test_a_publication_larger_than_the_budget_is_not_kept() -> None:
    budget = Budget(100)
    log = ChannelLog(Window(), budget)
    log.append(Publication(1, bytes(1_000), 0))
    assert (len(log), log.first, log.last, budget.used_bytes) == (0, 2, 1, 0)
    log.append(Publication(2, bytes(1_000), 0))
    assert log.last == 2
