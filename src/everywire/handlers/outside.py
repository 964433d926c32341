"""Work that is begun from anywhere: the event loop itself, another one, or a thread that has none.

In a coroutine, what `Outside.begin` returns is awaited, or left alone: the work is done all the same, and
an error that nobody asked for is logged. In a thread without an event loop `begin` itself waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Final, Generic, TypeVar

from everywire.core import codes
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.handlers.unfinished import Unfinished

__all__ = ["LateError", "Outside", "Receipt", "failed", "in_event_loop", "wait_for"]

_log = logging.getLogger("everywire.handlers")

_TIMEOUT_S: Final = 10.0
_SETTLE_S: Final = 5.0
_MAX_UNFINISHED: Final = 65_536
"""What may be begun before it is done; where the log is elsewhere, it has a lower bound of its own."""

T = TypeVar("T")


class LateError(EverywireError, TimeoutError):
    """Something took longer than one wanted to wait for it."""

    code = codes.BUSY


class Receipt(Generic[T]):
    """Something that was begun. In a coroutine await it for its result; in a thread it is done."""

    __slots__ = ("_future", "_is_asked", "_loop")

    def __init__(self, future: Future[T], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._future = future
        self._loop = loop
        self._is_asked = False

    def result(self, timeout_s: float | None = _TIMEOUT_S) -> T:
        """Wait in a thread, and return the result or raise the error.

        RuntimeError in the event loop that does the work, while it is not done: await it there.
        """
        self._is_asked = True
        if self._loop is not None and not self._future.done() and _running_loop() is self._loop:
            raise RuntimeError("the event loop cannot wait for itself: await this")
        return self._future.result(timeout_s)

    def __await__(self) -> Generator[Any, None, T]:
        self._is_asked = True
        return asyncio.wrap_future(self._future).__await__()

    def __del__(self) -> None:
        if not self._is_asked:
            self._future.add_done_callback(_tell_error)


def failed(error: EverywireError) -> Receipt[Any]:
    """Return the receipt of something that failed before it was begun; in a thread without an event loop
    raise the error at once."""
    if not in_event_loop():
        raise error
    future = _begun()
    future.set_exception(error)
    return Receipt(future)


class Outside:
    """The way into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_unfinished: int = _MAX_UNFINISHED) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._unfinished = Unfinished(max_unfinished)

    def begin(
        self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float | None = _TIMEOUT_S
    ) -> Receipt[T]:
        """Begin work in the event loop, in the order of the calls; in a thread without one wait for it,
        at most ``timeout_s``, and raise its error. When too much is unfinished, it is `BrokerBusy`."""
        future: Future[T] = _begun()
        if not self._unfinished.begin():
            return failed(BrokerBusy("too much that was begun in this process is unfinished"))
        future.add_done_callback(lambda _: self._unfinished.end())
        receipt = Receipt(future, self._loop)
        running = _running_loop()
        if running is self._loop:
            self._start(work, future)
            return receipt
        try:
            self._loop.call_soon_threadsafe(self._start, work, future)
        except RuntimeError:
            raise EverywireError("this server was stopped", code=codes.NOT_AVAILABLE) from None
        if running is None:
            wait_for(receipt, timeout_s)
        return receipt

    def at_once(self, act: Callable[[Callable[[T | EverywireError], None]], object]) -> Receipt[T]:
        """Do something that needs no waiting in the event loop, and in it within the call. ``act`` is given
        what is called, once, with the result or an error; what it raises is raised here."""
        future: Future[T] = _begun()

        def done(result: T | EverywireError) -> None:
            if isinstance(result, EverywireError):
                future.set_exception(result)
            else:
                future.set_result(result)

        if _running_loop() is self._loop:
            act(done)
            return Receipt(future, self._loop)

        async def later() -> T:
            act(done)
            return await asyncio.wrap_future(future)

        return self.begin(later)

    def _start(self, work: Callable[[], Coroutine[Any, Any, T]], future: Future[T]) -> None:
        if self._is_closed:
            future.set_exception(EverywireError("this server was stopped", code=codes.NOT_AVAILABLE))
            return
        task = self._loop.create_task(_do(work, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Finish what was begun, and begin nothing more."""
        self._is_closed = True
        tasks = tuple(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_SETTLE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _do(work: Callable[[], Coroutine[Any, Any, T]], future: Future[T]) -> None:
    try:
        result = await work()
    except asyncio.CancelledError:
        future.set_exception(EverywireError("this server was stopped", code=codes.NOT_AVAILABLE))
        raise
    except Exception as error:  # the top of a task: it belongs to whoever asks for the result
        future.set_exception(error)
    else:
        future.set_result(result)


def _begun() -> Future[Any]:
    """Return a future of what whoever waits for it cannot stop, only not wait for."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _tell_error(future: Future[Any]) -> None:
    error = future.exception()
    if error is not None:
        _log.error("what was begun and not waited for failed: %s", error)


def wait_for(receipt: Receipt[Any], timeout_s: float | None) -> None:
    """Wait in a thread until something is done; raise its error, or `LateError`."""
    try:
        receipt.result(timeout_s)
    except TimeoutError:
        raise LateError(f"this was not done within {timeout_s:g} s; it may still be done") from None


def in_event_loop() -> bool:
    """Say whether an event loop runs in this thread, which must not wait then."""
    return _running_loop() is not None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
