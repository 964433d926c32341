"""The one way into the log: permission, quota, the application's word, and their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from everywire.access.authority import Authority
from everywire.access.drafts import make_draft
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import NOBODY, Action, Identity
from everywire.access.publishing import Publishing
from everywire.access.quotas import Quotas
from everywire.access.rules import Rules
from everywire.brokers.base import Appended, Broker
from everywire.brokers.memory import MemoryBroker
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.hub.hub import Hub
from everywire.hub.recovery import EARLIEST
from everywire.testing.delayed_broker import DelayedBroker, Faults

KEY = Identity(user="backend", kind="key", may_all=True)
LIMITS = Limits(max_publishing=3, hook_timeout_s=0.2)


@dataclass(frozen=True, eq=False)
class Client:
    identity: Identity = NOBODY
    client: str = "one"
    transport: str = "websocket"
    peer: str = "192.0.2.1"


class Site:
    """Publishing over a hub of its own."""

    def __init__(
        self,
        hooks: Hooks,
        public: tuple[str, ...] = ("*",),
        limits: Limits = LIMITS,
        broker: Broker | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.hub = Hub(broker or MemoryBroker(limits), loop, limits=limits)
        self.authority = Authority(Rules(public={Action.PUBLISH: public}), hooks, limits=limits)
        self.quotas = Quotas(limits, loop.time)
        self.publishing = Publishing(self.hub, self.authority, self.quotas, hooks, limits)
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
        def __init__(self, hooks: Hooks | None = None, **options: Any) -> None:
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
    await drained(site)


async def test_whoever_is_too_fast_is_told(sites: type[Site]) -> None:
    site = sites(limits=replace(LIMITS, publish_burst_per_connection=5))
    await site.hub.start()
    for value in range(6):
        site.publish(value)
    assert site.log() == [0, 1, 2, 3, 4]
    last = site.results[-1]
    assert isinstance(last, EverywireError) and last.code is codes.TOO_MANY_REQUESTS


async def test_whoever_is_too_fast_or_shut_out_is_told_before_the_application_is_asked(
    sites: type[Site],
) -> None:
    gate, asked = asyncio.Event(), []

    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        asked.append(draft.data)
        await asyncio.wait_for(gate.wait(), 20)
        return None

    limits = replace(LIMITS, publish_burst_per_connection=2)
    site = sites(Hooks(publish=judge), public=("news",), limits=limits)
    await site.hub.start()
    for value in range(3):
        site.publish(value)
    site.publish(3, channel="closed")
    assert [one.code for one in site.results if isinstance(one, EverywireError)] == [
        codes.TOO_MANY_REQUESTS,
        codes.UNAUTHORIZED,
    ]
    gate.set()
    await site.settled(4)
    assert site.log() == [0, 1] and asked == [b"0", b"1"]


async def test_a_hook_that_is_cancelled_or_makes_nonsense_refuses_and_the_next_goes_on(
    sites: type[Site], caplog: pytest.LogCaptureFixture
) -> None:
    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        if draft.data == b"1":
            raise asyncio.CancelledError
        if draft.data == b"2":
            return draft._replace(data=b'{"no json')
        if draft.data == b"3":
            return draft._replace(data=b'"' + b"x" * 2000 + b'"')
        return None

    site = sites(Hooks(publish=judge), limits=replace(LIMITS, max_body_bytes=1000))
    await site.hub.start()
    for value in (1, 2, 3, 4):
        site.publish(value)
        await site.settled(value)
    assert [one.code for one in site.results if isinstance(one, EverywireError)] == [codes.INTERNAL] * 3
    assert site.log() == [4] and "was cancelled" in caplog.text
    await drained(site)


async def test_a_callback_that_fails_does_not_hold_up_the_next(
    sites: type[Site], caplog: pytest.LogCaptureFixture
) -> None:
    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        return None

    def fail(result: object) -> None:
        raise RuntimeError("a fault of ours")

    site = sites(Hooks(publish=judge))
    await site.hub.start()
    client = Client()
    site.publishing.publish(client, make_draft("news", b"1", LIMITS), fail)
    site.publish(2, client)
    await site.settled(1)
    assert site.log() == [1, 2] and "a fault of ours" in caplog.text
    await drained(site)


async def test_what_all_clients_let_wait_is_bounded(sites: type[Site]) -> None:
    gate = asyncio.Event()

    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.wait_for(gate.wait(), 20)
        return None

    limits = replace(LIMITS, hook_timeout_s=20.0, max_publishing_bytes=40, max_judging=5)
    site = sites(Hooks(publish=judge), limits=limits)
    await site.hub.start()
    for number in range(7):
        site.publish(number, Client(client=str(number)))
    assert len(site.results) == 2, "more lanes than may be judged at once"
    site.publish(10**39, Client(client="0"))
    assert len(site.results) == 3, "more bytes than may wait"
    assert all(isinstance(one, EverywireError) and one.code is codes.BUSY for one in site.results)
    gate.set()
    await site.settled(8)
    assert sorted(site.log()) == [0, 1, 2, 3, 4]
    await drained(site)


async def test_a_store_that_is_behind_is_waited_for_by_what_the_application_let_through(
    sites: type[Site],
) -> None:
    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        return None

    limits = replace(LIMITS, max_unfinished_appends=2, max_publishing=50)
    loop = asyncio.get_running_loop()
    broker = DelayedBroker(loop, faults=Faults(max_delay_s=0.01), limits=limits)
    site = sites(Hooks(publish=judge), limits=limits, broker=broker)
    await site.hub.start()
    clients = [Client(client=str(number)) for number in range(3)]
    for value in range(30):
        site.publish(value, clients[value % 3])
    await site.settled(30)
    assert all(isinstance(one, Appended) for one in site.results)
    await drained(site)


async def test_who_is_revoked_while_waiting_is_refused(sites: type[Site]) -> None:
    gate = asyncio.Event()

    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.wait_for(gate.wait(), 20)
        return None

    site = sites(Hooks(publish=judge), limits=replace(LIMITS, hook_timeout_s=20.0))
    await site.hub.start()
    client = Client(Identity(user="ann"))
    for value in (1, 2):
        site.publish(value, client)
    await asyncio.sleep(0)
    site.authority.is_revoked = lambda identity: True  # type: ignore[method-assign]
    gate.set()
    await site.settled(2)
    assert site.log() == [1], "the application was asked about the first already"


async def test_the_end_of_the_server_ends_what_waits(sites: type[Site]) -> None:
    async def judge(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.sleep(60)
        return None

    site = sites(Hooks(publish=judge), limits=replace(LIMITS, hook_timeout_s=60.0))
    await site.hub.start()
    client = Client()
    for value in (1, 2):
        site.publish(value, client)
    await asyncio.sleep(0)
    await site.publishing.close()
    await drained(site)
    assert not site.results


async def drained(site: Site) -> None:
    """Wait until nothing is kept of what was published."""
    async with asyncio.timeout(20):
        while site.publishing._tasks:
            await asyncio.sleep(0.001)
    assert not site.publishing._lanes and not site.publishing._held and not site.publishing._held_bytes
