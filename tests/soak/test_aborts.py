"""A hundred thousand connections that end at any moment and in any way: everything is back where it was."""

from __future__ import annotations

import os
from typing import Final

from tests.e2e.aborting import Cycles, census, make_application, settled
from tests.e2e.test_aborts import check_nothing_is_left
from tests.serving import serving_wire

CYCLES: Final = int(os.environ.get("EVERYWIRE_SOAK_CYCLES", "100000"))
WITHIN_S: Final = 1_800.0
"""A slow machine makes fewer of them."""


async def test_nothing_is_left_of_a_hundred_thousand() -> None:
    async with serving_wire("own", make_application(), ("", "")) as site:
        cycles = Cycles(site)
        await cycles.visit()
        await cycles.run(1_000)
        await settled(site.wire)
        before = census(site.wire)
        await cycles.run(CYCLES, within_s=WITHIN_S)
        print(f"{cycles.done.total() - 1_000} cycles")
        await check_nothing_is_left(before, site.wire)
