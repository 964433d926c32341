"""Requests that the application is asked about: nothing is made before it has answered, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from everywire.access.hooks import Hooks
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.limits import Limits
from tests.readers import READERS, Refused, data, page, take
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve
from tests.transports.known import bearer, knowing

METHODS: Final = (("POST", "/channels/a"), ("DELETE", "/channels/a"), ("GET", "/channels/a/presence"))


class Application:
    """An application that answers when it is told to; all that it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.may_answer = asyncio.Event()
        self.says: bool | None = True
        self.fails: Exception | None = None
        self.hooks = Hooks(authenticate=self.authenticate, authorize=self.authorize)

    async def authenticate(self, request: AuthRequest) -> Identity | None:
        self.asked.append(("who", request.transport))
        await self.may_answer.wait()
        if self.fails is not None:
            raise self.fails
        return Identity(user=request.headers.get("x-user", ""))

    async def authorize(self, identity: Identity, action: Action, channel: str) -> bool | None:
        self.asked.append((identity.user, action.value, channel))
        await self.may_answer.wait()
        return self.says


@contextlib.asynccontextmanager
async def asking(serve: Serve, **options: Any) -> AsyncIterator[tuple[Site, Application]]:
    application = Application()
    async with serve(**knowing(tokens=None, user_rules={}, hooks=application.hooks, **options)) as site:
        yield site, application


def begin(site: Site, name: str) -> asyncio.Future[Any]:
    """Begin to read from the beginning; return the first publication when it is there."""
    items = READERS[name](site, "a", {"X-User": "ann"}, after="earliest")
    return asyncio.ensure_future(_one(items))


async def _one(items: Any) -> Any:
    try:
        return (await take(items, 1))[0]
    finally:
        await items.aclose()


def is_untouched(site: Site) -> bool:
    return not site.wire.hub.channels_read() and site.wire.shared.registry.statistics()["visitors"] == 0


@pytest.mark.parametrize("name", READERS)
async def test_a_wire_waits_for_the_answer_and_then_serves(serve: Serve, name: str) -> None:
    async with asking(serve) as (site, application):
        await site.publish("a", 1)
        reading = begin(site, name)
        await until(lambda: application.asked)
        assert is_untouched(site) and not reading.done()
        application.may_answer.set()
        assert data([await reading]) == [1]
        transport = "websocket" if name == "everywire.json" else name
        assert application.asked == [("who", transport), ("ann", "read", "a")]


@pytest.mark.parametrize("name", READERS)
async def test_what_the_application_refuses_is_refused(serve: Serve, name: str) -> None:
    async with asking(serve) as (site, application):
        await site.publish("a", 1)
        application.may_answer.set()
        application.says = False
        with pytest.raises(Refused) as refused:
            await begin(site, name)
        assert (refused.value.status, refused.value.error["code"]) == (403, 103)
        assert refused.value.error["channel"] == "a"
        application.fails = Forbidden("not you")
        with pytest.raises(Refused) as refused:
            await take(READERS[name](site, "a", {"X-User": "bob"}, after="earliest"), 1)
        assert refused.value.status == 403 and refused.value.error["message"] == "not you"
        application.fails = EverywireError()
        with pytest.raises(Refused) as refused:
            await take(READERS[name](site, "a", {"X-User": "carl"}, after="earliest"), 1)
        assert refused.value.status == 500
        assert is_untouched(site)


@pytest.mark.parametrize("name", READERS)
async def test_who_goes_meanwhile_leaves_nothing_behind(serve: Serve, name: str) -> None:
    async with asking(serve) as (site, application):
        await site.publish("a", 1)
        reading = begin(site, name)
        await until(lambda: application.asked)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0.05)
        application.may_answer.set()
        await asyncio.sleep(0.1)
        assert is_untouched(site)
        # And the server goes on.
        assert data((await page(site, "a", {"X-User": "ann"}))["publications"]) == [1]


@pytest.mark.parametrize("name", READERS)
async def test_who_waits_when_the_server_stops_is_told_to_come_back(serve: Serve, name: str) -> None:
    async with asking(serve) as (site, application):
        reading = begin(site, name)
        await until(lambda: application.asked)
        draining = asyncio.ensure_future(site.drain())
        with pytest.raises(Refused) as refused:
            async with asyncio.timeout(DEADLINE_S):
                await reading
        if site.host != "asgi" or name not in ("websocket", "everywire.json"):
            assert refused.value.status == 503 and refused.value.error["name"] == "busy"
        await draining
        application.may_answer.set()
        assert is_untouched(site)


async def test_an_answer_that_never_comes_is_waited_for_so_long(serve: Serve) -> None:
    async with asking(serve, limits=Limits(judging_timeout_s=0.2)) as (site, application):
        ends = await asyncio.gather(*[begin(site, name) for name in READERS], return_exceptions=True)
        for name, end in zip(READERS, ends, strict=True):
            assert isinstance(end, Refused) and end.status == 503, name
        application.may_answer.set()
        await asyncio.sleep(0.05)
        assert is_untouched(site)


async def test_changes_wait_as_well_and_what_is_refused_is_not_done(serve: Serve) -> None:
    async with asking(serve) as (site, application):
        application.may_answer.set()
        ann = {"X-User": "ann"}
        body = {"content": b'"by ann"'}
        assert (await site.http.post("/channels/a", headers=ann, **body)).status_code == 201
        assert (await site.http.get("/channels/a/presence", headers=ann)).json()["clients"] == 0
        application.says = False
        site.wire.shared.authority.forget("ann")
        for method, path in METHODS:
            answer = await site.http.request(method, path, headers=ann, **(body if method == "POST" else {}))
            assert answer.status_code == 403, (method, path)
        application.says = True
        site.wire.shared.authority.forget("ann")
        assert data((await page(site, "a", ann))["publications"]) == ["by ann"]
        assert (await site.http.delete("/channels/a", headers=ann)).status_code == 204


async def test_a_body_is_not_taken_from_who_is_not_judged_yet(serve: Serve) -> None:
    async with asking(serve) as (site, application):
        posting = asyncio.ensure_future(
            site.http.post("/channels/a", content=b"1" * 900_000, headers={"X-User": "ann"})
        )
        await until(lambda: application.asked)
        application.says = False
        application.may_answer.set()
        assert (await posting).status_code == 403
        assert site.wire.hub.counters.publications == 0


async def test_a_crowd_that_polls_asks_once(serve: Serve) -> None:
    async with asking(serve) as (site, application):
        application.may_answer.set()
        for _ in range(5):
            await asyncio.gather(*[page(site, "a", {"X-User": "ann"}) for _ in range(5)])
        assert application.asked.count(("ann", "read", "a")) == 1
        assert application.asked.count(("who", "poll")) == 1


async def test_a_token_is_judged_once_for_all_requests_with_its_header_until_it_is_revoked(
    serve: Serve,
) -> None:
    async with serve(**knowing()) as site:
        headers = bearer("ann", jti="one")
        for _ in range(3):
            assert (await page(site, "a", headers))["publications"] == []
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        await revocations.revoke_token("one")
        with pytest.raises(Refused) as refused:
            await page(site, "a", headers)
        assert refused.value.status == 403
        await page(site, "a", bearer("ann", jti="two"))
        await revocations.block_user("ann")
        with pytest.raises(Refused) as refused:
            await page(site, "a", bearer("ann", jti="two"))
        assert refused.value.status == 403
        await revocations.unblock_user("ann")
        await page(site, "a", bearer("ann", jti="two"))
