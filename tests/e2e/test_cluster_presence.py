"""Who is in a channel, over three nodes and one store: the truth, also after a node was killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx
import pytest

from everywire.client.client import Client
from everywire.client.subscription import Joined, Left, Subscription
from tests.e2e.cluster import Cluster, Worker, cluster, token
from tests.serving import DEADLINE_S

pytestmark = pytest.mark.xdist_group("busy")

ROOM: Final = "room"
NODES: Final = 3
MEMBERS: Final = 60
"""Three hundred are in ``tests/soak``, and ten thousand joins."""
LEASE_S: Final = 3.0
LIMITS: Final[dict[str, Any]] = {"node_ttl_s": LEASE_S, "leave_debounce_s": 0.2}


class Tab:
    """One client of a user, at one node."""

    def __init__(self, worker: Worker, user: str) -> None:
        self.user = user
        self.client = Client(worker.url, token=token(user), transports=["websocket"])
        self.subscription: Subscription | None = None

    async def enter(self) -> Tab:
        """Come, if it is not here, and join the room."""
        if not self.client.client_id:
            await self.client.connect()
        self.subscription = self.client.channel(ROOM)
        await self.subscription.subscribe()
        return self

    async def leave(self) -> None:
        """Leave the room, and stay connected."""
        if self.subscription is not None:
            await self.subscription.unsubscribe()
            self.subscription = None

    async def close(self) -> None:
        """Go."""
        self.subscription = None
        await self.client.close()


class Watcher:
    """Hears at one node who comes and goes."""

    def __init__(self, worker: Worker) -> None:
        self.client = Client(worker.url, token=token("watcher"), transports=["websocket"])
        self.joined = Counter[str]()
        self.left = Counter[str]()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Watcher:
        """Begin to hear."""
        await self.client.connect()
        subscription = self.client.channel(ROOM, join_leave=True)
        await subscription.subscribe()
        self._task = asyncio.create_task(self._hear(subscription))
        return self

    async def _hear(self, subscription: Subscription) -> None:
        async for item in subscription:
            if isinstance(item, Joined):
                self.joined[item.client] += 1
            elif isinstance(item, Left):
                self.left[item.client] += 1

    async def close(self) -> None:
        """Hear no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.client.close()


async def eventually(holds: Callable[[], Awaitable[object]], deadline_s: float = DEADLINE_S) -> float:
    """Wait until something holds; return when it was seen to."""
    end_s = time.monotonic() + deadline_s
    while (found := await holds()) is not None:
        assert time.monotonic() < end_s, found
        await asyncio.sleep(0.05)
    return time.monotonic()


class House:
    """The nodes, and what they say about the room."""

    def __init__(self, found: Cluster, http: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self.workers = found.workers
        self.kill = found.kill
        self._http = http
        self._stack = stack

    async def tabs(self, users: Iterable[str], first: int = 0) -> list[Tab]:
        """Let users come, at one node after the other, and join the room."""
        tabs = [Tab(self.workers[number % NODES], user) for number, user in enumerate(users, first)]
        for tab in tabs:
            self._stack.push_async_callback(tab.close)
        return [await tab.enter() for tab in tabs]

    async def watchers(self, *workers: Worker) -> list[Watcher]:
        """Let watchers come."""
        watchers = [Watcher(worker) for worker in workers]
        for watcher in watchers:
            self._stack.push_async_callback(watcher.close)
        return [await watcher.start() for watcher in watchers]

    async def present(self, worker: Worker, query: str = "limit=1000") -> dict[str, Any]:
        """Ask one node."""
        answer = await self._http.get(f"{worker.url}/channels/{ROOM}/presence?{query}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def others(self, expected: Iterable[Tab]) -> object:
        """Return what is not as it should be: watchers aside, each node that is alive knows just these."""
        clients = sorted(tab.client.client_id for tab in expected)
        for worker in self.workers:
            if worker.is_serving:
                found = await self.present(worker)
                seen = sorted(row["client"] for row in found["members"] if row["user"] != "watcher")
                if seen != clients:
                    return worker.url, len(seen), len(clients), sorted({*seen} ^ {*clients})[:5]
        return None


@asynccontextmanager
async def house(broker: str = "") -> AsyncIterator[House]:
    """Run the nodes over a broker, by default SQLite."""
    async with (
        cluster(NODES, broker=broker, **LIMITS) as found,
        httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as http,
        AsyncExitStack() as stack,
    ):
        yield House(found, http, stack)


async def lose_a_node(members: int, broker: str = "") -> float:
    """Kill a node with a third of the members; return how long the others believed in them."""
    async with house(broker) as home:
        watchers = await home.watchers(*home.workers[:2])
        tabs = await home.tabs(f"user {number}" for number in range(members))
        await eventually(lambda: home.others(tabs))
        victim = home.workers[2]
        gone = [tab for number, tab in enumerate(tabs) if number % NODES == 2]
        stay = [tab for tab in tabs if tab not in gone]
        clients = Counter(tab.client.client_id for tab in gone)
        killed_s = time.monotonic()
        await home.kill(victim)
        await asyncio.gather(*(tab.client.close() for tab in gone))
        right_s = await eventually(lambda: home.others(stay))

        async def untold() -> object:
            missing = [len(clients - watcher.left) for watcher in watchers]
            return missing if any(missing) else None

        await eventually(untold)
        await asyncio.sleep(LEASE_S)  # whoever tells it twice does so now
        for watcher in watchers:
            assert watcher.left == clients, "each leave is told once, and nobody else's"
            joins = {tab.client.client_id: watcher.joined[tab.client.client_id] for tab in tabs}
            assert set(joins.values()) == {1}
        assert await home.others(stay) is None
        return right_s - killed_s


async def test_members_of_a_killed_node_leave_once() -> None:
    await lose_a_node(MEMBERS)


async def test_a_user_in_three_tabs_is_one_member() -> None:
    async with house() as home:
        tabs = await home.tabs(["ann", "ann", "ann", "ben"])

        def says(expected: dict[str, int]) -> Callable[[], Awaitable[object]]:
            async def look() -> object:
                for worker in home.workers:
                    found = await home.present(worker, "by=user")
                    seen = {row["user"]: row["clients"] for row in found["members"]}
                    counts = (found["users"], found["clients"])
                    if (seen, counts) != (expected, (len(expected), sum(expected.values()))):
                        return worker.url, found
                return None

            return look

        await eventually(says({"ann": 3, "ben": 1}))
        await tabs[1].close()
        await eventually(says({"ann": 2, "ben": 1}))
        await tabs[0].leave()
        await tabs[2].close()
        await eventually(says({"ben": 1}))


async def come_and_go(joins: int, broker: str = "", seed: int = 5) -> None:
    """Let members come and go so often, some without a word; then the list is who is there."""
    chance = random.Random(seed)
    async with house(broker) as home:
        tabs = await home.tabs(f"user {number}" for number in range(30))
        left = joins

        async def wander(place: int) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                if chance.random() < 0.05:
                    await tabs[place].close()
                    tabs[place] = (await home.tabs([tabs[place].user], chance.randrange(NODES)))[0]
                else:
                    await tabs[place].leave()
                    await tabs[place].enter()

        await asyncio.gather(*map(wander, range(len(tabs))))
        for tab in tabs[::2]:
            await tab.leave()
        await eventually(lambda: home.others(tabs[1::2]))
        await asyncio.sleep(2 * LEASE_S)  # nothing of those who are gone comes back, nobody runs out
        assert await home.others(tabs[1::2]) is None


async def test_after_many_joins_and_leaves_the_list_is_the_truth() -> None:
    await come_and_go(600)
