"""A client of the session protocol made of `websockets`; it knows nothing of the code under test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import websockets

from tests.serving import DEADLINE_S, Site, until

__all__ = ["Client", "Failed", "talking"]


class Failed(Exception):
    """The server answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]


class Client:
    """One session. Replies are what `ask` returns; pushes are kept in the order they came."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.pushes: list[dict[str, Any]] = []
        self.close: tuple[int, str] | None = None
        self.connected: dict[str, Any] = {}
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0

    def begin(self, **command: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a command; return what its reply comes to."""
        self._count += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._count] = future
        self._queue.put_nowait(json.dumps({"id": self._count, **command}))
        return future

    async def ask(self, **command: Any) -> Any:
        """Send a command; return its result, or raise `Failed`."""
        async with asyncio.timeout(DEADLINE_S):
            return result_of(await self.begin(**command), *command)

    def rpc(self, method: str, data: Any = None) -> Any:
        """Call a method and return what it returned."""
        return self._rpc(method, data)

    async def _rpc(self, method: str, data: Any) -> Any:
        result = await self.ask(rpc={"method": method, "data": data})
        return result.get("data")

    def send(self, data: Any) -> None:
        """Send a message."""
        self._queue.put_nowait(json.dumps({"send": {"data": data}}))

    def told(self, kind: str) -> list[Any]:
        """Return the pushes of a kind."""
        return [push[kind] for push in self.pushes if kind in push]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        await until(holds)

    async def run(self) -> None:
        """Read and write until the end."""
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        writing = asyncio.create_task(self._write())
        try:
            async for message in self.socket:
                for line in message.splitlines():
                    self._take(json.loads(line))
        except websockets.ConnectionClosed:
            pass
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        self.close = (self.socket.close_code, self.socket.close_reason)
        for future in self._waiting.values():
            future.cancel()

    async def _write(self) -> None:
        while True:
            await self.socket.send(await self._queue.get())

    def _take(self, reply: dict[str, Any]) -> None:
        if not reply:
            self._queue.put_nowait("{}")
        elif "push" in reply:
            self.pushes.append(reply["push"])
        else:
            self._waiting.pop(reply["id"]).set_result(reply)


def result_of(reply: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the result in a reply, or raise its error."""
    if "error" in reply:
        raise Failed(reply["error"])
    result: dict[str, Any] = reply[kind]
    return result


@asynccontextmanager
async def talking(
    site: Site, *, headers: dict[str, str] | None = None, **connect: Any
) -> AsyncIterator[Client]:
    """Open a session."""
    async with site.websocket("/connection/websocket", headers=headers) as socket:
        client = Client(socket)
        running = asyncio.create_task(client.run())
        await asyncio.sleep(0)
        try:
            client.connected = await client.ask(connect=connect)
            yield client
        finally:
            await socket.close()
            await running
