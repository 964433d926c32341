"""200 readers that stop reading: see `tests.e2e.flooding`. A minute of it is in ``tests/soak``."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.flooding import stall_and_flood


async def test_readers_that_stop_reading_cost_little_and_are_told_what_they_missed(tmp_path: Path) -> None:
    await stall_and_flood(tmp_path, seconds=6)
