"""The suite's own tests, for longer: a minute of flood, ten thousand cuts."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.e2e.flooding import stall_and_flood
from tests.e2e.test_resuming import check_journeys, journeys, server


async def test_a_minute_of_flood_while_200_readers_do_not_read(tmp_path: Path) -> None:
    await stall_and_flood(tmp_path, seconds=60)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("seed", range(5))
async def test_two_thousand_cuts_by_other_chances(
    scheme: str, seed: int, certificate: tuple[str, str], tmp_path: Path
) -> None:
    tls = ["--tls-cert", certificate[0], "--tls-key", certificate[1]] if scheme == "https" else []
    context = ssl.create_default_context(cafile=certificate[0]) if tls else None
    async with server(tmp_path, *tls) as url:
        check_journeys(*await journeys(url, 2_000, seed, context))
