"""Official clients of Socket.IO behind nginx while all workers are replaced, one after the other."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.e2e.conftest import BROWSER, program
from tests.e2e.test_round_robin import NODES, workers_behind_nginx
from tests.serving import DEADLINE_S

CLIENTS: Final = 20
MESSAGES: Final = 200
PAUSE_S: Final = 0.1


@asynccontextmanager
async def clients(url: str, mode: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run clients that have subscribed."""
    given = {"base": url, "count": CLIENTS, "mode": mode}
    node = await asyncio.create_subprocess_exec(
        program("node", "nodejs"),
        str(BROWSER / "rolling_node.mjs"),
        json.dumps(given),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert node.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert await node.stdout.readline() == b"ready\n"
        yield node
    finally:
        if node.returncode is None:
            node.kill()
        await node.communicate()


@pytest.mark.parametrize("mode", ["polling", "upgrade"])
async def test_a_rolling_restart_loses_nothing(mode: str, tmp_path: Path) -> None:
    """Each worker's clients come back elsewhere as who they were; others notice nothing, or no more."""
    async with (
        workers_behind_nginx(tmp_path, deadline_s=180.0) as (url, serving),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as publisher,
        clients(url, mode) as node,
    ):
        for number in range(MESSAGES):
            if number == MESSAGES // 5:
                serving.process.send_signal(signal.SIGHUP)
            assert (await publisher.post("/channels/news", json=number)).status_code == 201
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(2.0)
        assert node.stdin is not None and node.stdout is not None
        node.stdin.write(b"enough\n")
        told: list[dict[str, Any]] = json.loads(await node.stdout.readline())
        assert [one["heard"] for one in told] == [list(range(MESSAGES))] * CLIENTS
        assert all(one["recovered"] == one["connects"] - 1 for one in told), told
        assert all(one["connects"] <= NODES + 1 for one in told), told
        assert sum(one["connects"] for one in told) > CLIENTS  # there was something to come back from
        assert [one["refused"] for one in told] == [[]] * CLIENTS
