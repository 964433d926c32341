"""What each transport says when the server stops, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from everywire.core.position import Position
from everywire.hub.recovery import Start
from tests.readers import READERS, Closed, data, page, take
from tests.serving import DEADLINE_S, Site, until


async def until_read(site: Site, number: int = 1) -> None:
    await until(lambda: site.wire.hub.subscribers("a") == number)


@pytest.mark.parametrize("name", ["stream", "sse"])
async def test_a_stream_is_told_when_to_come_back_and_ends(site: Site, name: str) -> None:
    items = READERS[name](site, "a")
    (opening,) = await take(items, 1, "open")
    await site.publish("a", 1)
    (seen,) = await take(items, 1)
    leaving = asyncio.ensure_future(site.drain())
    (told,) = await take(items, 1, "disconnect")
    assert 0 <= told["disconnect"]["retry"] <= site.wire.limits.drain_jitter_ms
    if name == "stream":
        assert 3000 <= told["disconnect"]["code"] < 3500 and told["disconnect"]["reason"]
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        await site.http.aclose()  # over TLS a server waits a little for the other side to close, too
        await leaving
    assert seen["position"] != opening["open"]
    assert site.wire.hub.subscribers("a") == 0


async def test_a_long_poll_is_answered_with_its_position(site: Site) -> None:
    end = (await site.wire.publish("a", 1)).position
    waiting = asyncio.ensure_future(site.http.get(f"/channels/a?after={end}&wait=60"))
    await until_read(site)
    leaving = asyncio.ensure_future(site.drain())
    response = await waiting
    assert response.status_code == 200
    assert response.json() == {"publications": [], "position": end}
    assert 1 <= int(response.headers["retry-after"]) <= 1 + site.wire.limits.drain_jitter_ms // 1000
    await leaving


@pytest.mark.parametrize("name", ["websocket", "everywire.json"])
async def test_a_websocket_is_closed_with_1012(site: Site, name: str) -> None:
    items = READERS[name](site, "a")
    await take(items, 1, "open")
    await until_read(site)
    leaving = asyncio.ensure_future(site.drain())
    if name == "everywire.json":
        (told,) = await take(items, 1, "disconnect")
        assert 0 <= told["disconnect"]["retry"] <= site.wire.limits.drain_jitter_ms
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(Closed) as closed:
            await anext(items)
        await leaving
    assert closed.value.code == 1012
    assert "ms" in closed.value.reason


@pytest.mark.parametrize("name", ["stream", "sse", "everywire.json"])
async def test_nothing_is_lost_between_one_server_and_the_next(site: Site, name: str) -> None:
    """What was published in the last moment is delivered, or follows the position that was told."""
    items = READERS[name](site, "a")
    await site.publish("a", "before")
    reading = asyncio.ensure_future(_read_out(items))
    await until_read(site)
    await site.publish("a", *range(100))
    leaving = asyncio.ensure_future(site.drain())
    received, position = await reading
    await site.http.aclose()
    await leaving
    found: list[Any] = []
    site.wire.hub.fetch(("a",), Start(Position.decode(position)), 1000, found.append)
    assert found[0].slices[0].gap is None
    rest = [json.loads(publication.data) for publication in found[0].slices[0].publications]
    assert received + rest in ([*range(100)], ["before", *range(100)])


async def _read_out(items: AsyncIterator[dict[str, Any]]) -> tuple[list[Any], str]:
    """Read until the server ends it; return what came, and the last position."""
    received: list[Any] = []
    position = ""
    async with asyncio.timeout(DEADLINE_S):
        try:
            async for seen in items:
                position = seen.get("position") or seen.get("open") or position
                if "data" in seen:
                    received.append(seen["data"])
        except (Closed, httpx.HTTPError):
            pass
    return received, position


async def test_a_long_poll_for_a_channel_of_a_store_that_forgot_others_misses_nothing(site: Site) -> None:
    """The first publication's offset is not 1 then; who waited for it must not be told a gap."""
    await site.publish("old", *range(20))
    waiting = asyncio.ensure_future(site.http.get("/channels/a?wait=60"))
    await until_read(site)
    log = site.wire.broker.log
    log._forget("old")  # type: ignore[attr-defined]  # as the sweep does in time
    await site.publish("a", "first")
    assert data((await waiting).json()["publications"]) == ["first"]

    waiting = asyncio.ensure_future(site.http.get("/channels/b?wait=60"))
    await until(lambda: site.wire.hub.subscribers("b") == 1)
    await site.publish("other", *range(50))
    log._forget("other")  # type: ignore[attr-defined]
    # Another reader comes, and by it the hub learns where the first one will stand.
    assert (await page(site, "b", after="earliest", wait="0.05"))["publications"] == []
    leaving = asyncio.ensure_future(site.drain())
    answer = (await waiting).json()
    await leaving
    await site.wire.publish("b", "first")
    position = answer["position"]
    found: list[Any] = []
    site.wire.hub.fetch(("b",), Start(Position.decode(position)), 10, found.append)
    assert found[0].slices[0].gap is None
