"""Token buckets against the plain definition of one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everywire.core.buckets import Buckets


class Plain:
    """A token bucket as textbooks have it."""

    def __init__(self, per_s: float, burst: int) -> None:
        self.per_s, self.burst = per_s, burst
        self.tokens, self.at_s = float(burst), 0.0

    def take(self, now_s: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.tokens >= 1 - 1e-9:
            self.tokens -= 1
            return True
        return False


@given(
    st.sampled_from([1.0, 2.0, 8.0]),
    st.integers(1, 5),
    st.lists(st.integers(0, 12).map(lambda steps: steps / 8), max_size=60),
)
def test_a_bucket_lets_through_what_the_textbook_does(per_s: float, burst: int, pauses: list[float]) -> None:
    buckets, plain = Buckets(per_s, burst, 10), Plain(per_s, burst)
    now_s = 0.0
    for pause_s in pauses:
        now_s += pause_s
        wait_s = buckets.wait_s("key", now_s)
        assert (wait_s == 0) == plain.take(now_s)
        if wait_s == 0:
            buckets.take("key", now_s)


@given(st.integers(1, 5), st.floats(0.1, 100))
def test_whoever_waits_as_told_gets_a_token_and_not_before(burst: int, per_s: float) -> None:
    buckets = Buckets(per_s, burst, 10)
    for _ in range(burst):
        assert buckets.wait_s("key", 0.0) == 0
        buckets.take("key", 0.0)
    wait_s = buckets.wait_s("key", 0.0)
    assert wait_s > 0
    assert buckets.wait_s("key", wait_s * 0.99) > 0
    assert buckets.wait_s("key", wait_s * 1.0001) == 0


def test_keys_are_bounded_and_full_buckets_go_first() -> None:
    buckets = Buckets(1.0, 1, 3)
    buckets.take("full by now", 0.0)
    for key in ("a", "b"):
        buckets.take(key, 5.0)
    buckets.take("c", 5.5)
    assert len(buckets) == 3
    assert all(buckets.wait_s(key, 5.5) > 0 for key in ("a", "b", "c"))
    buckets.take("d", 5.6)
    assert len(buckets) == 3
    assert buckets.wait_s("a", 5.6) == 0, "the oldest is forgotten"


def test_a_rate_of_0_is_no_bound() -> None:
    buckets = Buckets(0.0, 1, 3)
    for _ in range(10):
        buckets.take("key", 0.0)
    assert buckets.wait_s("key", 0.0) == 0 and len(buckets) == 0


def test_what_is_forgotten_begins_anew() -> None:
    buckets = Buckets(1.0, 1, 3)
    buckets.take("key", 0.0)
    buckets.forget("key")
    buckets.forget("key")
    assert buckets.wait_s("key", 0.0) == 0


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), max_size=120))
def test_there_are_never_more_keys_than_allowed(max_keys: int, steps: list[tuple[int, int]]) -> None:
    buckets = Buckets(1.0, 2, max_keys)
    now_s = 0
    for key, pause_s in steps:
        now_s += pause_s
        buckets.take(key, now_s)
        assert len(buckets) <= max_keys
        # Whoever came last is remembered.
        assert key in buckets._full_at
