"""In which order things are done: handlers in lanes, all else at once, and how much at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everywire.access.hooks import Caller, Hooks, Lane
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.sockets.socket import Socket
from tests.sockets.driving import SocketWorld


async def test_events_of_a_client_are_handled_one_after_the_other() -> None:
    async with SocketWorld() as world:
        running, most, order = 0, 0, []

        async def work(socket: Socket, number: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            order.append(number)
            running -= 1

        world.app.on("work", work)
        peer = await world.connected()
        for number in range(20):
            peer.emit("work", number)
        for _ in range(5):
            await world.settle()
        assert order == list(range(20)) and most == 1


async def test_an_application_may_have_several_lanes() -> None:
    async with SocketWorld() as world:
        goes_on = asyncio.Event()
        done: list[str] = []

        async def work(socket: Socket, name: str) -> None:
            if name == "slow":
                await goes_on.wait()
            done.append(name)

        world.app.on("work", work)
        world.app.lane_of = lambda socket, event, args: Lane(key=args[0])
        peer = await world.connected()
        for name in ("slow", "a", "slow", "b"):
            peer.emit("work", name)
        await world.settle()
        assert done == ["a", "b"]
        goes_on.set()
        await world.settle()
        assert done == ["a", "b", "slow", "slow"]


async def test_nothing_waits_behind_a_handler_but_events() -> None:
    async with SocketWorld() as world:
        goes_on = asyncio.Event()
        answers: list[Any] = []

        async def work(socket: Socket) -> None:
            answers.append(await socket.call("question"))
            await goes_on.wait()

        world.app.on("work", work)
        world.app.on("quick", lambda socket: asyncio.sleep(0), "/chat")
        peer = await world.connected()
        peer.emit("work")
        await world.settle()
        peer.acknowledge(1, "the answer")
        peer.connect("/chat")
        await world.settle()
        assert answers == [["the answer"]]
        assert await peer.ask("quick", namespace="/chat") == []
        peer.text("1")
        await world.settle()
        assert world.app.told[-1][0::2] == ("disconnect", "client disconnect"), "while the handler sleeps"
        goes_on.set()
        await world.settle()


async def test_what_a_client_said_before_it_went_is_done() -> None:
    async with SocketWorld() as world:
        goes_on = asyncio.Event()
        done: list[int] = []

        async def work(socket: Socket, number: int) -> None:
            await goes_on.wait()
            done.append(number)

        world.app.on("work", work)
        peer = await world.connected()
        for number in range(3):
            peer.emit("work", number, ack_id=number)
        peer.drop()
        await world.settle()
        assert world.quotas.inside == 1, "its place is taken as long as its handlers work"
        goes_on.set()
        await world.settle()
        assert done == [0, 1, 2]
        assert world.inside_nothing()


async def test_work_that_may_be_cancelled_is() -> None:
    async with SocketWorld() as world:
        done: list[str] = []

        async def work(socket: Socket) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                done.append("cancelled")

        world.app.on("work", work)
        world.app.lane_of = lambda socket, event, args: Lane(is_cancelled=True)
        peer = await world.connected()
        peer.emit("work", ack_id=1)
        await world.settle()
        peer.drop()
        await world.settle()
        assert done == ["cancelled"]
        assert world.inside_nothing()


async def test_input_is_paused_when_too_much_is_under_way() -> None:
    async with SocketWorld(limits=Limits(max_pending_commands=4)) as world:
        goes_on = asyncio.Event()
        done: list[int] = []

        async def work(socket: Socket, number: int) -> None:
            await goes_on.wait()
            done.append(number)

        world.app.on("work", work)
        peer = await world.connected()
        for number in range(20):
            peer.emit("work", number)
        assert peer.is_held() and len(peer.waiting) == 16
        goes_on.set()
        for _ in range(5):
            await world.settle()
        assert done == list(range(20)) and not peer.is_held()


async def test_input_is_paused_by_bytes_too() -> None:
    async with SocketWorld(limits=Limits(max_pending_bytes=1000)) as world:
        goes_on = asyncio.Event()

        async def work(socket: Socket, data: bytes) -> None:
            await goes_on.wait()

        world.app.on("work", work)
        peer = await world.connected()
        peer.emit("work", b"x" * 900)
        assert not peer.is_held()
        peer.emit("work", b"x" * 900)
        assert peer.is_held()
        goes_on.set()
        await world.settle()
        assert not peer.is_held()


@pytest.mark.parametrize("value", [[], {}, {"a": [1, {}]}, -100], ids=str)
async def test_many_tiny_values_count_as_what_they_take(value: Any) -> None:
    async with SocketWorld(limits=Limits(max_pending_bytes=100_000)) as world:
        goes_on = asyncio.Event()

        async def work(socket: Socket, data: Any) -> None:
            await goes_on.wait()

        world.app.on("work", work)
        for count, is_held in ((2, False), (4000, True)):
            peer = await world.connected()
            peer.emit("work", [value] * count)
            assert peer.is_held() is is_held
            text = await world.connected()
            text.emit("work", "x" * len(str([value] * count)))
            assert not text.is_held(), "as text it is small"
        goes_on.set()
        await world.settle()
        assert world.shared.tasks.held_bytes == 0


async def test_an_acknowledgement_does_not_wait_behind_the_events_that_wait_for_it() -> None:
    async with SocketWorld(limits=Limits(max_pending_commands=4)) as world:
        begins = asyncio.Event()
        answers: list[Any] = []

        async def work(socket: Socket, number: int) -> None:
            await begins.wait()
            answers.append(await socket.call("question", [number], timeout_s=10))

        world.app.on("work", work)
        peer = await world.connected()
        for number in range(4):
            peer.emit("work", number)
        assert peer.is_held()
        begins.set()
        for number in range(4):
            await world.settle()
            assert not peer.is_held()
            peer.acknowledge(number + 1, number)
        await world.settle()
        assert answers == [[number] for number in range(4)]


async def test_even_then_there_is_an_end() -> None:
    async with SocketWorld(limits=Limits(max_pending_commands=4)) as world:

        async def work(socket: Socket) -> None:
            await socket.call("question", timeout_s=100)

        world.app.on("work", work)
        peer = await world.connected()
        peer.emit("work")
        await world.settle()
        for _ in range(100):
            peer.emit("work")
        assert peer.is_held() and len(peer.waiting) == 100 - 15
        peer.drop()
        await world.settle()


async def test_all_handlers_together_are_bounded() -> None:
    async with SocketWorld(limits=Limits(max_calling_bytes=5000)) as world:
        goes_on = asyncio.Event()

        async def work(socket: Socket, data: bytes) -> None:
            await goes_on.wait()

        world.app.on("work", work)
        peers = [await world.connected() for _ in range(3)]
        for _ in range(2):
            peers[0].emit("work", b"x" * 1000)
        told = await peers[1].ask("work", b"x" * 1000)
        assert told[0]["error"]["code"] == codes.BUSY.number
        peers[2].emit("work", b"x" * 1000)
        assert peers[2].closed is not None and peers[2].closed[0] is codes.SLOW_DOWN
        goes_on.set()
        await world.settle()
        assert world.shared.tasks.held_bytes == 0
        assert await peers[1].ask("work", b"x" * 1000) == []


async def test_a_flood_of_events_that_nobody_handles_keeps_nothing() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        for number in range(10_000):
            peer.emit("nothing", number, ack_id=number)
        assert not peer.is_held() and not peer.is_closed()
        assert world.sockets.statistics()["unhandled"] == 10_000
        assert len(world.shared.tasks) == 0 and len(peer.packets) == 1


async def test_a_handler_disconnects_its_own_client() -> None:
    async with SocketWorld() as world:

        async def leave(socket: Socket) -> str:
            socket.emit("bye")
            socket.disconnect()
            socket.emit("never")
            return "never"

        world.app.on("leave", leave)
        peer = await world.connected()
        peer.emit("leave", ack_id=1)
        await world.settle()
        assert peer.events() == [["bye"]] and not peer.acks()
        assert "/" not in peer.sids
        assert world.app.told[-1][0::2] == ("disconnect", "server disconnect")


async def test_errors_of_the_disconnect_function_end_there() -> None:
    async with SocketWorld() as world:

        async def broken(socket: Socket, reason: str) -> None:
            world.app.told.append(("disconnect", socket.sid, reason))
            raise RuntimeError("broken")

        world.app.disconnect = broken  # type: ignore[method-assign]
        peer = await world.connected()
        peer.drop()
        await world.settle()
        assert world.app.told[-1][0] == "disconnect"
        assert world.inside_nothing()


async def test_a_cancelled_handler_is_answered() -> None:
    async with SocketWorld() as world:

        async def work(socket: Socket) -> None:
            raise asyncio.CancelledError

        world.app.on("work", work)
        peer = await world.connected()
        assert (await peer.ask("work"))[0]["error"]["code"] == codes.INTERNAL.number
        assert isinstance(peer.socket, Socket)


async def test_calls_without_a_function_go_to_rpc() -> None:
    async def rpc(caller: Caller, method: str, data: bytes) -> bytes:
        if method == "broken":
            raise EverywireError("no", code=codes.METHOD_NOT_FOUND)
        return b'{"method":"%b","data":%b}' % (method.encode(), data) if method == "sum" else b""

    async with SocketWorld(hooks=Hooks(rpc=rpc)) as world:
        peer = await world.connected()
        assert await peer.ask("sum", [1, 2]) == [{"method": "sum", "data": [1, 2]}]
        assert await peer.ask("nothing", 1) == [None]
        assert (await peer.ask("broken", 1))[0]["error"]["code"] == codes.METHOD_NOT_FOUND.number
        assert (await peer.ask("sum", b"bytes"))[0]["error"]["code"] == codes.BAD_REQUEST.number
        peer.emit("sum", 1)
        peer.emit("sum", 1, 2, ack_id=5)
        await world.settle()
        assert 5 not in peer.acks() and world.sockets.statistics()["unhandled"] == 2
