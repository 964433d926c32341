"""Connecting to a namespace: who it is, who is asked, what is refused, and what happens meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import AuthRequest, Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import Forbidden, LimitExceeded
from everywire.core.limits import Limits
from everywire.sockets.handling import ConnectionRefused
from everywire.sockets.link import CLIENT_CLOSED
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket
from tests.sockets.driving import SocketWorld

# -- who it is -------------------------------------------------------------------------


async def test_a_token_says_who_it_is() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token("ann"), "room": 7})
        assert peer.socket.user == "ann"
        assert world.app.told[0][2]["room"] == 7
        assert world.registry.of_user("ann") == (peer.socket,)
        assert world.registry.by_client(peer.sids["/"]) is peer.socket


@pytest.mark.parametrize("lasts_s", [-10.0, None])
async def test_a_bad_token_is_refused_and_says_why(lasts_s: float | None) -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = world.peer()
        peer.connect("/", {"token": "a.b.c" if lasts_s is None else world.token(lasts_s=lasts_s)})
        await world.settle()
        [(namespace, told)] = peer.errors()
        code = codes.UNAUTHORIZED if lasts_s is None else codes.TOKEN_EXPIRED
        assert namespace == "/" and told["data"] == {"code": code.number, "name": code.name}
        assert not peer.is_closed() and world.sockets.statistics()["sockets"] == 0
        peer.connect("/", {"token": world.token()})
        await world.settle()
        assert peer.socket.user == "ann"


async def test_each_namespace_has_a_credential_of_its_own() -> None:
    async with SocketWorld(has_tokens=True) as world:
        world.app.namespaces.add("/chat")
        peer = await world.connected(auth={"token": world.token("ann")})
        peer.connect("/chat", {"token": world.token("bob")})
        await world.settle()
        assert [socket.user for socket in world.app.sockets] == ["ann", "bob"]


async def test_a_token_of_the_application_is_left_to_it() -> None:
    async with SocketWorld() as world:
        await world.connected(auth={"token": "my own"})
        assert world.app.told[0][2] == {"token": "my own"}


async def test_authenticate_is_shown_what_the_client_brings() -> None:
    seen: list[AuthRequest] = []

    async def authenticate(request: AuthRequest) -> Identity:
        seen.append(request)
        return Identity(user="zoe")

    async with SocketWorld(hooks=Hooks(authenticate=authenticate)) as world:
        peer = await world.connected(auth={"token": "t", "colour": "red"})
        assert (seen[0].transport, seen[0].token) == ("socketio", "t")
        assert json.loads(seen[0].data or b"") == {"token": "t", "colour": "red"}
        assert peer.socket.user == "zoe"


async def test_a_token_in_a_packet_is_not_one_in_the_url() -> None:
    async with SocketWorld(has_tokens=True) as world:
        request = AuthRequest(peer="192.0.2.1", token="a.b.c", is_token_in_query=True)
        peer = await world.connected(auth={"token": world.token("ann")}, request=request)
        assert peer.socket.user == "ann"


# -- who is asked ---------------------------------------------------------------------------


async def test_the_connect_hook_may_know_better() -> None:
    said: list[tuple[str, str]] = []

    async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision:
        said.append(("connect", caller.client))
        channels = {"news": SubscribeDecision(info=b'"guest"')}
        return ConnectDecision(data=b'{"hello":1}', channels=channels, identity=Identity(user="eve"))

    async def disconnect(caller: Caller, code: Code | None) -> None:
        said.append(("disconnect", caller.client))

    async with SocketWorld(hooks=Hooks(connect=connect, disconnect=disconnect)) as world:
        peer = await world.connected()
        sid = peer.sids["/"]
        assert peer.connects["/"] == {"sid": sid, "data": {"hello": 1}}
        assert peer.socket.user == "eve" and peer.socket.rooms() == ["news"]
        assert world.presence.entered["news", sid].user == "eve"
        world.publish("news", 1)
        await world.settle()
        assert peer.events() == [["message", 1]]
        peer.drop()
        await world.settle()
        assert said == [("connect", sid), ("disconnect", sid)]


async def test_what_the_application_refuses_is_told_in_its_own_words() -> None:
    async with SocketWorld() as world:

        async def connect(socket: Socket, auth: Any) -> None:
            if auth["how"] == "data":
                raise ConnectionRefused("go away", {"content": 1})
            if auth["how"] == "plain":
                raise ConnectionRefused("just go")
            if auth["how"] == "forbidden":
                raise Forbidden("not here")
            if auth["how"] == "unsendable":
                raise ConnectionRefused("go", object())
            raise RuntimeError("a secret of the application")

        world.app.on_connect = connect
        peer = world.peer()
        for how in ("data", "plain", "forbidden", "unsendable", "broken"):
            peer.connect("/", {"how": how})
            await world.settle()
        forbidden = {"code": codes.PERMISSION_DENIED.number, "name": codes.PERMISSION_DENIED.name}
        internal = {"code": codes.INTERNAL.number, "name": codes.INTERNAL.name}
        assert [told for _, told in peer.errors()] == [
            {"message": "go away", "data": {"content": 1}},
            {"message": "just go"},
            {"message": "not here", "data": forbidden},
            {"message": "go", "data": forbidden},
            {"message": codes.INTERNAL.sentence, "data": internal},
        ]
        assert not [told for told in world.app.told if told[0] == "disconnect"], "nobody had come"
        assert world.inside_nothing()


async def test_a_user_has_so_many_connections() -> None:
    async with SocketWorld() as world:
        world.quotas.error = LimitExceeded("this user has too many connections")
        peer = world.peer()
        peer.connect()
        await world.settle()
        assert peer.errors()[0][1]["data"]["code"] == codes.LIMIT_EXCEEDED.number
        assert not world.app.told


async def test_namespaces_of_a_user_share_a_place() -> None:
    async with SocketWorld() as world:
        world.app.namespaces |= {"/a", "/b"}
        peer = await world.connected()
        peer.connect("/a")
        peer.connect("/b")
        await world.settle()
        assert world.quotas.inside == 1
        for namespace in ("/", "/a"):
            peer.text(f"1{namespace},")
        assert world.quotas.inside == 1
        peer.drop()
        assert world.quotas.inside == 0


# -- what happens meanwhile ---------------------------------------------------------------------


async def test_what_is_emitted_while_it_connects_comes_behind() -> None:
    async with SocketWorld() as world:
        goes_on = asyncio.Event()

        async def connect(socket: Socket, auth: Any) -> None:
            socket.emit("first", [1])
            await socket.join("room")
            world.sockets.emit("to-room", [2], to=["room"])
            world.sockets.emit("to-all", [3])
            world.sockets.emit("to-it", [4], to=[socket.sid])
            assert not socket.emit("volatile", [5], volatile=True)
            world.sockets.emit("all-volatile", [6], volatile=True)
            await goes_on.wait()

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await world.settle()
        assert not peer.raw
        world.publish("room", "seven")
        goes_on.set()
        await world.settle()
        assert "/" in peer.sids
        assert peer.events()[:2] == [["first", 1], ["to-it", 4]]
        assert sorted(peer.events()[2:], key=str) == [["message", "seven"], ["to-all", 3], ["to-room", 2]]
        assert world.sockets.statistics()["volatile_dropped"] == 1


async def test_what_is_held_back_is_bounded() -> None:
    limits = Limits(max_session_queue_bytes=1000)
    async with SocketWorld(limits=limits) as world:

        async def connect(socket: Socket, auth: Any) -> None:
            for _ in range(100):
                socket.emit("x", ["y" * 100])

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await world.settle()
        assert not peer.sids and len(peer.errors()) == 1
        assert world.inside_nothing()


@pytest.mark.parametrize("moment", ["hook", "function"])
@pytest.mark.parametrize("way", ["cut", "disconnect", "application"])
async def test_who_goes_while_it_connects_leaves_nothing_behind(moment: str, way: str) -> None:
    goes_on = asyncio.Event()
    said: list[str] = []

    async def hook(caller: Caller, request: AuthRequest) -> None:
        if moment == "hook":
            await goes_on.wait()

    async def gone(caller: Caller, code: Code | None) -> None:
        said.append("gone")

    async with SocketWorld(hooks=Hooks(connect=hook, disconnect=gone)) as world:

        async def connect(socket: Socket, auth: Any) -> None:
            await socket.join("room")
            await goes_on.wait()
            if way == "application":
                socket.disconnect()

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await world.settle()
        if way == "cut":
            peer.drop()
        elif way == "disconnect":
            peer.text("1")
        goes_on.set()
        await world.settle()
        assert not peer.sids
        assert said == ["gone"]
        told = [what for what, _, _ in world.app.told]
        if moment == "function" or way == "application":
            assert told == ["connect", "disconnect"]
        else:
            assert told == []
        assert world.inside_nothing()
        if way == "application":
            assert len(peer.errors()) == 1


async def test_a_second_connect_while_the_first_is_asked_about_closes_the_connection() -> None:
    async with SocketWorld() as world:
        never = asyncio.Event()

        async def connect(socket: Socket, auth: Any) -> None:
            await never.wait()

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await world.settle()
        peer.connect()
        assert peer.is_closed()
        never.set()
        await world.settle()
        assert world.inside_nothing()


async def test_events_before_the_answer_close_the_connection() -> None:
    async with SocketWorld() as world:
        peer = world.peer()
        peer.connect()
        peer.emit("too early")
        assert peer.is_closed()
        await world.settle()
        assert world.inside_nothing()


async def test_a_function_that_takes_too_long_is_a_refusal() -> None:
    async with SocketWorld(limits=Limits(hook_timeout_s=0.05)) as world:

        async def connect(socket: Socket, auth: Any) -> None:
            await asyncio.sleep(100)

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await asyncio.sleep(0.2)
        await world.settle()
        assert peer.errors()[0][1]["data"]["code"] == codes.INTERNAL.number


async def test_who_is_shut_out_meanwhile_is_refused() -> None:
    async with SocketWorld() as world:

        async def connect(socket: Socket, auth: Any) -> None:
            world.authority.is_revoked = lambda identity: True  # type: ignore[method-assign]

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await world.settle()
        assert len(peer.errors()) == 1
        assert [what for what, _, _ in world.app.told] == ["connect", "disconnect"]


# -- too many of it --------------------------------------------------------------------------------


async def test_refusals_are_bounded() -> None:
    async with SocketWorld(limits=Limits(max_socket_refusals=5)) as world:
        peer = await world.connected()
        for number in range(5):
            peer.connect(f"/nowhere{number}")
        assert not peer.is_closed()
        peer.connect("/nowhere")
        assert peer.closed == (codes.REFUSED, "forced close")


async def test_namespaces_of_a_connection_are_bounded() -> None:
    async with SocketWorld(limits=Limits(max_socket_namespaces=3)) as world:
        world.app.namespaces |= {f"/{number}" for number in range(5)}
        peer = world.peer()
        for number in range(5):
            peer.connect(f"/{number}")
        await world.settle()
        assert sorted(peer.sids) == ["/0", "/1", "/2"]
        assert [told["data"]["code"] for _, told in peer.errors()] == [codes.LIMIT_EXCEEDED.number] * 2


async def test_a_million_unknown_namespaces_keep_nothing() -> None:
    async with SocketWorld() as world:
        before = world.sockets.statistics()["connections"]
        peer = world.peer()
        for number in range(1000):
            peer.connect(f"/nowhere{number}")
        await world.settle()
        assert peer.closed is not None and len(peer.packets) <= world.limits.max_socket_refusals + 1
        assert world.sockets.statistics()["connections"] == before
        assert world.inside_nothing()


async def test_a_namespace_with_too_long_a_name_is_refused() -> None:
    async with SocketWorld() as world:
        name = "/" + "x" * 300
        world.app.namespaces.add(name)
        peer = world.peer()
        peer.connect(name)
        await world.settle()
        assert peer.errors()[0][1]["data"]["code"] == codes.BAD_REQUEST.number


@pytest.mark.parametrize("query", ["&".join(f"a{n}=1" for n in range(100)), "a=%zz&b", ""])
async def test_queries_of_namespaces_do_no_harm(query: str) -> None:
    async with SocketWorld() as world:
        world.app.namespaces.add("/chat")
        peer = world.peer(protocol=3)
        peer.text(f"0/chat?{query},")
        await world.settle()
        assert not peer.is_closed()
        assert ("/chat" in peer.sids) is (query.count("&") < 64)


async def test_recovery_gives_a_secret_besides() -> None:
    async with SocketWorld(settings=SocketSettings()) as world:
        peer = await world.connected(auth={"colour": "red"})
        assert sorted(peer.connects["/"]) == ["pid", "sid"]
        assert peer.connects["/"]["pid"] != peer.connects["/"]["sid"]
        assert world.app.told[0][2] == {"colour": "red"}
        other = await world.connected(auth={"pid": "unknown", "offset": "x", "colour": "blue"})
        assert not other.socket.is_recovered
        assert world.app.told[1][2] == {"colour": "blue"}


async def test_a_link_that_ends_while_it_is_told_is_survived() -> None:
    async with SocketWorld() as world:
        peer = world.peer()

        async def connect(socket: Socket, auth: Any) -> None:
            await socket.join("room")
            for _ in range(10):
                socket.emit("x")

        world.app.on_connect = connect
        post, count = peer.post, 0

        def cut(packets: Any) -> None:
            nonlocal count
            count += 1
            post(packets)
            if count == 3:
                peer.drop(CLIENT_CLOSED)

        peer.post = cut  # type: ignore[method-assign]
        peer.connect()
        await world.settle()
        assert world.inside_nothing()
        assert [reason for _, _, reason in world.app.told][1:] == [CLIENT_CLOSED]
