"""From callbacks to coroutines: the log and the hub answer by callback, application code awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from everywire.core.errors import EverywireError

__all__ = ["called"]


async def called(call: Callable[[Callable[[Any], None]], object]) -> Any:
    """Call something that ends in a callback; return its result, or raise it when it is an error.

    What completes within the call costs no turn of the event loop.
    """
    results: list[Any] = []
    waiting: asyncio.Future[None] | None = None

    def done(result: Any) -> None:
        results.append(result)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    call(done)
    if not results:
        waiting = asyncio.get_running_loop().create_future()
        await waiting
    if isinstance(results[0], EverywireError):
        raise results[0]
    return results[0]
