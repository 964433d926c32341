"""The worker's side: a process that serves, and that a parent started and may replace.

A worker leaves when it is told to (SIGTERM) and when its parent is gone. All other signals of a terminal or a
service manager are the parent's business: they reach every process of a group, and a second one must not cut
what the first has begun to end in good order. To end a worker at once there is SIGKILL.

Datagrams, RTSP and whatever else there can be only one of on a machine belong to the worker whose
``is_first`` holds, number 0.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from everywire.core.errors import BrokerError, EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.server.settings import Mistake, Settings, check
from everywire.server.worker_link import Assignment, Link, Message, Row

__all__ = ["Worker", "assigned"]

_ANSWER_S: Final = 2.0
"""For the parent to answer with the sum of all workers' figures."""
_ORPHAN_MORE_S: Final = 3.0
"""What an orphan may need beyond the time for its readers; then it is cut off in the middle."""
_MAX_SUMS: Final = 64


def assigned(settings: Settings, assignment: Assignment) -> Settings:
    """Return the settings with what is the parent's to say; `SettingsError` when they do not fit together."""
    changed = msgspec.structs.replace(
        settings,
        listen=assignment.listen,
        broker=settings.broker or assignment.broker,
        advertise=assignment.advertise,
    )
    try:
        check(changed)
    except Mistake as mistake:
        raise SettingsError(f"{'.'.join(map(str, mistake.path))}: {mistake.sentence}") from None
    return changed


class Worker:
    """This process as one of several.

    Args:
        assignment: what the parent said.
        limits: for how long what may take.
    """

    def __init__(self, assignment: Assignment, limits: Limits) -> None:
        self.assignment = assignment
        self.stop = asyncio.Event()
        """Set when it is time to leave."""
        self.is_orphan = False
        """Whether the parent is gone."""
        self.node_ended: Callable[[str], object] = lambda node: None
        """Called with the node of another worker that died."""
        self._limits = limits
        self._link: Link | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._figures: Callable[[], Sequence[Row]] = tuple
        self._sums: dict[int, asyncio.Future[Sequence[Row]]] = {}
        self._last_id = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that does what only one may do."""
        return self.assignment.number == 0

    @property
    def drain_s(self) -> float | None:
        """How long leaving may take, where it is not as the settings say."""
        return self._limits.worker_orphan_s if self.is_orphan else None

    async def open(self) -> None:
        """Begin to hear the parent, and to notice when it is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signal, number)
        end = socket.socket(fileno=self.assignment.link)
        watched = os.dup(end.fileno())
        self._link = await Link.open(end)
        self._tasks.add(loop.create_task(self._listen(self._link), name="hear the parent"))
        # A loop that is stuck hears nothing, and must not outlive the parent either.
        limit_s = self._limits.worker_orphan_s + _ORPHAN_MORE_S
        threading.Thread(target=_watch, args=(watched, limit_s), name="everywire-parent", daemon=True).start()

    def ready(self, figures: Callable[[], Sequence[Row]]) -> None:
        """Tell that this worker listens; ``figures`` are what it counts."""
        self._figures = figures
        self._send(Message("ready"))
        self._tasks.add(asyncio.get_running_loop().create_task(self._report(), name="report figures"))

    def finish(self) -> None:
        """Tell what was counted in the end; from now on nothing more is."""
        rows = self._figures()
        self._figures = lambda: rows
        self._send(Message("figures", figures=rows))

    def refused(self, sentence: str) -> None:
        """Tell that this worker cannot serve."""
        self._send(Message("refused", text=sentence))

    def leaving(self) -> None:
        """Tell that this worker begins to leave."""
        self._send(Message("draining"))

    async def close(self) -> None:
        """Send what is left, and be heard no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            self._link.close()

    def gather(self, own: Sequence[Row], done: Callable[[Sequence[Row] | EverywireError], None]) -> None:
        """Call ``done`` with the figures of all workers together, or why there are none."""
        task = asyncio.get_running_loop().create_task(self._gather(own, done), name="sum of figures")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _gather(
        self, own: Sequence[Row], done: Callable[[Sequence[Row] | EverywireError], None]
    ) -> None:
        try:
            found: Sequence[Row] | EverywireError = await self.sum(own)
        except EverywireError as error:
            found = error
        done(found)

    async def sum(self, own: Sequence[Row]) -> Sequence[Row]:
        """Return the figures of all workers together; `BrokerError` when the parent does not answer."""
        if len(self._sums) >= _MAX_SUMS:
            raise BrokerError("too many scrapes at once")
        self._last_id += 1
        id = self._last_id
        answer: asyncio.Future[Sequence[Row]] = asyncio.get_running_loop().create_future()
        self._sums[id] = answer
        self._send(Message("sum", id, figures=own))
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            raise BrokerError("the sum over all workers did not come in time") from None
        finally:
            del self._sums[id]

    # -- what comes ------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.stop.set()

    async def _listen(self, link: Link) -> None:
        async for message in link.messages():
            if message.kind == "tell":
                self._send(Message("figures", message.id, figures=self._figures()))
            elif message.kind == "sum":
                answer = self._sums.get(message.id)
                if answer is not None and not answer.done():
                    answer.set_result(message.figures)
            elif message.kind == "ended":
                self.node_ended(message.text)
        self.is_orphan = True
        self.stop.set()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._limits.worker_figures_s)
            self._send(Message("figures", figures=self._figures()))

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)


def _watch(fd: int, limit_s: float) -> None:
    """Run in a thread: end the process when it is still here so long after its parent."""
    poll = select.poll()
    poll.register(fd, 0)  # nothing but the end of the other side
    while not poll.poll():
        pass
    time.sleep(limit_s)
    os._exit(1)
