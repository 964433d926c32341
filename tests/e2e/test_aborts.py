"""Two thousand connections that end at any moment and in any way: everything is back where it was."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import pytest

from everywire import Everywire
from tests.e2e.aborting import SCRIPTS, Census, Cycles, census, make_application, settled
from tests.serving import DEADLINE_S, serving_wire

COUNTS: Final = {"own": 2_000, "own-tls": 200, "asgi": 400}
SPARE_OBJECTS: Final = 400
SPARE_BLOCKS: Final = 8_000
"""What the two counts themselves leave, the test and the event loop's own tables; the same after 200
cycles and after 100,000."""


async def check_nothing_is_left(before: Census, wire: Everywire) -> None:
    """Wait until nothing more is there than before."""
    await settled(wire)
    end_s = time.monotonic() + DEADLINE_S
    while left := (after := census(wire)).grown(before):
        assert time.monotonic() < end_s, left
        await asyncio.sleep(1)
    objects, blocks = after.grown_otherwise(before)
    assert objects < SPARE_OBJECTS, after.objects - before.objects
    assert blocks < SPARE_BLOCKS


@pytest.mark.parametrize("host", COUNTS)
async def test_nothing_is_left_of_whoever_went(host: str, certificate: tuple[str, str]) -> None:
    async with serving_wire(host, make_application(), certificate) as site:
        cycles = Cycles(site)
        await cycles.visit()
        assert set(cycles.answered) == set(SCRIPTS) and all(cycles.answered.values())
        await cycles.run(100)
        await settled(site.wire)
        before = census(site.wire)
        await cycles.run(COUNTS[host])
        await check_nothing_is_left(before, site.wire)
