"""A socket among visitors: expiry, rules asked again, operators' orders, presence, and its end."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from msgspec import Raw

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import Identity
from everywire.core import codes
from everywire.core.limits import Limits
from everywire.sockets.link import PARSE_ERROR, PING_TIMEOUT, SHUTDOWN
from everywire.sockets.settings import SocketSettings
from tests.sockets.driving import Peer, SocketWorld, start

# -- permissions that end --------------------------------------------------------------------


async def test_a_token_that_runs_out_ends_the_connection_so_that_its_client_comes_back() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token(lasts_s=60)})
        await world.settle(59)
        assert not peer.is_closed()
        await world.settle(3)
        assert peer.closed is not None and peer.closed[0] is codes.EXPIRED
        assert "/" in peer.sids, "a disconnect packet would be final to clients"
        assert world.inside_nothing()


async def test_the_application_may_let_a_client_go_on() -> None:
    asked: list[str] = []

    async def refresh(caller: Caller, token: str) -> Identity:
        asked.append(token)
        return Identity(user=caller.identity.user, expires_s=world.unix_s() + 100, info=b'"older"')

    async with SocketWorld(has_tokens=True, hooks=Hooks(refresh=refresh)) as world:
        peer = await world.connected(auth={"token": world.token(lasts_s=60)})
        await world.settle(70)
        assert asked == [""] and not peer.is_closed() and peer.socket.user == "ann"
        await world.settle(250)
        assert len(asked) > 2 and not peer.is_closed()


async def test_an_application_that_does_not_is_asked_once() -> None:
    asked: list[str] = []

    async def refresh(caller: Caller, token: str) -> None:
        asked.append(token)

    async with SocketWorld(has_tokens=True, hooks=Hooks(refresh=refresh)) as world:
        peer = await world.connected(auth={"token": world.token(lasts_s=60)})
        await world.settle(62)
        assert asked == [""] and peer.is_closed()


async def test_an_application_that_grants_seconds_is_not_asked_for_ever() -> None:
    asked: list[str] = []

    async def refresh(caller: Caller, token: str) -> Identity:
        asked.append(token)
        return Identity(user=caller.identity.user, expires_s=world.unix_s() + 5)

    async with SocketWorld(has_tokens=True, hooks=Hooks(refresh=refresh)) as world:
        peer = await world.connected(auth={"token": world.token(lasts_s=60)})
        await world.settle(70)
        assert asked == [""] and peer.is_closed()


async def test_an_order_lets_it_be_good_until_another_time() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token(lasts_s=60)})
        await world.registry.refresh("ann", expires_s=world.unix_s() + 600)
        await world.settle(300)
        assert not peer.is_closed()
        await world.registry.refresh("ann", expires_s=world.unix_s() + 1)
        await world.settle(3)
        assert peer.is_closed()


async def test_a_room_whose_permission_runs_out_is_left() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        ends = SubscribeDecision(expires_s=world.unix_s() + 30)
        peer.socket.subscribe("news", ends, None)
        await world.settle()
        assert peer.events()[0][0] == "everywire:subscribed" and peer.events()[0][1]["channel"] == "news"
        await world.settle(32)
        code = codes.SUBSCRIPTION_EXPIRED
        told = {"channel": "news", "code": code.number, "reason": code.sentence}
        assert peer.events()[1] == ["everywire:unsubscribed", told]
        assert peer.socket.rooms() == [] and not peer.is_closed()
        world.publish("news", 1)
        await world.settle()
        assert len(peer.events()) == 2


async def test_rules_are_asked_again_about_what_the_client_asked_for() -> None:
    allowed = {"a", "b", "app"}

    async def authorize(identity: Identity, action: Any, channel: str) -> bool:
        return channel in allowed

    async with SocketWorld(hooks=Hooks(authorize=authorize)) as world:
        peer = await world.connected()
        await peer.ask("subscribe", "a")
        await peer.ask("subscribe", "b")
        await peer.socket.join("app")
        allowed.clear()
        allowed.add("b")
        await world.settle(world.limits.recheck_s * 2.5)
        assert peer.socket.rooms() == ["b", "app"], "the application's own joining is its own affair"
        assert peer.named("everywire:unsubscribed")[0][0]["channel"] == "a"
        assert not peer.is_closed()


# -- revocation and operators -------------------------------------------------------------------


async def test_who_is_blocked_is_ended_at_once() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token()})
        other = await world.connected(auth={"token": world.token("bob")})
        await world.registry.disconnect("ann", code=codes.REFUSED)
        assert peer.named("everywire:ended")[0][0]["code"] == codes.REFUSED.number
        assert "/" not in peer.sids
        assert other.closed is None
        await world.settle()
        assert world.app.told[-1][2] == "server disconnect"


async def test_one_client_of_a_user_is_ended_by_its_id() -> None:
    async with SocketWorld(has_tokens=True) as world:
        world.app.namespaces.add("/chat")
        peer = await world.connected(auth={"token": world.token()})
        peer.connect("/chat", {"token": world.token()})
        await world.settle()
        await world.registry.disconnect("ann", client=peer.sids["/"])
        assert list(peer.sids) == ["/chat"] and not peer.is_closed()
        assert not peer.named("everywire:ended"), "the packet says all there is to say"
        await world.registry.disconnect("ann", code=codes.FORCE_RECONNECT)
        assert peer.closed is not None and list(peer.sids) == ["/chat"]


async def test_what_was_on_its_way_when_the_server_ended_a_namespace_is_passed_over() -> None:
    async with SocketWorld() as world:
        world.app.namespaces.add("/chat")
        peer = await world.connected()
        peer.connect("/chat")
        await world.settle()
        chat = world.sockets.find(peer.sids["/chat"])
        assert chat is not None
        chat.disconnect()
        peer.emit("late", namespace="/chat")
        peer.acknowledge(1, namespace="/chat")
        peer.text("1/chat,")
        assert not peer.is_closed()
        peer.connect("/chat")
        await world.settle()
        peer.text("1/chat,")
        del peer.sids["/chat"]
        peer.emit("out of place", namespace="/chat")
        assert peer.is_closed()


async def test_operators_subscribe_and_unsubscribe() -> None:
    async with SocketWorld(has_tokens=True, limits=Limits(max_socket_rooms=2)) as world:
        peer = await world.connected(auth={"token": world.token()})
        await world.registry.subscribe("ann", "news")
        await world.registry.subscribe("ann", "news")
        await world.registry.subscribe("ann", "more")
        await world.registry.subscribe("ann", "too-many")
        await world.settle()
        told = [args[0]["channel"] for args in peer.named("everywire:subscribed")]
        assert told == ["news", "more"] == peer.socket.rooms()
        world.publish("news", 1)
        await world.settle()
        assert peer.named("message") == [[1]]
        await world.registry.unsubscribe("ann", "news")
        await world.registry.unsubscribe("ann", "never")
        world.publish("news", 2)
        await world.settle()
        assert peer.named("message") == [[1]] and peer.socket.rooms() == ["more"]
        assert peer.named("everywire:unsubscribed")[0][0]["code"] == codes.UNSUBSCRIBED.number


async def test_a_message_of_the_server_is_an_event() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        peer.socket.message(b'{"a": 1}')
        peer.socket.receive_bytes(b"ignored")
        assert peer.events() == [["message", {"a": 1}]]


async def test_channels_of_the_token_are_joined() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token(channels=["mine"])})
        assert peer.socket.rooms() == ["mine"]


@pytest.mark.parametrize("channels", [["no name"], [f"c{number}" for number in range(5)]])
async def test_channels_that_cannot_be_joined_are_a_refusal(channels: list[str]) -> None:
    async def connect(caller: Any, request: Any) -> ConnectDecision:
        return ConnectDecision(channels={name: SubscribeDecision() for name in channels})

    async with SocketWorld(hooks=Hooks(connect=connect), limits=Limits(max_socket_rooms=3)) as world:
        peer = world.peer()
        peer.connect()
        await world.settle()
        assert len(peer.errors()) == 1
        assert world.inside_nothing()


# -- presence ----------------------------------------------------------------------------------


async def test_members_are_who_is_in_a_room() -> None:
    async with SocketWorld(has_tokens=True) as world:
        peer = await world.connected(auth={"token": world.token(info={"name": "Ann"})})
        await peer.socket.join("room")
        [(key, info)] = world.presence.entered.items()
        assert key == ("room", peer.sids["/"])
        assert info.user == "ann" and isinstance(info.conn_info, Raw)
        assert bytes(info.conn_info) == b'{"name":"Ann"}'
        peer.socket.leave("room")
        assert not world.presence.entered
        await (await start(peer.socket.join("room"), world))
        assert list(world.presence.entered) == [key]
        peer.drop()
        assert not world.presence.entered


# -- the end -------------------------------------------------------------------------------------


async def reasons_of(peers: list[Peer], world: SocketWorld) -> dict[str, str]:
    await world.settle()
    return {sid: reason for what, sid, reason in world.app.told if what == "disconnect"}


async def test_the_application_hears_why_it_ended() -> None:
    async with SocketWorld() as world:
        peers = [await world.connected() for _ in range(5)]
        sids = [peer.sids["/"] for peer in peers]
        peers[0].drop(PING_TIMEOUT)
        peers[1].text("garbage")
        peers[2].text("1")
        peers[3].socket.disconnect()
        peers[4].upper.drain(1000)
        peers[4].drop(SHUTDOWN)
        told = await reasons_of(peers, world)
        assert [told[sid] for sid in sids] == [
            PING_TIMEOUT,
            PARSE_ERROR,
            "client disconnect",
            "server disconnect",
            SHUTDOWN,
        ]
        peers[2].drop()
        assert world.inside_nothing()


async def test_a_reader_that_the_hub_ends_is_closed() -> None:
    async with SocketWorld(limits=Limits(stall_timeout_s=5)) as world:
        peer = await world.connected()
        peer.stall()
        await world.emit("x", 1)
        await world.settle(10)
        assert peer.closed is not None and peer.closed[0] is codes.SLOW
        assert peer.noted and world.inside_nothing()


async def test_after_its_end_a_socket_ignores_everything() -> None:
    async with SocketWorld() as world:
        peer = await world.connected()
        socket = peer.socket
        peer.drop()
        socket.disconnect()
        socket.unsubscribe("x", codes.UNSUBSCRIBED)
        socket.subscribe("x", SubscribeDecision(), None)
        socket.refresh(5.0)
        socket.message(b"1")
        socket.leave("x")
        peer.upper.message(b"0", False)
        peer.upper.gone("again")
        peer.upper.stalled()
        peer.upper.writable()
        peer.upper.moved()
        assert socket.rooms() == [] and not socket.emit("x")
        await world.settle()
        assert world.inside_nothing()


@pytest.mark.parametrize("has_recovery", [False, True])
async def test_a_thousand_clients_that_come_and_go_leave_nothing_behind(has_recovery: bool) -> None:
    settings = SocketSettings(recovery_window_s=5 if has_recovery else 0)
    async with SocketWorld(settings=settings) as world:
        world.app.namespaces.add("/chat")

        async def work(socket: Any, *args: Any) -> Any:
            await socket.join("room")
            return args

        world.app.on("work", work)

        async def come_and_go(number: int) -> None:
            peer = world.peer(protocol=3 if number % 5 == 0 else 4)
            if peer.protocol == 4:
                peer.connect()
            if number % 2:
                await world.settle()
                peer.emit("work", number, ack_id=1)
                peer.connect("/chat")
            if number % 3:
                await world.settle()
            ends = (lambda: peer.text("1"), peer.drop, lambda: peer.text("nonsense"))
            ends[number % 3]()
            await world.settle()
            peer.drop()
            world.peers.clear()
            world.app.told.clear()
            world.app.sockets.clear()

        def objects() -> dict[str, int]:
            gc.collect()
            names = ("Socket", "Client", "Connecting", "Reading", "Acks", "Lanes", "Joined", "Answer", "Task")
            found = dict.fromkeys(names, 0)
            for one in gc.get_objects():
                name = type(one).__name__
                if name in found:
                    found[name] += 1
            return found

        await come_and_go(0)
        await world.settle(15)
        before = objects()
        for number in range(1000):
            await come_and_go(number)
        await world.settle(15)
        assert objects() == before
        assert world.inside_nothing()
        assert world.sockets.statistics()["connections"] == 0
