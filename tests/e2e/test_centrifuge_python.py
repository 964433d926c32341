"""PyPI's `centrifuge-python` against the server, over WebSocket: every command that it has, in both forms."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import centrifuge
import jwt
import pytest

from everywire.core import codes
from tests.e2e.interop import SECRET, Interop, interop
from tests.serving import DEADLINE_S

USER: Final = "pat"
Context = Any


class Events:
    """Handlers of either kind, client's or subscription's: what they are told is kept in order."""

    def __init__(self) -> None:
        self.told: deque[tuple[str, Context]] = deque()
        self._came = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[[Context], Any]:
        if not name.startswith("on_"):
            raise AttributeError(name)

        async def hear(context: Context) -> None:
            self.told.append((name[3:], context))
            self._came.set()

        return hear

    async def next(self, name: str) -> Context:
        """Return the next event of a name, passing over others."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while self.told:
                    found, context = self.told.popleft()
                    if found == name:
                        return context
                self._came.clear()
                await self._came.wait()


class Pat:
    """A client of the library, and the form that it speaks."""

    def __init__(self, server: Interop, url: str, is_binary: bool) -> None:
        self.server = server
        self.is_binary = is_binary
        self.url = url
        self.tokens = 0
        self.events = Events()
        self.client: Any = None

    def pack(self, value: Any) -> Any:
        return json.dumps(value).encode() if self.is_binary else value

    def unpack(self, data: Any) -> Any:
        return json.loads(data) if isinstance(data, bytes) else data

    def make(self, *ends_s: int, user: str = USER, events: Events | None = None, **claims: Any) -> Any:
        """Make a client whose tokens live so long, one after the other."""

        async def get_token() -> str:
            left = ends_s[min(self.tokens, len(ends_s) - 1)]
            self.tokens += 1
            return sign(sub=user, exp=int(time.time()) + left, info={"name": user}, **claims)

        return centrifuge.Client(
            self.url.replace("http", "ws") + "/connection/websocket",
            events=events or self.events,  # type: ignore[arg-type]
            get_token=get_token,
            use_protobuf=self.is_binary,
            data=self.pack({"hello": user}),
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            proxy=None,
        )

    def subscription(self, channel: str, **options: Any) -> tuple[Any, Events]:
        """Make a subscription, and what hears of it."""
        events = Events()
        options = {"positioned": True, "recoverable": True, "join_leave": True, **options}
        return (
            self.client.new_subscription(
                channel,
                events=events,
                min_resubscribe_delay=0.02,
                max_resubscribe_delay=0.2,
                **options,
            ),
            events,
        )

    async def subscribed(self, channel: str, **options: Any) -> tuple[Any, Events, Context]:
        """Subscribe."""
        sub, events = self.subscription(channel, **options)
        await sub.subscribe()
        return sub, events, await events.next("subscribed")

    async def act(self, what: str, **more: Any) -> None:
        """Have the server do something."""
        await self.client.rpc("act", self.pack({"do": what, "user": USER, **more}))


def sign(**claims: Any) -> str:
    return jwt.encode(claims, SECRET, "HS256")


@pytest.fixture(params=["json", "protobuf"])
def is_binary(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "protobuf")


@asynccontextmanager
async def pat(is_binary: bool, *ends_s: int, host: str = "own", **claims: Any) -> AsyncIterator[Pat]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(interop(host))
        made = Pat(server, await server.cable(USER), is_binary)
        made.client = made.make(*(ends_s or (3600,)), **claims)
        await made.client.connect()
        stack.push_async_callback(made.client.disconnect)
        yield made


async def test_connect_and_subscriptions_of_the_server(is_binary: bool) -> None:
    async with pat(is_binary, channels=["news"]) as one:
        connected = await one.events.next("connected")
        assert connected.client
        assert one.unpack(connected.data) == {"welcome": USER, "said": {"hello": USER}}
        assert (await one.events.next("subscribed")).channel == "news"
        await one.act("publish", channel="news", values=[{"n": 1}])
        told = await one.events.next("publication")
        assert (told.channel, one.unpack(told.pub.data), told.pub.offset) == ("news", {"n": 1}, 1)
        await one.act("subscribe", channel="given")
        given = await one.events.next("subscribed")
        assert given.channel == "given" and one.unpack(given.data) == {"given": True}
        await one.act("unsubscribe", channel="given", code=2000)
        assert (await one.events.next("unsubscribed")).channel == "given"


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_subscribe_publish_and_read(is_binary: bool, host: str) -> None:
    async with pat(is_binary, host=host) as one:
        connected = await one.events.next("connected")
        sub, events, told = await one.subscribed("chat.a", data=one.pack({"room": 1}))
        assert told.recoverable and told.positioned and told.stream_position.epoch
        assert one.unpack(told.data) == {"asked": {"room": 1}}
        await sub.publish(one.pack({"text": "ä𝄞"}))
        pub = (await events.next("publication")).pub
        assert one.unpack(pub.data) == {"text": "ä𝄞"} and pub.offset == 1
        assert (pub.info.user, pub.info.client) == (USER, connected.client)
        assert one.unpack(pub.info.conn_info) == {"name": USER}
        await one.client.publish("chat.a", one.pack(2))
        assert one.unpack((await events.next("publication")).pub.data) == 2

        history = await sub.history(limit=-1)
        assert [pub.offset for pub in history.publications] == [1, 2]
        assert history.offset == 2 and history.epoch == told.stream_position.epoch
        newest = await one.client.history("chat.a", limit=1, reverse=True)
        assert [pub.offset for pub in newest.publications] == [2]
        since = centrifuge.StreamPosition(1, history.epoch)
        assert [pub.offset for pub in (await sub.history(limit=5, since=since)).publications] == [2]
        with pytest.raises(centrifuge.ReplyError) as unrecoverable:
            await sub.history(limit=5, since=centrifuge.StreamPosition(1, "elsewhere"))
        assert unrecoverable.value.code == codes.UNRECOVERABLE.number

        await sub.unsubscribe()
        assert (await events.next("unsubscribed")).code == 0
        await one.act("publish", channel="chat.a", values=["unheard"])
        await one.client.rpc("echo", one.pack(1))
        assert not [name for name, _ in events.told if name == "publication"]


async def test_presence_joins_and_leaves(is_binary: bool) -> None:
    async with pat(is_binary) as one:
        connected = await one.events.next("connected")
        sub, events, _ = await one.subscribed("chat.a")
        members = (await sub.presence()).clients
        assert list(members) == [connected.client]
        me = members[connected.client]
        assert me.user == USER and one.unpack(me.conn_info) == {"name": USER}
        guest_events = Events()
        guest = one.make(3600, user="guest", events=guest_events)
        await guest.connect()
        guest_sub = guest.new_subscription("chat.a")
        await guest_sub.subscribe()
        while (joined := await events.next("join")).info.user == USER:
            pass
        assert joined.info.user == "guest"
        stats = await sub.presence_stats()
        assert (stats.num_clients, stats.num_users) == (2, 2)
        await guest.disconnect()
        assert (await events.next("leave")).info.user == "guest"


async def test_calls_and_refusals(is_binary: bool) -> None:
    async with pat(is_binary) as one:
        assert one.unpack((await one.client.rpc("echo", one.pack({"a": [1]}))).data) == {"a": [1]}
        with pytest.raises(centrifuge.ReplyError) as failed:
            await one.client.rpc("fail", one.pack(None))
        assert (failed.value.code, failed.value.message) == (1234, "as asked")
        with pytest.raises(centrifuge.ReplyError) as unknown:
            await one.client.rpc("no such", one.pack(None))
        assert unknown.value.code == codes.METHOD_NOT_FOUND.number
        with pytest.raises(centrifuge.ReplyError) as refused:
            await one.client.publish("forbidden", one.pack(1))
        assert refused.value.code == codes.PERMISSION_DENIED.number
        sub, events = one.subscription("forbidden")
        await sub.subscribe()
        assert (await events.next("unsubscribed")).code == codes.PERMISSION_DENIED.number


async def test_nothing_is_lost_or_doubled_by_cuts(is_binary: bool) -> None:
    async with pat(is_binary, channels=["news"]) as one:
        assert not (await one.events.next("subscribed")).was_recovering
        _, events, _ = await one.subscribed("counted.a")
        numbers: list[int] = []
        for cut in range(3):
            first = cut * 30
            await one.act("cut", channel="counted.a", values=list(range(first, first + 30)))
            while len(numbers) < first + 30:
                numbers.append(one.unpack((await events.next("publication")).pub.data))
            await one.events.next("connecting")
            await one.act("publish", channel="news", values=[f"after cut {cut}"])
            assert (await one.events.next("subscribed")).recovered
            pub = (await one.events.next("publication")).pub
            assert (one.unpack(pub.data), pub.offset) == (f"after cut {cut}", cut + 1)
        assert numbers == list(range(90))
        assert not [name for name, _ in events.told if name == "publication"]


async def test_what_is_gone_is_told(is_binary: bool) -> None:
    async with pat(is_binary) as one:
        _, events, _ = await one.subscribed("counted.a")
        await one.act("cut", channel="counted.a", values=[1, 2], trim=True)
        told = await events.next("subscribed")
        assert told.was_recovering and not told.recovered
        await one.act("publish", channel="counted.a", values=["after"])
        assert one.unpack((await events.next("publication")).pub.data) == "after"


async def test_a_state_of_ones_own_is_loaded_again_when_its_position_is_gone(is_binary: bool) -> None:
    """The library asks for error 112 in place of `recovered: false` (bit 2 of `flag`)."""
    async with pat(is_binary) as one:
        loads = 0

        async def get_state(channel: str) -> Any:
            nonlocal loads
            loads += 1
            history = await one.client.history(channel)
            return centrifuge.StreamPosition(history.offset, history.epoch)

        await one.act("publish", channel="counted.a", values=["in the state"])
        _, events, told = await one.subscribed("counted.a", get_state=get_state)
        assert loads == 1 and told.was_recovering and told.recovered
        await one.act("cut", channel="counted.a", values=[1, 2], trim=True)
        told = await events.next("subscribed")
        assert loads == 2 and told.recovered


async def test_tokens_are_refreshed(is_binary: bool) -> None:
    async with pat(is_binary, 3, 3600) as one:
        subs = 0

        async def get_token(channel: str) -> str:
            nonlocal subs
            subs += 1
            return sign(sub=USER, channel=channel, exp=int(time.time()) + (3600 if subs > 1 else 3))

        _, events, _ = await one.subscribed("closed", get_token=get_token)
        async with asyncio.timeout(DEADLINE_S):
            while one.tokens < 2 or subs < 2:
                await asyncio.sleep(0.05)
        assert one.unpack((await one.client.rpc("echo", one.pack(1))).data) == 1
        assert not [name for name, _ in one.events.told if name in ("disconnected", "error")]
        assert not [name for name, _ in events.told if name in ("unsubscribed", "error")]


async def test_an_expired_token_is_replaced(is_binary: bool) -> None:
    async with pat(is_binary, -10, 3600) as one:
        await one.events.next("connected")
        assert one.tokens == 2


async def test_ends_by_the_server(is_binary: bool) -> None:
    async with pat(is_binary) as one:
        first = (await one.events.next("connected")).client
        _, events, _ = await one.subscribed("chat.a")
        await one.act("unsubscribe", channel="chat.a", code=2500)
        assert (await events.next("subscribing")).code == codes.SUBSCRIPTION_GAP.number
        assert (await events.next("subscribed")).recovered
        await one.act("unsubscribe", channel="chat.a", code=2000)
        assert (await events.next("unsubscribed")).code == codes.UNSUBSCRIBED.number
        for code in (codes.FORCE_RECONNECT.number, 4100):
            await one.act("disconnect", code=code)
            assert (await one.events.next("connecting")).code == code
            assert (await one.events.next("connected")).client != first
        await one.act("disconnect", code=codes.DISCONNECTED.number, reason="enough")
        ended = await one.events.next("disconnected")
        assert (ended.code, ended.reason) == (codes.DISCONNECTED.number, "enough")


async def test_a_broken_token_is_final(is_binary: bool) -> None:
    async with pat(is_binary) as one:
        events = Events()
        other = one.make(3600, events=events)
        other.set_token("broken.token.here")
        await other.connect()
        assert (await events.next("disconnected")).code == codes.INVALID_TOKEN.number
