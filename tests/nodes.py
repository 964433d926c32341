"""Several nodes over one store in this process, and what stands before them and takes turns.

The store is `everywire.testing.shared_broker.SharedStore`; the nodes have real servers and real private
addresses, in a state directory of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

from everywire import Everywire
from everywire.testing.shared_broker import SharedStore
from tests.serving import Site, serving_wire

__all__ = ["Balancer", "balanced", "nodes"]

_NO_CERTIFICATE: Final = ("", "")


class _End(asyncio.Protocol):
    """One end of a connection that is carried through; what comes goes to the other."""

    def __init__(self, other: _End | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's own have no common base with asyncio's
        self.transport = transport
        other = self.other
        if other is not None:
            other.other = self
            transport.writelines(other.early)
            if other.transport is None:
                transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        elif self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class Balancer:
    """Carries each connection to the next node."""

    def __init__(self, sites: list[Site]) -> None:
        self._ports = itertools.cycle([int(site.url.rpartition(":")[2]) for site in sites])
        self._connecting: set[asyncio.Task[object]] = set()

    def accept(self) -> asyncio.Protocol:
        near = _End()
        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(lambda: _End(near), "127.0.0.1", next(self._ports))
        task: asyncio.Task[object] = loop.create_task(connecting)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return near


@asynccontextmanager
async def nodes(
    count: int,
    *,
    host: str = "own",
    make: Callable[..., Everywire] = Everywire,
    store: SharedStore | None = None,
    broker: str = "",
    **options: Any,
) -> AsyncIterator[list[Site]]:
    """Run nodes that are called ``node0``, ``node1`` and so on; options are those of `Everywire`.

    With a ``broker``'s address (``sqlite:`` for one of their own) each has a real one instead of the store.
    """
    store = store or SharedStore()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="everywire-"))
        settings = {"dev": True, "is_loopback": True, "state_dir": folder, **options}
        address = f"sqlite://{folder}/engine" if broker == "sqlite:" else broker
        sites = []
        for number in range(count):
            name = f"node{number}"
            if broker:
                wire = make(broker=address, node=name, **settings)
            else:
                wire = make(broker=store.node(name), **settings)
            sites.append(await stack.enter_async_context(serving_wire(host, wire, _NO_CERTIFICATE)))
        yield sites


@asynccontextmanager
async def balanced(sites: list[Site]) -> AsyncIterator[str]:
    """Stand before nodes, and give the address."""
    balancer = Balancer(sites)
    server = await asyncio.get_running_loop().create_server(balancer.accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
