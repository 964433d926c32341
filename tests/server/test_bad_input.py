"""What no client should send: answered in words that a client can read, and disturbing nobody else."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from everywire.core.limits import Limits
from tests.server.driving import Response, running, until


def error_of(response: Response) -> tuple[int, str]:
    """Return status and name of an error, whose body must be as all errors are."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    error = json.loads(response.body)["error"]
    assert set(error) == {"code", "name", "message"}
    assert isinstance(error["code"], int)
    assert error["message"]
    return response.status, error["name"]


BAD_REQUEST = (400, "bad_request")
TOO_LARGE = (413, "too_large")
TIMEOUT = (408, "timeout")
HEAD_TOO_LARGE = (431, "head_too_large")
NOT_AVAILABLE = (501, "not_available")

POST = b"POST /echo HTTP/1.1\r\nHost: a.test\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n"

MALFORMED = {
    "bare LF everywhere": b"GET / HTTP/1.1\nHost: a.test\n\n",
    "bare LF within": b"GET / HTTP/1.1\r\nX: 1\nHost: a.test\r\n\r\n",
    "bare CR within": b"GET / HTTP/1.1\r\nX: 1\rHost: a.test\r\n\r\n",
    "folding": GET + b"X: 1\r\n 2\r\n\r\n",
    "space before the colon": GET + b"X : 1\r\n\r\n",
    "no colon": GET + b"X\r\n\r\n",
    "no name": GET + b": 1\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "two hosts": GET + b"Host: a.test\r\n\r\n",
    "two hosts that differ": GET + b"host: b.test\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: u@a.test\r\n\r\n",
    "host with a bad port": b"GET / HTTP/1.1\r\nHost: a.test:port\r\n\r\n",
    "host list": b"GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "binary": bytes(range(256)),
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "target without slash": b"GET x HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "target not ASCII": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "length and chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length list": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "endless length": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "chunked twice over": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MALFORMED |= {
    "chunk size: not a number": CHUNKED + b"five\r\nhello\r\n0\r\n\r\n",
    "chunk size: sign": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk size: prefix": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size: space": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "chunk size: underscore": CHUNKED + b"1_0\r\nhello\r\n0\r\n\r\n",
    "chunk size: bare LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "chunk size: overflow": CHUNKED + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n",
    "chunk: longer than its size": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "chunk: bare LF after": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "chunk extension: endless": CHUNKED + b"5;" + b"x" * 1000,
    "chunk extension: control": CHUNKED + b"5;\x00\r\nhello\r\n0\r\n\r\n",
    "trailers: too many": CHUNKED + b"0\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
    "trailer: endless": CHUNKED + b"0\r\nA: " + b"b" * 20_000,
    "trailer: folding": CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n",
}
CONTROL = [0x00, 0x01, 0x08, 0x0B, 0x0C, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F, 0x80, 0x85, 0x9F]
MALFORMED |= {f"control {byte:02x}": GET + b"X: a%cb\r\n\r\n" % byte for byte in CONTROL}
MALFORMED |= {f"control {byte:02x} in a name": GET + b"X%c: a\r\n\r\n" % byte for byte in CONTROL}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_requests_are_400_and_the_end(name: str) -> None:
    async with running() as site:
        client = await site.connect()
        client.send(MALFORMED[name])
        response = await client.response()
        assert error_of(response) == BAD_REQUEST
        assert response.headers["connection"] == "close"
        assert await client.is_closed()
        assert "/echo" not in site.handlers.requests or "chunk" in name or "trailer" in name


@pytest.mark.parametrize("name", ["two hosts", "length and chunked", "control 85", "chunk size: sign"])
async def test_malformed_requests_are_400_behind_a_good_one_and_byte_by_byte(name: str) -> None:
    async with running() as site:
        client = await site.connect()
        data = site.get("/empty") + MALFORMED[name]
        for at in range(len(data)):
            client.send(data[at : at + 1])
            if not at % 16:
                await asyncio.sleep(0)
        assert (await client.response()).status == 204
        assert error_of(await client.response()) == BAD_REQUEST
        assert await client.is_closed()


@pytest.mark.parametrize("method", ["BREW", "get", "CONNECT"])
async def test_unknown_methods_are_501(method: str) -> None:
    async with running() as site:
        target = "a.test:80" if method == "CONNECT" else "/"
        response = await site.ask(f"{method} {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert error_of(response) == NOT_AVAILABLE


async def test_unknown_transfer_codings_are_501() -> None:
    async with running() as site:
        response = await site.ask(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n")
        assert error_of(response) == NOT_AVAILABLE


HEADS = {
    "ten thousand fields": GET + b"X: 1\r\n" * 10_000 + b"\r\n",
    "a field of a megabyte": GET + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "a target of a megabyte": b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "a head that never ends": b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000,
    "one field too many": GET + b"X: 1\r\n" * 100 + b"\r\n",
}


@pytest.mark.parametrize("name", HEADS)
async def test_heads_that_are_too_large_are_431(name: str) -> None:
    async with running() as site:
        client = await site.connect()
        client.send(HEADS[name])
        assert error_of(await client.response()) == HEAD_TOO_LARGE
        client.writer.write_eof()
        assert await client.is_closed()


async def test_the_largest_head_is_taken() -> None:
    async with running(limits=Limits(max_head_bytes=1000)) as site:
        head = GET + b"X: \r\n\r\n"
        for extra, status in ((1000, 200), (1001, 431)):
            filled = head.replace(b"X: ", b"X: " + b"x" * (extra - len(head)))
            assert len(filled) == extra
            assert (await site.ask(filled)).status == status


@pytest.mark.parametrize("pieces", ["none", "bytes"])
async def test_a_slow_head_is_408(pieces: str) -> None:
    async with running(limits=Limits(head_timeout_s=0.6)) as site:
        client = await site.connect()
        client.send(site.get("/"))
        await client.response()
        began = time.monotonic()
        client.send(b"G")

        async def drip() -> None:
            for byte in b"ET / HTTP/1.1\r\nHost: a.test\r\n" * 100:
                await asyncio.sleep(0.05)
                client.send(bytes([byte]))

        dripping = asyncio.ensure_future(drip()) if pieces == "bytes" else None
        response = await client.response()
        if dripping is not None:
            dripping.cancel()
        assert error_of(response) == TIMEOUT
        assert time.monotonic() - began >= 0.3
        assert site.server.metrics.deadlines["head"] == 1


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async with running(limits=Limits(head_timeout_s=0.3)) as site:
        client = await site.connect()
        assert await client.is_closed()
        assert site.server.metrics.deadlines["idle"] == 1


async def test_an_idle_connection_is_closed_in_time_but_not_before() -> None:
    async with running(limits=Limits(head_timeout_s=0.3, keep_alive_timeout_s=1.2)) as site:
        client = await site.connect()
        client.send(site.get("/"))
        await client.response()
        for _ in range(3):
            await asyncio.sleep(0.6)
            client.send(site.get("/"))
            assert (await client.response()).status == 200
        began = time.monotonic()
        assert await client.is_closed()
        assert time.monotonic() - began >= 0.9


async def test_held_and_streamed_answers_have_no_deadline_of_the_host() -> None:
    limits = Limits(head_timeout_s=0.3, keep_alive_timeout_s=0.3, body_timeout_s=0.3, stall_timeout_s=0.3)
    async with running(limits=limits) as site:
        held, streamed = await site.connect(), await site.connect()
        held.send(site.get("/hold"))
        streamed.send(site.get("/stream"))
        await streamed.reader.readuntil(b"first ")
        await asyncio.sleep(1.2)
        site.handlers.held[0].respond(200, (), b"held")
        assert (await held.response()).body == b"held"
        assert all(driver.heard == [] for driver in site.handlers.drivers)


@pytest.mark.parametrize("how", ["length", "chunked", "nothing"])
async def test_a_slow_body_is_408(how: str) -> None:
    async with running(limits=Limits(body_timeout_s=0.6)) as site:
        client = await site.connect()
        client.send(CHUNKED + b"5\r\nhe" if how == "chunked" else POST + b"Content-Length: 5\r\n\r\n")
        if how == "length":
            client.send(b"he")
        assert error_of(await client.response()) == TIMEOUT
        assert site.server.metrics.deadlines["body"] == 1


@pytest.mark.parametrize("how", ["declared", "chunk", "chunks"])
async def test_bodies_that_are_too_large_are_413_and_the_answer_is_seen(how: str) -> None:
    async with running() as site:
        client = await site.connect()
        if how == "declared":
            client.send(POST + b"Content-Length: 100001\r\n\r\n")
        elif how == "chunk":
            client.send(CHUNKED + b"186a1\r\n")
        else:
            client.send(CHUNKED)
        # A client that has begun to send goes on for a while, and must still be able to read why not.
        for _ in range(12):
            client.send((b"2710\r\n" + b"x" * 10_000 + b"\r\n") if how == "chunks" else b"x" * 10_000)
            await asyncio.sleep(0)
        assert error_of(await client.response()) == TOO_LARGE
        client.writer.write_eof()
        assert await client.is_closed()


async def test_a_client_that_never_stops_sending_is_cut() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(POST + b"Content-Length: 100000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                client.send(b"x" * 100_000)
                await client.writer.drain()
                await asyncio.sleep(0)
        await until(lambda: not site.server.open_connections())


async def test_a_client_that_does_not_close_is_cut_in_time() -> None:
    async with running(limits=Limits(close_timeout_s=0.3)) as site:
        client = await site.connect()
        client.send(b"nonsense\r\n\r\n")
        await client.response()
        await until(lambda: not site.server.open_connections())


async def test_a_body_in_tiny_chunks_is_taken_and_leaves_others_their_turn() -> None:
    async with running() as site:
        client, other = await site.connect(), await site.connect()
        client.send(CHUNKED + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n" + site.get("/"))
        other.send(site.get("/"))
        assert (await other.response()).status == 200
        assert (await client.response()).body == b"x" * 100_000
        assert (await client.response()).body == b"/"


async def test_nobody_else_is_disturbed() -> None:
    async with running() as site:
        good = await site.connect()
        good.send(site.get("/stream"))
        await good.reader.readuntil(b"first ")
        for data in (*MALFORMED.values(), *HEADS.values()):
            client = await site.connect()
            client.send(data)
            assert (await client.response()).status in (400, 431)
            client.close()
        driver = site.handlers.drivers[0]
        assert driver.heard == []
        assert driver.exchange is not None
        driver.exchange.finish(driver.exchange.framing.frame(b"well"))
        assert b"well" in await good.reader.readuntil(b"0\r\n\r\n")


async def test_a_reader_that_takes_nothing_is_cut_in_time() -> None:
    limits = Limits(stall_timeout_s=0.4)
    async with running(limits=limits) as site:
        client = await site.connect(limit=1000)
        client.send(site.get("/stream"))
        await client.reader.readuntil(b"first ")
        driver = site.handlers.drivers[0]
        assert driver.exchange is not None
        driver.exchange.write(driver.exchange.framing.frame(b"x" * 8_000_000))
        await until(lambda: driver.is_gone)
        assert driver.heard in (["stalled", "gone stalled"], ["stalled", "gone reset"])


@pytest.mark.parametrize(
    ("line", "fields", "status", "header"),
    [
        ("POST", "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n", 405, ("allow", "GET")),
        ("GET", "", 426, ("upgrade", "websocket")),
        ("GET", "Upgrade: h2c\r\nConnection: Upgrade\r\n", 426, ("upgrade", "websocket")),
        ("GET", "Upgrade: websocket\r\n", 400, None),
        ("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\n", 426, ("sec-websocket-version", "13")),
        (
            "GET",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 12\r\n",
            426,
            ("sec-websocket-version", "13"),
        ),
        ("GET", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", 400, None),
        (
            "GET",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: short\r\n",
            400,
            None,
        ),
        (
            "GET",
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nsec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n",
            400,
            None,
        ),
    ],
)
async def test_wrong_upgrades(line: str, fields: str, status: int, header: tuple[str, str] | None) -> None:
    async with running() as site:
        client = await site.connect()
        client.send(f"{line} /socket HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
        response = await client.response()
        assert error_of(response)[0] == status
        if header is not None:
            assert response.headers[header[0]] == header[1]
        client.send(site.get("/"))
        assert (await client.response()).body == b"/"


async def test_refusals_are_counted() -> None:
    async with running() as site:
        await site.ask(b"nonsense\r\n\r\n")
        await site.ask(site.get("/"))
        counters = site.server.metrics.counters()
        assert counters['refused_total{reason="bad_request"}'] == 1
        assert counters['requests_total{status="4xx"}'] == 1
        assert counters['requests_total{status="2xx"}'] == 1
        assert counters["connections_accepted_total"] == 2
