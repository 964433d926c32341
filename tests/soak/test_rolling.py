"""Official clients of Socket.IO behind nginx while workers are replaced one after the other, or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.cli.commands import Serving
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


async def hear_all(mode: str, folder: Path, strike: Callable[[Serving], object]) -> list[dict[str, Any]]:
    """Publish steadily, strike in the middle, and return what became of the clients: each heard all."""
    async with (
        workers_behind_nginx(folder, deadline_s=180.0) as (url, serving),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as publisher,
        clients(url, mode) as node,
    ):
        for number in range(MESSAGES):
            if number == MESSAGES // 5:
                strike(serving)
            headers = {"Idempotency-Key": f"message {number}"}
            for _ in range(10):  # a worker that is killed takes a request along
                answer = await publisher.post("/channels/news", json=number, headers=headers)
                if answer.status_code == 201:
                    break
            assert answer.status_code == 201
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(2.0)
        assert node.stdin is not None and node.stdout is not None
        node.stdin.write(b"enough\n")
        told: list[dict[str, Any]] = json.loads(await node.stdout.readline())
    assert [one["heard"] for one in told] == [list(range(MESSAGES))] * CLIENTS
    assert all(one["recovered"] == one["connects"] - 1 for one in told), told
    return told


def roll(serving: Serving) -> None:
    """Have all workers replaced."""
    serving.process.send_signal(signal.SIGHUP)


def kill_one(serving: Serving) -> None:
    """Kill a worker."""
    parent = serving.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


@pytest.mark.parametrize("mode", ["polling", "upgrade"])
async def test_a_rolling_restart_loses_nothing(mode: str, tmp_path: Path) -> None:
    """Each worker's clients come back elsewhere as who they were; others notice nothing, or no more."""
    told = await hear_all(mode, tmp_path, roll)
    assert all(one["connects"] <= NODES + 1 for one in told), told
    assert sum(one["connects"] for one in told) > CLIENTS  # there was something to come back from
    assert [one["refused"] for one in told] == [[]] * CLIENTS


@pytest.mark.parametrize("mode", ["polling", "upgrade"])
async def test_a_worker_that_is_killed_takes_nothing_along(mode: str, tmp_path: Path) -> None:
    """Not what its own clients were to hear, nor what it carried for those of others."""
    await hear_all(mode, tmp_path, kill_one)
