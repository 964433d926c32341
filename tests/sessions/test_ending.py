"""The end of a session: told once, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from everywire.access.hooks import Caller, Hooks, SubscribeDecision
from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import ClientInfo, Command, Empty
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.limits import Limits
from everywire.sessions.session import Session
from tests.sessions.driving import Client, World


async def busy(world: World) -> Client:
    """Return a client in the middle of everything."""
    client = await world.connected(token=world.token("ann", 100, channels=["side"]), connect={"ticks": 3})
    await client.subscribe("open", join_leave=True)
    client.send_commands(
        {"id": 2, "rpc": {"method": "slow"}},
        {"id": 3, "subscribe": {"channel": "open-slow"}},
        {"id": 4, "unsubscribe": {"channel": "open-slow"}},
        {"id": 5, "presence": {"channel": "open"}},
        {"send": {"data": 1}},
    )
    return client


def waiting_hooks() -> tuple[Hooks, asyncio.Event]:
    gate = asyncio.Event()

    async def rpc(caller: Caller, method: str, data: bytes) -> bytes:
        await gate.wait()
        return b"1"

    async def message(caller: Caller, data: bytes) -> None:
        await gate.wait()

    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        if channel.endswith("slow"):
            await gate.wait()
        return None

    return Hooks(rpc=rpc, message=message, subscribe=subscribe), gate


def cut(client: Client) -> None:
    client.cut()


def end(client: Client) -> None:
    client.session.disconnect(codes.DISCONNECTED)


def drain(client: Client) -> None:
    client.session.drain(100)


def misbehave(client: Client) -> None:
    client.send_commands({"id": 9, "connect": {}})


@pytest.mark.parametrize("how", [cut, end, drain, misbehave])
async def test_nothing_is_left(how: Any) -> None:
    hooks, gate = waiting_hooks()
    async with World(hooks=hooks) as world:
        client = await busy(world)
        how(client)
        told = len(client.told)
        assert world.hub.statistics()["readers"] == 0
        assert not world.presence.entered and not any(world.presence.listeners.values())
        assert world.registry.statistics()["visitors"] == 0
        assert world.quotas.inside == 1  # its handlers are still at work
        assert world.hub.deadlines.is_empty
        world.publish("open", 1)
        await world.settle(60)
        gate.set()
        await world.settle()
        assert len(client.told) == told and len(world.shared.tasks) == 0
        assert world.quotas.inside == 0 and world.shared.tasks.held_bytes == 0
        assert client.noted is not None


async def test_who_comes_and_goes_leaves_only_so_much_work_behind() -> None:
    """A hundred connections that were cut with their calls unanswered left 200 MiB, and any number could."""
    hooks, gate = waiting_hooks()
    async with World(hooks=hooks, limits=Limits(max_calling_bytes=8_500)) as world:
        left = 0
        for _ in range(5):
            client = await world.connected()
            client.send_commands(*({"id": n, "rpc": {"method": "x", "data": "x" * 976}} for n in (2, 3)))
            await world.settle()
            left += not client.of("error")
            client.cut()
        assert left == 2 and world.quotas.inside == 2
        assert world.shared.tasks.held_bytes <= 8_500
        client = await world.connected()
        assert (await client.ask("rpc", {"method": "x"}, within_s=0.3))["error"]["code"] == 124
        client.send_commands({"send": {"data": 1}})
        assert client.end is not None and client.end[0] == codes.SLOW_DOWN.number
        gate.set()
        await world.settle()
        assert world.shared.tasks.held_bytes == 0 and world.quotas.inside == 0
        client = await world.connected()
        assert (await client.ask("rpc", {"method": "x"}, within_s=0.3))["rpc"] == {"data": 1}


@pytest.mark.parametrize("how", [cut, end, misbehave])
async def test_a_session_that_ended_is_freed_at_once(how: Any) -> None:
    hooks, gate = waiting_hooks()
    async with World(hooks=hooks) as world:
        client = await busy(world)
        session, carrier = weakref.ref(client.session), client
        how(client)
        gate.set()
        await world.settle()
        gc.collect()  # what asyncio left of the tasks
        gc.disable()
        try:
            del client.session
            assert session() is None, gc.get_referrers(session())
        finally:
            gc.enable()
        assert carrier.end is None or carrier.end[0]


async def test_a_session_without_tasks_leaves_nothing_to_the_garbage_collector() -> None:
    async with World() as world:
        gc.collect()
        gc.disable()
        try:
            client = await world.connected(token=world.token("ann", 100))
            await client.subscribe("open", join_leave=True)
            world.publish("open", 1)
            await world.settle(1)
            session = weakref.ref(client.session)
            client.cut()
            del client.session
            assert session() is None, gc.get_referrers(session())
        finally:
            gc.enable()


async def test_a_session_that_ended_does_not_keep_its_carrier() -> None:
    async with World() as world:
        gc.collect()
        gc.disable()
        try:
            client = await world.connected(token=world.token("ann", 100))
            await client.subscribe("open", join_leave=True)
            client.session.disconnect(codes.DISCONNECTED)
            session, carrier = client.session, weakref.ref(client)
            world.clients.clear()
            del client
            assert carrier() is None, gc.get_referrers(carrier())
            assert session.is_ended
        finally:
            gc.enable()


async def test_whatever_is_told_after_the_end_is_ignored() -> None:
    async with World() as world:
        client = await world.connected()
        await client.subscribe("open")
        client.session.disconnect(codes.DISCONNECTED)
        session, told = client.session, len(client.told)
        session.receive([Command(id=9, ping=Empty())])
        session.receive_bytes(b"nonsense")
        session.stalled()
        session.writable()
        session.gone("gone")
        session.drain(1)
        session.disconnect(codes.STALE)
        session.unsubscribe("open", codes.UNSUBSCRIBED)
        session.subscribe("open", SubscribeDecision(), None)
        session.refresh(None)
        session.message(b"1")
        assert len(client.told) == told and client.end is not None and client.end[0] == 3503
        assert session.is_ended and session.is_idle and list(session.channels) == []


async def test_what_the_server_wants_before_the_client_is_known_waits_for_nobody() -> None:
    async with World() as world:
        client = world.client()
        session = client.session
        session.subscribe("open", SubscribeDecision(), None)
        session.refresh(5)
        session.message(b"1")
        session.unsubscribe("open", codes.UNSUBSCRIBED)
        assert client.told == [] and session.client == "" and not session.subscriptions
        session.drain(7)
        assert client.end is not None and client.end[0] == 3001 and "7 ms" in client.end[1]


async def test_an_answer_before_the_end_is_told() -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands({"id": 2, "ping": {}}, {"id": 3, "ping": {}}, {"id": 4, "connect": {}})
        assert [one["id"] for one in client.told] == [1, 2, 3]
        assert client.end is not None and client.end[0] == 3501


class Vanishing(Client):
    """A carrier whose peer is found to be gone at the nth write."""

    left = 10**9

    def write(self, framed: Any, /) -> None:
        self.left -= 1
        if self.left <= 0:
            if self.left == 0:
                self.session.gone("broken pipe")
            return
        super().write(framed)


@pytest.mark.parametrize("left", range(1, 12))
async def test_a_peer_may_be_found_gone_at_any_write(left: int) -> None:
    async with World() as world:
        world.publish("open", 1)
        client = Vanishing(world)
        client.left = left
        client.send_commands(
            {"id": 1, "connect": {"token": world.token("ann", 100, channels=["side"]), "ticks": 1}},
            *({"id": n, "subscribe": {"channel": f"open-{n}", "join_leave": True}} for n in range(2, 4)),
            {"id": 9, "subscribe": {"channel": "open", "recover": True}},
        )
        world.publish("open", 2)
        world.publish("side", 3)
        await world.settle(1)
        world.presence.join("open-2", ClientInfo(user="x", client="y"))
        client.session.unsubscribe("open-3", codes.UNSUBSCRIBED)
        client.session.subscribe("more", SubscribeDecision(), None)
        client.session.message(b"1")
        client.session.refresh(1e12)
        await world.settle(60)
        client.session.disconnect(codes.DISCONNECTED)
        assert world.hub.statistics()["readers"] == 0
        assert not world.presence.entered and not any(world.presence.listeners.values())
        assert world.quotas.inside == 0 and world.registry.statistics()["visitors"] == 0
        assert world.hub.deadlines.is_empty


async def test_a_message_is_pushed() -> None:
    async with World() as world:
        client = await world.connected()
        client.session.message(b'{"a":\n1}')
        assert client.of("message") == [{"data": {"a": 1}}]


async def test_publications_are_counted_for_the_log_line() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", channels=["side"]))
        world.publish("open", 1, 2)
        await client.subscribe("open", recover=True)
        world.publish("open", 3)
        world.publish("side", 4)
        await world.settle()
        await client.ask("unsubscribe", {"channel": "open"})
        client.session.disconnect(codes.DISCONNECTED)
        assert client.noted == (4, codes.DISCONNECTED)
        assert world.hub.counters.delivered == 4


async def test_a_polling_client_outlives_its_polls_in_presence() -> None:
    async with World() as world:
        client = world.client(transport="poll")
        client.session.wait_s = 25.0
        left: list[tuple[str, str]] = []
        world.presence.leave = lambda *member: left.append(member)  # type: ignore[method-assign]
        client.send_commands({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "open"}})
        client.cut()
        assert world.presence.touched == [("open", client.session.client, 25.0)]
        assert not world.presence.entered and left == []


async def test_a_poll_is_idle_when_everything_was_answered() -> None:
    hooks, gate = waiting_hooks()
    async with World(hooks=hooks) as world:
        client = world.client(transport="poll")
        idle: list[int] = []
        client.session.on_idle = lambda: idle.append(len(client.told))
        client.send_commands(
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "rpc": {"method": "x"}},
        )
        await world.settle()
        assert idle == [] and not client.session.is_idle
        gate.set()
        await world.settle()
        assert idle == [3] and client.session.is_idle


async def test_news_are_what_a_poll_is_answered_for() -> None:
    async with World() as world:
        world.publish("open", 1)
        first = await world.connected(transport="poll")
        assert not first.session.has_news
        result = await first.subscribe("open")
        assert first.session.has_news, "where it begins is news"
        first.cut()
        again = await world.connected(transport="poll")
        await again.subscribe("open", recover=True, epoch=result["epoch"], offset=1)
        assert not again.session.has_news
        again.session.message(b"1")
        assert again.session.has_news
        world.publish("open", 2)
        later = await world.connected(transport="poll")
        await later.subscribe("open", recover=True, epoch=result["epoch"], offset=1)
        assert later.session.has_news


async def test_news_of_a_connect_reply() -> None:
    async with World() as world:
        token = world.token("ann", channels=["side"])
        first = await world.connected(transport="poll", token=token)
        assert first.session.has_news, "a subscription begins"
        epoch = first.positions["side"][0]
        wish = {"side": {"recover": True, "epoch": epoch}}
        again = await world.connected(transport="poll", token=token, connect={"subs": wish})
        assert not again.session.has_news
        lost = await world.connected(transport="poll", token=token, connect={"subs": wish | {"gone": {}}})
        assert lost.session.has_news, "one that the client had is no more"


def test_a_code_is_known_by_its_number() -> None:
    assert isinstance(codes.SUBSCRIPTION_END, Code) and codes.SUBSCRIPTION_END.reconnect


async def test_sessions_are_their_callers() -> None:
    async with World() as world:
        session = world.client(request=AuthRequest(peer="192.0.2.9")).session
        caller: Caller = session
        assert (caller.peer, caller.transport, caller.client) == ("192.0.2.9", "websocket", "")
        assert isinstance(session, Session) and not hasattr(session, "__dict__")
