"""The client with sessions, over each of its wires, against the real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest

from everywire import Everywire
from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from everywire.client.client import Client
from everywire.client.errors import Busy, CommandError, ConnectionLost, Refused
from everywire.client.items import Missed, Received
from everywire.client.links import LINKS
from everywire.client.subscription import Joined, Left, Snapshot, Subscription
from everywire.client.sync import SyncClient
from everywire.core import codes
from everywire.core.errors import BadRequest
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.transports.exchange import Exchange
from tests.e2e.cutting import through
from tests.serving import DEADLINE_S, Site, serving, until

SECRET = "a-secret-of-tokens-that-is-long-enough"
OPEN = dict.fromkeys((Action.READ, Action.PUBLISH, Action.PRESENCE), ("*",))


def token(user: str, lasts_s: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + lasts_s, **claims}, SECRET, "HS256")


@pytest.fixture(params=list(LINKS))
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    settings = SettingsTable([("short", ChannelSettings(window=Window(max_publications=3)))])
    async with serving("own", ("", ""), channels=settings) as running:
        yield running


async def take(subscription: Subscription, count: int) -> list[Any]:
    """Read the data of so many publications."""
    found: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            item = await anext(subscription)
            if isinstance(item, Received):
                found.append(item.data)
    return found


def block_websocket(site: Site) -> Callable[[], None]:
    """Refuse WebSocket, as some proxies do, until the function that is returned is called."""
    original = site.wire._assembly.handle

    def block(exchange: Exchange) -> None:
        if exchange.request.is_upgrade:
            exchange.respond(403, [])
        else:
            original(exchange)

    def unblock() -> None:
        host.handler = original

    assert site.server is not None
    host = site.server._host
    host.handler = block
    return unblock


async def test_everything_works_on_every_wire(site: Site, transport: str) -> None:
    wire: Everywire = site.wire
    messages: asyncio.Queue[Any] = asyncio.Queue()
    heard: list[Any] = []

    @wire.rpc("double")
    async def double(session: Any, data: int) -> int:
        return data * 2

    @wire.on_message
    async def on_message(session: Any, data: Any) -> None:
        heard.append(data)
        await session.send({"echo": data})

    async with asyncio.timeout(60), Client(site.url, transports=[transport]) as client:
        assert client.transport == transport and client.client_id
        client.on_message = messages.put_nowait
        async with client.channel("chat") as chat, client.channel("news") as news:
            await client.publish("chat", {"text": "hello"})
            await site.publish("news", 1, "two")
            await wire.publish("news", b"\x00\xff", event="raw", tags={"a": "b"})
            assert await take(chat, 1) == [{"text": "hello"}]
            assert await take(news, 2) == [1, "two"]
            item = await anext(news)
            assert isinstance(item, Received)
            assert (item.data, item.event, item.tags) == (b"\x00\xff", "raw", {"a": "b"})
            assert await client.rpc("double", 21) == 42
            with pytest.raises(CommandError) as caught:
                await client.rpc("nothing")
            assert caught.value.number == codes.METHOD_NOT_FOUND.number
            assert client.client_id in await client.presence("chat")
            assert await client.presence_stats("chat") == (1, 1)
            history, place = await client.history("news", limit=-1)
            assert [one.offset for one in history] == [1, 2, 3] and place.offset == 3
            history, _ = await client.history("news", limit=1, reverse=True)
            assert [one.data for one in history] == [b"\x00\xff"]
            history, _ = await client.history("news", limit=10, since=Place(place.epoch, 2))
            assert [one.offset for one in history] == [3]
            await client.send({"n": 1})
            if transport not in ("poll", "long-poll"):
                assert await messages.get() == {"echo": {"n": 1}}
            else:
                await until(lambda: heard == [{"n": 1}])
        await client.publish("chat", "unheard")
        assert chat.queued == 0


async def test_a_position_is_gone_on_from(site: Site, transport: str) -> None:
    await site.publish("chat", *range(5))
    async with asyncio.timeout(60), Client(site.url, transports=[transport]) as client:
        _, place = await client.history("chat")
        async with client.channel("chat", since=Place(place.epoch, 2)) as chat:
            assert await take(chat, 3) == [2, 3, 4]
            await site.publish("chat", 5)
            assert await take(chat, 1) == [5]


async def test_what_is_gone_is_told(site: Site, transport: str) -> None:
    await site.publish("short", *range(10))
    async with asyncio.timeout(60), Client(site.url, transports=[transport]) as client:
        _, place = await client.history("short")
        async with client.channel("short", since=Place(place.epoch, 2)) as short:
            item = await anext(short)
            assert isinstance(item, Missed) and (item.first, item.last) == (3, 10)
        async with client.channel("short", since=Place("another", 2)) as short:
            item = await anext(short)
            assert isinstance(item, Missed) and (item.first, item.reason) == (None, "reset")
            await site.publish("short", 11)
            assert await take(short, 1) == [11]


async def test_a_cut_loses_nothing(site: Site, transport: str) -> None:
    async with through(site.url) as cable, asyncio.timeout(60):
        lost: list[str] = []
        async with Client(
            cable.url, transports=[transport], lost=lambda reason, delay_s: lost.append(reason)
        ) as client, client.channel("a") as first, client.channel("b") as second:
            await site.publish("a", 1)
            assert await take(first, 1) == [1]
            for value in range(2, 6):
                cable.cut()
                await site.publish("a", value)
                await site.publish("b", value)
                cable.mend()
                assert await take(first, 1) == [value]
            assert await take(second, 4) == [2, 3, 4, 5]
        assert lost


async def test_a_call_on_a_connection_that_breaks_is_told(site: Site) -> None:
    async def sleep(session: Any, data: None) -> None:
        await asyncio.sleep(60)

    site.wire.rpc("sleep")(sleep)
    async with through(site.url) as cable, Client(cable.url, transports=["websocket"]) as client:
        call = asyncio.create_task(client.rpc("sleep"))
        await asyncio.sleep(0.1)
        cable.cut()
        with pytest.raises(ConnectionLost):
            await call
        cable.mend()
        assert await client.presence_stats("x") == (0, 0), "the client came back"


async def test_a_reader_that_is_behind_bounds_its_queue_and_loses_nothing(site: Site, transport: str) -> None:
    async with (
        asyncio.timeout(60),
        Client(site.url, transports=[transport]) as client,
        client.channel("busy", max_queued=4) as busy,
        client.channel("calm") as calm,
    ):
        for value in range(40):
            await site.publish("busy", value)
            await asyncio.sleep(0.001)
        await site.publish("calm", "still alive")
        assert await take(calm, 1) == ["still alive"], "nobody else is held up"
        assert busy.queued <= 4
        assert await take(busy, 40) == list(range(40))


async def test_more_than_the_queue_holds_may_come_with_the_first_answer(site: Site, transport: str) -> None:
    for value in range(50):
        await site.publish("chat", value)
    async with (
        asyncio.timeout(DEADLINE_S),
        Client(site.url, transports=[transport]) as client,
        client.channel("chat", since=Place("", 0), max_queued=10) as chat,
    ):
        assert await take(chat, 50) == list(range(50))


async def test_whoever_waits_to_be_subscribed_hears_that_it_was_called_off(site: Site) -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    async with asyncio.timeout(DEADLINE_S), Client(site.url) as client:
        chat = client.channel("chat", get_token=never)
        subscribing = asyncio.create_task(chat.subscribe())
        await asyncio.sleep(0.02)
        await chat.unsubscribe()
        with pytest.raises(Refused):
            await subscribing


async def test_joins_and_leaves_are_told(site: Site) -> None:
    async with Client(site.url) as client, client.channel("room", join_leave=True) as room:
        async with Client(site.url) as other, other.channel("room"):
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    item = await anext(room)
                    if isinstance(item, Joined) and item.client == other.client_id:
                        break
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance(await anext(room), Left):
                pass


async def test_a_snapshot_comes_before_what_is_newer(site: Site) -> None:
    await site.publish("board", "a", "b")

    @site.wire.snapshot("board")
    async def board(session: Any, channel: str) -> Any:
        await site.publish("board", "c")
        return ["a", "b"]

    async with Client(site.url) as client, client.channel("board") as reading:
        item = await anext(reading)
        assert isinstance(item, Snapshot) and (item.offset, item.data) == (2, ["a", "b"])
        assert await take(reading, 1) == ["c"]


async def test_the_next_wire_is_taken_when_one_is_blocked(site: Site) -> None:
    unblock = block_websocket(site)
    async with Client(site.url, climb_s=0.2) as client:
        assert client.transport == "http_stream"
        assert [attempt.transport for attempt in client.attempts][:2] == ["websocket", "http_stream"]
        assert "403" in client.attempts[0].reason and not client.attempts[1].reason
        async with client.channel("chat") as chat:
            await site.publish("chat", 1)
            assert await take(chat, 1) == [1]
            unblock()
            for value in range(2, 400):
                await site.publish("chat", value)
                assert await take(chat, 1) == [value], "nothing is lost or doubled while it climbs"
                await asyncio.sleep(0.002)
                if client.transport == "websocket":
                    break
            await until(lambda: client.transport == "websocket")


@pytest.mark.parametrize("first", [name for name in LINKS if name != "websocket"])
async def test_a_client_climbs_from_every_wire(site: Site, first: str) -> None:
    unblock = block_websocket(site)
    async with (
        asyncio.timeout(DEADLINE_S),
        Client(site.url, transports=["websocket", first], climb_s=0.2) as client,
        client.channel("chat") as chat,
    ):
        assert client.transport == first
        unblock()
        await until(lambda: client.transport == "websocket")
        await client.publish("chat", 1)
        assert await take(chat, 1) == [1]


async def test_a_call_in_flight_is_answered_while_the_client_climbs(site: Site) -> None:
    @site.wire.rpc("slow")
    async def slow(session: Any, data: float) -> float:
        await asyncio.sleep(data)
        return data

    unblock = block_websocket(site)
    losses: list[str] = []
    async with asyncio.timeout(DEADLINE_S), Client(
        site.url, climb_s=0.1, lost=lambda reason, delay_s: losses.append(reason)
    ) as client:
        calling = asyncio.create_task(client.rpc("slow", 0.5))
        later: list[Any] = []
        unblock()
        while client.transport != "websocket":
            # One of these comes while the client moves, and waits for it.
            later.append(await client.rpc("slow", 0.01))
        assert await calling == 0.5
        assert set(later) == {0.01} and not losses


async def test_a_busy_server_is_not_a_blocked_wire(site: Site) -> None:
    attempts = 0

    def busy(exchange: Exchange) -> None:
        nonlocal attempts
        attempts += 1
        exchange.respond(503, [(b"retry-after", b"7")])

    assert site.server is not None
    site.server._host.handler = busy
    told: list[float] = []
    client = Client(
        site.url, transports=["http_stream", "poll"], lost=lambda reason, delay_s: told.append(delay_s)
    )
    connecting = asyncio.create_task(client.connect())
    await until(lambda: told)
    assert told[0] >= 7 and attempts == 1 and client.attempts[0].transport == "http_stream"
    connecting.cancel()
    await client.close()
    assert issubclass(Busy, ConnectionLost)


@pytest.fixture
async def closed_site() -> AsyncIterator[Site]:
    """A server on which nothing is open but to those who are known."""
    options = {
        "dev": False,
        "tokens": Tokens(secret=SECRET),
        "user_rules": OPEN,
        "limits": Limits(expiry_grace_s=5.0, expiry_notice_s=1.0),
    }
    async with serving("own", ("", ""), **options) as running:
        yield running


async def test_a_refused_client_is_told_why(closed_site: Site, transport: str) -> None:
    async with asyncio.timeout(60):
        with pytest.raises(Refused):
            async with Client(closed_site.url, token="not.a.token", transports=[transport]):
                pass
        async with Client(closed_site.url, transports=[transport]) as nobody:
            with pytest.raises(CommandError):
                await nobody.channel("chat").subscribe()
            with pytest.raises(CommandError) as caught:
                await nobody.publish("chat", 1)
            assert caught.value.number in (codes.UNAUTHORIZED.number, codes.PERMISSION_DENIED.number)


async def test_an_expired_token_is_replaced(closed_site: Site, transport: str) -> None:
    given: list[str] = []

    async def get_token() -> str:
        given.append(token("ann", -5 if not given else 600))
        return given[-1]

    async with asyncio.timeout(60), Client(
        closed_site.url, get_token=get_token, transports=[transport]
    ) as client:
        assert len(given) == 2
        async with client.channel("chat") as chat:
            await client.publish("chat", 1)
            assert await take(chat, 1) == [1]
    with pytest.raises(Refused):
        async with Client(closed_site.url, token=token("ann", -5), transports=[transport]):
            pass


async def test_a_token_is_refreshed_without_losing_the_place(closed_site: Site) -> None:
    given: list[float] = []

    async def get_token() -> str:
        given.append(2.0)
        return token("ann", 2.0)

    lost: list[str] = []
    async with Client(
        closed_site.url,
        get_token=get_token,
        transports=["websocket"],
        lost=lambda reason, delay_s: lost.append(reason),
    ) as client, client.channel("chat") as chat:
        for value in range(40):
            await client.publish("chat", value)
            assert await take(chat, 1) == [value]
            await asyncio.sleep(0.1)
            if len(given) >= 3:
                break
        assert len(given) >= 3 and not lost


async def test_whoever_is_disconnected_for_good_hears_it(closed_site: Site, transport: str) -> None:
    async with asyncio.timeout(60), Client(
        closed_site.url, token=token("ann"), transports=[transport]
    ) as client:
        chat = client.channel("chat")
        await chat.subscribe()
        await closed_site.wire.block("ann")
        with pytest.raises(Refused):
            async for _ in chat:
                pass
        with pytest.raises(Refused):
            await client.publish("chat", 1)


async def test_an_unsubscribed_channel_ends_alone(closed_site: Site) -> None:
    async with Client(closed_site.url, token=token("ann")) as client, client.channel("stays") as stays:
        chat = client.channel("chat")
        await chat.subscribe()
        await closed_site.wire.unsubscribe("ann", "chat")
        with pytest.raises(CommandError):
            async for _ in chat:
                pass
        await client.publish("stays", 1)
        assert await take(stays, 1) == [1]


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(BadRequest):
        Client("http://127.0.0.1:1", transports=["carrier-pigeon"])
    with pytest.raises(BadRequest):
        Client("http://127.0.0.1:1", transports=[])
    with pytest.raises(BadRequest):
        SyncClient("no url")


async def test_the_synchronous_client_does_the_same(site: Site) -> None:
    site.wire.rpc("double")(_double)

    def use() -> None:
        with SyncClient(site.url) as client:
            assert client.transport == "websocket"
            with client.channel("chat") as chat:
                client.publish("chat", 1)
                item = chat.get(DEADLINE_S)
                assert isinstance(item, Received) and item.data == 1
                assert client.rpc("double", 4) == 8
                assert client.presence_stats("chat") == (1, 1)
                assert len(client.presence("chat")) == 1
                assert len(client.history("chat", limit=-1)[0]) == 1
                with pytest.raises(TimeoutError):
                    chat.get(0.05)
                client.publish("chat", 2)
                for item in chat:
                    assert isinstance(item, Received) and item.data == 2
                    chat.unsubscribe()
            client.close()
            with pytest.raises(Refused):
                client.publish("chat", 3)
        client.close()

    await asyncio.to_thread(use)


async def _double(session: Any, data: int) -> int:
    return data * 2


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
async def test_an_answer_to_a_ping_whose_request_is_lost_goes_again(transport: str) -> None:
    losses: list[str] = []
    limits = Limits(ping_interval_s=1.0, pong_timeout_s=0.8)
    async with (
        serving("own", ("", ""), limits=limits) as site,
        Client(site.url, transports=[transport], lost=lambda why, wait_s: losses.append(why)) as client,
    ):
        up = client._connection._link._up  # type: ignore[union-attr]
        for _ in range(35):
            if up._connection is not None:
                up._connection._writer.transport.abort()
            await asyncio.sleep(0.1)
    assert losses == []
