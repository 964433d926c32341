"""A thread that works off what the event loop hands it: the loop never waits for the disk.

Works are served in order, as many at a time as wait; those of one turn of the loop are handed over together,
at its end. Each is finished exactly once, in the loop: with its
outcome, or with an error when its time is over. One whose time is over before it was begun is never
begun; one that was under way may have happened all the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from everywire.brokers.threads import LOOK_S, has_exited
from everywire.core.errors import BrokerBusy, BrokerError

__all__ = ["Call", "Work", "WorkThread"]

_LATE: Final = "the log store does not answer"
_CLOSED: Final = "this node is leaving"
_MAX_LOOKS: Final = 2_000
_log: Final = logging.getLogger("everywire.brokers")


class Work:
    """One thing to do in the thread: ``run`` there, then ``finish`` in the loop."""

    __slots__ = ("begun_s", "is_finished", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        """How much it is, for the bounds of what is done at once and of what waits."""
        self.begun_s = 0.0
        self.is_finished = False

    def run(self, at: Any) -> None:
        """Do it, in the thread; it may be done again if the first time came to nothing."""
        raise NotImplementedError

    def finish(self, error: BrokerError | None) -> None:
        """Tell of it, in the loop."""
        raise NotImplementedError


class Call(Work):
    """A function of what the thread works on, and who hears of its result."""

    __slots__ = ("_done", "_function", "_result")

    def __init__(
        self, function: Callable[[Any], Any], done: Callable[[Any], object], *, weight: int = 1
    ) -> None:
        super().__init__(weight)
        self._function = function
        self._done = done
        self._result: Any = None

    def run(self, at: Any) -> None:
        """Call it."""
        self._result = self._function(at)

    def finish(self, error: BrokerError | None) -> None:
        """Hand over the result, or the error."""
        self._done(self._result if error is None else error)


class WorkThread:
    """The thread, its queue, and the loop's side of both.

    ``serve`` is called in the thread when works wait, takes them with `take` and returns them through
    `served`; ``ended`` is called there at last.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[], None],
        ended: Callable[[], None],
        *,
        max_weight: int,
        timeout_s: float,
    ) -> None:
        self.unfinished_weight = 0
        self.timed_out = 0
        """Works that were not finished in time."""
        self._name = name
        self._serve = serve
        self._ended = ended
        self._max_weight = max_weight
        self._timeout_s = timeout_s
        self._gathered: list[Work] = []
        """In this turn of the loop."""
        self._waiting: deque[Work] = deque()
        self._unfinished: dict[Work, None] = {}
        self._condition = threading.Condition()
        self._is_idle = False
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- the loop's side ---------------------------------------------------------

    def start(self) -> None:
        """Begin to serve."""
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        # A daemon: a process that ends must not wait for a disk that hangs.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Let a work be done; it is finished at once when there are too many."""
        loop = self._loop
        if loop is None or self._is_closing:
            work.finish(BrokerError("this node is not started" if loop is None else _CLOSED))
            return
        if self._unfinished and self.unfinished_weight + work.weight > self._max_weight:
            work.finish(BrokerBusy())
            return
        work.begun_s = loop.time()
        self.unfinished_weight += work.weight
        self._unfinished[work] = None
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s / 4, self._look_for_late)
        if not self._gathered:
            # Not at once: the thread would begin with the first one alone, and fight for the interpreter.
            loop.call_soon(self._hand_over)
        self._gathered.append(work)

    def _hand_over(self) -> None:
        assert self._loop is not None
        gathered, self._gathered = self._gathered, []
        now_s = self._loop.time()
        for work in gathered:
            work.begun_s = now_s  # a loop that was held up since then is not the thread's fault
        with self._condition:
            self._waiting.extend(gathered)
            if self._is_idle:
                self._is_idle = False
                self._condition.notify()

    async def ask(self, function: Callable[[Any], Any], *, weight: int = 1) -> Any:
        """Return what a function of what the thread works on returns; raise what it answers as an error."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def tell(result: Any) -> None:
            if not answer.done():
                answer.set_result(result)

        self.submit(Call(function, tell, weight=weight))
        result = await answer
        if isinstance(result, BrokerError):
            raise result
        return result

    def _look_for_late(self) -> None:
        assert self._loop is not None
        # After what is done already: a loop that was held up by something else finds both at once.
        self._loop.call_soon(self._fail_late)

    def _fail_late(self) -> None:
        assert self._loop is not None
        end_s = self._loop.time() - self._timeout_s
        late = [work for work in self._unfinished if work.begun_s <= end_s]
        if late:
            over = set(late)
            with self._condition:
                self._waiting = deque(work for work in self._waiting if work not in over)
            self.timed_out += len(late)
            self.finish(late, BrokerError(_LATE))
        self._timer = None
        if self._unfinished:
            self._timer = self._loop.call_later(self._timeout_s / 4, self._look_for_late)

    def finish(self, works: Sequence[Work], error: BrokerError | None) -> None:
        """Tell of works that are done, or failed, unless their time was over before."""
        for work in works:
            if not work.is_finished:
                work.is_finished = True
                del self._unfinished[work]
                self.unfinished_weight -= work.weight
                work.finish(error)

    async def close(self) -> None:
        """Finish what waits, and end; what does not end in time is failed and left to itself."""
        if self._loop is None or self._is_closing:
            return
        self._hand_over()
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        assert self._end is not None
        await asyncio.wait([self._end], timeout=self._timeout_s)
        assert self._thread is not None
        for _ in range(_MAX_LOOKS if self._end.done() else 0):
            if has_exited(self._thread):
                break
            await asyncio.sleep(LOOK_S)
        if self._timer is not None:
            self._timer.cancel()
        self.finish(list(self._unfinished), BrokerError(_CLOSED))

    # -- the thread's side ----------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            try:
                self._serve()
            except Exception:
                # The top of a thread, without which nothing would be served any more. What it had taken is
                # failed when its time is over.
                _log.exception("the log store could not be served")
        try:
            self._ended()
        finally:
            self.call(self._has_ended)

    def _has_ended(self) -> None:
        assert self._end is not None
        if not self._end.done():
            self._end.set_result(None)

    def _wait(self) -> bool:
        """Wait for a work; return False when there is none and there will be none."""
        with self._condition:
            while not self._waiting:
                if self._is_closing:
                    return False
                self._is_idle = True
                self._condition.wait()
            return True

    def take(self, max_weight: int) -> list[Work]:
        """Take what waits, one work at least if there is one."""
        taken: list[Work] = []
        with self._condition:
            waiting = self._waiting
            while waiting and (not taken or waiting[0].weight <= max_weight):
                work = waiting.popleft()
                max_weight -= work.weight
                taken.append(work)
        return taken

    def served(self, works: Sequence[Work], error: BrokerError | None) -> None:
        """Hand works back that are done, or failed."""
        self.call(self.finish, works, error)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the loop was closed before this; nobody is left to hear it
