"""Engine.IO 3, which Socket.IO's clients 1 and 2 speak: its own payloads, its own frames."""

from __future__ import annotations

import json

import pytest
import websockets

from everywire.sockets.link import PARSE_ERROR
from tests.serving import Site
from tests.transports.engines import PATH, Polling, open_socket
from tests.transports.test_engineio import ServeEngines, serve_engines, site, wire_of

__all__ = ["ServeEngines", "serve_engines", "site"]

OCTETS = "application/octet-stream"


async def open_3(site: Site, more: str = "&b64=1") -> Polling:
    """Open a connection of version 3 that polls; ``b64=1`` is what clients in Node say."""
    answer = await site.http.get(f"{PATH}?EIO=3&transport=polling{more}")
    length, _, packet = answer.text.partition(":")
    assert len(packet) == int(length)
    assert packet[0] == "0"
    return Polling(site, json.loads(packet[1:]), version=3)


async def test_the_handshake_has_its_length_before_it(site: Site) -> None:
    client = await open_3(site)
    assert client.opened.keys() == {"sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"}
    assert client.opened["upgrades"] == ["websocket"]


@pytest.mark.parametrize(
    "payload", ["6:4hello", "6:4test16:4test26:4test3", "6:4hello10:b4AQIDBA==", "5:4ü€😀1:4"]
)
async def test_lengths_are_utf_16_units(site: Site, payload: str) -> None:
    client = await open_3(site)
    await client.send(payload)
    answer = await client.get()
    assert answer.text == payload
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"


async def test_a_payload_of_bytes_is_taken(site: Site) -> None:
    client = await open_3(site)
    await client.send(b"\x00\x06\xff4h\xc3\xa9ll" + b"\x01\x05\xff\x04\x01\x02\x03\x04", content_type=OCTETS)
    assert wire_of(site).upper.heard == [(False, "héll".encode()), (True, b"\x01\x02\x03\x04")]


async def test_clients_that_can_take_bytes_get_binary_packets_so(site: Site) -> None:
    client = await open_3(site, more="")
    await client.send("6:4hello10:b4AQIDBA==")
    answer = await client.get()
    assert answer.headers["content-type"] == OCTETS
    assert answer.content == b"\x00\x06\xff4hello\x01\x05\xff\x04\x01\x02\x03\x04"
    await client.send("6:4hello")
    assert (await client.get()).text == "6:4hello"


@pytest.mark.parametrize(
    "payload", ["abc", "4hello", "99:4hello", "x:4", "6:xhello", "-1:4", "٣:4ab", "2:4¼4", "1e1:4123456789"]
)
async def test_a_wrong_payload_ends_the_connection(site: Site, payload: str) -> None:
    client = await open_3(site)
    answer = await client.post(payload)
    assert (answer.status_code, answer.json()) == (400, {"code": 3, "message": "Bad request"})
    assert wire_of(site).upper.heard == []
    assert await client.is_gone()
    assert wire_of(site).upper.reasons == [PARSE_ERROR]


async def test_binary_frames_have_their_type_before_them(site: Site) -> None:
    async with open_socket(site, version=3) as socket:
        await socket.recv()
        await socket.send(b"\x04\x01\x02")
        assert await socket.recv() == b"\x04\x01\x02"
        assert wire_of(site).upper.heard == [(True, b"\x01\x02")]
        await socket.send("4text")
        assert await socket.recv() == "4text"


async def test_clients_without_binary_frames_get_base64(site: Site) -> None:
    async with open_socket(site, "&b64=1", version=3) as socket:
        await socket.recv()
        await socket.send("b4AQI=")
        assert await socket.recv() == "b4AQI="
        assert wire_of(site).upper.heard == [(True, b"\x01\x02")]


@pytest.mark.parametrize("frame", [b"", b"\x01", b"4hello", "3", "bAQI="])
async def test_a_wrong_frame_closes_the_websocket(site: Site, frame: bytes | str) -> None:
    async with open_socket(site, version=3) as socket:
        await socket.recv()
        await socket.send(frame)
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()


async def test_an_upgrade_of_version_3(site: Site) -> None:
    client = await open_3(site)
    async with client.socket() as socket:
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        wire_of(site).upper.engine.post([(True, b"\x09")])
        await socket.send("5")
        assert await socket.recv() == b"\x04\x09"


async def test_versions_are_not_mixed(site: Site) -> None:
    client = await open_3(site)
    answer = await site.http.get(client.target.replace("EIO=3", "EIO=4"))
    assert (answer.status_code, answer.json()["code"]) == (400, 3)
    await client.send("6:4hello")
    assert await client.poll() == "6:4hello"
