"""The JavaScript client through ten thousand cuts and changes of transport, other ones with each seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_js_client import cut_often


@pytest.mark.parametrize("seed", range(10))
async def test_many_more_cuts(seed: int, tmp_path: Path) -> None:
    await cut_often(seed, tmp_path)
