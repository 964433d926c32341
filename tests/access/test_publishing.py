"""The one way into the log: permission, quota, the application's word, and their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from everywire.access.authority import Authority
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import NOBODY, Action, Identity
from everywire.access.publishing import Publishing, make_draft
from everywire.access.quotas import Quotas
from everywire.access.rules import Rules
from everywire.brokers.base import Appended
from everywire.brokers.memory import MemoryBroker
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.hub.hub import Hub
from everywire.hub.recovery import EARLIEST

KEY = Identity(user="backend", kind="key", may_all=True)
LIMITS = Limits(max_publishing=3, hook_timeout_s=0.2, publish_burst_per_connection=5)


@dataclass(frozen=True, eq=False)
class Client:
    identity: Identity = NOBODY
    client: str = "one"
    transport: str = "websocket"
    peer: str = "192.0.2.1"


class Site:
    """Publishing over a hub of its own."""

    def __init__(self, hooks: Hooks, public: tuple[str, ...] = ("*",)) -> None:
        loop = asyncio.get_running_loop()
        self.hub = Hub(MemoryBroker(LIMITS), loop, limits=LIMITS)
        authority = Authority(Rules(public={Action.PUBLISH: public}), hooks, limits=LIMITS)
        quotas = Quotas(LIMITS, loop.time)
        self.publishing = Publishing(self.hub, authority, quotas, hooks, LIMITS)
        self.results: list[Appended | EverywireError] = []

    def publish(self, value: int, caller: Caller | None = None, channel: str = "news") -> bool:
        draft = make_draft(channel, b"%d" % value, LIMITS)
        return self.publishing.publish(caller or Client(), draft, self.results.append)

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.results) < count:
                await asyncio.sleep(0.001)

    def log(self, channel: str = "news") -> list[int]:
        found: list[int] = []

        def take(fetched: object) -> None:
            found.extend(int(one.data) for one in fetched.slices[0].publications)  # type: ignore[attr-defined]

        self.hub.fetch([channel], EARLIEST, 1000, take)
        return found


@pytest.fixture
async def sites() -> AsyncIterator[type[Site]]:
    made: list[Site] = []

    class Made(Site):
        def __init__(self, hooks: Hooks | None = None, **options: tuple[str, ...]) -> None:
            super().__init__(hooks or Hooks(), **options)
            made.append(self)

    yield Made
    for site in made:
        await site.publishing.close()
        await site.hub.close()


async def test_nothing_is_awaited_when_nothing_must_be_asked(sites: type[Site]) -> None:
    site = sites()
    await site.hub.start()
    assert site.publish(1)
    assert site.results and isinstance(site.results[0], Appended)
    assert site.log() == [1]


async def test_what_is_closed_is_refused(sites: type[Site]) -> None:
    site = sites(public=("open",))
    await site.hub.start()
    site.publish(1)
    (error,) = site.results
    assert isinstance(error, EverywireError) and error.code is codes.UNAUTHORIZED
    assert site.log() == []


async def test_the_application_may_change_and_refuse(sites: type[Site]) -> None:
    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.sleep(0)
        if draft.data == b"2":
            raise Forbidden("not two")
        if draft.data == b"3":
            raise RuntimeError("secret detail")
        return draft._replace(data=b"40") if draft.data == b"4" else None

    site = sites(Hooks(publish=judge))
    await site.hub.start()
    for value in (1, 2):
        site.publish(value)
    await site.settled(2)
    for value in (3, 4):
        site.publish(value)
    await site.settled(4)
    assert site.log() == [1, 40]
    refused, failed = site.results[1], site.results[2]
    assert isinstance(refused, EverywireError) and refused.code is codes.PERMISSION_DENIED
    assert isinstance(failed, EverywireError) and failed.code is codes.INTERNAL
    assert "secret" not in failed.sentence


async def test_an_application_that_does_not_answer_refuses(sites: type[Site]) -> None:
    async def sleep(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.sleep(60)
        return None

    site = sites(Hooks(publish=sleep))
    await site.hub.start()
    site.publish(1)
    await site.settled(1)
    (error,) = site.results
    assert isinstance(error, EverywireError) and error.code is codes.INTERNAL
    assert site.log() == []


async def test_a_client_keeps_its_order_in_a_channel_and_waits_for_no_other(sites: type[Site]) -> None:
    gate = asyncio.Event()

    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        if draft.data == b"1":
            await asyncio.wait_for(gate.wait(), 20)
        return None

    site = sites(Hooks(publish=judge))
    await site.hub.start()
    first, second = Client(), Client(client="two")
    site.publish(1, first)
    site.publish(2, first)
    site.publish(3, second)
    site.publish(4, first, "elsewhere")
    await site.settled(2)
    assert (site.log(), site.log("elsewhere")) == ([3], [4])
    gate.set()
    await site.settled(4)
    assert site.log() == [3, 1, 2]


async def test_what_is_asked_about_first_is_not_overtaken(sites: type[Site]) -> None:
    async def allow(identity: Identity, action: Action, channel: str) -> bool | None:
        await asyncio.sleep(0.01)
        return True

    site = sites(Hooks(authorize=allow), public=())
    await site.hub.start()
    caller = Client(Identity(user="ann"))
    for value in (1, 2, 3):
        site.publish(value, caller)
    await site.settled(3)
    assert site.log() == [1, 2, 3]


async def test_what_waits_for_the_application_is_bounded(sites: type[Site]) -> None:
    async def slow(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.sleep(0.02)
        return None

    site = sites(Hooks(publish=slow))
    await site.hub.start()
    caller = Client(KEY)
    assert all(site.publish(value, caller) for value in range(8)), "an operator is not asked about"
    site.results.clear()
    client = Client()
    goes_on = [site.publish(value, client) for value in range(8)]
    assert goes_on == [True, True, False, False, False, False, False, False]
    await site.settled(8)
    busy = [one for one in site.results if isinstance(one, EverywireError) and one.code is codes.BUSY]
    assert len(busy) == 2
    assert not site.publishing._held and not site.publishing._lanes


async def test_whoever_is_too_fast_is_told(sites: type[Site]) -> None:
    site = sites()
    await site.hub.start()
    for value in range(6):
        site.publish(value)
    assert site.log() == [0, 1, 2, 3, 4]
    last = site.results[-1]
    assert isinstance(last, EverywireError) and last.code is codes.TOO_MANY_REQUESTS
