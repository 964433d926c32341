"""What has brought other servers of Engine.IO down: answered in the protocol's form, bounded, and over."""

from __future__ import annotations

import asyncio

import pytest
import websockets

from everywire.core.limits import Limits
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.link import PARSE_ERROR, TRANSPORT_ERROR
from tests.serving import Site, serving_wire, until
from tests.transports.engines import PATH, EngineWire, Polling, Talker, open_polling, open_socket
from tests.transports.test_engineio import ServeEngines, serve_engines, site, wire_of

__all__ = ["serve_engines", "site"]

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def works_on(site: Site) -> None:
    """Check that a new connection does what it should."""
    client = await open_polling(site)
    await client.send("4still here")
    assert await client.poll() == "4still here"


# -- handshakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "EIO=4&EIO=4&transport=polling",
        "EIO=4&EIO=3&transport=polling",
        "EIO=4&transport=polling&transport=websocket",
        "EIO=4&transport=polling&sid=a&sid=a",
        "EIO=4&transport=polling&sid=a&sid=b",
        "EIO=4&transport=polling&j=0&j=1",
        "EIO=4&transport=polling&t=%ff",
        "EIO=4&transport=polling&" + "&".join(f"x{number}=1" for number in range(100)),
        "EIO[]=4&transport=polling",
        "EIO=4&transport[]=polling",
        "EIO=%34%20&transport=polling",
        "EIO=٤&transport=polling",
        "EIO=__proto__&transport=constructor",
        "EIO=4&transport=polling&sid=__proto__",
        "EIO=4&transport=polling&sid=%00",
        "EIO=4&transport=polling&sid=" + "a" * 5000,
        "",
        "&&&",
        "EIO=4;transport=polling",
    ],
)
async def test_a_garbled_query_is_a_bad_request(site: Site, query: str) -> None:
    answer = await site.http.get(f"{PATH}?{query}")
    assert answer.status_code == 400
    assert answer.json().keys() == {"code", "message"}
    assert len(wire_of(site).engines) == 0


async def test_parameters_of_the_application_may_occur_twice(site: Site) -> None:
    await open_polling(site, "&room=a&room=b&t=x&t=y")
    assert wire_of(site).upper.engine.request.query["room"] == "a"


async def test_an_id_occurs_once(site: Site) -> None:
    client = await open_polling(site)
    answer = await client.get(f"&sid={client.sid}")
    assert (answer.status_code, answer.json()["code"]) == (400, 3)
    await client.send("4hello")


async def test_a_websocket_on_the_address_of_polling_is_refused(site: Site) -> None:
    client = await open_polling(site)
    for target in (client.target, f"{PATH}?EIO=4&transport=polling"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with site.websocket(target):
                pass
        assert refused.value.response.status_code == 400
    await client.send("4hello")
    assert await client.poll() == "4hello"


@pytest.mark.parametrize("upgrade", ["h2c", "WebSocket, foo", "websocket/13", ",", "irc/6.9"])
async def test_an_odd_upgrade_field_breaks_nothing(site: Site, upgrade: str) -> None:
    for transport in ("polling", "websocket"):
        answer = await site.http.get(
            f"{PATH}?EIO=4&transport={transport}", headers={"Connection": "Upgrade", "Upgrade": upgrade}
        )
        assert answer.status_code in (200, 400, 426)
    await works_on(site)


async def test_the_id_of_a_websocket_is_none_for_polling(site: Site) -> None:
    async with open_socket(site) as socket:
        sid = (await socket.recv()).partition('"sid":"')[2].partition('"')[0]
        client = Polling(site, {"sid": sid})
        for answer in (await client.get(), await client.post("4x")):
            assert (answer.status_code, answer.json()["code"]) == (400, 3)
        async with client.socket() as second:
            with pytest.raises(websockets.ConnectionClosed):
                await second.recv()
        await socket.send("4hello")
        assert await socket.recv() == "4hello"


async def test_a_websocket_for_an_id_that_is_not_known_is_refused(site: Site) -> None:
    for sid in ("x", f"{wire_of(site).engines.label}.x", "other.x", "."):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with Polling(site, {"sid": sid}).socket():
                pass
        assert refused.value.response.status_code == 400


# -- payloads --------------------------------------------------------------------


async def test_a_payload_of_tiny_packets_is_refused(site: Site) -> None:
    client = await open_polling(site)
    answer = await client.post(b"4\x1e" * 499_999 + b"4")
    assert (answer.status_code, answer.json()["code"]) == (400, 3)
    assert wire_of(site).upper.heard == []
    assert wire_of(site).upper.reasons == [PARSE_ERROR]
    await works_on(site)


async def test_as_many_packets_as_may_come_are_all_taken(serve_engines: ServeEngines) -> None:
    wire = EngineWire(upper=Talker)
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        most = wire.limits.max_payload_packets
        await client.send(b"\x1e".join([b"4%d" % number for number in range(most)]))
        assert [data for _, data in wire.upper.heard] == [b"%d" % number for number in range(most)]


async def test_empty_messages_are_bounded_too(serve_engines: ServeEngines) -> None:
    wire = EngineWire(limits=Limits(max_session_queue_bytes=20_000))
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        post = asyncio.create_task(client.post(b"\x1e".join([b"b"] * 2_000)))
        await until(lambda: wire.upper.engine.queued_bytes > 20_000)
        assert len(wire.upper.heard) < 1_000
        heard = 0
        while heard < 2_000:
            heard += (await client.poll()).count("b")
        assert (await post).text == "ok"


async def test_a_payload_above_the_limit_is_refused_before_it_is_read(site: Site) -> None:
    client = await open_polling(site)
    reader, writer = await site.connect()
    head = f"POST {client.target} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 100000000\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"code":3,"message":"a payload is at most 1000000 bytes"}' in answer
    writer.close()
    await client.send("4small")
    assert await client.poll() == "4small"


async def test_a_payload_at_the_limit_is_taken(serve_engines: ServeEngines) -> None:
    wire = EngineWire(EngineOptions("engineio", max_payload=1000))
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        await client.send("4" + "x" * 999)
        assert (await client.post("4" + "x" * 1000)).status_code == 413
        assert len(wire.upper.heard) == 1


async def test_a_payload_of_unknown_length_is_bounded(site: Site) -> None:
    client = await open_polling(site)
    reader, writer = await site.connect()
    head = f"POST {client.target} HTTP/1.1\r\nHost: {site.authority}\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    chunk = b"10000\r\n" + b"4" * 65536 + b"\r\n"
    try:
        for _ in range(32):
            writer.write(chunk)
            await writer.drain()
        answer = await reader.readuntil(b"\r\n")
        assert b" 413 " in answer
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # cut in the middle of it
    writer.close()
    assert wire_of(site).upper.heard == []
    await works_on(site)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x1e",
        b"4a\x1e",
        b"\x1e4a",
        b"4\xff",
        b"bA",
        b"b!!!!",
        b"b\xc3\xa9",
        b"7x",
        b"9",
        b"\x04",
        b"2",
        b"2probe",
        b"0{}",
        b"5",
    ],
)
async def test_a_wrong_payload_ends_the_connection(site: Site, payload: bytes) -> None:
    client = await open_polling(site)
    answer = await client.post(payload)
    assert (answer.status_code, answer.json()) == (400, {"code": 3, "message": "Bad request"})
    assert await client.is_gone()
    assert wire_of(site).upper.reasons == [PARSE_ERROR]


async def test_bytes_are_no_payload_of_version_4(site: Site) -> None:
    client = await open_polling(site)
    assert (await client.post(b"4hello", content_type="application/octet-stream")).status_code == 400
    assert await client.is_gone()


async def test_a_wrong_payload_is_told_to_the_pending_poll(site: Site) -> None:
    client = await open_polling(site)
    poll = asyncio.create_task(client.poll())
    await until(lambda: not wire_of(site).upper.engine.is_stalled)
    await client.post("abc")
    assert await poll == "1"


# -- requests ------------------------------------------------------------------------


async def test_two_posts_at_once_end_the_connection(site: Site) -> None:
    client = await open_polling(site)
    _, writer = await site.connect()
    head = f"POST {client.target} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 6\r\n\r\n4he"
    writer.write(head.encode())
    await until(lambda: wire_of(site).upper.engine._is_posting)
    assert (await client.post("4hello")).status_code == 400
    assert await client.is_gone()
    assert wire_of(site).upper.reasons == [TRANSPORT_ERROR]
    writer.close()
    assert wire_of(site).upper.heard == []


async def test_a_post_that_ends_halfway_ends_the_connection(site: Site) -> None:
    client = await open_polling(site)
    _, writer = await site.connect()
    head = f"POST {client.target} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 6\r\n\r\n4he"
    writer.write(head.encode())
    await until(lambda: wire_of(site).upper.engine._is_posting)
    writer.transport.abort()
    await until(lambda: wire_of(site).upper.reasons == [TRANSPORT_ERROR])
    assert await client.is_gone()
    assert wire_of(site).upper.heard == []


# -- more than a client may have -----------------------------------------------------


async def test_a_client_that_reads_nothing_is_heard_no_more_and_then_ended(
    serve_engines: ServeEngines,
) -> None:
    most = 20_000
    wire = EngineWire(limits=Limits(max_session_queue_bytes=most))
    async with serve_engines(wire=wire) as site:
        client = await open_polling(site)
        text = "4" + "x" * 999
        post = asyncio.create_task(client.post("\x1e".join([text] * 500)))
        engine = wire.upper.engine
        await until(lambda: engine.queued_bytes > most)
        await asyncio.sleep(0.05)
        # The rest of the payload waits where it came from, until the client reads what it is owed.
        assert engine.queued_bytes <= most + 1000
        assert not post.done()
        heard = 0
        while heard < 500:
            heard += (await client.poll()).count("x" * 999)
        assert (await post).text == "ok"
        # What others say to it is not held up, and so it ends.
        while not engine.is_ended:
            wire.upper.say("x" * 999)
            assert engine.queued_bytes <= 2 * most + 1000
        assert wire.upper.reasons == ["slow"]
        assert await client.poll() == "1"


async def test_a_websocket_that_reads_nothing_is_bounded(certificate: tuple[str, str]) -> None:
    most = 100_000
    wire = EngineWire(limits=Limits(max_session_queue_bytes=most), upper=Talker)
    async with serving_wire("own", wire, certificate) as site:
        reader, writer = await site.connect(limit=1024)
        fields = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        head = f"GET {PATH}?EIO=4&transport=websocket HTTP/1.1\r\nHost: {site.authority}\r\n{fields}\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"}")
        writer.transport.pause_reading()
        engine = wire.upper.engine
        while not engine.is_ended:
            wire.upper.say("x" * 9_999)
            assert engine.queued_bytes <= 2 * most + 10_000
            await asyncio.sleep(0)
        assert wire.upper.reasons == ["slow"]
        writer.transport.abort()


async def test_connections_are_bounded(serve_engines: ServeEngines) -> None:
    wire = EngineWire(limits=Limits(max_engines=3))
    async with serve_engines(wire=wire) as site:
        clients = [await open_polling(site) for _ in range(3)]
        answer = await site.http.get(f"{PATH}?EIO=4&transport=polling")
        assert answer.status_code == 503
        assert answer.json().keys() == {"code", "message"}
        assert int(answer.headers["retry-after"]) >= 1
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with open_socket(site):
                pass
        assert refused.value.response.status_code == 503
        assert wire.engines.statistics()["refused"] == 2
        await clients[0].send("1")
        await open_polling(site)
