"""What the protocol's own suite asks of a server of Socket.IO 5, in our words, and of version 4.

Time stands still here, so no time-out can hide an answer that never came.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everywire.codecs.socketio.packet import PacketType
from everywire.core import codes
from everywire.core.limits import Limits
from everywire.sockets.handling import ConnectionRefused
from everywire.sockets.link import FORCED, PARSE_ERROR
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket
from tests.sockets.driving import Peer, SocketWorld


def echoing(world: SocketWorld) -> None:
    """Answer as the suite's server does."""

    async def connect(socket: Socket, auth: Any) -> None:
        socket.emit("auth", [auth or {}])

    async def message(socket: Socket, *args: Any) -> None:
        socket.emit("message-back", args)

    async def message_with_ack(socket: Socket, *args: Any) -> tuple[Any, ...]:
        return args

    world.app.on_connect = connect
    for namespace in ("/", "/custom"):
        world.app.on("message", message, namespace)
        world.app.on("message-with-ack", message_with_ack, namespace)


@pytest.mark.parametrize("namespace", ["/", "/custom"])
@pytest.mark.parametrize("auth", [None, {"token": "123"}, {}])
async def test_connecting_is_answered_with_an_id_alone_and_then_with_auth(namespace: str, auth: Any) -> None:
    async with SocketWorld(settings=SocketSettings(recovery_window_s=0)) as world:
        world.app.namespaces.add("/custom")
        echoing(world)
        peer = world.peer()
        peer.connect(namespace, auth)
        await world.settle()
        assert [packet.type for packet in peer.packets] == [PacketType.CONNECT, PacketType.EVENT]
        assert list(peer.connects[namespace]) == ["sid"]
        assert peer.sids[namespace] and peer.sids[namespace] != peer.sid
        assert peer.events(namespace) == [["auth", auth or {}]]


@pytest.mark.parametrize("text", ["0/custom", "0/custom,", '0/custom,{"token":"abc"}'])
async def test_a_namespace_may_end_with_its_comma_or_without(text: str) -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = world.peer()
        peer.text(text)
        await world.settle()
        assert peer.raw[0][1].startswith(b'40/custom,{"sid":"')


async def test_who_connects_to_several_namespaces_is_another_in_each() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.connect("/custom")
        await world.settle()
        assert len({peer.sid, *peer.sids.values()}) == 3


async def test_an_unknown_namespace_is_refused_in_these_very_words() -> None:
    async with SocketWorld() as world:
        peer = world.peer()
        peer.text("0/random")
        await world.settle()
        assert peer.raw == [(False, b'44/random,{"message":"Invalid namespace"}')]
        peer.connect()
        await world.settle()
        assert "/" in peer.sids, "the connection goes on"


@pytest.mark.parametrize("text", ["abc", "", "7", "9", "0abc", "0[]", '0"x"', "0null"])
async def test_a_handshake_that_is_none_closes_the_connection(text: str) -> None:
    async with SocketWorld() as world:
        peer = world.peer()
        peer.text(text)
        await world.settle()
        assert peer.closed == (codes.BAD_PROTOCOL, PARSE_ERROR)


@pytest.mark.parametrize("has_asked", [False, True])
async def test_who_connects_to_nothing_in_time_is_closed(has_asked: bool) -> None:
    async with SocketWorld(settings=SocketSettings(connect_timeout_s=1)) as world:
        peer = world.peer()
        if has_asked:
            peer.connect("/nowhere")
        await world.settle(0.9)
        assert not peer.is_closed()
        await world.settle(0.5)
        assert peer.closed is not None and peer.closed[0] is codes.STALE


async def test_who_is_connected_is_not_closed() -> None:
    async with SocketWorld(settings=SocketSettings(connect_timeout_s=1)) as world:
        peer = await world.connected()
        await world.settle(10)
        assert not peer.is_closed()


async def test_who_is_asked_about_is_not_closed_meanwhile() -> None:
    async with SocketWorld(settings=SocketSettings(connect_timeout_s=1)) as world:
        may_come = asyncio.Event()

        async def connect(socket: Socket, auth: Any) -> None:
            await may_come.wait()

        world.app.on_connect = connect
        peer = world.peer()
        peer.connect()
        await world.settle(5)
        assert not peer.is_closed()
        may_come.set()
        await world.settle()
        assert "/" in peer.sids


async def test_a_namespace_is_left_and_the_connection_stays() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.connect("/custom")
        await world.settle()
        peer.text("1/custom")
        peer.emit("message", "to the main namespace")
        await world.settle()
        assert peer.named("message-back") == [["to the main namespace"]]
        assert not peer.is_closed()
        peer.text("1")
        await world.settle()
        assert not peer.is_closed()
        assert world.sockets.statistics()["sockets"] == 0
        reasons = [reason for what, _, reason in world.app.told if what == "disconnect"]
        assert reasons == ["client disconnect"] * 2


async def test_whom_the_server_disconnects_closes_the_connection_or_is_closed_in_time() -> None:
    async with SocketWorld(settings=SocketSettings(connect_timeout_s=1)) as world:
        peer = await world.connected()
        peer.socket.disconnect()
        await world.settle(0.5)
        assert "/" not in peer.sids
        assert not peer.is_closed(), "clients of version 4 would take it for an accident, and come back"
        await world.settle(1)
        assert peer.closed is not None and peer.closed[0] is codes.STALE


async def test_who_left_its_last_namespace_may_connect_again_in_time() -> None:
    async with SocketWorld(settings=SocketSettings(connect_timeout_s=1)) as world:
        peer = await world.connected()
        first = peer.sids.pop("/")
        peer.text("1")
        await world.settle(0.5)
        peer.connect()
        await world.settle(5)
        assert not peer.is_closed() and peer.sids["/"] != first
        peer.text("1")
        await world.settle(2)
        assert peer.is_closed()


async def test_events_are_answered_with_events() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text('2["message",1,"2",{"3":[true]}]')
        await world.settle()
        assert peer.raw[-1] == (False, b'42["message-back",1,"2",{"3":[true]}]')


async def test_events_carry_bytes() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text('52-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        peer.binary(b"\1\2\3")
        peer.binary(b"\4\5\6")
        await world.settle()
        text = b'452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        assert peer.raw[-3:] == [(False, text), (True, b"\1\2\3"), (True, b"\4\5\6")]


async def test_events_are_acknowledged() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text('2456["message-with-ack",1,"2",{"3":[false]}]')
        await world.settle()
        assert peer.raw[-1] == (False, b'43456[1,"2",{"3":[false]}]')


async def test_acknowledgements_carry_bytes() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text('52-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        peer.binary(b"\1\2\3")
        peer.binary(b"\4\5\6")
        await world.settle()
        text = b'462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        assert peer.raw[-3:] == [(False, text), (True, b"\1\2\3"), (True, b"\4\5\6")]


BAD = [
    "abc",
    "2{}",
    "2[]",
    "2",
    '2"message"',
    '2abc["message-with-ack"]',
    '2-1["message"]',
    '2["connect"]',
    '2["disconnect"]',
    '2["newListener"]',
    "2[null]",
    "2[true]",
    "2[{}]",
    "2[[]]",
    '2/custom["message"]',
    '2/custom,["message"]',
    "3[1]",
    "31{}",
    "1{}",
    '4{"message":"no"}',
    "4",
    "0",
    '0{"token":"again"}',
    '511-["message"]',
    '5-["message"]',
    '5x-["message"]',
    '51-["message"]',
    '51-["message",{"_placeholder":true,"num":1}]',
    '51-["message",{"_placeholder":true,"num":-1}]',
    '51-["message",{"_placeholder":true,"num":"0"}]',
    '51-["message",{"_placeholder":true,"num":0.5}]',
    '52-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]',
    "2" + "[" * 100_000,
    '2["message",' + "[" * 100_000 + "]" * 100_000 + "]",
    '2["message",1' + "0" * 400 + "e999999]x",
]


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:40])
async def test_what_is_no_packet_or_out_of_place_closes_the_connection(text: str) -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text(text)
        await world.settle()
        assert peer.closed == (codes.BAD_PROTOCOL, PARSE_ERROR)
        assert world.app.told[-1] == ("disconnect", world.app.told[0][1], PARSE_ERROR)
        other = await world.connected()
        other.emit("message", "still here")
        await world.settle()
        assert other.named("message-back") == [["still here"]]


async def test_text_while_bytes_are_due_closes_the_connection() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text('51-["message",{"_placeholder":true,"num":0}]')
        peer.text('2["message"]')
        assert peer.closed == (codes.BAD_PROTOCOL, PARSE_ERROR)


async def test_bytes_that_were_not_announced_close_the_connection() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        peer.binary(b"x")
        assert peer.closed == (codes.BAD_PROTOCOL, PARSE_ERROR)


async def test_names_of_events_may_be_numbers() -> None:
    async with SocketWorld() as world:
        async def one(socket: Socket, *args: Any) -> None:
            socket.emit(2, ["two"])

        world.app.on("1", one)
        peer = await world.connected()
        peer.text("2[1]")
        await world.settle()
        assert peer.raw[-1] == (False, b'42[2,"two"]')


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString", "", "é", "open", "\\u0000"])
async def test_strange_names_of_events_do_no_harm(name: str) -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text(f'2["{name}",1]')
        peer.emit("message", "still here")
        await world.settle()
        assert peer.named("message-back") == [["still here"]]
        assert world.sockets.statistics()["unhandled"] == 1


async def test_a_placeholder_in_a_packet_without_bytes_is_plain_data() -> None:
    async with SocketWorld() as world:
        echoing(world)
        peer = await world.connected()
        peer.text('2["message-with-ack",{"_placeholder":true,"num":0}]')
        peer.text('27["message-with-ack",{"_placeholder":true,"num":5}]')
        await world.settle()
        assert peer.raw[-1] == (False, b'437[{"_placeholder":true,"num":5}]')


async def test_packets_with_bytes_of_who_is_not_connected_are_not_collected() -> None:
    async with SocketWorld() as world:
        peer = world.peer()
        peer.text('51-["message",{"_placeholder":true,"num":0}]')
        assert peer.is_closed()


async def test_a_packet_that_is_never_completed_is_bounded() -> None:
    async with SocketWorld(settings=SocketSettings(recovery_window_s=0, max_payload=1000)) as world:
        peer = await world.connected()
        placeholders = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(10))
        peer.text(f'510-["message",{placeholders}]')
        for _ in range(2):
            peer.binary(b"x" * 1000)
        assert peer.closed == (codes.BAD_PROTOCOL, PARSE_ERROR)
        assert world.sockets.statistics()["incomplete"] == 0


def began(number: int = 1) -> str:
    """Return the text of a packet that has attachments."""
    placeholders = ",".join(f'{{"_placeholder":true,"num":{one}}}' for one in range(number))
    return f'5{number}-["message",{placeholders}]'


async def test_attachments_that_do_not_come_close_the_connection_in_time() -> None:
    async with SocketWorld() as world:
        slow, never, whole = [await world.connected() for _ in range(3)]
        for peer in (slow, never, whole):
            peer.text(began(3))
        for _ in range(3):
            whole.binary(b"x")
        assert world.sockets.statistics()["incomplete"] == 2
        for _ in range(2):
            await world.settle(20)
            slow.binary(b"x")
        assert never.closed == (codes.STALE, FORCED)
        assert slow.closed is None
        assert world.sockets.statistics()["incomplete"] == 1
        slow.binary(b"x")
        await world.settle(100)
        assert (slow.closed, whole.closed) == (None, None)
        never_again = await world.connected()
        never_again.text(began())
        await world.settle(40)
        assert never_again.closed == (codes.STALE, FORCED)
        assert world.sockets.statistics()["incomplete_ended"] == 2


async def test_a_client_whose_input_waits_for_us_may_take_its_time() -> None:
    async with SocketWorld(limits=Limits(max_pending_commands=1, call_timeout_s=100)) as world:
        go_on = asyncio.Event()

        async def wait(socket: Socket) -> None:
            await go_on.wait()

        world.app.on("wait", wait)
        peer = await world.connected()
        peer.text('2["wait"]')
        peer.text(began())
        assert peer.is_paused
        peer.binary(b"x")
        await world.settle(80)
        assert peer.closed is None
        go_on.set()
        await world.settle(40)
        assert peer.closed is None
        assert world.sockets.statistics()["incomplete"] == 0


async def test_all_incomplete_packets_together_are_bounded() -> None:
    async with SocketWorld(limits=Limits(max_incomplete_bytes=12_000)) as world:
        peers = [await world.connected() for _ in range(10)]
        for peer in peers:
            peer.text(began(2))
            peer.binary(b"x" * 2000)
        assert [peer.closed is None for peer in peers] == [False] * 6 + [True] * 4
        assert peers[0].closed == (codes.STALE, FORCED)
        # Whoever completes its packet is not held up by those who do not.
        for peer in peers[6:]:
            peer.binary(b"y")
        for _ in range(20):
            peers[9].text(began(1))
            peers[9].binary(b"y" * 5000)
        assert [peer.closed is None for peer in peers] == [False] * 6 + [True] * 4
        assert world.sockets.statistics()["incomplete"] == 0


# -- version 4 of the protocol, over Engine.IO 3 -----------------------------------------------


async def old(world: SocketWorld, **more: Any) -> Peer:
    peer = world.peer(protocol=3, **more)
    await world.settle()
    return peer


async def test_version_4_is_connected_unasked_and_keeps_the_connections_id() -> None:
    async with SocketWorld(settings=SocketSettings()) as world:
        peer = await old(world)
        assert peer.raw == [(False, b"40")]
        assert world.app.sockets[0].sid == peer.sid
        assert world.app.sockets[0].client != peer.sid, "others see the client id, and this id is a secret"
        assert world.sockets.find(peer.sid) is world.app.sockets[0]


async def test_version_4_connects_to_namespaces_with_a_query() -> None:
    async with SocketWorld() as world:
        world.app.namespaces.add("/chat")
        peer = await old(world, query={"EIO": "3", "transport": "polling", "colour": "red", "t": "x"})
        peer.text("0/chat?size=1&colour=blue,")
        await world.settle()
        assert peer.raw[-1] == (False, b"40/chat,")
        assert world.app.sockets[1].sid == f"/chat#{peer.sid}"
        assert [auth for _, _, auth in world.app.told] == [
            {"colour": "red"},
            {"colour": "blue", "size": "1"},
        ]
        peer.text('2/chat,["nothing"]')
        peer.text("1/chat,")
        await world.settle()
        assert not peer.is_closed()
        assert world.app.told[-1] == ("disconnect", f"/chat#{peer.sid}", "client disconnect")


async def test_version_4_may_ask_for_the_main_namespace_all_the_same() -> None:
    async with SocketWorld() as world:
        peer = world.peer(protocol=3)
        peer.text("0")
        await world.settle()
        peer.text("0")
        assert peer.raw == [(False, b"40")] and not peer.is_closed()


async def test_version_4_is_told_errors_of_its_own() -> None:
    async with SocketWorld() as world:
        async def connect(socket: Socket, auth: Any) -> None:
            if socket.namespace == "/data":
                raise ConnectionRefused("no", {"why": 1})
            raise ConnectionRefused("not you")

        world.app.namespaces |= {"/data"}
        world.app.on_connect = connect
        peer = await old(world)
        assert peer.raw == [(False, b'44"not you"')]
        peer.text("0/data")
        await world.settle()
        assert peer.raw[-1] == (False, b'44/data,{"why":1}')
        peer.text("0/nowhere")
        await world.settle()
        assert peer.raw[-1] == (False, b'44/nowhere,{"message":"Invalid namespace"}')
        assert not peer.is_closed()


async def test_version_4_speaks_events_acknowledgements_and_bytes() -> None:
    async with SocketWorld(settings=SocketSettings()) as world:
        echoing(world)
        peer = await old(world)
        peer.text('2["message","a"]')
        peer.text('21["message-with-ack","b"]')
        peer.text('51-2["message-with-ack",{"_placeholder":true,"num":0}]')
        peer.binary(b"c")
        await world.settle()
        # There is no recovery in this version, and no position at the end of an event.
        assert [data for _, data in peer.raw[1:]] == [
            b'42["auth",{}]',
            b'42["message-back","a"]',
            b'431["b"]',
            b'461-2[{"_placeholder":true,"num":0}]',
            b"c",
        ]


# -- as MessagePack -----------------------------------------------------------------------------


async def test_all_of_it_as_messagepack() -> None:
    async with SocketWorld(settings=SocketSettings(recovery_window_s=0, parser="msgpack")) as world:
        echoing(world)
        peer = await world.connected(auth={"token": "x"})
        peer.connect("/nowhere")
        peer.emit("message", b"bytes", [1, {"a": None}])
        assert await peer.ask("message-with-ack", b"more", 2) == [b"more", 2]
        assert peer.events() == [["auth", {"token": "x"}], ["message-back", b"bytes", [1, {"a": None}]]]
        assert peer.errors() == [("/nowhere", {"message": "Invalid namespace"})]
        await world.emit("all", {"a": b"1"})
        assert peer.named("all") == [[{"a": b"1"}]]
        peer.text('2["message"]')
        assert peer.closed == (codes.BAD_PROTOCOL, PARSE_ERROR)
