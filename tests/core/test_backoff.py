"""Delays between attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from everywire.core.backoff import Backoff


@given(st.integers(0, 2**32), st.integers(1, 50))
def test_delays_are_spread_below_a_bound_that_doubles(seed: int, failures: int) -> None:
    backoff = Backoff(0.5, 20.0, random.Random(seed))
    for failure in range(failures):
        assert 0 <= backoff.next_delay_s() <= min(20.0, 0.5 * 2**failure)


def test_delays_differ_and_grow_and_begin_anew_after_success() -> None:
    backoff = Backoff(0.5, 20.0, random.Random(1))
    delays = [backoff.next_delay_s() for _ in range(200)]
    assert len(set(delays)) == 200
    assert max(delays) > 10
    backoff.succeeded()
    assert backoff.next_delay_s() <= 0.5


@given(st.floats(0, 1000), st.integers(0, 2**32))
def test_the_server_has_the_last_word(hint_s: float, seed: int) -> None:
    backoff = Backoff(random_source=random.Random(seed))
    assert hint_s <= backoff.next_delay_s(hint_s) <= hint_s * 1.25 + 1e-9
