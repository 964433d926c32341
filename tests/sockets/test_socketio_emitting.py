"""Emitting: to one, to rooms, to all; who is left out; volatile; and acknowledgements both ways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everywire.brokers.base import Page
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, LimitExceeded, TooLarge
from everywire.core.limits import Limits
from everywire.sockets.acks import AckTimeout, SocketGone
from everywire.sockets.ids import is_socket_id, make_token
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket
from tests.sockets.driving import Peer, SocketWorld, start


async def three(world: SocketWorld) -> list[Peer]:
    """Return three clients: the first in red, the second in red and blue, the third in blue."""
    peers = [await world.connected() for _ in range(3)]
    for peer, rooms in zip(peers, (["red"], ["red", "blue"], ["blue"]), strict=True):
        for room in rooms:
            await peer.socket.join(room)
    await world.settle()
    return peers


def got(peers: list[Peer], event: str) -> list[int]:
    """Return how often each of them got an event."""
    return [len(peer.named(event)) for peer in peers]


# -- whom it reaches -----------------------------------------------------------------------


async def test_to_all_to_rooms_and_to_one() -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        await world.emit("all", 1)
        await world.emit("red", 2, to=["red"])
        await world.emit("both", 3, to=["red", "blue"])
        await world.emit("nobody", 4, to=["green"])
        await world.emit("third", 5, to=[peers[2].sids["/"]])
        assert got(peers, "all") == [1, 1, 1]
        assert got(peers, "red") == [1, 1, 0]
        assert got(peers, "both") == [1, 1, 1]
        assert got(peers, "nobody") == [0, 0, 0]
        assert got(peers, "third") == [0, 0, 1]


async def test_who_is_left_out() -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        first, second, third = (peer.sids["/"] for peer in peers)
        await world.emit("but-blue", 1, except_=["blue"])
        await world.emit("red-but-blue", 1, to=["red"], except_=["blue"])
        await world.emit("all-but-first", 1, skip=[first])
        await world.emit("but-by-name", 1, except_=[second])
        await world.emit("red-but-first", 1, to=["red"], skip=[first, third])
        assert got(peers, "but-blue") == [1, 0, 0]
        assert got(peers, "red-but-blue") == [1, 0, 0]
        assert got(peers, "all-but-first") == [0, 1, 1]
        assert got(peers, "but-by-name") == [1, 0, 1]
        assert got(peers, "red-but-first") == [0, 1, 0]


async def test_a_room_and_a_socket_in_it_are_told_once() -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        sids = [peer.sids["/"] for peer in peers]
        await world.emit("x", 1, to=["red", *sids])
        await world.emit("y", 1, to=["red", sids[2]], except_=["blue"])
        await world.emit("z", 1, to=[sids[0], sids[2]], skip=[sids[2]])
        assert got(peers, "x") == [1, 1, 1]
        assert got(peers, "y") == [1, 0, 0]
        assert got(peers, "z") == [1, 0, 0]


async def test_namespaces_know_nothing_of_each_other() -> None:
    async with SocketWorld() as world:
        world.app.namespaces.add("/chat")
        peer = await world.connected()
        peer.connect("/chat")
        await world.settle()
        chat = world.sockets.find(peer.sids["/chat"])
        assert chat is not None
        await chat.join("red")
        await world.emit("a", 1)
        await world.emit("b", 1, namespace="/chat")
        await world.emit("c", 1, to=["red"])
        await world.emit("d", 1, to=["red"], namespace="/chat")
        await world.emit("e", 1, to=[chat.sid])
        assert peer.events() == [["a", 1]]
        assert peer.events("/chat") == [["b", 1], ["d", 1]]
        assert chat.rooms() == ["red"] and list(chat.channels) == ["sio:r:=2Fchat:red"]


async def test_what_other_wires_publish_is_an_event_in_the_room() -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        world.publish("red", {"a": 1})
        await world.settle()
        assert peers[0].events() == [["message", {"a": 1}]] and not peers[2].events()
        await world.emit("chat", {"b": 2}, to=["red"])
        pages: list[Page | EverywireError] = []
        world.hub.read("red", 0, 10, 10_000, pages.append)
        [page] = pages
        assert isinstance(page, Page)
        assert [(one.event, one.data) for one in page.publications] == [
            (None, b'{"a": 1}'),
            ("chat", b'{"b":2}'),
        ]


async def test_rooms_are_left_and_closed() -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        peers[0].socket.leave("red")
        peers[0].socket.leave("never there")
        await world.emit("x", 1, to=["red"])
        assert got(peers, "x") == [0, 1, 0]
        await world.sockets.close_room("blue")
        await world.emit("y", 1, to=["blue"])
        assert got(peers, "y") == [0, 0, 0]
        assert peers[1].socket.rooms() == ["red"] and peers[2].socket.rooms() == []
        members = {channel for channel, _ in world.presence.entered}
        assert members == {"red"}


async def test_rooms_by_the_id_of_a_socket() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        sid = peer.sids["/"]
        await world.sockets.enter_room(sid, "red")
        assert await world.sockets.rooms(sid) == ["red"]
        await world.sockets.leave_room(sid, "red")
        assert await world.sockets.rooms(sid) == []
        with pytest.raises(SocketGone):
            await world.sockets.enter_room(make_token(), "red")
        assert await world.sockets.rooms(make_token()) == []
        await world.sockets.disconnect(make_token())
        await world.sockets.disconnect(sid)
        assert "/" not in peer.sids


async def test_rooms_are_bounded() -> None:
    async with SocketWorld(limits=Limits(max_socket_rooms=2)) as world:
        peer = await world.connected()
        await peer.socket.join("a")
        await peer.socket.join("b")
        await peer.socket.join("b")
        with pytest.raises(LimitExceeded):
            await peer.socket.join("c")
        with pytest.raises(BadRequest):
            await peer.socket.join("x" * 300)
        peer.socket.leave("a")
        await peer.socket.join("c")
        assert peer.socket.rooms() == ["b", "c"]


async def test_a_socket_joins_from_several_places_at_once() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        await asyncio.gather(*(peer.socket.join("a") for _ in range(5)))
        await world.emit("x", 1, to=["a"])
        assert peer.named("x") == [[1]]


async def test_ids_are_told_from_rooms_wherever_the_socket_is() -> None:
    assert is_socket_id(make_token()) and is_socket_id("node." + make_token())
    assert is_socket_id("/chat#node." + make_token())
    for room in ("red", "a" * 28, "507f1f77bcf86cd799439011", "x." + "b" * 28, make_token()[:-1] + "!"):
        assert not is_socket_id(room)
    async with SocketWorld() as world:
        await world.connected()
        await world.emit("x", 1, to=[make_token()])
        assert world.hub.counters.publications == 0


@pytest.mark.parametrize("has_recovery", [False, True])
async def test_volatile_events_reach_who_reads_now(has_recovery: bool) -> None:
    settings = SocketSettings() if has_recovery else None
    async with SocketWorld(settings=settings) as world:
        peers = await three(world)
        peers[1].stall()
        await world.emit("all", 1, volatile=True)
        await world.emit("red", 1, volatile=True, to=["red"])
        await world.emit("blue-not-red", 1, volatile=True, to=["blue"], except_=["red"])
        await world.emit("one", 1, volatile=True, to=[peers[0].sids["/"]])
        await world.emit("not-one", 1, volatile=True, skip=[peers[0].sids["/"]])
        assert not peers[1].socket.emit("own", volatile=True)
        peers[1].take()
        await world.settle()
        assert got(peers, "all") == [1, 0, 1]
        assert got(peers, "red") == [1, 0, 0]
        assert got(peers, "blue-not-red") == [0, 0, 1]
        assert got(peers, "one") == [1, 0, 0]
        assert got(peers, "not-one") == [0, 0, 1]
        assert peers[1].events() == []
        assert world.sockets.statistics()["volatile_dropped"] == 3
        if has_recovery:
            [args] = peers[0].named("all")
            assert args[0] == 1 and isinstance(args[1], str), "the client takes the last text for its place"


# -- what cannot be sent -----------------------------------------------------------------------


@pytest.mark.parametrize("to", [[], ["red"], ["socket"]])
@pytest.mark.parametrize("volatile", [False, True])
async def test_what_cannot_be_sent_is_refused_before_anything_is(to: list[str], volatile: bool) -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        to = [peers[0].sids["/"]] if to == ["socket"] else to
        for event, args in (("connect", [1]), ("x", [object()]), ("disconnect", []), ("x", [{1j: 2}])):
            with pytest.raises(BadRequest):
                world.sockets.emit(event, args, to=to, volatile=volatile)
            with pytest.raises(BadRequest):
                peers[0].socket.emit(event, args)
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(BadRequest):
            world.sockets.emit("x", [endless], to=to, volatile=volatile)
        with pytest.raises(BadRequest):
            world.sockets.emit("x", [1], to=["r" * 300], volatile=volatile)
        await world.settle()
        assert not any(peer.events() for peer in peers)


async def test_what_is_too_large_for_the_log_is_refused() -> None:
    async with SocketWorld(limits=Limits(max_body_bytes=1000)) as world:
        with pytest.raises(TooLarge):
            world.sockets.emit("x", ["y" * 1000])


async def test_a_client_that_reads_nothing_is_bounded() -> None:
    async with SocketWorld(limits=Limits(max_session_queue_bytes=1000)) as world:
        peer = await world.connected()
        socket = peer.socket
        peer.stall()
        for _ in range(100):
            socket.emit("x", ["y" * 100])
        assert peer.closed is not None and socket.is_ended
        assert not socket.emit("x")


async def test_what_is_published_waits_in_the_log() -> None:
    async with SocketWorld() as world:
        peers = await three(world)
        peers[0].stall()
        for number in range(50):
            await world.emit("x", number, to=["red"])
        assert peers[0].queue == [] and peers[1].named("x") == [[number] for number in range(50)]
        peers[0].take()
        await world.settle()
        assert peers[0].named("x") == [[number] for number in range(50)]


async def test_a_carrier_may_change_under_way() -> None:
    async with SocketWorld() as world:
        peer = await world.connected(transport="polling")
        await peer.socket.join("red")
        assert peer.socket.carrier == "polling"
        await world.emit("x", 1, to=["red"])
        peer.stall()
        await world.emit("x", 2, to=["red"])
        peer.move()
        await world.emit("x", 3, to=["red"])
        peer.take()
        await world.settle()
        assert peer.named("x") == [[1], [2], [3]] and peer.socket.carrier == "websocket"


# -- acknowledgements ---------------------------------------------------------------------------


async def test_a_client_acknowledges() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        calls = [await start(peer.socket.call("ask", [number, b"x"]), world) for number in range(3)]
        asked = [packet for packet in peer.packets if packet.id is not None]
        assert [packet.data for packet in asked] == [["ask", number, b"x"] for number in range(3)]
        for packet in reversed(asked):
            assert packet.id is not None
            peer.acknowledge(packet.id, "yes", packet.data[1], b"bytes")
        assert [await call for call in calls] == [["yes", number, b"bytes"] for number in range(3)]


async def test_an_acknowledgement_that_nobody_waits_for_is_passed_over() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        call = await start(peer.socket.call("ask"), world)
        for ack_id in (77, 0, 2**53 - 1):
            peer.acknowledge(ack_id, "lie")
        peer.acknowledge(1, "truth")
        peer.acknowledge(1, "again")
        assert await call == ["truth"]
        assert not peer.is_closed() and world.sockets.statistics()["acks_lost"] == 4


async def test_an_acknowledgement_that_does_not_come_is_a_timeout() -> None:
    async with SocketWorld(limits=Limits(socket_ack_timeout_s=0.02)) as world:
        peer = await world.connected()
        with pytest.raises(TimeoutError) as found:
            await peer.socket.call("ask")
        assert isinstance(found.value, AckTimeout)
        with pytest.raises(AckTimeout):
            await world.sockets.call(peer.sids["/"], "ask", timeout_s=0.01)
        peer.acknowledge(1, "late")
        assert world.sockets.statistics()["acks_lost"] == 1
        assert len(peer.socket.acks) == 0


async def test_who_goes_acknowledges_nothing_any_more() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        socket = peer.socket
        call = await start(socket.call("ask"), world)
        peer.drop()
        with pytest.raises(SocketGone):
            await call
        with pytest.raises(SocketGone):
            await socket.call("ask")
        with pytest.raises(SocketGone):
            await socket.join("room")
        with pytest.raises(SocketGone):
            await world.sockets.call(socket.sid, "ask")


async def test_acknowledgements_that_are_waited_for_are_bounded() -> None:
    async with SocketWorld(limits=Limits(max_socket_acks=2)) as world:
        peer = await world.connected()
        calls = [await start(peer.socket.call("ask"), world) for _ in range(2)]
        with pytest.raises(LimitExceeded):
            await peer.socket.call("ask")
        peer.acknowledge(1)
        assert await calls[0] == []
        more = await start(peer.socket.call("ask"), world)
        for call in (calls[1], more):
            call.cancel()
        await world.settle()
        assert len(peer.socket.acks) == 0


async def test_a_call_that_cannot_be_sent_waits_for_nothing() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        with pytest.raises(BadRequest):
            await peer.socket.call("ask", [object()])
        assert len(peer.socket.acks) == 0


async def test_what_a_function_raises_is_acknowledged() -> None:
    async with SocketWorld() as world:

        async def broken(socket: Socket, how: str) -> Any:
            if how == "refused":
                raise EverywireError("not today", code=codes.PERMISSION_DENIED)
            if how == "unsendable":
                return object()
            raise RuntimeError("a secret of the application")

        world.app.on("broken", broken)
        peer = await world.connected()
        for how, code, sentence in (
            ("refused", codes.PERMISSION_DENIED, "not today"),
            ("broken", codes.INTERNAL, codes.INTERNAL.sentence),
            ("unsendable", codes.INTERNAL, codes.INTERNAL.sentence),
        ):
            told = {"code": code.number, "name": code.name, "message": sentence}
            assert await peer.ask("broken", how) == [{"error": told}]
            peer.emit("broken", how)
        await world.settle()
        assert not peer.is_closed()


async def test_a_function_that_is_too_slow_is_acknowledged_as_an_error() -> None:
    async with SocketWorld(limits=Limits(call_timeout_s=0.02)) as world:

        async def slow(socket: Socket) -> None:
            await asyncio.sleep(100)

        world.app.on("slow", slow)
        peer = await world.connected()
        peer.emit("slow", ack_id=1)
        await asyncio.sleep(0.1)
        await world.settle()
        assert peer.acks()[1][0]["error"]["code"] == codes.INTERNAL.number


async def test_a_code_of_the_application_may_end_the_connection() -> None:
    async with SocketWorld() as world:

        async def end(socket: Socket) -> None:
            raise EverywireError("enough", code=codes.Code(4500, "enough", 0, "enough"))

        world.app.on("end", end)
        peer = await world.connected()
        peer.emit("end")
        await world.settle()
        assert peer.events()[-1][0] == "everywire:ended"
        assert peer.events()[-1][1] == {"code": 4500, "name": "enough", "reason": "enough"}
        assert "/" not in peer.sids
