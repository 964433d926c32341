"""`everywire serve --workers N` for tests: a real parent with real workers, and what its log says of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.cli.commands import running

DEADLINE_S: Final = 80.0
"""A generous bound on liveness: each new worker takes a second or two, and more on a busy machine."""


def lives(pid: int) -> bool:
    """Say whether there is such a process that has not ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


async def until(holds: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(deadline_s):
        while not holds():
            await asyncio.sleep(0.05)


class Cluster:
    """A parent and its workers."""

    def __init__(self, url: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.process = process
        self._log = log

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the log, those of one event or all; each of them must be JSON."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    @property
    def pids(self) -> dict[int, int]:
        """The process of each worker that became ready last, by its number."""
        return {line["worker"]: line["worker_pid"] for line in self.log("worker_ready")}

    def kill(self, worker: int, number: int = signal.SIGKILL) -> int:
        """Send a signal to a worker; return its process id."""
        pid = self.pids[worker]
        os.kill(pid, number)
        return pid

    async def replaced(self, worker: int, pid: int) -> None:
        """Wait until a worker is another process."""
        await until(lambda: self.pids[worker] != pid)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask over a connection of its own."""
        async with httpx.AsyncClient(
            base_url=self.url, timeout=DEADLINE_S, trust_env=False, **options
        ) as client:
            return await client.get(path)

    async def publish(self, channel: str, data: object) -> int:
        """Publish over a connection of its own; return the offset."""
        async with httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_S, trust_env=False) as client:
            answer = await client.post(f"/channels/{channel}", json=data)
        assert answer.status_code == 201, answer.text
        offset: int = answer.json()["offset"]
        return offset

    async def figures(self) -> dict[str, float]:
        """Scrape whatever worker answers."""
        answer = await self.get("/metrics")
        assert answer.status_code == 200, answer.text
        rows = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send the parent a signal; return its exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


@asynccontextmanager
async def workers(
    count: int = 2,
    *arguments: str,
    deadline_s: float = 240.0,
    log: Path | None = None,
    **variables: str,
) -> AsyncIterator[Cluster]:
    """Run a parent with so many workers on a free port, with a state directory of its own."""
    # A short path: those of unix sockets may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ew"))
    log = log or folder / "log"
    set_ = {"EVERYWIRE_LOG__FILE": str(log), "EVERYWIRE_STATE_DIR": str(folder / "state"), **variables}
    try:
        async with running(
            "--dev", "--workers", str(count), "--drain", "5", *arguments, deadline_s=deadline_s, **set_
        ) as server:
            cluster = Cluster(server.url, server.process, log)
            await until(lambda: len(cluster.pids) == count)
            try:
                yield cluster
            finally:
                pids = cluster.pids.values()
                if server.process.returncode is None:
                    server.process.kill()
                await until(lambda: not any(map(lives, pids)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
