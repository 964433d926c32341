"""HTTP streaming and server-sent events: what the answers say besides publications."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import httpx_sse
import pytest

from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from tests.readers import READERS, data, page, take
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve

TYPES = {"stream": "application/x-ndjson", "sse": "text/event-stream"}


@asynccontextmanager
async def answer(
    site: Site, name: str, query: str = ""
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[bytes]]]:
    """Begin an answer and give its chunks as they come."""
    path = f"/channels/a{query}"
    async with asyncio.timeout(DEADLINE_S):
        async with site.http.stream("GET", path, headers={"Accept": TYPES[name]}) as response:
            yield response, response.aiter_raw()


@pytest.mark.parametrize("name", TYPES)
async def test_the_first_bytes_come_at_once_and_each_publication_when_it_is_made(
    site: Site, name: str
) -> None:
    async with answer(site, name) as (response, chunks):
        assert response.status_code == 200
        assert await anext(chunks)
        for value in ("one", "two"):
            await site.publish("a", value)
            assert value.encode() in await anext(chunks)


async def test_an_event_stream_begins_with_its_position_and_retry(site: Site) -> None:
    async with answer(site, "sse") as (_, chunks):
        blocks = (await anext(chunks)).split(b"\n\n")
        fields = [block.partition(b": ") for block in blocks if block]
        assert sorted(field[0] for field in fields) == [b"id", b"retry"]
        assert {field[0]: field[2] for field in fields}[b"retry"] == b"2000"


async def test_a_quiet_answer_has_heartbeats(serve: Serve) -> None:
    settings = SettingsTable([("a", ChannelSettings(heartbeat_s=0.2))])

    async def read(site: Site, name: str, beat: bytes) -> None:
        async with answer(site, name) as (_, chunks):
            await anext(chunks)
            assert await anext(chunks) == beat
            assert await anext(chunks) == beat

    async with serve(channels=settings) as site:
        await asyncio.gather(read(site, "stream", b"{}\n"), read(site, "sse", b":\n\n"))


@pytest.mark.parametrize("name", TYPES)
async def test_of_a_certain_age_it_tells_to_come_back_and_ends_and_nothing_is_lost(
    serve: Serve, name: str
) -> None:
    async with serve(limits=Limits(max_stream_age_s=0.2)) as site:
        received: list[int] = []
        answers = 0
        position = "earliest"
        publishing = asyncio.ensure_future(_publish(site, 300))
        while len(received) < 300:
            answers += 1
            told = False
            async for seen in READERS[name](site, "a", after=position):
                position = seen.get("position", position)
                if "data" in seen:
                    received.append(seen["data"])
                if "disconnect" in seen:
                    told = True
                    assert 0 <= seen["disconnect"]["retry"] <= 2_000
                    if name == "stream":
                        assert 3000 <= seen["disconnect"]["code"] < 3500
            assert told, "the answer ended without a word"
        await publishing
        assert received == list(range(300))
        assert answers >= 2
        await until(lambda: site.wire.hub.subscribers("a") == 0)


async def _publish(site: Site, number: int) -> None:
    for value in range(number):
        await site.publish("a", value)
        await asyncio.sleep(0.002)


async def test_lines_are_whole_json_objects_and_nothing_else(site: Site) -> None:
    awkward = ["\u2028\u2029\x85\x0b\x0c\x1c", "\\", '"', "\x7f", "a\nb\rc\0", {"\n": "\r"}]
    async with answer(site, "stream", "?after=earliest") as (_, chunks):
        await site.publish("a", *awkward)
        body = b""
        while body.count(b"\n") < 1 + len(awkward):
            body += await anext(chunks)
    *lines, rest = body.split(b"\n")
    assert rest == b""
    assert [json.loads(line)["data"] for line in lines[1:]] == awkward


@pytest.mark.parametrize("name", TYPES)
async def test_a_reader_that_begins_far_behind_is_given_all_of_it_in_order(serve: Serve, name: str) -> None:
    """More than one joined write: the log is read page by page while more comes in."""
    window = SettingsTable([("a", ChannelSettings(window=Window(5_000, 64 * 1024 * 1024, 300)))])
    async with serve(channels=window) as site:
        values = [{"n": number, "fill": "x" * 2_000} for number in range(800)]
        await site.publish("a", *values[:700])
        items = READERS[name](site, "a", after="earliest")
        first = await take(items, 1)
        await site.publish("a", *values[700:])
        rest = await take(items, 799)
        assert data(first + rest) == values
        await items.aclose()


async def test_limit_and_wait_are_no_matter_to_a_stream(site: Site) -> None:
    await site.publish("a", 1, 2, 3)
    for name in TYPES:
        items = READERS[name](site, "a", after="earliest", limit=1, wait=5)
        assert data(await take(items, 3)) == [1, 2, 3]
        await items.aclose()


# -- injection: whatever a field holds, it cannot end the field, the event or the stream -----------------

HOSTILE = [
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\0",
    "\ufeff",
    "\u2028",
    "\u2029",
    "\x85",
    "\x0b",
    "\nid: forged\n\n",
    "\r\rdata: forged\r\r",
    "\r\nevent: gap\r\ndata: {}\r\n\r\n",
    ": comment",
    "data: x",
]


async def test_no_data_can_forge_a_field_or_an_event(site: Site) -> None:
    texts = [template % hostile for hostile in HOSTILE for template in ("%s", "a%s", "%sb", "a%sb")]
    await site.publish("a", *texts)
    positions = []
    async with site.http.stream(
        "GET", "/channels/a?after=earliest", headers={"Accept": "text/event-stream"}
    ) as response:
        events = httpx_sse.EventSource(response).aiter_sse()
        found = [event async for event in _first(events, len(texts))]
    assert [json.loads(event.data) for event in found] == texts
    assert {event.event for event in found} == {"message"}
    positions = [event.id for event in found]
    assert len(set(positions)) == len(texts)
    rows = (await page(site, "a", after=positions[-2]))["publications"]
    assert data(rows) == texts[-1:]


async def test_bytes_and_tags_cannot_either(site: Site) -> None:
    for hostile in HOSTILE:
        body = hostile.encode()
        assert (
            await site.http.post("/channels/a", content=body, headers={"Content-Type": "text/plain"})
        ).status_code == 201
    async with site.http.stream(
        "GET", "/channels/a?after=earliest", headers={"Accept": "text/event-stream"}
    ) as response:
        events = httpx_sse.EventSource(response).aiter_sse()
        found = [event async for event in _first(events, len(HOSTILE))]
    assert {event.event for event in found} == {"binary"}
    assert all(
        set(json.loads(event.data)) == {"offset", "data_base64", "content_type", "time"} for event in found
    )


async def test_white_space_in_json_is_all_that_may_change(site: Site) -> None:
    """CR and LF can stand in JSON between tokens only; they come as line ends, which mean the same."""
    bodies = [b'{"a":\r1}', b'{"a":\n1}', b'{"a":\r\n1}', b'{"a":\n\r\n\r1}', b"\n\r[\r\n]\r"]
    for body in bodies:
        assert (await site.http.post("/channels/a", content=body)).status_code == 201
    async with site.http.stream(
        "GET", "/channels/a?after=earliest", headers={"Accept": "text/event-stream"}
    ) as response:
        events = httpx_sse.EventSource(response).aiter_sse()
        found = [event async for event in _first(events, len(bodies))]
    assert [json.loads(event.data) for event in found] == [{"a": 1}] * 4 + [[]]


async def test_event_names_that_could_are_refused_from_every_door(site: Site) -> None:
    for hostile in HOSTILE[:10]:
        for name in (hostile, f"a{hostile}", f"a{hostile}b"):
            posted = await site.http.post("/channels/a", params={"event": name}, content=b"1")
            assert posted.status_code == 400, name
            tagged = await site.http.post("/channels/a", params={"tag": f"k:{name}"}, content=b"1")
            assert tagged.status_code == 400, name
            with pytest.raises(Exception, match="event name"):
                await site.wire.publish("a", 1, event=name)
    assert (await page(site, "a"))["publications"] == []


async def test_an_event_name_keeps_its_spaces_and_colons(site: Site) -> None:
    names = [" lead", "a: b", ":", "trail "]
    for name in names:
        assert (await site.http.post("/channels/a", params={"event": name}, content=b"1")).status_code == 201
    async with site.http.stream(
        "GET", "/channels/a?after=earliest", headers={"Accept": "text/event-stream"}
    ) as response:
        events = httpx_sse.EventSource(response).aiter_sse()
        assert [event.event async for event in _first(events, len(names))] == names


async def _first(
    events: AsyncIterator[httpx_sse.ServerSentEvent], number: int
) -> AsyncIterator[httpx_sse.ServerSentEvent]:
    """Yield the first events that have data; blocks without are none (WHATWG HTML §9.2.6)."""
    async with asyncio.timeout(DEADLINE_S):
        while number:
            event = await anext(events)
            if event.data:
                number -= 1
                yield event
