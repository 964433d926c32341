"""Long polling: how long it waits, and what a thousand that wait cost."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from everywire.core.limits import Limits
from everywire.transports.encoders import PAGE, PageEncoder
from tests.readers import data, page
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve

WAITING = 1_000


async def until_waiting(site: Site, number: int, channel: str = "a") -> None:
    await until(lambda: site.wire.hub.subscribers(channel) == number)


async def test_it_answers_at_once_when_something_is_there(site: Site) -> None:
    first = (await site.wire.publish("a", 1)).position
    await site.publish("a", 2, 3)
    answer = await page(site, "a", after=first, wait=60)
    assert data(answer["publications"]) == [2, 3]
    assert data((await page(site, "a", after="earliest", wait=60, limit=2))["publications"]) == [1, 2]


async def test_it_answers_when_something_comes(site: Site) -> None:
    waiting = asyncio.ensure_future(page(site, "a", wait=20))
    await until_waiting(site, 1)
    await site.publish("a", 1)
    answer = await waiting
    assert data(answer["publications"]) == [1]
    assert site.wire.hub.subscribers("a") == 0
    assert data((await page(site, "a", after="earliest"))["publications"]) == [1]
    assert (await page(site, "a", after=answer["position"]))["publications"] == []


async def test_what_is_published_in_one_turn_comes_in_one_answer(site: Site) -> None:
    waiting = asyncio.ensure_future(page(site, "a", wait=20))
    await until_waiting(site, 1)
    await site.publish("a", *range(10))
    assert data((await waiting)["publications"]) == list(range(10))


@pytest.mark.parametrize("wait", ["0.2", ".2", "0.20000"])
async def test_after_the_time_it_answers_200_with_nothing_and_the_position(site: Site, wait: str) -> None:
    end = (await site.wire.publish("a", 1)).position
    began_s = time.monotonic()
    response = await site.http.get(f"/channels/a?after={end}&wait={wait}")
    assert time.monotonic() - began_s > 0.1
    assert response.status_code == 200
    assert response.json() == {"publications": [], "position": end}
    assert site.wire.hub.subscribers("a") == 0


async def test_0_is_a_plain_poll(site: Site) -> None:
    await site.publish("a", 1, 2)
    for wait in ["0", "0.0", "00"]:
        response = await site.http.get(f"/channels/a?wait={wait}")
        assert data(response.json()["publications"]) == [1, 2]
        assert "etag" in response.headers


@pytest.mark.parametrize("wait", ["61", "1000000", "60.5", "9" * 19])
async def test_above_the_most_counts_as_the_most(serve: Serve, wait: str) -> None:
    # Nobody waits for a minute here: the most is made small.
    assert Limits().max_wait_s == 60
    async with serve(limits=Limits(max_wait_s=0.2)) as site:
        assert (await page(site, "a", wait=wait))["publications"] == []


async def test_anything_else_is_refused(site: Site) -> None:
    for wait in ["", "-1", "1e3", "nan", "inf", "x", "1s", "1.2.3", ".", "1_0", "٣", "+5", "%205"]:
        response = await site.http.get(f"/channels/a?wait={wait}")
        assert response.status_code == 400
        assert "wait" in response.json()["error"]["message"]


async def test_who_goes_away_leaves_nothing_behind(site: Site) -> None:
    _, writer = await site.connect()
    writer.write(f"GET /channels/a?wait=60 HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
    await until_waiting(site, 1)
    writer.close()
    await until_waiting(site, 0)
    await site.publish("a", 1)
    assert data((await page(site, "a"))["publications"]) == [1]


async def test_a_thousand_that_wait_at_one_position_share_one_body(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is encoded once, however many it answers."""
    encoded: list[int] = []
    original = PageEncoder.page

    def counted(self: PageEncoder, items: Any, *more: Any) -> bytes:
        encoded.append(len(items))
        return original(self, items, *more)

    monkeypatch.setattr(PageEncoder, "page", counted)
    end = (await site.wire.publish("a", 0)).position
    request = f"GET /channels/a?after={end}&wait=60 HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode()
    connections = []
    for begin in range(0, WAITING, 100):
        connections += await asyncio.gather(*[site.connect() for _ in range(begin, begin + 100)])
    try:
        for _, writer in connections:
            writer.write(request)
        await until_waiting(site, WAITING)
        assert encoded == []
        await site.publish("a", "for all")
        answers = await asyncio.gather(*[_answer(reader) for reader, _ in connections])
        assert len(set(answers)) == 1
        answer = json.loads(answers[0])
        assert data(answer["publications"]) == ["for all"]
        assert encoded == [1]
        assert site.wire.hub.subscribers("a") == 0
    finally:
        for _, writer in connections:
            writer.close()
    assert PAGE[0].once


async def _answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return await reader.readexactly(int(lengths[0].partition(b":")[2]))


async def test_connections_that_poll_on_share_every_answer(site: Site) -> None:
    """Twenty readers on kept connections, each going on from its last answer, see all of it in order."""
    seen: list[list[int]] = [[] for _ in range(20)]

    async def read(rows: list[int]) -> None:
        position = "earliest"
        while len(rows) < 50:
            answer = await page(site, "a", after=position, wait=20)
            rows += data(answer["publications"])
            position = answer["position"]

    reading = [asyncio.ensure_future(read(rows)) for rows in seen]
    for value in range(50):
        await site.publish("a", value)
        if value % 7 == 0:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*reading)
    assert seen == [list(range(50))] * 20
