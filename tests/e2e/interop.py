"""The server side of the tests with foreign clients of the session protocol: rules, tokens, and what the
clients ask it to do by the rpc ``act``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from tests.e2e.cutting import Cable, through
from tests.serving import Site, serving

__all__ = ["SECRET", "Interop", "interop"]

SECRET: Final = "a secret that is long enough for tests"
_OPEN: Final = ["chat.*", "other.*", "counted.*"]
_OUTAGE_S: Final = 0.3


class Interop:
    """A server, and a cable to it for each user."""

    def __init__(self, site: Site, stack: AsyncExitStack, resets: bool) -> None:
        self.site = site
        self._resets = resets
        self._stack = stack
        self._cables: dict[str, Cable] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def cable(self, user: str) -> str:
        """Return the URL by which a user reaches the server, through a cable of one's own."""
        self._cables[user] = cable = await self._stack.enter_async_context(through(self.site.url))
        return cable.url

    def register(self) -> None:
        """Register what the clients call."""
        wire = self.site.wire

        @wire.on_connect
        async def connect(session: Any, data: Any = None) -> Any:
            return {"welcome": session.user, "said": data}

        @wire.on_subscribe("chat.*")
        async def subscribe(session: Any, channel: str, data: Any = None) -> Any:
            return {"asked": data}

        @wire.rpc("echo")
        async def echo(session: Any, data: Any) -> Any:
            return data

        @wire.rpc("fail")
        async def fail(session: Any, data: Any) -> Any:
            raise EverywireError("as asked", code=Code(1234, "as_asked", 400, "as asked"))

        @wire.on_message
        async def message(session: Any, data: Any) -> None:
            session.send({"pong": data})

        @wire.rpc("act")
        async def act(session: Any, data: Any) -> Any:
            await getattr(self, f"_{data['do']}")(session, data)
            return True

    async def close(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._tasks)

    def _soon(self, work: Any) -> None:
        """Do something once the answer is on its way."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, session: Any, data: Any) -> None:
        await self.site.publish(data["channel"], *data["values"])

    async def _subscribe(self, session: Any, data: Any) -> None:
        session.subscribe(data["channel"], data={"given": True})

    async def _unsubscribe(self, session: Any, data: Any) -> None:
        code = codes.UNSUBSCRIBED if data["code"] == 2000 else codes.SUBSCRIPTION_GAP
        await self.site.wire.shared.registry.unsubscribe(session.user, data["channel"], code=code)

    async def _disconnect(self, session: Any, data: Any) -> None:
        async def end() -> None:
            await asyncio.sleep(0.05)
            session.disconnect(data["code"], data.get("reason", ""))

        self._soon(end())

    async def _cut(self, session: Any, data: Any) -> None:
        """Publish before, while and after the user's cable is cut."""
        cable = self._cables[data["user"]]
        channel, values = data["channel"], data["values"]

        async def run() -> None:
            await asyncio.sleep(0.05)
            third = len(values) // 3
            await self.site.publish(channel, *values[:third])
            cable.cut(resets=self._resets)
            await self.site.publish(channel, *values[third : 2 * third])
            if data.get("trim"):
                await self.site.publish(channel, *values)
                done = asyncio.get_running_loop().create_future()
                self.site.wire.broker.log.trim(channel, done.set_result)
                await done
            await asyncio.sleep(_OUTAGE_S)
            cable.mend()
            if not data.get("trim"):
                await self.site.publish(channel, *values[2 * third :])

        self._soon(run())


@asynccontextmanager
async def interop(host: str = "own", *, resets: bool = False) -> AsyncIterator[Interop]:
    """Run a server with tokens and rules, for clients from anywhere; its cables may be cut with resets."""
    rules = dict.fromkeys((Action.READ, Action.PUBLISH, Action.PRESENCE), _OPEN)
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(
            serving(
                host,
                ("", ""),
                dev=False,
                tokens=Tokens(secret=SECRET),
                user_rules=rules,
                allowed_origins=["*"],
                limits=Limits(leave_debounce_s=0.1),
            )
        )
        server = Interop(site, stack, resets)
        server.register()
        try:
            yield server
        finally:
            await server.close()
