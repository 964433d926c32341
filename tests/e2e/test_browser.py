"""Chromium: every wire by the browser's own means, and the race page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import DEADLINE_S, running
from tests.e2e.conftest import BROWSER, lacking, run, run_node

pytestmark = pytest.mark.xdist_group("busy")

PUBLICATIONS = 300


def chromium() -> None:
    if shutil.which("chromium") is None:
        lacking("chromium is not installed (Debian: apt-get install chromium)")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_every_wire_by_the_browsers_own_means(
    scheme: str, certificate: tuple[str, str], tmp_path: Path
) -> None:
    """EventSource comes back by itself when its stream has reached its age, and misses nothing."""
    chromium()
    settings = tmp_path / "settings.toml"
    settings.write_text("[limits]\nmax_stream_age_s = 1.0\n")
    tls = ["--tls-cert", certificate[0], "--tls-key", certificate[1]] if scheme == "https" else []
    async with running("--dev", "--config", str(settings), *tls, deadline_s=3 * DEADLINE_S) as serving:
        result = await run_node(BROWSER / "wires.mjs", serving.url)
    for wire, seen in result["seen"].items():
        assert seen == list(range(PUBLICATIONS)), wire
    assert result["opens"]["sse"] >= 2
    assert set(result["foreign"].values()) <= {"failed", "opaque"}, result["foreign"]
    assert result["published"] == 0


async def test_the_race_page(tmp_path: Path) -> None:
    """What it checks stands in the script; the screenshots are kept for whoever wants to look."""
    chromium()
    if not (BROWSER / "node_modules").is_dir():
        lacking("the npm packages are not installed (npm install, in tests/browser)")
    picture = tmp_path / "race.png"
    async with running("--dev", "--feed", "machine", deadline_s=6 * DEADLINE_S) as serving:
        code, out, err = await run("node", str(BROWSER / "race_page.mjs"), serving.url, str(picture))
    assert code != 2, err
    result: dict[str, Any] = json.loads(out)
    assert code == 0 and result["ok"], result["problems"]
    assert len(result["checks"]) > 30
    for name in ("race.png", "race-light.png", "race-narrow.png"):
        assert (tmp_path / name).stat().st_size > 10_000
