"""A hundred thousand connections that end at any moment and in any way: everything is back where it was."""

from __future__ import annotations

import os
from typing import Final

from tests.e2e.aborting import Cycles, census, make_application, settled
from tests.e2e.test_aborts import back_at
from tests.serving import serving_wire

CYCLES: Final = int(os.environ.get("EVERYWIRE_SOAK_CYCLES", "100000"))


async def test_nothing_is_left_of_a_hundred_thousand() -> None:
    async with serving_wire("own", make_application(), ("", "")) as site:
        cycles = Cycles(site)
        await cycles.run(1_000)
        await settled(site.wire)
        before = census(site.wire)
        await cycles.run(CYCLES)
        await settled(site.wire)
        left = await back_at(before, site.wire)
        assert not left, left
