"""How the application's functions are called: deadline, threads for synchronous ones, and errors.

A coroutine function runs in the event loop. A synchronous one, as programs of Flask and Django have
them, runs in a bounded pool of threads, so that what it waits for holds up nobody else; inside it
`everywire.publish` and the methods of the session wait for the event loop. A thread cannot be
stopped: after its deadline whoever asked is answered, and the thread goes on.

What a function raises reaches the client only if it is an `EverywireError`. Anything else is logged
with its traceback and becomes code 100, with nothing of it told.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from everywire.core import codes
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.limits import Limits

__all__ = ["Function", "Threads", "takes"]

_log = logging.getLogger("everywire.handlers")


class Threads:
    """A bounded pool of threads, made when the first synchronous function is called."""

    __slots__ = ("_limits", "_pool", "_unfinished")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool: ThreadPoolExecutor | None = None
        self._unfinished = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a thread; raise an error with code 111 when too many wait for one."""
        limits = self._limits
        if self._unfinished >= limits.max_handler_threads + limits.max_waiting_calls:
            raise EverywireError("the application is busy; slow down", code=codes.TOO_MANY_REQUESTS)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(limits.max_handler_threads, "everywire-handler")
        loop = asyncio.get_running_loop()
        call = partial(contextvars.copy_context().run, function, *arguments)
        future = self._pool.submit(call)
        self._unfinished += 1
        # Told by the thread's end, not by that of whoever waits for it: a thread outlives its deadline.
        future.add_done_callback(lambda _: self._finish(loop))
        return await asyncio.wrap_future(future)

    def _finish(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._finished)
        except RuntimeError:
            pass  # the loop is closed, and with it this pool

    def _finished(self) -> None:
        self._unfinished -= 1

    def close(self) -> None:
        """Begin no more calls; those that run go on to their end."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


class Function:
    """One function of the application, with as many of the offered arguments as it takes."""

    __slots__ = ("_count", "_is_coroutine", "function", "name")

    def __init__(self, function: Callable[..., Any], offered: Sequence[str], name: str) -> None:
        self.function = function
        self.name = name
        """What the log calls it."""
        self._count = takes(function, offered, name)
        self._is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise SettingsError(f"{name} is a generator; only `produce` takes one")

    async def __call__(self, threads: Threads, timeout_s: float, *arguments: Any) -> Any:
        """Call it and return what it returns; raises `EverywireError`s only."""
        arguments = arguments[: self._count]
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                if self._is_coroutine:
                    return await self.function(*arguments)
                result = await threads.run(self.function, *arguments)
                return await result if inspect.isawaitable(result) else result
        except EverywireError:
            raise
        except TimeoutError as error:
            if not deadline.expired():
                raise self.blame(error) from None
            _log.warning("%s was not done within %g s", self.name, timeout_s)
            raise EverywireError("the application did not answer in time", code=codes.INTERNAL) from None
        except Exception as error:  # the top of the application's work: nothing of it may leak
            raise self.blame(error) from None

    def blame(self, error: Exception) -> EverywireError:
        """Log what went wrong in it; return the error that a client may see."""
        _log.error("%s failed", self.name, exc_info=error)
        return EverywireError(code=codes.INTERNAL)


def takes(function: Callable[..., Any], offered: Sequence[str], name: str) -> int:
    """Return how many of the offered arguments a function takes.

    An offer whose last name begins with an asterisk is of any number of arguments. Raises `SettingsError`
    when the function cannot be called with what is offered.
    """
    is_open = bool(offered) and offered[-1].startswith("*")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise SettingsError(f"{name} is no function") from None
    count = required = 0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            count = sys.maxsize
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            count += 1
            required += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise SettingsError(f"{name} has an argument {parameter.name!r} that nobody gives it")
    if is_open:
        return count
    if required > len(offered):
        raise SettingsError(f"{name} takes at most {len(offered)} arguments: {', '.join(offered)}")
    return min(count, len(offered))
