"""The server side of the tests with Socket.IO's own clients: what they talk to, and what they ask it to do by
the event ``act``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import jwt

from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from everywire.sockets.handling import ConnectionRefused
from tests.e2e.cutting import Cable, through
from tests.serving import Site, serving

__all__ = ["SECRET", "Talk", "talking", "token_of"]

SECRET: Final = "a secret that is long enough for tests"
NAMESPACES: Final = ("/", "/chat")
_OUTAGE_S: Final = 0.3
_PATIENCE_S: Final = 40


def token_of(user: str) -> str:
    """Sign a token for a user."""
    return jwt.encode({"sub": user}, SECRET, "HS256")


class Talk:
    """A server, and a cable to it for each case."""

    def __init__(self, site: Site, stack: AsyncExitStack) -> None:
        self.site = site
        self.ends: dict[str, str] = {}
        self._stack = stack
        self._cables: dict[str, Cable] = {}
        self._outages: dict[str, asyncio.Task[None]] = {}
        self._rests: dict[str, list[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def cable(self, name: str) -> str:
        """Return the URL by which a case reaches the server, through a cable of its own."""
        self._cables[name] = cable = await self._stack.enter_async_context(through(self.site.url))
        return cable.url

    def register(self) -> None:
        """Register what the clients call, in two namespaces; a third lets nobody in."""
        for name in NAMESPACES:
            self._register(name)
        closed = self.site.wire.socketio.namespace("/closed")

        @closed.on("connect")
        async def refuse(session: Any, auth: Any) -> None:
            raise ConnectionRefused("not you", {"why": "closed"})

    def _register(self, name: str) -> None:
        on = self.site.wire.socketio.namespace(name).on

        @on("connect")
        async def connect(session: Any, auth: Any) -> None:
            session.emit(
                "welcome",
                {"sid": session.sid, "auth": auth, "user": session.user, "recovered": session.recovered},
            )

        @on("disconnect")
        async def disconnect(session: Any, reason: str) -> None:
            self.ends[session.sid] = reason

        @on("echo")
        async def echo(session: Any, *values: Any) -> Any:
            return values if name == "/" else (*values, name)

        @on("again")
        async def again(session: Any, *values: Any) -> None:
            session.emit("back", values)

        @on("size")
        def size(session: Any, text: str) -> int:
            return len(text)

        @on("count")
        async def count(session: Any, number: int) -> None:
            session.emit("counted", number)

        @on("act")
        async def act(session: Any, data: Any) -> Any:
            done = await getattr(self, f"_{data['do']}")(session, data)
            return True if done is None else done

    async def close(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._tasks, *self._outages.values())

    # -- what clients ask for -------------------------------------------------------------------------

    async def _ask(self, session: Any, data: Any) -> Any:
        return list(await session.call("question", data["number"], timeout_s=_PATIENCE_S))

    async def _ask_in_vain(self, session: Any, data: Any) -> str:
        try:
            await session.call("nothing", timeout_s=0.1)
        except TimeoutError:
            return "timed out"
        return "answered"

    async def _volatile(self, session: Any, data: Any) -> None:
        session.emit("soft", data["text"], volatile=True)

    async def _join(self, session: Any, data: Any) -> None:
        await session.join(data["room"])

    async def _leave(self, session: Any, data: Any) -> None:
        session.leave(data["room"])

    async def _say(self, session: Any, data: Any) -> None:
        await session.to(data["room"]).emit("said", data["text"])

    async def _say_all(self, session: Any, data: Any) -> None:
        await self.site.wire.socketio.emit(
            "said",
            data["text"],
            to=data["rooms"],
            except_room=data.get("except"),
            namespace=session.namespace,
        )

    async def _publish(self, session: Any, data: Any) -> None:
        for value in data["values"]:
            await self.site.wire.publish(data["channel"], value, event=data.get("event"))

    async def _read(self, session: Any, data: Any) -> list[Any]:
        answer = await self.site.http.get(
            f"/channels/{data['channel']}", headers={"Authorization": f"Bearer {token_of('reader')}"}
        )
        return [[one.get("event"), one["data"]] for one in answer.json()["publications"]]

    async def _big(self, session: Any, data: Any) -> str:
        return "x" * int(data["size"])

    async def _kick(self, session: Any, data: Any) -> None:
        async def end() -> None:
            await asyncio.sleep(0.05)
            session.disconnect()

        self._soon(end())

    async def _ends(self, session: Any, data: Any) -> dict[str, str]:
        return self.ends

    async def _remember(self, session: Any, data: Any) -> None:
        session.memo["what"] = data["what"]

    async def _known(self, session: Any, data: Any) -> dict[str, Any]:
        return {"memo": session.memo, "recovered": session.recovered, "rooms": list(session.rooms())}

    # -- outages ------------------------------------------------------------------------------------------

    async def _cut(self, session: Any, data: Any) -> None:
        """Publish before and while the case's cable is cut; `_mend` publishes what is left."""
        cable = self._cables[data["name"]]
        channel, values = data["channel"], data["values"]
        third = len(values) // 3
        self._rests[channel] = values[2 * third :]

        async def run() -> None:
            await asyncio.sleep(0.05)
            await self.site.publish(channel, *values[:third])
            cable.cut()
            await self.site.publish(channel, *values[third : 2 * third])
            if data.get("trim"):
                await self.site.publish(channel, *values)
                done = asyncio.get_running_loop().create_future()
                self.site.wire.broker.log.trim(channel, done.set_result)
                await done
            await asyncio.sleep(_OUTAGE_S)
            cable.mend()

        self._outages[channel] = asyncio.get_running_loop().create_task(run())

    async def _mend(self, session: Any, data: Any) -> None:
        channel = data["channel"]
        await self._outages.pop(channel)
        await self.site.publish(channel, *self._rests.pop(channel))

    def _soon(self, work: Any) -> None:
        """Do something once the answer is on its way."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def talking(host: str = "own", **options: Any) -> AsyncIterator[Talk]:
    """Run a server of one host with tokens; options are those of `Everywire`."""
    given = {"dev": False, "tokens": Tokens(secret=SECRET), "public": {Action.READ: ["*"]}}
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(host, ("", ""), **(given | options)))
        talk = Talk(site, stack)
        talk.register()
        try:
            yield talk
        finally:
            await talk.close()
