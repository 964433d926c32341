"""An event loop's clock and queue that a test turns by hand.

`ManualScheduler` is the `everywire.hub.interfaces.Scheduler` of tests that must come out the
same every time: nothing happens until the test says so, and time passes only when it is told
to. It runs callbacks; it knows no coroutines and no sockets.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

__all__ = ["ManualScheduler", "Timer", "finish"]

_Result = TypeVar("_Result")

_MAX_TURNS: Final = 100_000
"""Turns after which a loop that never comes to rest is a failure."""


class Timer:
    """A callback that waits for its time, or for the next turn."""

    __slots__ = ("_callback", "when_s")

    def __init__(self, when_s: float, callback: Callable[[], object]) -> None:
        self.when_s = when_s
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not call back."""
        self._callback = None

    def fire(self) -> None:
        """Call back once, unless cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class ManualScheduler:
    """A scheduler whose turns and whose time are the test's.

    ``turns`` counts the turns so far, so that a test can tell what happened in one turn from
    what happened in two; ``longest_turn_s`` is how much time the longest of them spent.
    """

    def __init__(self, now_s: float = 1_000.0, unix_s: float = 1_700_000_000.0) -> None:
        self.turns = 0
        self.longest_turn_s = 0.0
        self._now_s = now_s
        self._unix_s = unix_s - now_s
        self._ready: deque[Timer] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = 0

    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        """Call back in the next turn."""
        timer = Timer(self._now_s, callback)
        self._ready.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call back once the time has passed."""
        timer = Timer(self._now_s + delay, callback)
        self._count += 1
        heapq.heappush(self._timers, (timer.when_s, self._count, timer))
        return timer

    def time(self) -> float:
        """Return the monotonic time in seconds."""
        return self._now_s

    def unix_ms(self) -> int:
        """Return UNIX time in milliseconds; it goes with the same hand."""
        return round((self._unix_s + self._now_s) * 1000)

    def spend(self, seconds: float) -> None:
        """Let time pass in the middle of a callback, as work does."""
        self._now_s += seconds

    def turn(self) -> bool:
        """Run one turn: what is ready now, not what that makes ready. Say whether there was any."""
        while self._timers and self._timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(self._timers)[2])
        if not self._ready:
            return False
        self.turns += 1
        began_s = self._now_s
        for _ in range(len(self._ready)):
            self._ready.popleft().fire()
        self.longest_turn_s = max(self.longest_turn_s, self._now_s - began_s)
        return True

    def run(self) -> None:
        """Run turns until nothing is ready; time stands still."""
        for _ in range(_MAX_TURNS):
            if not self.turn():
                return
        raise AssertionError(f"the loop did not come to rest in {_MAX_TURNS} turns")

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what becomes due in its order."""
        end_s = self._now_s + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end_s:
            self._now_s = max(self._now_s, self._timers[0][0])
            self.run()
        self._now_s = max(self._now_s, end_s)

    @property
    def pending(self) -> int:
        """How many callbacks wait, timers included."""
        return len(self._ready) + len(self._timers)


def finish(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that waits for nothing, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _Result = stop.value
        return result
    coroutine.close()
    raise AssertionError("this coroutine waits for something")
