"""python-socketio's own client, and what it heard; it knows nothing of the code under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio

from tests.serving import DEADLINE_S, Site, until

__all__ = ["Client", "client", "refusal"]


class Client:
    """A client of python-socketio that notes what it hears."""

    def __init__(self) -> None:
        self.io = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        self.heard: list[tuple[Any, ...]] = []
        self.refusals: list[Any] = []
        self.reasons: list[str] = []

    def listen(self, namespace: str) -> None:
        """Note what comes in a namespace."""

        async def event(name: str, *args: Any) -> None:
            self.heard.append((name, *args))

        async def refused(data: Any) -> None:
            self.refusals.append(data)

        async def disconnected(reason: str) -> None:
            self.reasons.append(reason)

        self.io.on("*", event, namespace=namespace)
        self.io.on("connect_error", refused, namespace=namespace)
        self.io.on("disconnect", disconnected, namespace=namespace)

    @property
    def sid(self) -> str:
        """Its id in the namespace ``/``."""
        return str(self.io.get_sid())

    def told(self, event: str) -> list[Any]:
        """Return what came with an event: its only argument, or all of them."""
        return [one[1] if len(one) == 2 else one[1:] for one in self.heard if one[0] == event]

    async def hears(self, event: str, count: int = 1) -> list[Any]:
        """Wait until an event came so often; return what it came with."""
        await until(lambda: len(self.told(event)) >= count)
        return self.told(event)

    async def emit(self, event: str, data: Any = None, **more: Any) -> None:
        """Send an event."""
        await self.io.emit(event, data, **more)

    async def call(self, event: str, data: Any = None, **more: Any) -> Any:
        """Send an event; return its acknowledgement."""
        return await self.io.call(event, data, timeout=DEADLINE_S, **more)


async def refusal(site: Site, **options: Any) -> Any:
    """Try to connect a client, and return what it is told when it is refused."""
    made = Client()
    with pytest.raises(socketio.exceptions.ConnectionError):
        async with client(site, made=made, **options):
            pass
    (told,) = made.refusals
    return told


@asynccontextmanager
async def client(
    site: Site,
    *,
    made: Client | None = None,
    namespaces: tuple[str, ...] = ("/",),
    transports: tuple[str, ...] = ("websocket",),
    auth: Any = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Client]:
    """Connect a client to namespaces."""
    made = made or Client()
    for namespace in namespaces:
        made.listen(namespace)
    await made.io.connect(
        site.url,
        namespaces=list(namespaces),
        transports=list(transports),
        auth=auth,
        headers=headers or {},
        wait_timeout=DEADLINE_S,
    )
    try:
        yield made
    finally:
        await made.io.disconnect()
