"""Readers whose user is known: ended by the registry, by their credential's end, counted, and present."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from everywire.core import codes
from everywire.core.limits import Limits
from tests.readers import READERS, Closed, Refused, data, page, take
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve
from tests.transports.known import bearer, knowing

STREAMS = ("stream", "sse", "everywire.json", "websocket")
HELD = ("long-poll", *STREAMS)
"""The wires on which a reader is there for some time."""


class Waiting:
    """A reader that waits for what comes."""

    def __init__(self, items: Any, name: str) -> None:
        self._items = items
        self._name = name
        # A long poll says nothing before its answer, and then where it begins.
        self._next = asyncio.ensure_future(take(items, 1, "data" if name == "long-poll" else ""))

    async def item(self) -> Any:
        """Return what comes next."""
        return (await self._next)[0]

    async def end(self) -> tuple[int, str]:
        """Return with what code and reason it was ended; for a long poll, with what status and name."""
        try:
            seen = await self.item()
            if self._name == "sse":
                # It is told when to come back, and if it must not, in an `error` event.
                (event,) = await take(self._items, 1, "")
                seen = {"disconnect": event.get("data", event)}
        except Refused as refused:
            return refused.status, refused.error["name"]
        except Closed as closed:
            return closed.code, closed.reason
        return seen["disconnect"]["code"], seen["disconnect"]["reason"]

    async def close(self) -> None:
        """Go away."""
        await self._items.aclose()


async def waiting(site: Site, name: str, user: str, channels: str = "a", **claims: Any) -> Waiting:
    """Begin to read on a wire; return the reader once it waits for what comes."""
    before = site.wire.shared.registry.statistics()["visitors"]
    items = READERS[name](site, channels, bearer(user, **claims), after="latest")
    if name != "long-poll":
        await take(items, 1, "open")
    reader = Waiting(items, name)
    await until(lambda: site.wire.shared.registry.statistics()["visitors"] > before)
    return reader


def is_empty(site: Site) -> bool:
    """Whether nobody is left: no reader and no visitor."""
    visitors = site.wire.shared.registry.statistics()
    return not site.wire.hub.channels_read() and visitors == {"visitors": 0, "sessions": 0, "users": 0}


# -- ended by the registry -------------------------------------------------------


@pytest.mark.parametrize("name", HELD)
async def test_a_disconnected_user_is_told_on_every_wire_and_others_read_on(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        ann, bob = await waiting(site, name, "ann"), await waiting(site, name, "bob")
        await site.wire.shared.registry.disconnect("ann", reason="you are out")
        code, reason = await ann.end()
        if name == "long-poll":
            assert (code, reason) == (403, "force_disconnect")
        else:
            assert (code, reason) == (3503, "you are out")
        await site.publish("a", "for bob")
        assert data([await bob.item()]) == ["for bob"]
        await bob.close()
        await until(lambda: is_empty(site))


@pytest.mark.parametrize("name", HELD)
async def test_a_code_that_may_come_back_says_so(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        ann = await waiting(site, name, "ann")
        await site.wire.shared.registry.disconnect("ann", code=codes.FORCE_RECONNECT)
        if name == "sse":
            seen = await ann.item()
            assert 0 < seen["disconnect"]["retry"] <= 1_000  # and no `error` event
            return
        code, _ = await ann.end()
        assert code == (503 if name == "long-poll" else 3011)


@pytest.mark.parametrize("name", HELD)
async def test_an_ended_subscription_ends_the_reader_as_a_whole(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        both, other = await waiting(site, name, "ann", "a,b"), await waiting(site, name, "ann", "c")
        await site.wire.shared.registry.unsubscribe("ann", "b")
        code, reason = await both.end()
        assert code == (403 if name == "long-poll" else 3503)
        assert name == "long-poll" or reason.endswith("(b)")
        await site.publish("c", 1)
        assert data([await other.item()]) == [1]


async def test_nobody_is_no_visitor_and_no_member(site: Site) -> None:
    async with AsyncExitStack() as stack:
        for name in STREAMS:
            items = READERS[name](site, "a")
            stack.push_async_callback(items.aclose)
            await take(items, 1, "open")
        statistics = site.wire.shared.registry.statistics()
        assert statistics == {"visitors": 0, "sessions": 0, "users": 0}
        answer = (await site.http.get("/channels/a/presence")).json()
        assert (answer["subscribers"], answer["members"], answer["clients"]) == (4, [], 0)


# -- ended by the credential's end ------------------------------------------------


async def test_who_has_a_credential_that_runs_out_is_told_then_ended_and_may_come_back(serve: Serve) -> None:
    async with serve(**knowing(limits=Limits(expiry_notice_s=0.5))) as site:
        await asyncio.gather(*[_read_to_the_end(site, name) for name in STREAMS])
        await until(lambda: is_empty(site))


async def _read_to_the_end(site: Site, name: str) -> None:
    items = READERS[name](site, "a", bearer("ann", 1.0), after="latest")
    await take(items, 1, "open")
    begun_s = time.monotonic()
    told, code = None, 0
    try:
        async for seen in items:
            if "expires_in" in seen:
                told = seen["expires_in"]
            if "disconnect" in seen:
                code = seen["disconnect"].get("code", 3005)
                assert seen["disconnect"]["retry"] < 1_000
    except Closed as closed:
        code = closed.code
    # A raw WebSocket has no place to tell it.
    assert told == (None if name == "websocket" else 1), name
    assert code == 3005, name
    assert time.monotonic() - begun_s > 0.5, name


async def test_a_long_poll_is_answered_when_its_credential_runs_out_and_the_next_is_refused(
    serve: Serve,
) -> None:
    async with serve(**knowing()) as site:
        headers = bearer("ann", 0.5)
        answer = await page(site, "a", headers, wait=20, after="latest")
        assert answer["publications"] == [] and answer["position"]
        with pytest.raises(Refused) as refused:
            await page(site, "a", headers, wait=20, after=answer["position"])
        assert (refused.value.status, refused.value.error["code"]) == (401, 109)
        assert is_empty(site)


@pytest.mark.parametrize("name", STREAMS)
async def test_a_credential_that_lasts_longer_than_the_answer_is_not_told_of(serve: Serve, name: str) -> None:
    limits = Limits(max_stream_age_s=0.3, expiry_notice_s=3_600.0)
    if "stream" not in name and name != "sse":
        return  # only answers have an age
    async with serve(**knowing(limits=limits)) as site:
        items = READERS[name](site, "a", bearer("ann", 1_000.0), after="latest")
        seen = [item async for item in items]
        assert not any("expires_in" in item for item in seen)
        assert "disconnect" in seen[-1]


# -- counted ---------------------------------------------------------------------


@pytest.mark.parametrize("name", HELD)
async def test_a_user_has_so_many_connections_and_hears_when_to_try_again(serve: Serve, name: str) -> None:
    async with serve(**knowing(limits=Limits(max_connections_per_user=2))) as site:
        following = [await waiting(site, name, "ann") for _ in range(2)]
        with pytest.raises(Refused) as refused:
            await take(READERS[name](site, "a", bearer("ann")), 1, "")
        if site.host != "asgi" or "websocket" not in name:
            assert (refused.value.status, refused.value.error["code"]) == (429, 106)
        bob = await waiting(site, name, "bob")  # others have places of their own
        # Polls hold none, so that who has too many can still read.
        assert (await page(site, "a", bearer("ann")))["publications"] == []
        await site.publish("a", 1)
        for one in (*following, bob):
            assert data([await one.item()]) == [1]
            await one.close()
        await until(lambda: is_empty(site))
        assert site.wire.shared.quotas.refused_connections == 1
        again = await waiting(site, name, "ann")
        await site.publish("a", 2)
        assert data([await again.item()]) == [2]
        await again.close()


async def test_a_post_that_is_too_fast_is_429_and_says_when(serve: Serve) -> None:
    limits = Limits(publish_burst_per_user=2, publish_rate_per_user=0.25)
    async with serve(**knowing(limits=limits)) as site:
        statuses = []
        for n in range(3):
            answer = await site.http.post("/channels/a", json=n, headers=bearer("ann"))
            statuses.append(answer.status_code)
        assert statuses == [201, 201, 429]
        assert answer.json()["error"]["code"] == 111
        assert 1 <= int(answer.headers["retry-after"]) <= 4
        assert (await site.http.post("/channels/a", json=0, headers=bearer("bob"))).status_code == 201
        assert data((await page(site, "a", bearer("ann")))["publications"]) == [0, 1, 0]


async def test_an_envelope_that_is_too_fast_is_answered_and_the_connection_goes_on(serve: Serve) -> None:
    limits = Limits(publish_burst_per_user=1, publish_rate_per_user=5.0)
    async with serve(**knowing(limits=limits)) as site:
        connect = site.websocket("/channels/a", headers=bearer("ann"), subprotocols=["everywire.json"])
        async with connect as socket:
            await socket.recv()
            for n in (1, 2):
                await socket.send(f'{{"id":{n},"data":{n}}}')
            answers: dict[int, Any] = {}
            async with asyncio.timeout(DEADLINE_S):
                while len(answers) < 2:
                    seen = json.loads(await socket.recv())
                    if "id" in seen:
                        answers[seen["id"]] = seen
            assert "position" in answers[1]
            assert answers[2]["error"]["code"] == 111
            assert 0 < answers[2]["error"]["retry"] <= 200
            await asyncio.sleep(answers[2]["error"]["retry"] / 1000 + 0.05)
            await socket.send('{"id":3,"data":3}')
            async with asyncio.timeout(DEADLINE_S):
                while "position" not in answers.get(3, {}):
                    seen = json.loads(await socket.recv())
                    if "id" in seen:
                        answers[seen["id"]] = seen


async def test_a_raw_socket_that_is_too_fast_is_held_back_and_nothing_is_lost(serve: Serve) -> None:
    limits = Limits(publish_burst_per_user=5, publish_rate_per_user=50.0, max_refusals=10_000)
    async with serve(**knowing(limits=limits)) as site:
        async with site.websocket("/channels/a", headers=bearer("ann")) as socket:
            begun_s = time.monotonic()
            for n in range(40):
                await socket.send(str(n))
            async with asyncio.timeout(DEADLINE_S):
                seen = [int(await socket.recv()) for _ in range(40)]
            assert seen == list(range(40))
            assert time.monotonic() - begun_s > 0.6  # 35 of them at 50 a second
        await until(lambda: is_empty(site))


async def test_a_raw_socket_that_goes_on_for_ever_is_closed(serve: Serve) -> None:
    limits = Limits(publish_burst_per_user=1, publish_rate_per_user=0.01, max_refusals=1)
    async with serve(**knowing(limits=limits)) as site, AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(site.websocket("/channels/a", headers=bearer("ann")))
            for _ in range(2)
        ]
        await one.send("1")
        assert await one.recv() == "1" == await two.recv()
        await one.send("2")
        async with asyncio.timeout(DEADLINE_S):
            await one.wait_closed()
        assert one.close_code == 3013
        # Another connection of the same user, from the same address, has done nothing.
        await site.wire.publish("a", 3)
        assert await two.recv() == "3"


# -- present ---------------------------------------------------------------------


def rows(answer: Any) -> set[tuple[str, Any]]:
    return {(row["user"], row.get("clients", 1)) for row in answer["members"]}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_known_reader_is_present_until_it_goes(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        ann = READERS[name](site, "a,b", bearer("ann", info={"name": "Ann"}))
        more = READERS[name](site, "a", bearer("ann", info={"name": "Ann"}))
        await take(ann, 1, "open")
        await take(more, 1, "open")
        answer = (await site.http.get("/channels/a/presence", headers=bearer("bob"))).json()
        assert (answer["clients"], answer["users"], answer["subscribers"]) == (2, 1, 2)
        assert [row["user"] for row in answer["members"]] == ["ann", "ann"]
        assert len({row["client"] for row in answer["members"]}) == 2
        assert answer["members"][0]["conn_info"] == {"name": "Ann"}
        by_user = await site.http.get("/channels/a,b/presence?by=user", headers=bearer("bob"))
        assert [rows(row) for row in by_user.json()] == [{("ann", 2)}, {("ann", 1)}]
        limited = (await site.http.get("/channels/a/presence?limit=1", headers=bearer("bob"))).json()
        assert (len(limited["members"]), limited["clients"], limited["cut"]) == (1, 2, True)
        await ann.aclose()
        await more.aclose()
        async with asyncio.timeout(DEADLINE_S):
            while (await site.http.get("/channels/a/presence", headers=bearer("bob"))).json()["clients"]:
                await asyncio.sleep(0.01)


async def test_who_polls_is_one_member_for_each_credential(serve: Serve) -> None:
    async with serve(**knowing(api_keys={"service": "sesame-sesame"})) as site:
        phone, laptop = bearer("ann", device="phone"), bearer("ann", device="laptop")
        for headers in (phone, laptop, phone):
            await page(site, "a", headers)
        await page(site, "a", phone, wait="0.05", after="latest")
        await page(site, "a", {"X-API-Key": "sesame-sesame"})
        # Neither reads what comes.
        await page(site, "a/history", bearer("carl"))
        await site.http.head("/channels/a", headers=bearer("dora"))
        answer = (await site.http.get("/channels/a/presence", headers=bearer("bob"))).json()
        assert sorted(row["user"] for row in answer["members"]) == ["ann", "ann", "service"]
        assert answer["subscribers"] == 0
        shown = {row["client"] for row in answer["members"]}
        for headers in (phone, laptop):
            await page(site, "a", headers)
        again = (await site.http.get("/channels/a/presence", headers=bearer("bob"))).json()
        assert {row["client"] for row in again["members"]} == shown


@pytest.mark.parametrize("query", ["by=", "by=device", "limit=0", "wait=1", "after=earliest"])
async def test_presence_takes_no_other_questions(site: Site, query: str) -> None:
    answer = await site.http.get(f"/channels/a/presence?{query}")
    assert answer.status_code == 400, answer.text


async def test_a_user_in_several_places_at_once_is_ended_everywhere(serve: Serve) -> None:
    async with serve(**knowing()) as site:
        following = {name: await waiting(site, name, "ann") for name in HELD}
        assert len(site.wire.shared.registry.of_user("ann")) == len(HELD)
        await site.wire.shared.registry.disconnect("ann")
        for name, one in following.items():
            assert (await one.end())[0] in (403, 3503), name
        await until(lambda: is_empty(site))


async def test_a_raw_socket_that_is_held_back_is_not_listened_to(serve: Serve) -> None:
    limits = Limits(publish_burst_per_user=1, publish_rate_per_user=5.0, max_message_bytes=100_000)
    async with serve(**knowing(limits=limits)) as site:
        async with site.websocket("/channels/a", headers=bearer("ann"), close_timeout=0.1) as socket:
            sent = 0
            # Its own socket fills in the end: much more than what a connection may hold back.
            with pytest.raises(TimeoutError):
                while sent < 2_000:
                    async with asyncio.timeout(0.1):
                        await socket.send('"' + "x" * 50_000 + '"')
                    sent += 1
            assert socket.close_code is None
        await until(lambda: is_empty(site))


@pytest.mark.parametrize("name", HELD)
async def test_a_revocation_ends_who_reads_at_once(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        ann = await waiting(site, name, "ann")
        bob = await waiting(site, name, "bob", jti="bobs")
        await revocations.block_user("ann")
        assert (await ann.end())[0] == (403 if name == "long-poll" else 3507)
        await revocations.revoke_token("bobs")
        if name == "sse":
            assert "retry" in (await bob.item())["disconnect"]  # he may come back with another
        else:
            assert (await bob.end())[0] == (503 if name == "long-poll" else 3011)
        await until(lambda: is_empty(site))


@pytest.mark.parametrize("name", HELD)
async def test_so_it_does_where_a_token_names_no_user(serve: Serve, name: str) -> None:
    """A token may open a channel to whoever has it."""
    async with serve(**knowing(user_rules={})) as site:
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        reader = await waiting(site, name, "", jti="shared", read=["a"])
        await revocations.revoke_token("shared")
        if name == "sse":
            assert "retry" in (await reader.item())["disconnect"]
        else:
            assert (await reader.end())[0] == (503 if name == "long-poll" else 3011)
        await until(lambda: is_empty(site))


async def test_who_published_is_told_if_that_is_a_user(serve: Serve) -> None:
    async with serve(**knowing(api_keys={"service": "sesame-sesame"})) as site:
        ann = bearer("ann", info={"name": "Ann"})
        await site.http.post("/channels/a", json=1, headers=ann)
        await site.http.post("/channels/a", json=2, headers={"X-API-Key": "sesame-sesame"})
        async with site.websocket("/channels/a", headers=ann) as socket:
            await socket.send("3")
            assert await socket.recv() == "3"
            (member,) = (await site.http.get("/channels/a/presence", headers=ann)).json()["members"]
        posted, by_service, sent = (await page(site, "a", ann))["publications"]
        assert posted["info"] == {"user": "ann", "client": "", "conn_info": {"name": "Ann"}}
        assert "info" not in by_service
        assert sent["info"] == {"user": "ann", "client": member["client"], "conn_info": {"name": "Ann"}}
        # The same again under its key is the same, whoever it was signed by.
        key = {**ann, "Idempotency-Key": "one"}
        statuses = [(await site.http.post("/channels/b", json=1, headers=key)).status_code for _ in range(2)]
        assert statuses == [201, 200]
