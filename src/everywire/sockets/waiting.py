"""From callbacks to coroutines: the log, the hub and the authority answer by callback, tasks await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["called"]

_Answer = TypeVar("_Answer")


async def called(call: Callable[[Callable[[_Answer], None]], object]) -> _Answer:
    """Call something that ends in a callback, and return what the callback was given.

    What completes within the call costs no turn of the event loop.
    """
    answers: list[_Answer] = []
    waiting: asyncio.Future[None] | None = None

    def done(answer: _Answer) -> None:
        answers.append(answer)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    call(done)
    if not answers:
        waiting = asyncio.get_running_loop().create_future()
        await waiting
    return answers[0]
