"""Sessions over polling and long polling: when a request is answered, and with what."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import jwt
import pytest

from everywire.access.tokens import Tokens
from everywire.core import codes
from everywire.core.limits import Limits
from tests.serving import Site, until
from tests.talking import CONNECT, Object, lines, over_websocket
from tests.transports.conftest import Serve


def connect(session: str = "", **more: Any) -> Object:
    return {"id": 1, "connect": {**({"session": session} if session else {}), **more}}


def follow(channel: str, place: Object | None = None, command_id: int = 2) -> Object:
    recover = {} if place is None else {"recover": True, **place}
    return {"id": command_id, "subscribe": {"channel": channel, **recover}}


async def poll(site: Site, *commands: Object, wait: float | str = 0, **options: Any) -> list[Object]:
    """Ask once, and return the replies."""
    response = await ask(site, *commands, wait=wait, **options)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


async def ask(site: Site, *commands: Object, wait: float | str = 0, **options: Any) -> httpx.Response:
    target = f"/connection/poll?wait={wait}" if wait else "/connection/poll"
    return await site.http.post(target, content=lines(*commands), **options)


async def held(site: Site, *commands: Object, wait: float = 20) -> asyncio.Task[list[Object]]:
    """Ask, and return once the server has begun to hold the request."""
    registry = site.wire.shared.registry
    before = registry.statistics()["sessions"]
    polling = asyncio.create_task(poll(site, *commands, wait=wait))
    await until(lambda: registry.statistics()["sessions"] > before or polling.done())
    await asyncio.sleep(0.02)
    assert not polling.done()
    return polling


def place(told: list[Object], command_id: int = 2) -> Object:
    """Where a client stands after a subscribe reply."""
    (result,) = [one["subscribe"] for one in told if one.get("id") == command_id]
    last = result.get("publications", [{"offset": result.get("offset", 0)}])[-1]
    return {"epoch": result["epoch"], "offset": last["offset"]}


async def test_a_client_follows_a_channel_from_poll_to_poll(site: Site) -> None:
    told = await poll(site, connect(), follow("a"), wait=20)  # it does not know where it stands: at once
    first = told[0]["connect"]
    assert "ping" not in first and "node" not in first
    polling = await held(site, connect(first["session"]), follow("a", place(told)))
    await site.publish("a", {"n": 1})
    told2 = await polling
    assert told2[0]["connect"]["client"] == first["client"]
    assert told2[1]["subscribe"]["recovered"] is True
    assert told2[2]["push"]["pub"]["data"] == {"n": 1}
    await site.publish("a", {"n": 2}, {"n": 3})
    here = {**place(told), "offset": told2[2]["push"]["pub"]["offset"]}
    told3 = await poll(site, connect(first["session"]), follow("a", here), wait=20)
    assert [one["data"]["n"] for one in told3[1]["subscribe"]["publications"]] == [2, 3]


async def test_all_of_one_turn_goes_along(site: Site) -> None:
    await site.publish("a", 0)
    await site.publish("b", 0)
    start = await poll(site, connect(), follow("a"), follow("b", command_id=3))
    polling = await held(site, connect(), follow("a", place(start)), follow("b", place(start, 3), 3))
    for number in range(10):
        site.wire.publish_outside("a", number)
        site.wire.publish_outside("b", number)
    told = [one["push"] for one in await polling if "push" in one]
    assert len(told) == 20
    assert [one["pub"]["data"] for one in told if one["channel"] == "a"] == list(range(10))


async def test_the_time_is_over(site: Site) -> None:
    start = await poll(site, connect(), follow("a"))
    told = await poll(site, connect(), follow("a", place(start)), wait=0.2)
    assert [one["id"] for one in told] == [1, 2]
    assert site.wire.hub.subscribers("a") == 0


async def test_a_poll_is_answered_at_once_and_says_when_to_come_back(site: Site) -> None:
    start = await poll(site, connect(), follow("a"))
    response = await ask(site, connect(), follow("a", place(start)))
    assert response.headers["retry-after"] == "2"
    await site.publish("a", 1)
    response = await ask(site, connect(), follow("a", place(start)))
    assert response.headers["retry-after"] == "1"
    assert response.headers["cache-control"].startswith("private, no-store")


@pytest.mark.parametrize(
    "command",
    [
        {"publish": {"channel": "x", "data": 1}},
        {"presence": {"channel": "x"}},
        {"presence_stats": {"channel": "x"}},
        {"history": {"channel": "x"}},
        {"ping": {}},
        {"rpc": {"method": "none", "data": 1}},
        {"unsubscribe": {"channel": "a"}},
    ],
    ids=lambda one: str(next(iter(one))),
)
async def test_a_reply_is_news(site: Site, command: Object) -> None:
    start = await poll(site, connect(), follow("a"))
    told = await poll(site, connect(), follow("a", place(start)), {"id": 3, **command}, wait=20)
    assert [one["id"] for one in told] == [1, 2, 3]


async def test_a_slow_reply_is_waited_for(serve: Serve) -> None:
    async with serve() as site:
        may_answer = asyncio.Event()

        @site.wire.rpc("slow")
        async def slow(session: Any, data: Any) -> str:
            await may_answer.wait()
            return "done"

        call = {"id": 2, "rpc": {"method": "slow"}}
        for wait in (0, 0.1):
            polling = asyncio.create_task(poll(site, connect(), call, wait=wait))
            await asyncio.sleep(0.3)
            assert not polling.done()
            may_answer.set()
            assert (await polling)[1] == {"id": 2, "rpc": {"data": "done"}}
            may_answer.clear()


async def test_commands_go_beside_a_request_that_is_held(site: Site) -> None:
    start = await poll(site, connect(), follow("a"))
    session = start[0]["connect"]["session"]
    polling = await held(site, connect(session), follow("a", place(start)))
    told = await poll(site, connect(session), {"id": 9, "publish": {"channel": "a", "data": "mine"}})
    assert told[1] == {"id": 9, "publish": {}}
    pushed = (await polling)[-1]["push"]["pub"]
    assert pushed["data"] == "mine" and pushed["info"]["client"] == start[0]["connect"]["client"]


async def test_a_refused_connect_is_an_error_reply(serve: Serve) -> None:
    async with serve(dev=False) as site:
        told = await poll(site, connect(), follow("a"), wait=20)
        assert told[-1]["id"] == 2 and told[-1]["error"]["code"] == codes.PERMISSION_DENIED.number
        assert told[-1]["error"]["message"]


async def test_another_users_session_is_refused(serve: Serve) -> None:
    secret = "a secret that is long enough for tests"
    async with serve(dev=False, tokens=Tokens(secret=secret)) as site:
        tokens = {user: jwt.encode({"sub": user}, secret, "HS256") for user in ("ann", "bob")}
        (mine,) = await poll(site, connect(token=tokens["ann"]))
        session = mine["connect"]["session"]
        (again,) = await poll(site, connect(session, token=tokens["ann"]))
        assert again["connect"]["client"] == mine["connect"]["client"]
        (refused,) = await poll(site, connect(session, token=tokens["bob"]))
        assert refused["error"]["code"] == codes.PERMISSION_DENIED.number
        (forged,) = await poll(site, connect(session[:-4] + "AAAA", token=tokens["bob"]))
        assert forged["connect"]["client"] != mine["connect"]["client"]


async def test_the_last_line_says_that_it_ended(site: Site) -> None:
    start = await poll(site, connect(), follow("a"))
    polling = await held(site, connect(), follow("a", place(start)))
    (session,) = site.wire.shared.registry._directory.known()
    session.disconnect(codes.DISCONNECTED, "go away")
    told = (await polling)[-1]["push"]["disconnect"]
    assert told == {"code": codes.DISCONNECTED.number, "reason": "go away"}


async def test_a_stopping_server_answers_with_what_there_is(serve: Serve) -> None:
    async with serve() as site:
        start = await poll(site, connect(), follow("a"))
        asking = asyncio.create_task(ask(site, connect(), follow("a", place(start)), wait=20))
        await until(lambda: site.wire.hub.subscribers("a"))
        await site.drain(1.0)
        response = await asking
        assert response.status_code == 200
        assert 1 <= int(response.headers["retry-after"]) <= 6
        assert [json.loads(line)["id"] for line in response.text.splitlines()] == [1, 2]


async def test_a_client_that_leaves_is_not_waited_for(site: Site) -> None:
    start = await poll(site, connect(), follow("a"))
    polling = await held(site, connect(), follow("a", place(start)))
    assert site.wire.hub.subscribers("a") == 1
    polling.cancel()
    await until(lambda: site.wire.hub.subscribers("a") == 0)
    assert not site.wire.shared.registry.statistics()["sessions"]


async def test_what_is_far_behind_comes_in_several_answers(serve: Serve) -> None:
    """More than a reply holds is pushed; more than an answer should hold waits in the log."""
    async with serve(limits=Limits(max_recovery_publications=5, max_write_bytes=20_000)) as site:
        start = await poll(site, connect(), follow("a"))
        for _ in range(60):
            await site.publish("a", "x" * 2_000)
        here, seen, answers = place(start), [], 0
        while len(seen) < 60:
            told = await poll(site, connect(), follow("a", here), wait=5)
            answers += 1
            offsets = [one["offset"] for one in told[1]["subscribe"].get("publications", [])]
            offsets += [one["push"]["pub"]["offset"] for one in told if "push" in one]
            seen += offsets
            here["offset"] = seen[-1]
        assert seen == list(range(1, 61))
        assert answers > 1


async def test_more_than_one_answer_holds_is_refused(serve: Serve) -> None:
    async with serve(limits=Limits(max_write_bytes=1_000, max_session_queue_bytes=20_000)) as site:
        for _ in range(20):
            await site.publish("a", "x" * 500)
        asks = [{"id": n, "history": {"channel": "a", "limit": 20}} for n in range(2, 60)]
        told = await poll(site, connect(), *asks)
        assert told[-1]["push"]["disconnect"]["code"] == codes.SLOW.number
        assert 2 <= len(told) < 50


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("", ""),
        ("{", ""),
        ("[]", ""),
        ('{"id":2,"subscribe":{"channel":"a"}}', ""),
        ('{"id":1,"connect":{}}', "?wait=soon"),
        ('{"id":1,"connect":{}}', "?wait=-1"),
        ('{"id":1,"connect":{}}', "?wait=1e3"),
    ],
)
async def test_what_is_no_poll(site: Site, body: str, query: str) -> None:
    response = await site.http.post(f"/connection/poll{query}", content=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == codes.BAD_REQUEST.number and error["name"] == "bad_request" and error["message"]


async def test_protobuf(site: Site) -> None:
    headers = {"content-type": "application/octet-stream"}
    connect_and_ping = b"\x04\x08\x01\x22\x00" + b"\x04\x08\x02\x5a\x00"
    response = await site.http.post("/connection/poll", content=connect_and_ping, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.content.endswith(b"\x04\x08\x02\x62\x00")


async def test_a_polling_client_is_present(site: Site) -> None:
    async with over_websocket(site, CONNECT, {"id": 2, "subscribe": {"channel": "a"}}) as talk:
        await talk.connected()
        await talk.next()
        start = await poll(site, connect(), follow("a"))
        client = start[0]["connect"]["client"]
        await talk.send({"id": 3, "presence": {"channel": "a"}})
        assert set((await talk.next())["presence"]["presence"]) == {talk.client, client}
