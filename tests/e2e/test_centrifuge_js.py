"""npm's `centrifuge` against the server: every command that it has, over every transport that it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import BROWSER, lacking, run_node
from tests.e2e.interop import SECRET, interop

pytestmark = pytest.mark.xdist_group("busy")

CASES: Final = [
    ("websocket", "json"),
    ("websocket", "protobuf"),
    ("http_stream", "json"),
    ("http_stream", "protobuf"),
    ("sse", "json"),  # the library has no other form of it
]
LEAST_CHECKS: Final = 45


def judge(results: dict[str, list[dict[str, Any]]]) -> None:
    assert set(results) == {" ".join(case) for case in CASES}
    for case, checks in results.items():
        failed = [f"{one['name']}: {one.get('detail')}" for one in checks if not one["ok"]]
        assert not failed, f"{case}: {failed}"
        assert len(checks) >= LEAST_CHECKS, (case, [one["name"] for one in checks])


async def run_cases(host: str, script: Path) -> dict[str, list[dict[str, Any]]]:
    async with interop(host) as server:
        cases = [
            {
                "transport": transport,
                "protocol": protocol,
                "base": await server.cable(f"user-{transport}-{protocol}"),
            }
            for transport, protocol in CASES
        ]
        given = {"secret": SECRET, "cases": cases, "page": server.site.url}
        results: dict[str, list[dict[str, Any]]] = await run_node(script, json.dumps(given))
        return results


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_in_node(host: str) -> None:
    judge(await run_cases(host, BROWSER / "centrifuge_node.mjs"))


async def test_in_chromium() -> None:
    if shutil.which("chromium") is None:
        lacking("chromium is not installed (Debian: apt-get install chromium)")
    judge(await run_cases("own", BROWSER / "centrifuge_page.mjs"))
