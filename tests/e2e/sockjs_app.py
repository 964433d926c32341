"""The server side of the tests with SockJS's own client: an echo, and a service that is told what to do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from tests.e2e.cutting import Cable, through
from tests.serving import Site, serving

__all__ = ["Services", "sockjs_services"]

_OUTAGE_S: Final = 0.3


class Services:
    """A server with two services, and a cable to it for each case."""

    def __init__(self, site: Site, stack: AsyncExitStack) -> None:
        self.site = site
        self.ends = Counter[str]()
        self._stack = stack
        self._cables: dict[str, Cable] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def cable(self, name: str) -> str:
        """Return the URL by which a case reaches the server, through a cable of its own."""
        self._cables[name] = cable = await self._stack.enter_async_context(through(self.site.url))
        return cable.url

    def register(self) -> None:
        """Register the services."""

        @self.site.wire.sockjs("/echo", client_url="/sockjs.js")
        async def echo(connection: Any) -> None:
            async for text in connection:
                await connection.send(text)

        @self.site.wire.sockjs("/talk", client_url="/sockjs.js")
        async def talk(connection: Any) -> None:
            names: list[str] = []
            try:
                async for text in connection:
                    self._answer(connection, names, *json.loads(text))
            finally:
                self.ends.update(names)

    async def close(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._tasks)

    def _answer(self, connection: Any, names: list[str], what: str, value: Any = None) -> None:
        if what == "name":
            names.append(value)
            connection.send('"hello"')
        elif what == "count":
            for number in range(value):
                connection.send(str(number))
        elif what == "big":
            connection.send(json.dumps("x" * value))
        elif what == "close":
            connection.close(value, "as asked")
        elif what == "ends":
            connection.send(json.dumps(self.ends))
        elif what == "cut":
            connection.send("true")
            task = asyncio.get_running_loop().create_task(self._cut(value))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            raise AssertionError(what)

    async def _cut(self, name: str) -> None:
        await asyncio.sleep(0.1)
        # In Node, SockJS's client does not hear of an answer that just ends in its middle.
        self._cables[name].cut(resets=True)
        await asyncio.sleep(_OUTAGE_S)
        self._cables[name].mend()


@asynccontextmanager
async def sockjs_services(host: str = "own", **options: Any) -> AsyncIterator[Services]:
    """Run a server of one host; options are those of `Everywire`."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(host, ("", ""), **options))
        services = Services(site, stack)
        services.register()
        try:
            yield services
        finally:
            await services.close()
