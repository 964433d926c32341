"""WebSocket, raw and with the subprotocol ``everywire.json``: publishing, errors, ends."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
import websockets

from everywire.access.identity import Action
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, SlowReader, Window
from tests.readers import data, page
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve

ENVELOPES = {"subprotocols": ["everywire.json"]}


async def receive(socket: Any) -> Any:
    """Return the next message, parsed where it is text."""
    async with asyncio.timeout(DEADLINE_S):
        message = await socket.recv()
    return json.loads(message) if isinstance(message, str) else message


async def closed(socket: Any) -> tuple[int, str]:
    """Read until the server closes; return its code and reason."""
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(websockets.ConnectionClosed) as error:
            while True:
                await socket.recv()
    assert error.value.rcvd is not None, "closed without a close frame"
    return error.value.rcvd.code, error.value.rcvd.reason


# -- raw -----------------------------------------------------------------------------------------------


async def test_what_a_raw_client_sends_is_published_and_comes_back(site: Site) -> None:
    async with site.websocket("/channels/a") as socket:
        await socket.send('{"x": 1}')
        await socket.send(b"\x00\xff")
        await socket.send(["[1,", "2]"])  # fragments
        async with asyncio.timeout(DEADLINE_S):
            assert [await socket.recv() for _ in range(3)] == ['{"x": 1}', b"\x00\xff", "[1,2]"]
    rows = (await page(site, "a"))["publications"]
    assert rows[0]["data"] == {"x": 1} and rows[2]["data"] == [1, 2]
    assert base64.b64decode(rows[1]["data_base64"]) == b"\x00\xff"
    assert rows[1]["content_type"] == "application/octet-stream"


async def test_a_subprotocol_that_we_do_not_speak_is_not_agreed_on(site: Site) -> None:
    async with site.websocket("/channels/a", subprotocols=["chat", "everywire.json"]) as socket:
        assert socket.subprotocol == "everywire.json"
    async with site.websocket("/channels/a", subprotocols=["chat"]) as socket:
        assert socket.subprotocol is None
        await site.publish("a", 1)
        assert await receive(socket) == 1


async def test_text_that_is_not_json_closes_with_the_reason(site: Site) -> None:
    async with site.websocket("/channels/a") as socket:
        await socket.send("hello")
        code, reason = await closed(socket)
        assert code == 1007 and "JSON" in reason
    assert (await page(site, "a"))["publications"] == []
    await until(lambda: site.wire.hub.subscribers("a") == 0)


async def test_publishing_to_several_channels_needs_the_subprotocol(site: Site) -> None:
    async with site.websocket("/channels/a,b") as socket:
        await site.publish("b", 1)
        assert (await receive(socket))["channel"] == "b"
        await socket.send("1")
        code, reason = await closed(socket)
        assert code in (1007, 1008) or code >= 3500
        assert "everywire.json" in reason


async def test_a_message_that_is_too_large_is_closed_with_1009(serve: Serve) -> None:
    async with serve(limits=Limits(max_message_bytes=10_000, max_body_bytes=10_000)) as site:
        for options in ({}, ENVELOPES):
            async with site.websocket("/channels/a", **options) as socket:
                await socket.send(json.dumps({"data": "x" * 10_000}))
                code, _ = await closed(socket)
                assert code == 1009
        assert (await page(site, "a"))["publications"] == []


async def test_a_raw_reader_that_may_not_publish_is_told_and_closed_for_good(serve: Serve) -> None:
    async with serve(dev=False, public={Action.READ: ["*"]}) as site, site.websocket("/channels/a") as socket:
        await site.publish("a", 1)
        assert await receive(socket) == 1
        await socket.send("1")
        code, reason = await closed(socket)
        assert 3500 <= code < 4000 and "publish" in reason
        assert len((await page(site, "a"))["publications"]) == 1


# -- everywire.json --------------------------------------------------------------------------------------


async def test_an_envelope_is_published_and_answered_with_its_position(site: Site) -> None:
    async with site.websocket("/channels/a", **ENVELOPES) as socket:
        opening = await receive(socket)
        assert set(opening) == {"position"}
        for request_id in (1, 0, -5, "x", "ä" * 64):
            await socket.send(json.dumps({"data": request_id, "id": request_id}))
            got = sorted([await receive(socket), await receive(socket)], key=lambda value: "data" in value)
            assert set(got[0]) == {"id", "position"} and got[0]["id"] == request_id
            assert got[1]["data"] == request_id
            assert got[0]["position"] == got[1]["position"]
            assert (await page(site, "a", after=got[0]["position"]))["publications"] == []


async def test_without_an_id_there_is_no_answer(site: Site) -> None:
    async with site.websocket("/channels/a", **ENVELOPES) as socket:
        await receive(socket)
        await socket.send('{"data": 1, "event": "tick"}')
        await socket.send('{"data": 2, "id": null}')
        assert [(await receive(socket)).get("event"), (await receive(socket))["data"]] == ["tick", 2]
        await socket.send("{}")  # a sign of life: neither published nor answered
        await socket.send('{"data": 3}')
        assert (await receive(socket))["data"] == 3


async def test_envelopes_keep_event_tags_bytes_and_digits(site: Site) -> None:
    async with site.websocket("/channels/a", **ENVELOPES) as socket:
        await receive(socket)
        encoded = base64.b64encode(b"\x00\xff").decode()
        await socket.send(
            json.dumps({"data_base64": encoded, "content_type": "image/png", "tags": {"k": "v"}})
        )
        got = await receive(socket)
        assert (got["data_base64"], got["content_type"], got["tags"]) == (encoded, "image/png", {"k": "v"})
        await socket.send('{"data": 123456789012345678901234567890, "event": "big"}')
        async with asyncio.timeout(DEADLINE_S):
            assert '"data":123456789012345678901234567890,' in await socket.recv()
        await socket.send('{"data": 1.50}')
        async with asyncio.timeout(DEADLINE_S):
            assert '"data":1.50,' in await socket.recv()
        for text in ("null", "false", "0", '""'):
            await socket.send('{"data": ' + text + "}")
            assert (await receive(socket))["data"] == json.loads(text)


async def test_with_several_channels_an_envelope_names_its_own(site: Site) -> None:
    async with site.websocket("/channels/a,b", **ENVELOPES) as socket:
        await receive(socket)
        await socket.send('{"data": 1, "channel": "b", "id": 1}')
        got = sorted([await receive(socket), await receive(socket)], key=lambda value: "data" in value)
        assert got[0]["id"] == 1 and (got[1]["channel"], got[1]["data"]) == ("b", 1)
        for envelope in ({"data": 1, "id": 2}, {"data": 1, "id": 2, "channel": "c"}):
            await socket.send(json.dumps(envelope))
            answer = await receive(socket)
            assert answer["id"] == 2 and "channel" in answer["error"]["message"]


BAD_ENVELOPES: list[tuple[Any, str]] = [
    ("hello", "JSON"),
    ("[1]", "object"),
    ("1", "object"),
    (b"{}", "text"),
    ({"id": 7}, "data"),
    ({"id": 7, "data": 1, "data_base64": ""}, "data"),
    ({"id": 7, "dat": 1}, "data"),
    ({"id": 7, "data": 1, "event": "gap"}, "event"),
    ({"id": 7, "data": 1, "event": "binary"}, "event"),
    ({"id": 7, "data": 1, "event": "error"}, "event"),
    ({"id": 7, "data": 1, "event": "open"}, "event"),
    ({"id": 7, "data": 1, "event": "a\nb"}, "event"),
    ({"id": 7, "data": 1, "event": 1}, "event"),
    ({"id": 7, "data": 1, "tags": {"a": 1}}, "tags"),
    ({"id": 7, "data": 1, "tags": ["a"]}, "tags"),
    ({"id": 7, "data_base64": "a"}, "base64"),
    ({"id": 7, "data_base64": 1}, "base64"),
    ({"id": 7, "data_base64": "AA==", "content_type": "x"}, "content_type"),
    ({"id": 7, "data_base64": "AA==", "content_type": "a/b\r\nx: y"}, "content_type"),
    ({"id": 7, "data_base64": "AA==", "content_type": "a/" + "b" * 254}, "content type"),
    ({"id": 7, "data": 1, "channel": "other"}, "channel"),
    ({"id": 7, "data": 1, "channel": ["a"]}, "channel"),
    ({"id": True, "data": 1}, "id"),
    ({"id": {}, "data": 1}, "id"),
    ({"id": "x" * 65, "data": 1}, "id"),
]


async def test_a_bad_envelope_is_answered_and_the_connection_goes_on(site: Site) -> None:
    async with site.websocket("/channels/a", **ENVELOPES) as socket:
        await receive(socket)
        for envelope, word in BAD_ENVELOPES:
            await socket.send(json.dumps(envelope) if isinstance(envelope, dict) else envelope)
            answer = await receive(socket)
            assert word in answer["error"]["message"], (envelope, answer)
            assert set(answer["error"]) == {"code", "name", "message"}
            has_id = isinstance(envelope, dict) and envelope.get("id") == 7
            assert answer.get("id") == (7 if has_id else None), envelope
        await socket.send('{"data": "still here"}')
        assert (await receive(socket))["data"] == "still here"
    assert data((await page(site, "a"))["publications"]) == ["still here"]


async def test_an_envelope_reader_that_may_not_publish_is_answered_and_reads_on(serve: Serve) -> None:
    async with (
        serve(dev=False, public={Action.READ: ["*"]}) as site,
        site.websocket("/channels/a", **ENVELOPES) as socket,
    ):
        await receive(socket)
        await socket.send('{"data": 1, "id": 7}')
        answer = await receive(socket)
        assert answer["id"] == 7 and answer["error"]["code"] in (101, 103)
        await site.publish("a", "news")
        assert (await receive(socket))["data"] == "news"


# -- readers that fall behind ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (SlowReader.GAP, ENVELOPES),
        (SlowReader.LATEST, ENVELOPES),
        (SlowReader.DISCONNECT, ENVELOPES),
        (SlowReader.GAP, {}),
    ],
)
async def test_a_reader_that_stops_reading_is_told_what_it_missed(
    serve: Serve, policy: SlowReader, options: dict[str, Any]
) -> None:
    settings = SettingsTable([("a", ChannelSettings(window=Window(max_publications=10), slow_reader=policy))])
    async with serve(channels=settings) as site:
        async with site.websocket("/channels/a", max_queue=1, max_size=None, **options) as socket:
            if options:
                await receive(socket)
            number = stalled = 0
            # A moment's stall is no matter: publish until it lasts.
            while stalled < 30:
                await site.publish("a", {"n": number, "fill": "x" * 20_000})
                number += 1
                await asyncio.sleep(0.001)
                stalled = stalled + 1 if site.wire.hub.statistics()["readers_stalled"] else 0
                assert number < 20_000, "nothing ever stalled"
            for _ in range(50):
                await site.publish("a", {"n": number, "fill": ""})
                number += 1
            seen, end = await _read_up_to(socket, number - 1)
        numbers = [item["data"]["n"] for item in seen if "data" in item]
        gaps = [item["gap"] for item in seen if "gap" in item]
        if policy is SlowReader.DISCONNECT or not options:
            assert end is not None and 3000 <= end[0] < 3500
            assert numbers == list(range(len(numbers)))
            assert not gaps and len(numbers) < number
            return
        assert end is None
        missed = {offset - 1 for gap in gaps for offset in range(gap["from"], gap["to"] + 1)}
        assert numbers == sorted(set(range(number)) - missed)
        assert not missed & set(numbers) and gaps
        assert all(gap["reason"] == "trimmed" for gap in gaps)
        if policy is SlowReader.LATEST:
            assert numbers[-2] + 2 < numbers[-1]


async def _read_up_to(socket: Any, last: int) -> tuple[list[dict[str, Any]], tuple[int, str] | None]:
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE_S):
        try:
            while True:
                value = json.loads(await socket.recv())
                seen.append(value if "data" in value or "gap" in value else {"data": value})
                if "data" in seen[-1] and seen[-1]["data"]["n"] == last:
                    return seen, None
        except websockets.ConnectionClosed as error:
            assert error.rcvd is not None
            return seen, (error.rcvd.code, error.rcvd.reason)


async def test_order_is_kept_while_many_publish_over_one_socket(site: Site) -> None:
    async with site.websocket("/channels/a", **ENVELOPES) as socket, site.websocket("/channels/a") as other:
        await receive(socket)
        for number in range(500):
            await socket.send(json.dumps({"data": number}))
        assert [(await receive(socket))["data"] for _ in range(500)] == list(range(500))
        assert [await receive(other) for _ in range(500)] == list(range(500))


async def test_cut_in_the_middle_of_a_message_publishes_nothing(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(
        f"GET /channels/a HTTP/1.1\r\nHost: {site.authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.write(b"\x81\x84\0\0\0\0nu")
    await writer.drain()
    await until(lambda: site.wire.hub.subscribers("a") == 1)
    writer.close()
    await until(lambda: site.wire.hub.subscribers("a") == 0)
    assert (await page(site, "a"))["publications"] == []
