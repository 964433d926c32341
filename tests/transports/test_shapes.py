"""What publications and gaps look like on each wire, for one channel and for several."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import httpx_sse
import pytest

from everywire.core.position import Place, encode_position
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from tests.readers import READERS, TELLING, Closed, data, page, take
from tests.serving import Site
from tests.transports.conftest import Serve

SMALL = SettingsTable([("small*", ChannelSettings(window=Window(max_publications=3)))])
BYTES = bytes(range(256))


async def lines(site: Site, path: str, number: int) -> list[bytes]:
    """Read so many lines of an NDJSON answer, after its opening."""
    found: list[bytes] = []
    async with site.http.stream("GET", path, headers={"Accept": "application/x-ndjson"}) as response:
        rest = b""
        async for chunk in response.aiter_bytes():
            *whole, rest = (rest + chunk).split(b"\n")
            found += whole
            if len(found) > number:
                return found[1 : number + 1]
    raise AssertionError("the answer ended")


async def events(site: Site, path: str, number: int) -> list[httpx_sse.ServerSentEvent]:
    """Read so many events of an SSE answer."""
    found: list[httpx_sse.ServerSentEvent] = []
    async with site.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as response:
        async for event in httpx_sse.EventSource(response).aiter_sse():
            if event.data:
                found.append(event)
                if len(found) == number:
                    return found
    raise AssertionError("the answer ended")


async def messages(site: Site, path: str, number: int, *subprotocols: str) -> list[str | bytes]:
    """Read so many messages of a WebSocket; with a subprotocol, after its opening."""
    async with site.websocket(path, subprotocols=subprotocols or None) as socket:
        if subprotocols:
            await socket.recv()
        return [await socket.recv() for _ in range(number)]


async def publish_all_kinds(site: Site) -> tuple[int, int]:
    before_ms = int(time.time() * 1000)
    await site.wire.publish("a", {"x": 1}, event="tick", tags={"k": "v"})
    await site.wire.publish("a", BYTES, content_type="image/png")
    return before_ms, int(time.time() * 1000)


def check_rows(rows: list[dict[str, Any]], times: tuple[int, int], **more: Any) -> None:
    for row in rows:
        assert times[0] <= row.pop("time") <= times[1] + 1
        row.pop("position", None)
    encoded = base64.b64encode(BYTES).decode()
    assert rows == [
        {"offset": 1, "data": {"x": 1}, "event": "tick", "tags": {"k": "v"}, **more},
        {"offset": 2, "data_base64": encoded, "content_type": "image/png", **more},
    ]


async def test_a_json_answer(site: Site) -> None:
    times = await publish_all_kinds(site)
    answer = await page(site, "a")
    assert set(answer) == {"publications", "position"}
    check_rows(answer["publications"], times)
    answer = await page(site, "a,b", after="earliest")
    assert set(answer) == {"publications", "position"}
    check_rows(answer["publications"], times, channel="a")


async def test_lines_and_envelopes_are_publications_with_their_position(site: Site) -> None:
    times = await publish_all_kinds(site)
    for channels, more in (("a", {}), ("a,b", {"channel": "a"})):
        path = f"/channels/{channels}?after=earliest"
        for texts in (await lines(site, path, 2), await messages(site, path, 2, "everywire.json")):
            rows = [json.loads(text) for text in texts]
            after_first = await page(site, channels, after=rows[0]["position"])
            assert [row["offset"] for row in after_first["publications"]] == [2]
            assert (await page(site, channels, after=rows[1]["position"]))["publications"] == []
            check_rows(rows, times, **more)


async def test_an_event_is_the_data_and_its_id_the_position(site: Site) -> None:
    times = await publish_all_kinds(site)
    await site.publish("a", "text", None, 1.5)
    found = await events(site, "/channels/a?after=earliest", 5)
    assert [event.event for event in found] == ["tick", "binary", "message", "message", "message"]
    assert [event.data for event in found[2:]] == ['"text"', "null", "1.5"]
    assert found[0].data == '{"x":1}'
    binary = json.loads(found[1].data)
    assert times[0] <= binary.pop("time") <= times[1] + 1
    assert binary == {
        "offset": 2,
        "data_base64": base64.b64encode(BYTES).decode(),
        "content_type": "image/png",
    }
    for number, event in enumerate(found, 1):
        rows = (await page(site, "a", after=event.id))["publications"]
        assert [row["offset"] for row in rows] == list(range(number + 1, 6))


async def test_an_event_of_several_channels_names_its_channel(site: Site) -> None:
    times = await publish_all_kinds(site)
    found = await events(site, "/channels/a,b?after=earliest", 2)
    assert [event.event for event in found] == ["tick", "binary"]
    check_rows([json.loads(event.data) for event in found], times, channel="a")


async def test_a_raw_websocket_carries_the_data_alone(site: Site) -> None:
    await publish_all_kinds(site)
    await site.publish("a", "text")
    assert await messages(site, "/channels/a?after=earliest", 3) == ['{"x":1}', BYTES, '"text"']


async def test_a_raw_websocket_of_several_channels_names_them(site: Site) -> None:
    times = await publish_all_kinds(site)
    found = await messages(site, "/channels/a,b?after=earliest", 2)
    assert all(isinstance(message, str) for message in found)
    check_rows([json.loads(message) for message in found], times, channel="a")


# -- gaps ------------------------------------------------------------------------------------------


async def trimmed(site: Site) -> str:
    """Publish 1 to 9 to a channel that keeps three; return the position after 4."""
    positions = [await site.wire.publish("small", number) for number in range(1, 10)]
    return positions[3].position


@pytest.mark.parametrize("name", TELLING)
async def test_a_trimmed_gap_names_the_first_and_last_missed(serve: Serve, name: str) -> None:
    async with serve(channels=SMALL) as site:
        position = await trimmed(site)
        items = READERS[name](site, "small", after=position)
        seen = await take(items, 5, "")
        assert [next(iter(item)) for item in seen[:2]] == ["open", "gap"]
        assert seen[1]["gap"] == {"from": 5, "to": 6, "reason": "trimmed"}
        assert data(seen[2:]) == [7, 8, 9]
        if name not in ("poll", "long-poll"):
            # A reader that is cut right after the gap goes on with the oldest one kept.
            rows = (await page(site, "small", after=seen[1]["position"]))["publications"]
            assert [row["data"] for row in rows] == [7, 8, 9]
        await items.aclose()


@pytest.mark.parametrize("name", TELLING)
async def test_a_reset_gap_has_nulls(serve: Serve, name: str) -> None:
    async with serve(channels=SMALL) as site:
        await trimmed(site)
        epoch = (await site.http.head("/channels/small")).headers["everywire-epoch"]
        for place in (Place("other", 8), Place("other", 8000), Place(epoch, 10)):
            items = READERS[name](site, "small", after=encode_position([("small", place)]))
            seen = await take(items, 5, "")
            assert seen[1]["gap"] == {"from": None, "to": None, "reason": "reset"}, place
            assert data(seen[2:]) == [7, 8, 9]
            await items.aclose()


@pytest.mark.parametrize("name", TELLING)
async def test_gaps_of_several_channels_are_told_one_by_one_and_each_once(serve: Serve, name: str) -> None:
    async with serve(channels=SMALL) as site:
        for number in range(1, 6):
            await site.publish("small-a", number)
            await site.publish("small-b", number)
        await site.publish("c", "c")
        epoch = (await site.http.head("/channels/c")).headers["everywire-epoch"]
        position = encode_position(
            [("small-a", Place(epoch, 1)), ("small-b", Place("other", 1)), ("c", Place(epoch, 0))]
        )
        items = READERS[name](site, "small-a,small-b,c", after=position)
        seen = await take(items, 10, "")
        assert [item["gap"] for item in seen if "gap" in item] == [
            {"channel": "small-a", "from": 2, "to": 2, "reason": "trimmed"},
            {"channel": "small-b", "from": None, "to": None, "reason": "reset"},
        ]
        rows = [(item["channel"], item["data"]) for item in seen if "data" in item]
        assert sorted(rows) == [("c", "c")] + [(f"small-{name}", n) for name in "ab" for n in (3, 4, 5)]
        assert "gap" in seen[1] and "gap" in seen[2]
        await site.publish("c", "later")
        assert data(await take(items, 1)) == ["later"]
        await items.aclose()


async def test_a_json_answer_of_several_channels_lists_gaps(serve: Serve) -> None:
    async with serve(channels=SMALL) as site:
        position = await trimmed(site)
        await site.publish("b", 1)
        answer = await page(site, "small,b", after=position)
        assert answer["gap"] == [{"channel": "small", "from": 5, "to": 6, "reason": "trimmed"}]
        assert answer["new"] == ["b"]
        single = await page(site, "small", after=position)
        assert single["gap"] == {"from": 5, "to": 6, "reason": "trimmed"}


async def test_an_event_for_a_gap_has_an_id_and_a_line_its_position(serve: Serve) -> None:
    async with serve(channels=SMALL) as site:
        position = await trimmed(site)
        (event,) = await events(site, f"/channels/small?after={position}", 1)
        assert event.event == "gap"
        assert json.loads(event.data) == {"from": 5, "to": 6, "reason": "trimmed"}
        (line,) = await lines(site, f"/channels/small?after={position}", 1)
        gap = json.loads(line)
        assert set(gap) == {"gap", "position"}
        assert gap["position"] == event.id != position


@pytest.mark.parametrize("place", [Place("other", 1), None])
async def test_a_raw_websocket_that_missed_something_is_closed_so_that_it_may_come_back(
    serve: Serve, place: Place | None
) -> None:
    async with serve(channels=SMALL) as site:
        position = await trimmed(site)
        if place is not None:
            position = encode_position([("small", place)])
        items = READERS["websocket"](site, "small", after=position)
        with pytest.raises(Closed) as closed:
            await take(items, 1)
        assert 3000 <= closed.value.code < 3500
        assert closed.value.reason
        if place is None:
            assert "5" in closed.value.reason and "6" in closed.value.reason


async def test_after_delete_a_reader_is_told_what_it_missed(site: Site) -> None:
    await site.publish("a", 1, 2, 3)
    first = (await page(site, "a", limit=1))["position"]
    live = READERS["sse"](site, "a")
    await take(live, 1, "open")
    deleted = await site.http.delete("/channels/a")
    assert deleted.status_code == 204 and deleted.content == b""
    assert (await page(site, "a"))["publications"] == []
    answer = await page(site, "a", after=first)
    assert answer["gap"] == {"from": 2, "to": 3, "reason": "trimmed"}
    await site.publish("a", 4)
    # Who stood at the head missed nothing.
    assert (await take(live, 1, ""))[0]["data"] == 4
    assert [row["offset"] for row in (await page(site, "a"))["publications"]] == [4]
    assert (await site.http.delete("/channels/never")).status_code == 204
    await live.aclose()
