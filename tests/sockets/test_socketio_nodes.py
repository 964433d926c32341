"""Sockets on several nodes: emitting, rooms and calls reach them wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from everywire.core.errors import BadRequest, LimitExceeded
from everywire.core.limits import Limits
from everywire.sockets.acks import AckTimeout, SocketGone
from everywire.sockets.orders import ORDERS, QUESTIONS
from everywire.sockets.settings import SocketSettings
from everywire.testing.clock import ManualScheduler
from everywire.testing.shared_broker import SharedStore
from tests.sockets.driving import Peer, SocketWorld


class Nodes:
    """Two nodes over one store, each with sockets."""

    def __init__(self, *, limits: Limits | None = None, settings: SocketSettings | None = None) -> None:
        self.clock = ManualScheduler()
        limits = limits or Limits()
        self.store = SharedStore(limits, scheduler=self.clock, clock_ms=self.clock.unix_ms)
        brokers = [self.store.node(name) for name in ("a", "b")]
        for broker in brokers:
            broker.log.is_local = False  # another node is asked what it knows
        self.worlds = [
            SocketWorld(clock=self.clock, broker=broker, limits=limits, settings=settings)
            for broker in brokers
        ]

    async def __aenter__(self) -> Nodes:
        for world in self.worlds:
            await self.wait(world.hub.start())
            await self.wait(world.registry.start())
        return self

    async def __aexit__(self, *exit_: object) -> None:
        for world in self.worlds:
            await self.wait(world.registry.close())
            await self.wait(world.__aexit__(*exit_))

    async def settle(self, seconds: float = 0.5) -> None:
        await self.worlds[0].settle(seconds)

    async def wait(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.settle()
        return task.result()

    async def connected(self, node: int = 0, auth: Any = None) -> Peer:
        peer = self.worlds[node].peer()
        peer.connect("/", auth)
        await self.settle(3)
        assert "/" in peer.sids, peer.packets
        return peer

    async def emit(self, node: int, event: str, *args: Any, **more: Any) -> None:
        done: list[Any] = []
        self.worlds[node].sockets.emit(event, args, done=done.append, **more)
        await self.settle(3)
        assert done == [None]


async def both(nodes: Nodes) -> tuple[Peer, Peer]:
    first, second = await nodes.connected(0), await nodes.connected(1)
    await nodes.wait(first.socket.join("red"))
    await nodes.wait(second.socket.join("red"))
    await nodes.wait(second.socket.join("blue"))
    return first, second


async def test_events_reach_every_node() -> None:
    async with Nodes() as nodes:
        first, second = await both(nodes)
        ids = [first.sids["/"], second.sids["/"]]
        await nodes.emit(0, "all", 1)
        await nodes.emit(0, "red", 1, to=["red"])
        await nodes.emit(0, "blue", 1, to=["blue"])
        await nodes.emit(0, "far", b"bytes", to=[ids[1]])
        await nodes.emit(0, "ids", 1, to=ids)
        await nodes.emit(0, "not-far", 1, skip=[ids[1]])
        await nodes.emit(0, "not-blue", 1, to=["red"], except_=["blue"])
        await nodes.emit(0, "once", 1, to=["blue", ids[1]])
        await nodes.emit(0, "volatile", 1, volatile=True)
        await nodes.emit(0, "volatile-blue", 1, volatile=True, to=["blue"])
        await nodes.emit(0, "volatile-not-far", 1, volatile=True, skip=[ids[1]])
        assert sorted(event for event, *_ in first.events()) == sorted(
            ["all", "red", "ids", "not-far", "not-blue", "volatile", "volatile-not-far"]
        )
        assert sorted(event for event, *_ in second.events()) == sorted(
            ["all", "red", "blue", "far", "ids", "once", "volatile", "volatile-blue"]
        )
        assert second.named("far") == [[b"bytes"]]


async def test_rooms_of_sockets_elsewhere() -> None:
    async with Nodes() as nodes:
        first, second = await both(nodes)
        sockets, sid = nodes.worlds[0].sockets, second.sids["/"]
        assert await nodes.wait(sockets.rooms(sid)) == ["red", "blue"]
        await nodes.wait(sockets.enter_room(sid, "green"))
        await nodes.wait(sockets.leave_room(sid, "blue"))
        assert second.socket.rooms() == ["red", "green"]
        await nodes.wait(sockets.close_room("red"))
        await nodes.settle()
        assert first.socket.rooms() == [] and second.socket.rooms() == ["green"]
        with pytest.raises(BadRequest):
            await nodes.wait(sockets.enter_room(sid, "x" * 300))
        assert await nodes.wait(sockets.rooms("nobody")) == []
        with pytest.raises(SocketGone):
            await nodes.wait(sockets.enter_room("nobody", "red"))
        await nodes.wait(sockets.disconnect(sid))
        await nodes.settle()
        assert not second.sids and first.sids


async def test_limits_are_those_of_the_other_node() -> None:
    async with Nodes(limits=Limits(max_socket_rooms=2)) as nodes:
        _, second = await both(nodes)
        with pytest.raises(BadRequest):
            await nodes.wait(nodes.worlds[0].sockets.enter_room(second.sids["/"], ""))
        with pytest.raises(LimitExceeded):
            await nodes.wait(nodes.worlds[0].sockets.enter_room(second.sids["/"], "third"))


async def test_calls_of_sockets_elsewhere() -> None:
    async with Nodes(limits=Limits(node_answer_timeout_s=5)) as nodes:
        _, second = await both(nodes)
        sockets, sid = nodes.worlds[0].sockets, second.sids["/"]

        async def answering() -> Any:
            call = asyncio.ensure_future(sockets.call(sid, "ask", [b"x", 1]))
            while not any(packet.id for packet in second.packets):
                await nodes.settle(0.05)
            assert second.packets[-1].data == ["ask", b"x", 1]
            second.acknowledge(second.packets[-1].id or 0, "yes", b"y")
            return await nodes.wait(call)

        assert await answering() == ["yes", b"y"]
        with pytest.raises(AckTimeout):
            await nodes.wait(sockets.call(sid, "ask", timeout_s=0.01))
        with pytest.raises(SocketGone):
            await nodes.wait(sockets.call("nobody", "ask"))
        with pytest.raises(BadRequest):
            await nodes.wait(sockets.call(sid, "connect"))
        with pytest.raises(BadRequest):
            await nodes.wait(sockets.call(sid, "ask", [object()]))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x80" * 5,
        b"\x91" * 100_000,
        b"cos\nsystem\n(S'true'\ntR.",
        msgspec.msgpack.encode({"do": "emit", "v": 2, "event": "x", "args": []}),
        msgspec.msgpack.encode({"do": "emit", "event": [], "args": []}),
        msgspec.msgpack.encode({"do": "emit", "event": "connect", "args": [1], "everyone": True}),
        msgspec.msgpack.encode({"do": "emit", "event": "x", "args": {"a": 1}}),
        msgspec.msgpack.encode({"do": "format", "sid": "x"}),
        msgspec.msgpack.encode({"do": "disconnect", "sid": 5}),
        msgspec.msgpack.encode({"do": "close_room", "channel": "x" * 10_000}),
    ],
    ids=lambda payload: repr(payload[:30]),
)
async def test_what_other_nodes_say_is_not_believed_blindly(payload: bytes) -> None:
    async with Nodes() as nodes:
        first, _ = await both(nodes)
        nodes.worlds[0].hub.broadcasted(ORDERS, payload, "b")
        answer = await nodes.worlds[0].hub.asked(QUESTIONS, payload, "b")
        assert msgspec.msgpack.decode(answer) == {}
        await nodes.settle()
        assert first.closed is None and first.socket.rooms() == ["red"] and not first.events()


# -- coming back -----------------------------------------------------------------------------------


def offset_of(peer: Peer) -> str:
    """Return what the client of the protocol takes for its position: the last text of its events."""
    return next((data[-1] for data in reversed(peer.events()) if isinstance(data[-1], str)), "")


@pytest.mark.parametrize("cut", [True, False])
async def test_a_client_comes_back_on_another_node_as_who_it_was(cut: bool) -> None:
    async with Nodes(settings=SocketSettings(), limits=Limits(node_answer_timeout_s=5)) as nodes:
        first = await nodes.connected(0)
        await nodes.wait(first.socket.join("red"))
        first.socket.memo = {"colour": "red"}
        await nodes.emit(0, "x", 1, to=["red"])
        auth = {"pid": first.connects["/"]["pid"], "offset": offset_of(first)}
        if cut:
            first.drop()
            await nodes.settle(2)
        await nodes.emit(1, "x", 2, to=["red"])
        back = await nodes.connected(1, auth)
        await nodes.settle(3)
        assert back.connects["/"] == first.connects["/"]
        socket = back.socket
        assert socket.is_recovered and socket.memo == {"colour": "red"} and socket.rooms() == ["red"]
        assert [args[0] for args in back.named("x")] == [2]
        assert nodes.worlds[0].sockets.find(socket.sid) is None
        assert first.gone_reason is not None
