"""Clients that were cut off come back as who they were, with what they missed; or hear that they cannot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import AuthRequest, Identity
from everywire.core import codes
from everywire.core.limits import Limits
from everywire.sockets.link import PARSE_ERROR, PING_TIMEOUT, SHUTDOWN, TRANSPORT_CLOSE
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket
from tests.sockets.driving import Peer, SocketWorld


def world_with(**more: Any) -> SocketWorld:
    return SocketWorld(settings=SocketSettings(recovery_window_s=60), **more)


def brought(peer: Peer, namespace: str = "/") -> dict[str, str]:
    """Return what the client of the protocol brings back: its secret, and the last text of its events."""
    texts = [data[-1] for data in peer.events(namespace) if isinstance(data[-1], str)]
    auth = {"pid": peer.connects[namespace]["pid"]}
    return auth | ({"offset": texts[-1]} if texts else {})


async def back(world: SocketWorld, peer: Peer, **auth: Any) -> Peer:
    """Come back over another connection."""
    return await world.connected(auth=brought(peer) | auth)


def numbers(peer: Peer, event: str = "x") -> list[Any]:
    return [args[0] for args in peer.named(event)]


@pytest.mark.parametrize("reason", [TRANSPORT_CLOSE, PING_TIMEOUT, SHUTDOWN])
async def test_who_was_cut_off_gets_what_it_missed(reason: str) -> None:
    async with world_with() as world:
        peer = await world.connected()
        await peer.socket.join("red")
        peer.socket.memo = {"seen": [1]}
        sid = peer.sids["/"]
        await world.emit("x", 1)
        peer.drop(reason)
        for number in range(2, 6):
            await world.emit("x", number)
            await world.emit("red", number, to=["red"])
            await world.emit("blue", number, to=["blue"])
        seen: list[tuple[bool, Any]] = []

        async def connect(socket: Socket, auth: Any) -> None:
            seen.append((socket.is_recovered, socket.memo))
            socket.emit("welcome", ["back"])

        world.app.on_connect = connect
        again = await back(world, peer, colour="red")
        assert again.connects["/"] == peer.connects["/"]
        assert seen == [(True, {"seen": [1]})]
        assert again.events()[0][:2] == ["welcome", "back"], "the function has its say before what was missed"
        assert numbers(again) == [2, 3, 4, 5] == numbers(again, "red")
        assert not again.named("blue")
        assert again.socket.sid == sid and again.socket.rooms() == ["red"]
        await world.emit("x", 6, to=[sid])
        assert numbers(again) == [2, 3, 4, 5, 6]
        assert world.app.told[-1][2] == {"colour": "red"}
        assert world.sockets.statistics()["recovered"] == 1


async def test_it_works_again_and_again() -> None:
    async with world_with() as world:
        peer = await world.connected()
        told: list[int] = []
        for number in range(20):
            await world.emit("x", 2 * number)
            told += numbers(peer)
            peer.drop()
            await world.emit("x", 2 * number + 1)
            peer = await back(world, peer)
        told += numbers(peer)
        assert told == list(range(40))


async def test_every_event_says_where_the_client_stands() -> None:
    async with world_with() as world:
        peer = await world.connected()
        await world.emit("text", "a text of the application")
        peer.socket.emit("direct", ["a text of the application"])
        await world.emit("volatile", "a text of the application", volatile=True)
        await world.emit("by-id", "a text of the application", to=[peer.sids["/"]])
        assert [len(data) for data in peer.events()] == [3, 3, 3, 3]
        assert len({data[-1] for data in peer.events()}) == 1
        call = asyncio.ensure_future(peer.socket.call("ask", ["x"]))
        await world.settle()
        assert peer.events()[-1] == ["ask", "x"], "its acknowledgement comes behind the arguments"
        peer.acknowledge(1)
        await call


async def test_who_never_got_an_event_misses_nothing_either() -> None:
    async with world_with() as world:
        peer = await world.connected()
        peer.drop()
        await world.emit("x", 1)
        again = await world.connected(auth={"pid": peer.connects["/"]["pid"]})
        assert again.socket.is_recovered and numbers(again) == [1]


async def test_a_client_that_is_still_here_is_taken_over() -> None:
    async with world_with() as world:
        world.app.namespaces.add("/chat")
        peer = await world.connected()
        peer.connect("/chat")
        await world.settle()
        await peer.socket.join("red")
        peer.stall()
        await world.emit("x", 1, to=["red"])
        again = await back(world, peer)
        assert peer.gone_reason == TRANSPORT_CLOSE
        assert again.socket.is_recovered and numbers(again) == [1]
        assert [what for what, sid, _ in world.app.told if sid == again.sids["/"]] == [
            "connect",
            "disconnect",
            "connect",
        ]
        again.connect("/chat", brought(peer, "/chat"))
        await world.settle()
        assert again.sids["/chat"] == peer.sids["/chat"]


@pytest.mark.parametrize("how", ["client", "server", "parse error", "late", "twice", "user", "namespace"])
async def test_who_cannot_come_back_is_somebody_new(how: str) -> None:
    async with world_with(has_tokens=True) as world:
        world.app.namespaces.add("/chat")
        peer = await world.connected(auth={"token": world.token()})
        await world.emit("x", 1)
        auth: dict[str, Any] = brought(peer) | {"token": world.token()}
        if how == "client":
            peer.text("1")
        elif how == "server":
            peer.socket.disconnect()
        elif how == "parse error":
            peer.drop(PARSE_ERROR)
        else:
            peer.drop()
        if how == "late":
            await world.settle(120)
        elif how == "twice":
            other = await world.connected(auth=auth)
            other.text("1")
        elif how == "user":
            auth["token"] = world.token("bob")
        again = await world.connected("/chat" if how == "namespace" else "/", auth=auth)
        await world.settle()
        told = next(iter(again.connects.values()))
        assert told["sid"] != peer.connects["/"]["sid"] and told["pid"] != peer.connects["/"]["pid"]
        assert not world.app.sockets[-1].is_recovered and not again.events()


async def test_what_is_gone_makes_it_somebody_new() -> None:
    async with world_with() as world:
        peer = await world.connected()
        await world.emit("x", 1)
        peer.drop()
        for number in range(5000):
            world.publish("sio:n:", number)
        await world.settle()
        again = await back(world, peer)
        assert not again.socket.is_recovered and not again.named("everywire:gap")


async def test_rooms_that_are_closed_by_now_make_it_somebody_new() -> None:
    allowed = {"red"}

    async def authorize(identity: Identity, action: Any, channel: str) -> bool:
        return channel in allowed

    async with world_with(hooks=Hooks(authorize=authorize)) as world:
        peer = await world.connected()
        await peer.ask("subscribe", "red")
        peer.drop()
        again = await back(world, peer)
        assert again.socket.is_recovered and again.socket.rooms() == ["red"]
        again.drop()
        allowed.clear()
        await world.settle(world.limits.judgement_ttl_s + 1)
        once_more = await back(world, again)
        assert not once_more.socket.is_recovered and once_more.socket.rooms() == []


async def test_a_room_for_a_time_is_to_be_asked_for_again() -> None:
    async with world_with() as world:
        peer = await world.connected()
        peer.socket.subscribe("red", SubscribeDecision(expires_s=world.unix_s() + 1000), None)
        await peer.socket.join("blue")
        await world.settle()
        peer.drop()
        again = await back(world, peer)
        assert again.socket.is_recovered and again.socket.rooms() == ["blue"]
        assert again.named("everywire:unsubscribed")[0][0]["channel"] == "red"


async def test_who_is_refused_when_it_comes_back_may_try_again() -> None:
    async with world_with() as world:
        peer = await world.connected()
        await world.emit("x", 1)
        peer.drop()
        await world.emit("x", 2)

        async def connect(socket: Socket, auth: Any) -> None:
            if "key" not in (auth or {}):
                raise RuntimeError("not now")

        world.app.on_connect = connect
        other = world.peer()
        other.connect("/", brought(peer))
        await world.settle()
        assert other.errors()
        again = await back(world, peer, key=1)
        assert again.socket.is_recovered and numbers(again) == [2]


async def test_who_is_cut_off_while_it_comes_back_may_try_again() -> None:
    async with world_with() as world:
        peer = await world.connected()
        await world.emit("x", 1)
        peer.drop()
        goes_on = asyncio.Event()

        async def connect(socket: Socket, auth: Any) -> None:
            await goes_on.wait()

        world.app.on_connect = connect
        other = world.peer()
        other.connect("/", brought(peer))
        await world.settle()
        other.drop()
        goes_on.set()
        await world.settle()
        await world.emit("x", 2)
        again = await back(world, peer)
        assert again.socket.is_recovered and numbers(again) == [2]


async def test_the_connect_hook_sees_who_comes_back() -> None:
    seen: list[tuple[str, str]] = []
    user = "ann"

    async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision:
        seen.append(("connect", caller.client))
        return ConnectDecision(identity=Identity(user=user))

    async def disconnect(caller: Caller, code: Any) -> None:
        seen.append(("disconnect", caller.client))

    async with world_with(hooks=Hooks(connect=connect, disconnect=disconnect)) as world:
        peer = await world.connected()
        await peer.socket.join("red")
        sid = peer.sids["/"]
        peer.drop()
        again = await back(world, peer)
        assert again.socket.is_recovered and again.socket.user == "ann"
        await world.settle()
        assert seen == [("connect", sid), ("disconnect", sid), ("connect", sid)]
        again.drop()
        user = "bob"
        other = await back(world, again)
        assert not other.socket.is_recovered and other.socket.user == "bob"
        assert other.socket.rooms() == [] and other.sids["/"] != sid


async def test_what_the_application_keeps_may_be_anything() -> None:
    async with world_with() as world:
        peer = await world.connected()
        peer.socket.memo = object()
        peer.drop()
        again = await back(world, peer)
        assert again.socket.is_recovered and again.socket.memo is None


@pytest.mark.parametrize(
    "auth",
    [
        {"pid": ""},
        {"pid": 5},
        {"pid": None, "offset": None},
        {"pid": "x" * 100_000},
        {"pid": "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")},
        {"offset": "x"},
    ],
    ids=lambda auth: str(auth)[:30],
)
async def test_nonsense_makes_it_somebody_new(auth: dict[str, Any]) -> None:
    async with world_with() as world:
        peer = await world.connected(auth=auth)
        assert not peer.socket.is_recovered


@pytest.mark.parametrize("offset", ["", "x", "!" * 2000, 5, None, ["a"]])
async def test_a_position_that_nobody_can_read_is_none(offset: Any) -> None:
    async with world_with() as world:
        peer = await world.connected()
        await world.emit("x", 1)
        peer.drop()
        again = await world.connected(auth={"pid": peer.connects["/"]["pid"], "offset": offset})
        assert again.socket.is_recovered == (numbers(again) == [1])


async def test_those_who_are_gone_are_forgotten() -> None:
    async with world_with(limits=Limits()) as world:
        for _ in range(50):
            peer = await world.connected()
            peer.drop()
        assert world.sockets.statistics()["parked"] == 50
        await world.settle(200)
        assert world.sockets.statistics()["parked"] == 0
        assert world.inside_nothing()


async def test_a_revoked_client_does_not_come_back_by_its_secret() -> None:
    async with world_with(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token()})
        await world.registry.disconnect("ann", code=codes.REFUSED)
        again = world.peer()
        again.connect("/", {"pid": peer.connects["/"]["pid"], "token": "x.y.z"})
        await world.settle()
        assert again.errors() and not again.sids
