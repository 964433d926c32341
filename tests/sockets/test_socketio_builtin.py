"""What a server without an application answers: subscribe, unsubscribe, publish."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from everywire.access.hooks import Caller, Hooks, SubscribeDecision
from everywire.access.identity import Action, Identity
from everywire.brokers.base import Page
from everywire.core import codes
from everywire.core.errors import Forbidden, TooManyRequests
from everywire.core.limits import Limits
from everywire.core.position import Place, Position, encode_position
from everywire.core.publication import Draft
from everywire.sockets.rooms import channel_of
from tests.sockets.driving import SocketWorld


def page_of(world: SocketWorld, channel: str) -> Page:
    pages: list[Any] = []
    world.hub.read(channel, 0, 100, 100_000, pages.append)
    assert isinstance(pages[0], Page)
    return pages[0]


async def test_what_is_open_is_read_and_published_to() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        [told] = await peer.ask("subscribe", "open")
        assert told["channel"] == "open" and Position.decode(told["position"]).place("open")
        [stands] = await peer.ask("publish", "open", {"a": 1})
        assert stands["offset"] == 1 and stands["epoch"]
        place = Position.decode(stands["position"]).place("open")
        assert place == (stands["epoch"], 1)
        assert peer.named("message") == [[{"a": 1}]]
        assert await peer.ask("unsubscribe", "open") == [{"channel": "open"}]
        await peer.ask("publish", "open", 2)
        assert peer.named("message") == [[{"a": 1}]]


async def test_what_is_closed_is_refused() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        for event, *args in (("subscribe", "closed"), ("publish", "closed", 1), ("subscribe", "user1")):
            [told] = await peer.ask(str(event), *args)
            assert told["error"]["code"] == codes.PERMISSION_DENIED.number
        peer.emit("publish", "closed", 1)
        peer.emit("subscribe", "closed")
        await world.settle()
        assert peer.socket.rooms() == [] and not peer.is_closed()


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("subscribe", ()),
        ("subscribe", (1,)),
        ("subscribe", ("",)),
        ("subscribe", ("x" * 300,)),
        ("subscribe", ("open", 5)),
        ("subscribe", ("open", "no position!")),
        ("subscribe", ("open", {"position": []})),
        ("unsubscribe", ({},)),
        ("publish", ()),
        ("publish", ("open",)),
        ("publish", (None, 1)),
        ("publish", ("open", 1, "message")),
        ("publish", ("open", 1, {"event": 5})),
        ("publish", ("open", 1, {"event": "gap"})),
        ("publish", ("open", 1, {"event": "disconnect"})),
        ("publish", ("open", 1, {"tags": "x"})),
        ("publish", ("open", 1, {"tags": {"a": 1}})),
        ("publish", ("open", 1, {"tags": {"a\n": "b"}})),
        ("publish", ("open", 1, {"tags": {str(n): "x" for n in range(99)}})),
        ("publish", ("open", 1, {"tags": {"socketio.skip": "x"}})),
    ],
    ids=str,
)
async def test_what_is_malformed_is_refused(event: str, args: tuple[Any, ...]) -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        [told] = await peer.ask(event, *args)
        assert told["error"]["code"] == codes.BAD_REQUEST.number, told
        assert not page_of(world, "open").publications and not peer.socket.rooms()


async def test_who_wants_no_acknowledgement_gets_none() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        peer.emit("subscribe", "open")
        await world.settle()
        peer.emit("publish", "open", "hello", {"event": "greeting", "tags": {"a": "b"}})
        await world.settle()
        assert peer.events() == [["greeting", "hello"]]
        assert not peer.acks()
        [publication] = page_of(world, "open").publications
        assert (publication.event, publication.tags, publication.data) == ("greeting", {"a": "b"}, b'"hello"')


async def test_bytes_are_published_too() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        await peer.ask("subscribe", "open")
        await peer.ask("publish", "open", b"\0\1")
        await peer.ask("publish", "open", {"a": b"\2"})
        assert peer.events() == [["message", b"\0\1"], ["message", {"a": b"\2"}]]
        bare, nested = page_of(world, "open").publications
        assert bare.data == b"\0\1" and bare.content_type == "application/octet-stream"
        assert base64.b64encode(b"\2") in nested.data


async def test_reading_goes_on_from_a_position() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        [first] = await peer.ask("publish", "open", 1)
        for number in (2, 3):
            await peer.ask("publish", "open", number)
        await peer.ask("subscribe", "open", first["position"])
        assert peer.events() == [["message", 2], ["message", 3]]
        other = await world.connected()
        await other.ask("subscribe", "open", {"position": first["position"]})
        assert other.events() == [["message", 2], ["message", 3]]
        another = await world.connected()
        await another.ask("subscribe", "open", "")
        assert another.events() == []


async def test_what_is_gone_is_told() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        await peer.ask("subscribe", "open", encode_position([("open", Place("another", 7))]))
        world.publish("open", 1)
        await world.settle()
        assert peer.named("everywire:gap")[0][0]["reason"] == "reset"
        assert peer.named("message") == [[1]]


async def test_subscribing_twice_is_no_error_and_reads_once() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        for number in range(10):
            peer.emit("subscribe", "open", ack_id=number)
        for _ in range(5):
            await world.settle()
        assert sorted(peer.acks()) == list(range(10))
        world.publish("open", 1)
        await world.settle()
        assert peer.named("message") == [[1]] and peer.socket.rooms() == ["open"]


async def test_those_about_one_room_keep_their_order() -> None:
    goes_on = asyncio.Event()

    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> None:
        if channel == "open1":
            await goes_on.wait()

    async with SocketWorld(hooks=Hooks(subscribe=subscribe)) as world:
        peer = await world.connected()
        peer.emit("subscribe", "open1", ack_id=1)
        peer.emit("unsubscribe", "open1", ack_id=2)
        peer.emit("subscribe", "open2", ack_id=3)
        await world.settle()
        assert sorted(peer.acks()) == [3]
        goes_on.set()
        await world.settle()
        assert sorted(peer.acks()) == [1, 2, 3] and peer.socket.rooms() == ["open2"]


async def test_the_application_is_asked_about_subscriptions() -> None:
    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision:
        if channel == "open-not":
            raise Forbidden("not this one")
        if channel == "open-broken":
            raise RuntimeError("broken")

        async def snapshot(caller: Caller, channel: str) -> bytes:
            world.publish(channel, "while it was made")
            return b'{"state":1}'

        if channel == "open-state":
            return SubscribeDecision(snapshot=snapshot)
        return SubscribeDecision(data=b'"hello"', info=b'"guest"')

    async with SocketWorld(hooks=Hooks(subscribe=subscribe)) as world:
        peer = await world.connected()
        [told] = await peer.ask("subscribe", "open")
        assert told["data"] == "hello"
        [told] = await peer.ask("subscribe", "open-not")
        assert told["error"]["message"] == "not this one"
        [told] = await peer.ask("subscribe", "open-broken")
        assert told["error"]["code"] == codes.INTERNAL.number
        [told] = await peer.ask("subscribe", "open-state")
        assert told["data"] == {"state": 1}
        assert peer.named("message") == [["while it was made"]]
        kinds = [packet.type.name for packet in peer.packets[-2:]]
        assert kinds == ["ACK", "EVENT"], "the state comes before what is newer"


async def test_the_application_is_asked_about_publications() -> None:
    async def publish(caller: Caller, draft: Draft) -> Draft:
        if draft.data == b'"no"':
            raise Forbidden("not that")
        return draft._replace(data=b'"changed"')

    async with SocketWorld(hooks=Hooks(publish=publish)) as world:
        peer = await world.connected()
        await peer.ask("subscribe", "open")
        assert (await peer.ask("publish", "open", "no"))[0]["error"]["message"] == "not that"
        await peer.ask("publish", "open", "yes")
        assert peer.named("message") == [["changed"]]


async def test_publications_say_who_made_them() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token("ann")})
        await peer.ask("publish", "user1", 1)
        [publication] = page_of(world, "user1").publications
        assert publication.info is not None
        assert b'"user":"ann"' in publication.info and peer.sids["/"].encode() in publication.info


async def test_who_is_too_fast_is_told_and_then_ended() -> None:
    async with SocketWorld() as world:
        count = 0

        def check(caller: Any, channel: str) -> None:
            nonlocal count
            count += 1
            raise TooManyRequests("slow down", 1.0, is_sustained=count > 2)

        world.quotas.check_publish = check  # type: ignore[method-assign]
        peer = await world.connected()
        for _ in range(2):
            told = await peer.ask("publish", "open", 1)
            assert told[0]["error"]["code"] == codes.TOO_MANY_REQUESTS.number
        peer.emit("publish", "open", 1)
        assert peer.closed is not None and peer.closed[0] is codes.SLOW_DOWN


async def test_a_log_that_is_behind_pauses_the_publisher() -> None:
    async with SocketWorld(limits=Limits(max_publishing=2)) as world:
        goes_on = asyncio.Event()

        async def publish(caller: Caller, draft: Draft) -> None:
            await goes_on.wait()

        world.hooks.publish = publish
        peer = await world.connected()
        for number in range(5):
            peer.emit("publish", "open", number, ack_id=number)
        assert peer.is_held() and len(peer.waiting) == 3
        goes_on.set()
        for _ in range(5):
            await world.settle()
        assert not peer.is_held() and sorted(peer.acks()) == list(range(5))
        assert [one.data for one in page_of(world, "open").publications] == [b"0", b"1", b"2", b"3", b"4"]


async def test_rooms_of_any_name_are_channels_of_a_form_of_their_own() -> None:
    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append(channel)
        return True

    asked: list[str] = []
    async with SocketWorld(hooks=Hooks(authorize=authorize)) as world:
        peer = await world.connected()
        await peer.ask("subscribe", "my room")
        await peer.ask("subscribe", "sio:n:")
        assert asked == ["sio:r::my=20room", "sio:r::sio=3An=3A"]
        assert peer.socket.rooms() == ["my room", "sio:n:"]
        await world.emit("x", 1, to=["my room"])
        assert peer.named("x") == [[1]]
        assert channel_of("/", "my room") in peer.socket.channels


async def test_rooms_of_the_application_are_not_for_the_client_to_leave() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        await peer.socket.join("banned")
        await peer.ask("unsubscribe", "banned")
        assert peer.socket.rooms() == ["banned"]


async def test_the_applications_own_functions_come_first() -> None:
    async with SocketWorld() as world:

        async def mine(socket: Any, *args: Any) -> str:
            return "mine"

        world.app.on("subscribe", mine)
        world.app.on("other", mine, "/chat")
        peer = await world.connected()
        assert await peer.ask("subscribe", "open") == ["mine"]
        peer.connect("/chat")
        await world.settle()
        peer.emit("publish", "open", 1, namespace="/chat", ack_id=1)
        await world.settle()
        assert not peer.acks().get(1), "other namespaces are the application's alone"
        assert not page_of(world, "open").publications
