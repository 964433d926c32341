"""A cluster for tests: workers in processes of their own over one real broker, which may be killed.

All listen on one port, a slot for each, as the workers of ``everywire serve`` do; the slot of one that was
killed is inherited by the one that takes its place. Each listens on a port of its own besides, to be spoken
to alone. Only what was started here is ever killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import jwt

from tests.cli.commands import environment
from tests.serving import DEADLINE_S

__all__ = ["SECRET", "Cluster", "Worker", "cluster", "token"]

SECRET: Final = "a secret that only tests have, and of 32 bytes"
ROOT: Final = Path(__file__).parents[2]


def token(user: str) -> str:
    """Return what a user is known by."""
    return jwt.encode({"sub": user}, SECRET, "HS256")


def _listening(port: int = 0, *, has_slots: bool) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if has_slots:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    return sock


class Worker:
    """A place for a process, and the process that has it."""

    def __init__(self, slot: socket.socket) -> None:
        self.slot = slot
        self.own = _listening(has_slots=False)
        self.process: asyncio.subprocess.Process | None = None
        self.is_serving = False
        self.log = b""
        self._reading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it alone is."""
        return f"http://127.0.0.1:{self.own.getsockname()[1]}"

    async def start(self, given: dict[str, Any]) -> None:
        """Start a process, and wait until it serves."""
        socks = (self.own, self.slot)
        given = {**given, "sockets": [(sock.getsockname()[1], sock.fileno()) for sock in socks]}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.e2e.cluster_worker",
            json.dumps(given),
            cwd=ROOT,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[sock.fileno() for sock in socks],
        )
        self._reading = asyncio.create_task(self._read(self.process))
        assert self.process.stdout is not None
        async with asyncio.timeout(3 * DEADLINE_S):
            line = await self.process.stdout.readline()
        if line != b"up\n":
            await self._reading
            raise AssertionError(self.log.decode())
        self.is_serving = True

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.log += line

    async def end(self, number: signal.Signals) -> None:
        """End its process by a signal; nothing happens if there is none any more."""
        process, self.process = self.process, None
        self.is_serving = False
        if process is not None:
            if process.returncode is None:
                process.send_signal(number)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                raise
            finally:
                assert self._reading is not None
                await self._reading


class Cluster:
    """Workers over one broker."""

    def __init__(self, count: int, broker: str, folder: str, limits: dict[str, Any]) -> None:
        first = _listening(has_slots=True)
        self.port = first.getsockname()[1]
        slots = [first, *(_listening(self.port, has_slots=True) for _ in range(count - 1))]
        self.workers = [Worker(slot) for slot in slots]
        self._given = {"broker": broker, "state_dir": folder, "secret": SECRET, "limits": limits}
        self._numbers = itertools.count()

    @property
    def url(self) -> str:
        """Where all of them are: whichever the kernel chooses."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, worker: Worker) -> None:
        """Put a process in a place."""
        await worker.start({**self._given, "node": f"node{next(self._numbers)}x{secrets.token_hex(2)}"})

    async def kill(self, worker: Worker) -> None:
        """Kill one, as ``kill -9`` does; what connects to its slot waits for another."""
        await worker.end(signal.SIGKILL)


@asynccontextmanager
async def cluster(count: int, *, broker: str = "", **limits: Any) -> AsyncIterator[Cluster]:
    """Run workers; ``broker`` is its address, by default SQLite in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="everywire-") as folder:
        found = Cluster(count, broker or f"sqlite://{folder}", folder, limits)
        try:
            await asyncio.gather(*map(found.start, found.workers))
            yield found
        finally:
            await asyncio.gather(*(worker.end(signal.SIGTERM) for worker in found.workers))
            for worker in found.workers:
                worker.own.close()
                worker.slot.close()
