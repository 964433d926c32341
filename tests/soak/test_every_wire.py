"""One reader on every wire in turn, cut ten thousand times, other ones with each seed."""

from __future__ import annotations

import pytest

from tests.e2e.test_one_channel_every_wire import travel


@pytest.mark.parametrize("seed", range(10))
async def test_many_more_changes_of_wire(seed: int) -> None:
    journey = await travel(seed, 1_000)
    assert journey.recovered > 10
