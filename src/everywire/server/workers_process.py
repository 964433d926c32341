"""One worker as its parent sees it: the same command again, with inherited sockets and a link.

A new program and not a fork: nothing of the parent's event loop, threads and locks comes along, and a
replacement reads code and configuration anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from everywire.server.worker_link import VARIABLE, Assignment, Link, Message

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """A process that was started; ``heard`` is called with each of its messages."""

    def __init__(
        self,
        id: int,
        assignment: Assignment,
        process: asyncio.subprocess.Process,
        link: Link,
        heard: Callable[[WorkerProcess, Message], object],
    ) -> None:
        self.id = id
        """Of this process alone, of all that a parent ever started."""
        self.number = assignment.number
        """The worker that it is; a replacement has the same."""
        self.node = assignment.node
        self.advertise = assignment.advertise
        self.process = process
        self.began_s = asyncio.get_running_loop().time()
        self.refusal = ""
        """Why it cannot serve, if it said so."""
        self.is_leaving = False
        """Whether it was told to leave, or said that it does."""
        self._link = link
        self._heard = heard
        self._is_ready = asyncio.Event()
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="hear a worker")

    @classmethod
    async def start(
        cls,
        id: int,
        command: Sequence[str],
        make: Callable[[int], Assignment],
        heard: Callable[[WorkerProcess, Message], object],
    ) -> WorkerProcess:
        """Start one; ``make`` is given the descriptor of its end of the link. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        with theirs:
            assignment = make(theirs.fileno())
            fds = {theirs.fileno(), *(fd for _, fd in assignment.inherited)}
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**os.environ, VARIABLE: msgspec.json.encode(assignment).decode()},
                    pass_fds=sorted(fds),
                )
            except OSError:
                ours.close()
                raise
        return cls(id, assignment, process, await Link.open(ours), heard)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def age_s(self) -> float:
        """How long ago it was started."""
        return asyncio.get_running_loop().time() - self.began_s

    async def wait_ready(self, timeout_s: float) -> bool:
        """Return whether it listens; False when it ended or refused, or was not ready in time."""
        waiting = [
            asyncio.create_task(self._is_ready.wait()),
            asyncio.create_task(self._wait_gone()),
        ]
        try:
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return self._is_ready.is_set()

    async def _wait_gone(self) -> None:
        await asyncio.wait([self._listening])
        await self.process.wait()

    async def wait(self) -> int:
        """Return its exit status, after all that it had to say."""
        status = await self.process.wait()
        await asyncio.wait([self._listening], timeout=1.0)
        return status

    def send(self, message: Message) -> None:
        """Send it a message."""
        self._link.send(message)

    def leave(self) -> None:
        """Tell it to leave."""
        self.is_leaving = True
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def end_within(self, seconds: float) -> bool:
        """Wait for its end so long, then kill it; return whether it ended of itself."""
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()
            return False
        await self.wait()
        return True

    def close(self) -> None:
        """Hear no more of it."""
        self._listening.cancel()
        self._link.close()

    async def _listen(self) -> None:
        async for message in self._link.messages():
            if message.kind == "ready":
                self._is_ready.set()
            elif message.kind == "refused":
                self.refusal = message.text
            elif message.kind == "draining":
                self.is_leaving = True
            self._heard(self, message)
