"""Clients that do not read: what waits for them is bounded, counted and told."""

from __future__ import annotations

from everywire.access.hooks import SubscribeDecision
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.limits import Limits
from everywire.sessions.session import Session
from tests.sessions.driving import Client, World

KIB = 1024


async def stalled(world: World, *channels: str, **more: object) -> Client:
    """Return a client whose socket is full."""
    client = await world.connected(room=1_000_000, **more)  # type: ignore[arg-type]
    for channel in channels:
        await client.subscribe(channel, join_leave=True)
    client.room = 0
    client.send_commands({"id": 77, "ping": {}})
    assert client.session.is_stalled
    return client


async def test_publications_wait_in_the_log() -> None:
    async with World() as world:
        client = await stalled(world, "open")
        writes = len(client.writes)
        world.publish("open", *range(200))
        await world.settle(1)
        assert len(client.writes) == writes
        client.drain()
        await world.settle()
        assert client.data("open") == list(range(200))
        assert client.session.delivered == 0
        client.cut()
        assert client.noted == (200, None)


async def test_no_channel_starves_while_the_client_reads_slowly() -> None:
    async with World() as world:
        channels = [f"open-{n}" for n in range(5)]
        client = await stalled(world, *channels)
        for channel in channels:
            for _ in range(3):
                world.publish_bytes(channel, b'"%s"' % (b"x" * 60_000))
        for _ in range(5):
            client.drain(1)
            await world.settle()
        assert [len(client.data(channel)) for channel in channels] == [1] * 5
        for _ in range(10):
            client.drain(1)
            await world.settle()
        assert [len(client.data(channel)) for channel in channels] == [3] * 5


async def test_a_subscription_that_is_made_while_the_client_does_not_read() -> None:
    async with World() as world:
        client = await stalled(world)
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        world.publish("open", 1, 2)
        await world.settle(1)
        assert client.data("open") == []
        client.drain()
        await world.settle()
        assert client.data("open") == [1, 2]


async def test_a_reply_that_fills_the_socket_holds_back_what_it_opened() -> None:
    async with World() as world:
        client = await world.connected(room=1_000_000)
        client.room = 10
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        assert client.session.is_stalled
        world.publish("open", 1)
        await world.settle(1)
        assert client.data("open") == []
        client.drain()
        await world.settle()
        assert client.data("open") == [1]


async def test_answers_that_are_not_read_hold_up_the_commands() -> None:
    limits = Limits(max_session_queue_bytes=100 * KIB)
    async with World(limits=limits) as world:
        for _ in range(10):
            world.publish("open", "x" * 10 * KIB)
        client = await stalled(world)
        client.send_commands(
            *({"id": n, "history": {"channel": "open", "limit": 10}} for n in range(2, 22))
        )
        client.send_commands({"id": 30, "ping": {}})
        await world.settle(20)
        answered = [one["id"] for one in client.told if "id" in one]
        assert answered == [1, 77, 2], "what was begun is answered, and then no more is begun"
        assert client.is_paused and client.end is None
        for _ in range(30):
            client.drain(0)
            await world.settle()
        assert [one["id"] for one in client.told if "id" in one] == [1, 77, *range(2, 22), 30]
        assert not client.is_paused
        client.drain()
        assert client.session.is_idle


async def test_pushes_that_are_not_read_end_it() -> None:
    limits = Limits(max_session_queue_bytes=10 * KIB)
    async with World(limits=limits) as world:
        client = await stalled(world)
        for _ in range(18):
            client.session.message(b'"%s"' % (b"x" * KIB))
        assert client.end is None
        for _ in range(5):
            client.session.message(b'"%s"' % (b"x" * KIB))
        assert client.end is not None and client.end[0] == 3008
        assert client.noted is not None


async def test_what_was_read_counts_no_more() -> None:
    limits = Limits(max_session_queue_bytes=10 * KIB)
    async with World(limits=limits) as world:
        client = await stalled(world)
        for _ in range(10):
            for _ in range(15):
                client.session.message(b'"%s"' % (b"x" * KIB))
            client.drain(0)
            client.send_commands({"id": 78, "ping": {}})
        assert client.end is None


async def test_joins_that_are_not_read_become_one_change() -> None:
    limits = Limits(max_session_queue_bytes=2 * KIB)
    async with World(limits=limits) as world:
        client = await stalled(world, "open")
        client.asked.clear()
        for n in range(100):
            world.presence.join("open", ClientInfo(user=f"user {n}", client=f"{n}"))
        told = len(client.of("join"))
        assert 5 < told < 30 and world.shared.counters.presence_dropped == 100 - told
        assert client.end is None and client.of("unsubscribe") == []
        client.drain()
        assert [one["code"] for one in client.of("unsubscribe")] == [2500]
        assert not client.session.subscriptions and not world.presence.listeners["open"]
        await client.subscribe("open", join_leave=True)


async def test_where_the_server_subscribed_it_a_change_is_only_told() -> None:
    limits = Limits(max_session_queue_bytes=2 * KIB)
    async with World(limits=limits) as world:
        client = await world.connected(room=1_000_000)
        client.session.subscribe("side", SubscribeDecision(join_leave=True), None)
        client.room = 0
        client.send_commands({"id": 77, "ping": {}})
        for n in range(100):
            world.presence.left("side", ClientInfo(user=f"user {n}", client=f"{n}"))
        client.drain()
        assert client.of("presence_changed") == [{}] and client.of("unsubscribe") == []
        assert "side" in client.subscribed


async def test_a_crowd_that_changed_is_told_so() -> None:
    async with World() as world:
        client = await world.connected()
        await client.subscribe("open", join_leave=True)
        [listener] = world.presence.listeners["open"]
        listener.changed("open")
        assert client.pushed("open") == [{"channel": "open", "presence_changed": {}}]
        assert "open" in client.session.subscriptions


async def test_a_change_waits_until_it_can_be_told() -> None:
    async with World() as world:
        client = await stalled(world, "open")
        [listener] = world.presence.listeners["open"]
        listener.changed("open")
        assert client.of("presence_changed") == []
        client.drain()
        assert [one["code"] for one in client.of("unsubscribe")] == [2500]


async def test_a_session_hears_of_stalls_once() -> None:
    async with World() as world:
        client = await stalled(world, "open")
        session: Session = client.session
        stalls = world.hub.counters.stalls
        session.stalled()
        assert world.hub.counters.stalls == stalls
        client.drain()
        session.writable()
        assert not session.is_stalled
