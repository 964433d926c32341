"""Run a server until it is told to stop: signals, and the event loop.

SIGTERM and SIGINT drain, a second one exits at once. SIGHUP reads the TLS certificates again. A worker is
told by its parent instead: see `everywire.server.worker`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from everywire.server.options import ServerOptions
from everywire.server.server import Server
from everywire.server.worker import Worker
from everywire.transports.exchange import Handler

__all__ = ["run", "serve"]

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_YOUNG: Final = 10_000
_MIDDLE: Final = 50
_NEVER: Final = 1_000_000
_COLLECT_S: Final = 600.0
"""Between two collections of everything that came since the one before."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where there is one, else on asyncio's own loop."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def _collect_until(stop: asyncio.Event) -> None:
    """Keep the garbage collector from walking over every reader again and again, until told to stop.

    With 10,000 readers a full collection takes some 100 ms, in which nobody is served, and it finds
    nothing: connections, readers and drivers part at their end, so that counting references frees them.
    So there is one now and then only, for cycles that others make (an error's traceback, say), and what
    outlives it is not looked at again.
    """
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)
    while not stop.is_set():
        gc.collect()
        gc.freeze()
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _COLLECT_S)


def _hear_ends(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def stop_signal(number: int) -> None:
        if stop.is_set():
            # Whoever signals twice does not want to wait, not even for the log.
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_signal, number)


async def serve(
    handler: Handler,
    options: ServerOptions,
    *,
    on_start: Callable[[Server], object] | None = None,
    on_drain: Callable[[], object] | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve until a signal comes, or a worker is told to leave; then drain and return.

    ``on_start`` is called with the listening server, ``on_drain`` when it begins to leave. Raises
    `SettingsError` when an address or certificate is no good.
    """
    loop = asyncio.get_running_loop()
    server = Server(handler, options)
    stop = asyncio.Event() if worker is None else worker.stop
    if worker is None:
        _hear_ends(loop, stop)
    await server.start()
    if worker is None:
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    loop.set_exception_handler(server.report)
    try:
        if on_start is not None:
            on_start(server)
        await _collect_until(stop)
        if on_drain is not None:
            on_drain()
        await server.drain(None if worker is None else worker.drain_s)
    finally:
        await server.close()
        for number in _SIGNALS if worker is None else ():
            loop.remove_signal_handler(number)
