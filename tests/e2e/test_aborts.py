"""Two thousand connections that end at any moment and in any way: everything is back where it was."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import pytest

from everywire import Everywire
from tests.e2e.aborting import Census, Cycles, census, make_application, settled
from tests.serving import serving_wire

WARM_UP: Final = 400
COUNTS: Final = {"own": 2_000, "asgi": 400}
DEADLINE_S: Final = 60.0

BOUNDED: Final = (
    "everywire.codecs.http.request.Fields",
    "everywire.transports.plain.Asker",
    "._full_at",
    "._slots",
)
"""What is bounded and goes in its own time: memories of what header fields say, full token buckets (they are
forgotten when there are many), and a timing wheel's empty slots."""


def leftovers(before: Census, after: Census) -> dict[str, tuple[int, int]]:
    """Return what there is more of than before."""
    grown = after.grown(before)
    return {name: counts for name, counts in grown.items() if not name.endswith(BOUNDED)}


async def back_at(before: Census, wire: Everywire) -> dict[str, tuple[int, int]]:
    """Wait until nothing more is there than before; return what is left at the end."""
    end_s = time.monotonic() + DEADLINE_S
    while (left := leftovers(before, census(wire))) and time.monotonic() < end_s:
        await asyncio.sleep(1)
    return left


@pytest.mark.parametrize("host", COUNTS)
async def test_nothing_is_left_of_whoever_went(host: str, certificate: tuple[str, str]) -> None:
    async with serving_wire(host, make_application(), certificate) as site:
        cycles = Cycles(site)
        await cycles.run(WARM_UP)  # memories and caches of bounded size fill
        await settled(site.wire)
        before = census(site.wire)
        await cycles.run(COUNTS[host])
        await settled(site.wire)
        left = await back_at(before, site.wire)
        assert not left, left
