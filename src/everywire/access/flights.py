"""Questions under way: each is asked once, however many wait for the answer, and never for ever.

A question is a coroutine; its answer goes to every callback that waits for it, as an error if it failed: an
`EverywireError` as it is, anything else as code 100, logged. The number of questions under way is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeAlias, TypeVar

from everywire.core import codes
from everywire.core.errors import EverywireError

__all__ = ["Flights"]

_log = logging.getLogger("everywire.access")

_Answer = TypeVar("_Answer")
_Done: TypeAlias = Callable[[_Answer | EverywireError], None]


class Flights(Generic[_Answer]):
    """Questions under way, by key."""

    __slots__ = ("_by_key", "_max", "_waiting")

    def __init__(self, max_flights: int) -> None:
        self._max = max_flights
        self._by_key: dict[Hashable, list[_Done[_Answer]]] = {}
        self._waiting: dict[asyncio.Task[None], list[_Done[_Answer]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(
        self, key: Hashable | None, question: Callable[[], Awaitable[_Answer]], done: _Done[_Answer]
    ) -> None:
        """Ask, or join those who asked the same already; without a key, alone.

        The error is 124 when too many questions are under way.
        """
        waiting = self._by_key.get(key) if key is not None else None
        if waiting is not None:
            waiting.append(done)
            return
        if len(self._waiting) >= self._max:
            done(EverywireError(code=codes.BUSY))
            return
        waiting = [done]
        if key is not None:
            self._by_key[key] = waiting
        task = asyncio.get_running_loop().create_task(self._fly(key, question, waiting))
        self._waiting[task] = waiting
        task.add_done_callback(self._landed)

    async def _fly(
        self, key: Hashable | None, question: Callable[[], Awaitable[_Answer]], waiting: list[_Done[_Answer]]
    ) -> None:
        answer: _Answer | EverywireError = EverywireError()
        try:
            answer = await question()
        except EverywireError as error:
            answer = error
        except Exception:
            _log.exception("a question of the authority failed")
        finally:
            # A cancelled one, too, is answered: nobody waits for ever.
            if key is not None:
                del self._by_key[key]
            _tell(waiting, answer)

    def _landed(self, task: asyncio.Task[None]) -> None:
        # Those of a task that was cancelled before it ran are still there.
        _tell(self._waiting.pop(task), EverywireError())

    async def close(self) -> None:
        """Cancel what is under way; those who wait are told that it failed."""
        tasks = list(self._waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._by_key.clear()


def _tell(waiting: list[_Done[_Answer]], answer: _Answer | EverywireError) -> None:
    while waiting:
        if isinstance(answer, EverywireError):
            answer.__traceback__ = None  # each who raises it would make it longer
        done = waiting.pop(0)
        try:
            done(answer)
        except Exception:
            _log.exception("who waited for the authority failed")
