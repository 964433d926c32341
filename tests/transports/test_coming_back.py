"""Who comes back is judged anew: banned while away, with another's session, ticket or position."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

import pytest

from everywire.access.identity import Action
from tests.readers import READERS, TELLING, Refused, data, page, take
from tests.serving import Site
from tests.talking import OPENINGS, lines, over_http_stream
from tests.transports.attempts import command, connect
from tests.transports.conftest import Serve
from tests.transports.known import EVERYTHING, bearer, knowing, token

LOG: Final = "everywire"


async def position_of(site: Site, name: str, channels: str, headers: dict[str, str]) -> str:
    """Read one publication on a wire; return the position after it."""
    items = READERS[name](site, channels, headers, after="earliest")
    (seen,) = await take(items, 1)
    await items.aclose()
    return str(seen["position"])


async def read_on(site: Site, name: str, channels: str, headers: dict[str, str], position: str) -> list[Any]:
    """Resume on a wire; return the next publication."""
    items = READERS[name](site, channels, headers, after=position)
    try:
        return data(await take(items, 1))
    finally:
        await items.aclose()


# -- banned while away -------------------------------------------------------------


@pytest.mark.parametrize("name", TELLING)
async def test_a_reader_that_was_banned_while_away_does_not_resume(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        await site.publish("a", 1, 2)
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        ann, bob = bearer("ann"), bearer("bob")
        position = await position_of(site, name, "a", ann)
        await revocations.block_user("ann")
        for headers in (ann, bearer("ann", again=True)):
            with pytest.raises(Refused) as refused:
                await read_on(site, name, "a", headers, position)
            assert (refused.value.status, refused.value.error["code"]) == (403, 103)
        assert await read_on(site, name, "a", bob, position) == [2]
        await revocations.unblock_user("ann")
        assert await read_on(site, name, "a", ann, position) == [2]


@pytest.mark.parametrize("name", OPENINGS)
async def test_a_session_that_was_banned_while_away_does_not_resume(serve: Serve, name: str) -> None:
    async with serve(**knowing()) as site:
        await site.publish("a", 1)
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        hello = connect(token("ann", 30.0))
        async with OPENINGS[name](site, hello, command("subscribe", "a")) as talk:
            await talk.connected()
            here = (await talk.next())["subscribe"]
        await revocations.block_user("ann")
        there = {"channel": "a", "recover": True, "epoch": here["epoch"], "offset": 0}
        async with OPENINGS[name](site, hello, {"id": 2, "subscribe": there}) as talk:
            answer = await talk.next()
            assert answer["error"]["code"] == 103
            assert "connect" not in answer


async def test_a_poll_that_was_banned_while_away_does_not_go_on_with_its_session(serve: Serve) -> None:
    async with serve(**knowing()) as site:
        first = await polled(site, connect(token("ann")))
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        await revocations.block_user("ann")
        again = connect(token("ann"))
        again["connect"]["session"] = first[0]["connect"]["session"]
        told = await polled(site, again, command("history", "a"))
        assert [one["error"]["code"] for one in told] == [103]


async def polled(site: Site, *commands: Any) -> list[Any]:
    response = await site.http.post("/connection/poll", content=lines(*commands))
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


# -- another's session, or ticket ----------------------------------------------------


async def test_anothers_polling_session_is_refused_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(**knowing()) as site:
        first = await polled(site, connect(token("ann")))
        stolen = connect(token("bob"))
        stolen["connect"]["session"] = first[0]["connect"]["session"]
        with caplog.at_level(logging.WARNING, LOG):
            told = await polled(site, stolen, command("publish", "a"))
        assert [one["error"]["code"] for one in told] == [103]
        assert any("bob" in line and "another user" in line for line in caplog.messages)
        assert (await page(site, "a", bearer("ann")))["publications"] == []


async def test_anothers_session_id_is_refused_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serve(**knowing(cookie_name="auth")) as site,
        over_http_stream(site, connect(token("ann"))) as talk,
    ):
        await talk.connected()
        body = {"session": talk.session, "node": talk.node, "data": lines(command("publish", "a"))}
        for headers in (bearer("bob"), {"Cookie": f"auth={token('bob')}"}):
            caplog.clear()
            with caplog.at_level(logging.WARNING, LOG):
                answer = await site.http.post("/emulation", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, 103)
            assert any("bob" in line and "another user" in line for line in caplog.messages)
        assert (await page(site, "a", bearer("ann")))["publications"] == []
        assert (await site.http.post("/emulation", json=body, headers=bearer("ann"))).status_code == 204
        assert await talk.next() == {"id": 2, "publish": {}}


async def test_anothers_ticket_is_refused_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    page_, other = {"Origin": "https://page.example"}, {"Origin": "https://other.example"}
    async with serve(**knowing(allowed_origins=[page_["Origin"], other["Origin"]])) as site:
        answer = await site.http.post("/ticket", headers={**bearer("ann"), **page_})
        ticket = answer.json()["ticket"]
        with caplog.at_level(logging.WARNING, LOG):
            stolen = await site.http.get(f"/channels/a?ticket={ticket}", headers=other)
        assert stolen.status_code == 401
        assert any("ticket" in line and "other.example" in line for line in caplog.messages)
        assert ticket not in caplog.text


# -- another's position ---------------------------------------------------------------


@pytest.mark.parametrize("name", TELLING)
async def test_anothers_position_gives_what_ones_own_permission_gives(serve: Serve, name: str) -> None:
    rules = {**EVERYTHING, Action.READ: ["news", "inbox:{user}"]}
    async with serve(**knowing(user_rules=rules)) as site:
        await site.publish("news", "n1", "n2", "n3")
        await site.publish("inbox:ann", "a1", "a2")
        await site.publish("inbox:bob", "b1", "b2")
        ann, bob = bearer("ann"), bearer("bob")
        hers = await position_of(site, name, "news", ann)
        both = await position_of(site, name, "inbox:ann,news", ann)
        assert await read_on(site, name, "news", bob, hers) == ["n2"]
        assert await read_on(site, name, "news", bob, hers) == await read_on(site, name, "news", ann, hers)
        # What it says of a channel that bob does not ask for is no matter, and opens nothing.
        for channels in ("inbox:ann", "inbox:ann,news"):
            with pytest.raises(Refused) as refused:
                await read_on(site, name, channels, bob, both)
            assert refused.value.status == 403
            assert refused.value.error["channel"] == "inbox:ann"
        mine = await position_of(site, name, "inbox:bob", bob)
        assert await read_on(site, name, "inbox:bob", bob, mine) == ["b2"]
