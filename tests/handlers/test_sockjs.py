"""Handlers of SockJS's raw messages: what they are given, how fast, and how it ends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from everywire.core.errors import BadRequest, Forbidden, SettingsError
from everywire.core.limits import Limits
from everywire.handlers.refused import Refused
from everywire.handlers.sockjs import ConnectionOver, SockJsConnection, SockJsHandler
from everywire.sockets.sockjs_link import SockJsOptions
from tests.serving import Site, serving_wire, until
from tests.sockjs_mounts import SockJsWire
from tests.sockjs_talking import new_session, poll, send, streamed
from tests.transports.known import bearer, knowing


@asynccontextmanager
async def serving(handler: Callable[..., Any], **options: Any) -> AsyncIterator[Site]:
    mounts = {"/app": (handler, SockJsOptions())}
    async with serving_wire("own", SockJsWire(mounts=mounts, **options), ("", "")) as site:
        yield site


def over_websocket(site: Site, **options: Any) -> Any:
    return site.websocket(f"{new_session('/app')}/websocket", **options)


async def frame_of(socket: Any) -> str:
    async with asyncio.timeout(20):
        return str(await socket.recv())


# -- what a handler is given ---------------------------------------------------------------


async def test_a_handler_knows_who_is_there() -> None:
    seen: list[SockJsConnection] = []

    async def handler(connection: SockJsConnection) -> None:
        seen.append(connection)
        connection.memo = {"count": 1}
        async for _ in connection:
            pass

    async with serving(handler, **knowing()) as site:
        session = new_session("/app")
        assert await poll(site, f"{session}", bearer("ann")) == "o"
        headers = {**bearer("bob"), "X-Tab": "7"}
        async with over_websocket(site, headers=headers) as socket:
            assert await frame_of(socket) == "o"
            await until(lambda: len(seen) == 2)
            ann, bob = seen
            assert (ann.user, ann.transport, ann.peer) == ("ann", "xhr", "127.0.0.1")
            assert (bob.user, bob.transport) == ("bob", "websocket")
            assert bob.request.headers["x-tab"] == "7" and bob.identity.kind == "token"
            assert bob.memo == {"count": 1} and not bob.is_over
            assert "session" not in repr(bob)
        await until(lambda: bob.is_over)


async def test_a_function_of_a_message_is_called_for_each_in_order() -> None:
    async def handler(connection: SockJsConnection, message: str) -> None:
        await asyncio.sleep(0.02 if message == "slow" else 0)
        await connection.send(f"{message}!")

    async with serving(handler) as site, over_websocket(site) as socket:
        assert await frame_of(socket) == "o"
        await socket.send('["slow", "fast", "slow", "last"]')
        got = [json.loads((await frame_of(socket))[1:])[0] for _ in range(4)]
        assert got == ["slow!", "fast!", "slow!", "last!"]


async def test_a_synchronous_function_runs_in_a_thread() -> None:
    threads: set[str] = set()

    def handler(connection: SockJsConnection, message: str) -> None:
        threads.add(threading.current_thread().name)
        connection.send(message.upper())
        if message == "stop":
            connection.close(4000, "stopped")

    async with serving(handler) as site, over_websocket(site) as socket:
        assert await frame_of(socket) == "o"
        await socket.send('["a", "stop"]')
        assert await frame_of(socket) == 'a["A"]'
        assert await frame_of(socket) == 'a["STOP"]'
        assert await frame_of(socket) == 'c[4000,"stopped"]'
    assert threads and threading.current_thread().name not in threads


async def test_on_open_and_on_close_are_called() -> None:
    told: list[Any] = []

    async def messages(connection: SockJsConnection, message: str) -> None:
        told.append(message)

    handler = SockJsHandler(messages)

    @handler.on_open
    async def opened(connection: SockJsConnection) -> None:
        if connection.request.query.get("refuse"):
            raise Refused("not you", code=4001)
        told.append("open")

    @handler.on_close
    def closed(connection: SockJsConnection, reason: str) -> None:
        told.append(f"close: {reason}")

    async with serving(handler) as site:
        async with over_websocket(site) as socket:
            assert await frame_of(socket) == "o"
            await socket.send('["x"]')
            await until(lambda: "x" in told)
        await until(lambda: len(told) == 3)
        async with site.websocket(f"{new_session('/app')}/websocket?refuse=1") as socket:
            assert await frame_of(socket) == "o"
            assert await frame_of(socket) == 'c[4001,"not you"]'
        await until(lambda: len(told) == 4)
    assert told == ["open", "x", "close: transport close", "close: forced close"]


def test_what_is_no_handler_is_refused() -> None:
    for function in (lambda connection: None, lambda: None):
        with pytest.raises(SettingsError):
            SockJsHandler(function)
    with pytest.raises(SettingsError):
        SockJsHandler(lambda a, b, c: None)


# -- how it ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Refused("not now", code=4100), 4100, "not now"),
        (Forbidden("not yours"), 3507, "not yours"),
        (ConnectionOver(), 1000, "Normal closure"),
        (None, 1000, "Normal closure"),
    ],
)
async def test_what_a_handler_raises_closes_the_connection(
    error: Exception | None, code: int, reason: str
) -> None:
    async def handler(connection: SockJsConnection) -> None:
        await connection.send("first")
        if error is not None:
            raise error

    async with serving(handler) as site:
        async with over_websocket(site) as socket:
            frames = [await frame_of(socket) for _ in range(3)]
        session = new_session("/app")
        polled = [await poll(site, session) for _ in range(3)]
        last = f'c[{code},"{reason}"]'
        assert frames == polled == ["o", 'a["first"]', last]
        async with site.websocket("/app/websocket") as raw:
            assert await raw.recv() == "first"
            with pytest.raises(websockets.ConnectionClosed):
                await raw.recv()
            assert (raw.close_code, raw.close_reason) == (code, reason)


async def test_a_fault_of_a_handler_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: SockJsConnection) -> None:
        raise RuntimeError("a secret")

    mounts = {"/app": (handler, SockJsOptions())}
    wire = SockJsWire(mounts=mounts)
    async with serving_wire("asgi", wire, ("", "")) as site, over_websocket(site) as socket:
        assert await frame_of(socket) == "o"
        last = await frame_of(socket)
        assert last.startswith("c[3004,") and "secret" not in last
    assert "a secret" in caplog.text


async def test_reading_ends_and_sending_raises_when_the_client_is_gone() -> None:
    told: list[str] = []

    async def handler(connection: SockJsConnection) -> None:
        async for message in connection:
            told.append(str(message))
        told.append("ended")
        with pytest.raises(ConnectionOver):
            await connection.send("x")
        with pytest.raises(ConnectionOver):
            await connection.receive()
        await asyncio.sleep(0)
        told.append("cleaned up")

    async with serving(handler) as site:
        async with over_websocket(site) as socket:
            assert await frame_of(socket) == "o"
            await socket.send('["a"]')
            await until(lambda: told)
        await until(lambda: len(told) == 3)
    assert told == ["a", "ended", "cleaned up"]


async def test_a_handler_that_heeds_nothing_is_cancelled_some_time_later() -> None:
    told: list[str] = []

    async def handler(connection: SockJsConnection) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async with serving(handler, limits=Limits(close_timeout_s=0.5)) as site:
        async with over_websocket(site) as socket:
            assert await frame_of(socket) == "o"
        await until(lambda: told)
        await until(lambda: not len(site.wire.shared.tasks))
        async with over_websocket(site) as socket:
            assert await frame_of(socket) == "o"
    assert told == ["cancelled", "cancelled"], "the second by the end of the server"


def test_only_codes_that_clients_understand_close() -> None:
    connection = SockJsConnection.__new__(SockJsConnection)
    connection._speaker = None  # type: ignore[assignment]
    for code in (0, 999, 1001, 1005, 1006, 2010, 2999, 5000):
        with pytest.raises(ValueError):
            connection.close(code)


# -- how fast ------------------------------------------------------------------------------


async def test_who_awaits_sends_no_faster_than_the_client_takes() -> None:
    sent: list[int] = []

    async def handler(connection: SockJsConnection) -> None:
        for number in range(200):
            await connection.send(f"{number}:" + "x" * 20_000)
            sent.append(number)
        async for _ in connection:
            pass

    async with serving(handler) as site:
        session = new_session("/app")
        assert await poll(site, session) == "o"
        await until(lambda: sent)
        await asyncio.sleep(0.1)
        assert len(sent) < 50, "all of it is 4 MB"
        got: list[str] = []
        while len(got) < 200:
            frame = await poll(site, session)
            assert frame[0] == "a"
            got += json.loads(frame[1:])
        assert [int(text.partition(":")[0]) for text in got] == list(range(200))


async def test_who_does_not_await_is_ended_when_too_much_waits() -> None:
    ends: list[bool] = []

    async def handler(connection: SockJsConnection) -> None:
        try:
            for _ in range(200):
                connection.send("x" * 20_000)
        finally:
            ends.append(connection.is_over)

    async with serving(handler) as site:
        session = new_session("/app")
        assert await poll(site, session) == "o"
        await until(lambda: ends)
        assert ends == [True]
        assert (await poll(site, session)).startswith("c[3008,")


@pytest.mark.parametrize("carrier", ["xhr", "websocket"])
async def test_a_handler_that_is_slow_holds_its_client_back(carrier: str) -> None:
    go = asyncio.Event()
    got: list[str] = []

    async def handler(connection: SockJsConnection) -> None:
        await go.wait()
        async for message in connection:
            got.append(str(message))

    limits = Limits(max_pending_commands=10)
    texts = [str(number) for number in range(100)]
    async with serving(handler, limits=limits) as site:
        if carrier == "websocket":
            async with over_websocket(site) as socket:
                assert await frame_of(socket) == "o"
                for text in texts:
                    await socket.send(json.dumps([text]))
                go.set()
                await until(lambda: len(got) == 100)
        else:
            session = new_session("/app")
            async with streamed(site, "POST", f"{session}/xhr_streaming") as answer:
                await answer.chunk()
                await answer.chunk()
                assert (await send(site, session, *texts[:9])).status_code == 204
                held = asyncio.create_task(send(site, session, *texts[9:]))
                await asyncio.sleep(0.1)
                assert not held.done()
                go.set()
                assert (await held).status_code == 204
                await until(lambda: len(got) == 100)
    assert got == texts


async def test_bytes_are_for_the_raw_websocket() -> None:
    async def handler(connection: SockJsConnection) -> None:
        async for message in connection:
            try:
                await connection.send(b"\xff" if message == "binary" else b"text")
            except BadRequest:
                await connection.send("no")

    async with serving(handler) as site:
        async with over_websocket(site) as socket:
            await socket.send('["binary", "x"]')
            assert [await frame_of(socket) for _ in range(3)] == ["o", 'a["no"]', 'a["text"]']
        async with site.websocket("/app/websocket") as socket:
            await socket.send("binary")
            assert await socket.recv() == b"\xff"


async def test_a_thread_waits_for_room_too() -> None:
    sent: list[int] = []

    def handler(connection: SockJsConnection, message: str) -> None:
        for number in range(100):
            connection.send(f"{number}:" + "x" * 20_000)
            sent.append(number)

    async with serving(handler) as site:
        session = new_session("/app")
        assert await poll(site, session) == "o"
        await send(site, session, "go")
        await until(lambda: sent)
        await asyncio.sleep(0.1)
        assert len(sent) < 50
        got = 0
        while got < 100:
            got += len(json.loads((await poll(site, session))[1:]))
        await until(lambda: len(sent) == 100)
