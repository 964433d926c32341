"""The parent of several workers: owns the listening sockets, and sees to it that each has its worker.

It serves no requests itself. Each worker has a slot: a listening socket per address, with a queue of its own
that a replacement inherits, so that no connection that waits there is lost.

| signal | what happens |
| --- | --- |
| SIGTERM, SIGINT | all workers leave in good order, then the exit is 0; a second one ends all at once |
| SIGHUP | one worker after the other is replaced by one with new code, settings and certificates |

A worker that ends without having been told to is replaced, after a time that grows while its replacements
do not last. Until then new connections go to the others' slots.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from everywire.core.backoff import Backoff
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.server.listening import bind_slots, remove_unix_socket, steer
from everywire.server.log import Log
from everywire.server.options import Address
from everywire.server.settings import Listen
from everywire.server.tls import Certificate
from everywire.server.worker_link import Assignment, Message, Row
from everywire.server.workers_process import WorkerProcess
from everywire.server.workers_totals import Totals

__all__ = ["Plan", "Workers"]

_LASTING_S: Final = 10.0
"""A worker that lived so long is replaced at once."""
_FIRST_DELAY_S: Final = 0.2
_MORE_S: Final = 5.0
"""For a worker to close what it has open, beside the time for its readers."""
_TELL_S: Final = 0.5
"""For the other workers to say what they have counted; else what they said last counts."""
_MAX_SUMS: Final = 64
_FLUSH_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a parent is told at its start."""

    command: Sequence[str]
    """Starts a worker."""
    count: int
    listen: tuple[Listen, ...]
    addresses: tuple[Address, ...]
    """The same as ``listen``."""
    limits: Limits
    backlog: int
    drain_s: float
    broker: Callable[[Sequence[str]], str]
    """Makes of the addresses that it listens on the broker's, for workers whose settings name none."""
    advertise: str
    reopen_log: Callable[[], object]
    """Called when the workers are replaced: a log file may be another one then."""


class _Slot:
    """The place of one worker."""

    __slots__ = ("backoff", "current", "filling", "number")

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.current: WorkerProcess | None = None
        """The one that new connections come to."""
        self.filling: asyncio.Task[None] | None = None
        self.backoff = Backoff(_FIRST_DELAY_S, limits.worker_restart_s)


class _Asked:
    """Workers that were asked what they have counted, until all have answered or are gone."""

    __slots__ = ("everybody", "waiting")

    def __init__(self, waiting: set[int]) -> None:
        self.waiting = waiting
        self.everybody = asyncio.Event()
        self.answered(0)

    def answered(self, process: int) -> None:
        self.waiting.discard(process)
        if not self.waiting:
            self.everybody.set()


class Workers:
    """All workers of one parent. `run` is to be called once."""

    def __init__(self, plan: Plan, log: Log) -> None:
        self.addresses: list[str] = []
        """Where it listens, as URLs without path."""
        self._plan = plan
        self._log = log
        self._slots = [_Slot(number, plan.limits) for number in range(plan.count)]
        self._rows: list[tuple[int, list[socket.socket]]] = []
        """A place in ``listen``, and a socket for each slot."""
        self._unix: list[tuple[str, int]] = []
        self._broker = ""
        self._processes: dict[int, WorkerProcess] = {}
        self._stop = asyncio.Event()
        self._steered: list[int] = []
        self._totals = Totals()
        self._asked: dict[int, _Asked] = {}
        self._last_id = self._deaths = 0
        self._rolling: asyncio.Task[None] | None = None
        self._roll_again = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life ------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[Workers], object]) -> None:
        """Serve until a signal, then leave. ``on_ready`` is called when all workers listen.

        Raises `SettingsError` when an address is taken, or a worker cannot begin.
        """
        self._bind()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._roll_signal)
        try:
            self._tell("info", "start", addresses=self.addresses, pid=os.getpid(), workers=self._plan.count)
            if await self._begin():
                on_ready(self)
                await self._stop.wait()
            await self._drain()
        finally:
            await self._close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _bind(self) -> None:
        plan = self._plan
        try:
            for place, address in enumerate(plan.addresses):
                if address.tls_cert:
                    Certificate(address.tls_cert, address.tls_key)  # what is wrong with it is told once
                for row in bind_slots(address, plan.limits, plan.count, plan.backlog):
                    self._rows.append((place, row))
                    self._note(address, row[0])
            self._broker = plan.broker(self.addresses)
        except SettingsError:
            self._stop_listening()
            raise

    def _note(self, address: Address, sock: socket.socket) -> None:
        if address.unix:
            self._unix.append((address.unix, os.stat(address.unix).st_ino))
        else:
            host, port = sock.getsockname()[:2]
            address = replace(address, host=host, port=port)
        self.addresses.append(address.url)

    def _stop_listening(self) -> None:
        for path, inode in self._unix:
            remove_unix_socket(path, inode)
        for sock in {sock for _, row in self._rows for sock in row}:
            sock.close()
        self._rows, self._unix = [], []

    async def _begin(self) -> bool:
        """Start all workers; return False when it is time to leave before they listen."""
        starting = asyncio.gather(*(self._start(slot) for slot in self._slots))
        stopping = asyncio.create_task(self._stop.wait())
        both: list[asyncio.Future[Any]] = [starting, stopping]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return False
        for slot, found in zip(self._slots, starting.result(), strict=True):
            if isinstance(found, str):
                raise SettingsError(found)
            self._take(slot, found)
        return True

    async def _drain(self) -> None:
        """Let all workers leave."""
        if self._rolling is not None:
            self._rolling.cancel()
        for slot in self._slots:
            if slot.filling is not None:
                slot.filling.cancel()
            slot.current = None
        # Theirs are now the last descriptors: who comes later is refused, and does not wait for nobody.
        self._stop_listening()
        self._tell("info", "drain", workers=len(self._processes))
        await asyncio.gather(*(self._see_off(process) for process in list(self._processes.values())))
        self._tell("info", "stop")

    async def _close(self) -> None:
        """End what is left."""
        self._stop.set()
        for process in list(self._processes.values()):
            process.signal(signal.SIGKILL)
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._stop_listening()
        self._log.close()

    # -- signals ---------------------------------------------------------------------

    def _stop_signal(self, number: int) -> None:
        if self._stop.is_set():
            for process in self._processes.values():
                process.signal(signal.SIGKILL)
            self._stop_listening()
            os._exit(128 + number)
        self._stop.set()

    def _roll_signal(self) -> None:
        if self._rolling is not None:
            self._roll_again = True
        elif not self._stop.is_set():
            self._rolling = self._spawn(self._roll(), "replace all workers")

    async def _roll(self) -> None:
        """Replace one worker after the other; when a new one cannot begin, the others stay as they are."""
        try:
            self._roll_again = True
            while self._roll_again:
                self._roll_again = False
                self._plan.reopen_log()
                self._tell("info", "roll")
                for slot in self._slots:
                    found = await self._start(slot)
                    if isinstance(found, str):
                        self._tell("error", "roll_failed", worker=slot.number, reason=found)
                        break
                    await self._replace(slot, found)
                else:
                    self._tell("info", "rolled")
        finally:
            self._rolling = None

    async def _replace(self, slot: _Slot, new: WorkerProcess) -> None:
        if slot.filling is not None:  # the old one died in the meantime
            slot.filling.cancel()
        old = slot.current
        self._take(slot, new)
        if old is not None:
            await self._see_off(old)

    # -- workers ---------------------------------------------------------------------

    def _take(self, slot: _Slot, process: WorkerProcess) -> None:
        slot.current = process
        self._steer()
        if process.is_leaving or process.process.returncode is not None:
            self._lost(slot, process)

    async def _start(self, slot: _Slot) -> WorkerProcess | str:
        """Start a worker and wait until it listens; return it, or why it does not."""
        self._last_id += 1
        try:
            process = await WorkerProcess.start(
                self._last_id, self._plan.command, lambda link: self._assignment(slot, link), self._heard
            )
        except OSError as error:
            return f"worker {slot.number} cannot be started: {error.strerror}"
        self._processes[process.id] = process
        self._spawn(self._watch(slot, process), "watch a worker")
        try:
            is_ready = await process.wait_ready(self._plan.limits.worker_start_timeout_s)
        except asyncio.CancelledError:
            process.signal(signal.SIGKILL)
            raise
        if is_ready:
            self._tell("info", "worker_ready", worker=slot.number, worker_pid=process.pid)
            return process
        status = process.process.returncode
        process.is_leaving = True
        process.signal(signal.SIGKILL)
        if process.refusal:
            return process.refusal
        said = (
            "did not listen in time" if status is None else f"ended with status {status} before it listened"
        )
        return f"worker {slot.number} {said}"

    def _assignment(self, slot: _Slot, link: int) -> Assignment:
        return Assignment(
            slot.number,
            link,
            secrets.token_hex(4),
            self._broker,
            self._advertised(slot),
            self._plan.listen,
            tuple((place, row[slot.number].fileno()) for place, row in self._rows),
        )

    def _advertised(self, slot: _Slot) -> str:
        """Return where a worker is to be reached from elsewhere. Each needs a port of its own, and a
        replacement another one than who it replaces: with N workers they are 2 N from the one that is set."""
        host, _, port = self._plan.advertise.rpartition(":")
        if not host or port == "0":
            return self._plan.advertise
        taken = {process.advertise for process in self._processes.values()}
        wanted = [f"{host}:{int(port) + slot.number + turn * self._plan.count}" for turn in (0, 1)]
        return next((place for place in wanted if place not in taken), wanted[0])

    async def _watch(self, slot: _Slot, process: WorkerProcess) -> None:
        """See a worker to its end."""
        status = await process.wait()
        del self._processes[process.id]
        self._totals.gone(process.id)
        for asked in self._asked.values():
            asked.answered(process.id)
        process.close()
        is_well = process.is_leaving and status == 0
        self._tell(
            "info" if is_well else "error",
            "worker_left" if is_well else "worker_died",
            worker=slot.number,
            worker_pid=process.pid,
            status=status,
            **({"reason": process.refusal} if process.refusal else {}),
        )
        if not is_well:
            for other in self._processes.values():
                other.send(Message("ended", text=process.node))
        self._lost(slot, process)

    def _lost(self, slot: _Slot, process: WorkerProcess) -> None:
        """Find another worker for the slot, if it was this one's."""
        if slot.current is not process or self._stop.is_set():
            return
        self._deaths += 1
        slot.current = None
        self._steer()
        if process.age_s >= _LASTING_S:
            slot.backoff.succeeded()
        slot.filling = self._spawn(self._fill(slot), "start a worker again")

    async def _fill(self, slot: _Slot) -> None:
        try:
            while True:
                await asyncio.sleep(slot.backoff.next_delay_s())
                found = await self._start(slot)
                if not isinstance(found, str):
                    break
                self._tell("error", "worker_failed", worker=slot.number, reason=found)
        finally:
            slot.filling = None
        self._take(slot, found)

    async def _see_off(self, process: WorkerProcess) -> None:
        """Let one worker leave, and kill it when it takes too long."""
        process.leave()
        if not await process.end_within(self._plan.drain_s + _MORE_S):
            self._tell("error", "worker_killed", worker=process.number, worker_pid=process.pid)

    def _steer(self) -> None:
        """Send new connections where somebody is; when nobody is anywhere, they wait in all queues."""
        live = [slot.number for slot in self._slots if slot.current is not None]
        live = live or [slot.number for slot in self._slots]
        if live != self._steered:
            self._steered = live
            for _, row in self._rows:
                steer(row, live)

    # -- what workers say --------------------------------------------------------------

    def _heard(self, process: WorkerProcess, message: Message) -> None:
        if message.kind == "draining":
            self._lost(self._slots[process.number], process)
        elif message.kind in ("figures", "sum"):
            self._totals.heard(process.id, message.figures)
            if message.kind == "sum" and len(self._asked) < _MAX_SUMS:
                self._spawn(self._answer(process, message.id), "sum up what workers counted")
            elif message.id in self._asked:
                self._asked[message.id].answered(process.id)

    async def _answer(self, process: WorkerProcess, id: int) -> None:
        """Ask the other workers, too, and tell the sum."""
        self._last_id += 1
        asked = self._last_id
        others = [slot.current for slot in self._slots if slot.current not in (None, process)]
        self._asked[asked] = waiting = _Asked({other.id for other in others if other is not None})
        for other in others:
            if other is not None:
                other.send(Message("tell", asked))
        with suppress(TimeoutError):
            await asyncio.wait_for(waiting.everybody.wait(), _TELL_S)
        del self._asked[asked]
        process.send(Message("sum", id, figures=[*self._totals.sum(), *self._own_figures()]))

    def _own_figures(self) -> list[Row]:
        serving = sum(slot.current is not None for slot in self._slots)
        ended = "Workers that ended without having been told to"
        return [
            ("everywire_workers", "Workers that serve", serving, "", ""),
            ("everywire_workers_ended_total", ended, self._deaths, "", ""),
        ]

    # -- tasks and log -------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, level: str, event: str, **members: Any) -> None:
        getattr(self._log, level)(event, **members)
        self._log.flush()
        # It did nothing while the line before was being written.
        asyncio.get_running_loop().call_later(_FLUSH_S, self._log.flush)
