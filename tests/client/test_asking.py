"""What an application hands to the client: tokens from somewhere, listeners; what becomes of their errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import jwt
import pytest

from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from everywire.client.client import Client
from everywire.client.errors import CommandError, Refused
from everywire.client.items import Received
from everywire.client.links import LINKS
from everywire.client.subscription import Subscription
from everywire.core import codes
from everywire.core.limits import Limits
from tests.e2e.cutting import through
from tests.serving import DEADLINE_S, Site, serving, until

SECRET = "a-secret-of-tokens-that-is-long-enough"


def token(lasts_s: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + lasts_s, **claims}, SECRET, "HS256")


@pytest.fixture(params=list(LINKS))
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A server where one reads what is open by a connection's token, and anything else by a token for it."""
    options: dict[str, Any] = {
        "dev": False,
        "tokens": Tokens(secret=SECRET),
        "user_rules": {Action.READ: ("open",), Action.PUBLISH: ("*",)},
        "limits": Limits(expiry_grace_s=5.0, expiry_notice_s=1.0),
    }
    async with serving("own", ("", ""), **options) as running:
        yield running


async def numbers(subscription: Subscription, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            item = await anext(subscription)
            assert isinstance(item, Received), item
            found.append(item.data)
    return found


async def test_a_get_token_that_fails_is_asked_again(site: Site, transport: str) -> None:
    asked = 0
    reasons: list[str] = []

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ValueError("the service of tokens is away")
        return token()

    async with asyncio.timeout(DEADLINE_S), Client(
        site.url, get_token=get_token, transports=[transport], lost=lambda reason, _: reasons.append(reason)
    ) as client:
        await client.publish("open", 1)
    assert asked == 3 and all("the service of tokens is away" in reason for reason in reasons[:2])


async def test_a_get_token_may_say_that_there_is_none(site: Site) -> None:
    async def get_token() -> str:
        raise Refused("nobody is logged in")

    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Refused, match="nobody is logged in"):
            await Client(site.url, get_token=get_token).connect()
        async with Client(site.url, token=token()) as client:
            with pytest.raises(Refused, match="nobody is logged in"):
                await client.channel("closed", get_token=get_token).subscribe()
            async with client.channel("open") as others:
                await client.publish("open", 1)
                assert await numbers(others, 1) == [1]


async def test_channels_have_tokens_of_their_own(site: Site, transport: str) -> None:
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        if asked == 1:
            raise ValueError("not now")
        # The first is too old when it comes.
        return token(-10 if asked == 2 else 600, channel="closed")

    async with asyncio.timeout(60), Client(site.url, token=token(), transports=[transport]) as client:
        with pytest.raises(CommandError):
            await client.channel("closed").subscribe()
        closed = client.channel("closed", get_token=get_token)
        subscribing = asyncio.create_task(closed.subscribe())
        async with client.channel("open") as others:
            await client.publish("open", 1)
            assert await numbers(others, 1) == [1]
            await subscribing
            for value in range(5):
                await client.publish("closed", value)
            assert await numbers(closed, 5) == [0, 1, 2, 3, 4]
    assert asked == 3


async def test_a_token_that_is_good_is_used_again(site: Site) -> None:
    asked = 0

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        return token(channel="closed")

    losses: list[str] = []
    async with asyncio.timeout(DEADLINE_S), Client(
        site.url, token=token(), lost=lambda reason, _: losses.append(reason)
    ) as client, client.channel("closed", get_token=get_token) as closed:
        for round in range(3):
            await site.wire.disconnect("ann", code=codes.SHUTDOWN)
            await until(lambda round=round: len(losses) > round and client.transport)
            await client.publish("closed", round)
            assert await numbers(closed, 1) == [round]
    assert asked == 1


async def test_a_channels_token_is_refreshed_once_for_each_end(site: Site) -> None:
    asked: list[float] = []

    async def get_token() -> str:
        asked.append(time.monotonic())
        return token(2, channel="closed")

    losses: list[str] = []
    async with asyncio.timeout(60), Client(
        site.url, token=token(), lost=lambda reason, _: losses.append(reason)
    ) as client, client.channel("closed", get_token=get_token) as closed:
        # Each connection plans it anew; what the ones before had planned is off.
        for round in range(3):
            await site.wire.disconnect("ann", code=codes.SHUTDOWN)
            await until(lambda round=round: len(losses) > round and closed.is_subscribed)
        await until(lambda: len(asked) >= 3)
        await client.publish("closed", 1)
        assert await numbers(closed, 1) == [1]
    assert min(later - earlier for earlier, later in pairwise(asked)) > 0.5


async def test_a_get_token_may_ask_over_the_same_connection(site: Site, transport: str) -> None:
    @site.wire.rpc("token")
    async def give(session: Any, data: str) -> str:
        return token(channel=data)

    losses: list[str] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        through(site.url) as cable,
        Client(
            cable.url,
            token=token(),
            transports=[transport],
            lost=lambda reason, _: losses.append(reason),
        ) as client,
    ):

        async def get_token() -> str:
            return str(await client.rpc("token", "closed"))

        async with client.channel("closed", get_token=get_token) as closed:
            cable.cut()
            await until(lambda: losses)
            closed.token = ""  # as if it had expired
            cable.mend()
            await site.publish("closed", 1)
            assert await numbers(closed, 1) == [1]


async def test_a_listener_that_fails_disturbs_nobody(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a listener's own fault")

    @site.wire.rpc("tell")
    async def tell(session: Any, data: Any) -> None:
        await session.send("hello")

    async with asyncio.timeout(DEADLINE_S), Client(site.url, token=token(), lost=fail) as client:
        client.on_message = fail
        async with client.channel("open") as reading:
            await client.rpc("tell")
            await until(lambda: "a listener's own fault" in caplog.text)
            await site.wire.disconnect("ann", code=codes.SHUTDOWN)
            await until(lambda: caplog.text.count("a listener's own fault") >= 2)
            await site.publish("open", 1)
            assert await numbers(reading, 1) == [1]
