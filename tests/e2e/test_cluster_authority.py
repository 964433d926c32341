"""What is decided about a user at one worker holds at all of them, over three nodes and one store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from everywire.client.client import Client
from everywire.client.errors import Refused
from everywire.client.subscription import Subscription
from tests.e2e.cluster import Worker, cluster, token
from tests.serving import DEADLINE_S

pytestmark = pytest.mark.xdist_group("busy")


async def one_word_for_all(broker: str = "") -> None:
    """Disconnect, block, ask for a ticket and for information, each at another worker than it is about."""
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(cluster(3, broker=broker))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False))
        one, two, three = found.workers

        async def call(worker: Worker, method: str, **values: Any) -> dict[str, Any]:
            answer = await http.post(f"{worker.url}/api/{method}", json=values)
            assert answer.status_code == 200 and "error" not in answer.json(), answer.text
            result: dict[str, Any] = answer.json()["result"]
            return result

        async def follow(worker: Worker, user: str) -> Subscription:
            client = Client(worker.url, token=token(user), transports=["websocket"])
            stack.push_async_callback(client.close)
            await client.connect()
            subscription = client.channel("hall")
            await subscription.subscribe()
            return subscription

        async def end_of(subscription: Subscription) -> int:
            with pytest.raises(Refused) as caught:
                async with asyncio.timeout(DEADLINE_S):
                    await anext(subscription)
            return caught.value.number

        async def reads(worker: Worker, user: str, **query: str) -> int:
            headers = {} if query else {"Authorization": f"Bearer {token(user)}"}
            answer = await http.get(f"{worker.url}/channels/room", params=query, headers=headers)
            return answer.status_code

        ann = await follow(one, "ann")
        bens = [await follow(worker, "ben") for worker in found.workers]

        async def counted() -> list[int]:
            nodes = (await call(three, "info"))["nodes"]
            return sorted(node["num_clients"] for node in nodes)

        async with asyncio.timeout(DEADLINE_S):
            while await counted() != [1, 1, 2]:
                await asyncio.sleep(0.05)

        await call(three, "disconnect", user="ann")
        assert await end_of(ann) == 3503
        assert await reads(two, "ann") == 200, "a disconnect keeps nobody out"

        assert await reads(one, "ben") == 200
        await call(three, "block_user", user="ben")
        assert [await end_of(ben) for ben in bens] == [3507, 3507, 3507]
        assert [await reads(worker, "ben") for worker in found.workers] == [403, 403, 403]
        await call(one, "unblock_user", user="ben")
        assert [await reads(worker, "ben") for worker in found.workers] == [200, 200, 200]

        asked = await http.post(f"{one.url}/ticket", headers={"Authorization": f"Bearer {token('col')}"})
        assert asked.status_code == 201, asked.text
        ticket = asked.json()["ticket"]
        tried = await asyncio.gather(*(reads(worker, "col", ticket=ticket) for worker in found.workers))
        assert sorted(tried) == [200, 401, 401], "it works once, at whichever worker"


async def test_one_word_for_all() -> None:
    await one_word_for_all()
