"""Handlers of bare Engine.IO behind real servers, asked by python-engineio's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import engineio
import pytest

from everywire import Everywire, Identity, Refused
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.handlers.engineio import ConnectionOver, EngineConnection
from tests.handlers.conftest import Serve
from tests.serving import Site, until

TRANSPORTS = [("websocket",), ("polling",), ("polling", "websocket")]


class Client:
    """A client of python-engineio that notes what it hears."""

    def __init__(self) -> None:
        self.io = engineio.AsyncClient(handle_sigint=False)
        self.heard: list[Any] = []
        self.is_open = False

        async def message(data: Any) -> None:
            self.heard.append(data)

        async def disconnect(reason: str) -> None:
            self.is_open = False

        self.io.on("message", message)
        self.io.on("disconnect", disconnect)


@asynccontextmanager
async def client(
    site: Site, path: str, transports: tuple[str, ...] = ("websocket",), query: str = ""
) -> AsyncIterator[Client]:
    made = Client()
    await made.io.connect(site.url + query, transports=list(transports), engineio_path=path)
    made.is_open = True
    try:
        yield made
    finally:
        await made.io.disconnect()


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_messages_come_and_go(serve: Serve, transports: tuple[str, ...]) -> None:
    async with serve() as site:
        seen: list[EngineConnection] = []
        reasons: list[str] = []

        def closed(connection: EngineConnection, reason: str) -> None:
            reasons.append(reason)

        @site.wire.engineio("/engine", on_close=closed)
        async def echo(connection: EngineConnection) -> None:
            seen.append(connection)
            async for message in connection:
                await connection.send(message)

        async with client(site, "engine", transports) as ann:
            texts = ["text", "ä€😀", b"\x00\xff", "x" * 300_000, ""]
            for text in texts:
                await ann.io.send(text)
            await until(lambda: len(ann.heard) == len(texts))
            assert ann.heard == texts
            (connection,) = seen
            assert (connection.protocol, connection.transport) == (4, transports[-1])
            assert (connection.user, connection.peer) == ("", "127.0.0.1")
            assert connection.request.query["transport"] == transports[0]
        await until(lambda: reasons)
        assert connection.is_over
        with pytest.raises(ConnectionOver):
            connection.send("late")


async def test_each_message_may_have_its_call_in_a_thread(serve: Serve) -> None:
    async with serve() as site:
        texts = [str(number) for number in range(50)]

        @site.wire.engineio("/each")
        def each(connection: EngineConnection, message: str) -> None:
            if message == "bye":
                connection.close()
            else:
                connection.send(message.upper())

        async with client(site, "each") as ann:
            for text in texts:
                await ann.io.send(f"t{text}")
            await ann.io.send("bye")
            await until(lambda: not ann.is_open)
            assert ann.heard == [f"T{text}" for text in texts]


async def test_who_comes_is_known_and_can_be_shut_out(serve: Serve) -> None:
    async with serve(dev=False) as site:
        wire = site.wire
        seen: list[EngineConnection] = []

        @wire.authenticate
        async def authenticate(request: Any) -> Identity | None:
            return Identity(user=request.token) if request.token else None

        async def opened(connection: EngineConnection) -> None:
            if not connection.user:
                raise Refused("sign in first", code=4501)

        @wire.engineio("/who", on_open=opened)
        async def who(connection: EngineConnection) -> None:
            seen.append(connection)
            connection.send(connection.user)
            async for _ in connection:
                pass

        async with client(site, "who") as nobody:
            await until(lambda: not nobody.is_open)
        async with client(site, "who", query="?token=ann") as ann:
            await until(lambda: ann.heard)
            assert ann.heard == ["ann"]
            await wire.disconnect("ann")
            await until(lambda: not ann.is_open)
        (connection,) = seen
        await until(lambda: connection.is_over)


async def test_places_are_given_back(serve: Serve) -> None:
    async with serve(dev=False, limits=Limits(max_connections_per_user=1)) as site:

        @site.wire.authenticate
        async def authenticate(request: Any) -> Identity | None:
            return Identity(user=request.token)

        ended: list[str] = []

        def closed(connection: EngineConnection) -> None:
            ended.append(connection.user)

        @site.wire.engineio("/hello", on_close=closed)
        async def hello(connection: EngineConnection) -> None:
            connection.send("hello")
            await connection.receive()

        for count in range(1, 4):
            async with client(site, "hello", query="?token=ann") as ann:
                await until(lambda: ann.heard)
                async with client(site, "hello", query="?token=ann") as again:
                    await until(lambda: not again.is_open)
                    assert not again.heard
            await until(lambda count=count: len(ended) == count)  # type: ignore[misc]


async def test_a_handler_that_fails_closes(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as site:

        @site.wire.engineio("/fails")
        async def fails(connection: EngineConnection) -> None:
            raise RuntimeError("a secret")

        async with client(site, "fails") as ann:
            await until(lambda: not ann.is_open)
            assert not ann.heard
        assert "a secret" in caplog.text
        caplog.clear()


def test_what_cannot_be_mounted_is_refused() -> None:
    wire = Everywire()

    async def echo(connection: EngineConnection) -> None: ...

    wire.engineio("/engine.io/")(echo)
    for path in ("/engine.io", "/socket.io", "engine", "/a b", "/"):
        with pytest.raises(SettingsError):
            wire.engineio(path)(echo)
    with pytest.raises(SettingsError):
        wire.engineio("/sync")(lambda connection: None)
    with pytest.raises(TypeError):
        wire.engineio("/typed", unknown=1)(echo)
    assert issubclass(ConnectionOver, EverywireError)
