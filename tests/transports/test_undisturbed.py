"""Bad input is refused in its sender's own words, and nothing of other readers is disturbed by it.

The host's own answers to malformed HTTP have their tests in ``tests/server``; here others read, on every
wire, while it comes.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from everywire.core.limits import Limits
from tests.readers import READERS, data, take
from tests.serving import DEADLINE_S, Site, until
from tests.transports.conftest import Serve

Misbehave = Callable[[Site], Awaitable[object]]

MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET /channels/a HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"get\x00 / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\x00c\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    bytes(range(256)) * 100,
]

UPGRADE = (
    b"GET /channels/x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
BAD_FRAMES = {
    "unmasked": (b"\x81\x02hi", 1002),
    "reserved bits": (b"\xf1\x80\0\0\0\0", 1002),
    "unknown opcode": (b"\x83\x80\0\0\0\0", 1002),
    "fragmented ping": (b"\x09\x80\0\0\0\0", 1002),
    "long ping": (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), 1002),
    "lonely continuation": (b"\x80\x80\0\0\0\0", 1002),
    "bad UTF-8": (b"\x81\x82\0\0\0\0\xc3\x28", 1007),
    "too large": (b"\x82\xff" + struct.pack(">Q", 2**40) + b"\0\0\0\0", 1009),
    "bad close": (b"\x88\x81\0\0\0\0x", 1002),
}


@asynccontextmanager
async def others_reading(site: Site) -> AsyncIterator[None]:
    """Read on every wire meanwhile, and check that each got everything in order."""
    ended = asyncio.Event()

    async def publish() -> int:
        number = 0
        while not ended.is_set():
            await site.publish("others", number)
            number += 1
            await asyncio.sleep(0.005)
        await site.publish("others", "end")
        return number

    async def read(name: str) -> list[object]:
        limit = {"limit": 100} if name in ("poll", "long-poll") else {}
        items = READERS[name](site, "others", after="earliest", **limit)
        found: list[object] = []
        while found[-1:] != ["end"]:
            found += data(await take(items, 1))
        await items.aclose()
        return found

    publishing = asyncio.ensure_future(publish())
    reading = [asyncio.ensure_future(read(name)) for name in READERS]
    try:
        yield
    finally:
        ended.set()
        number = await publishing
    for name, found in zip(READERS, await asyncio.gather(*reading), strict=True):
        assert found == [*range(number), "end"], name


async def ask(site: Site, request: bytes) -> bytes:
    """Send bytes and return what comes; a server may also cut at once."""
    reader, writer = await site.connect()
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_malformed_http(site: Site) -> None:
    if site.host == "asgi":
        return  # HTTP is the ASGI server's
    async with others_reading(site):
        answers = await asyncio.gather(*[ask(site, request) for request in MALFORMED])
    for request, answer in zip(MALFORMED, answers, strict=True):
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 505"), (
            request[:40],
            answer[:60],
        )


async def test_bad_frames(site: Site) -> None:
    async def violate(frame: bytes) -> bytes:
        reader, writer = await site.connect()
        try:
            writer.write(UPGRADE)
            async with asyncio.timeout(DEADLINE_S):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                writer.write(frame)
                return await reader.read()
        finally:
            writer.close()

    async with others_reading(site):
        for name, (frame, code) in BAD_FRAMES.items():
            answer = await violate(frame)
            assert answer[:1] == b"\x88", (name, answer)
            assert struct.unpack(">H", answer[2:4])[0] == code, (name, answer)
    await until(lambda: site.wire.hub.subscribers("x") == 0)


async def test_wrong_upgrade_requests(site: Site) -> None:
    if site.host == "asgi":
        return  # the opening handshake is the ASGI server's
    head = UPGRADE.removesuffix(b"\r\n")
    end = b"Connection: close\r\n\r\n"
    requests = {
        head.replace(b"Version: 13", b"Version: 12") + b"\r\n": 426,
        head.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short") + b"\r\n": 400,
        head.replace(b"GET", b"POST") + b"Content-Length: 0\r\n" + end: 405,
        head.replace(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b"") + b"\r\n": 400,
        head.replace(b"Sec-WebSocket-Version: 13\r\n", b"") + b"\r\n": 426,
    }
    async with others_reading(site):
        for request, status in requests.items():
            reader, writer = await site.connect()
            writer.write(request)
            async with asyncio.timeout(DEADLINE_S):
                answer = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            assert answer.startswith(b"HTTP/1.1 %d " % status), (request, answer)
            if status == 426:
                assert b"sec-websocket-version: 13" in answer.lower()


async def test_slow_heads_and_bodies(serve: Serve) -> None:
    limits = Limits(head_timeout_s=0.5, body_timeout_s=0.5)
    async with serve(limits=limits) as site:
        if site.host == "asgi":
            return  # so are these deadlines
        async with others_reading(site):
            answers = await asyncio.gather(
                _drip(site, b"GET /channels/x HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 1000),
                _drip(
                    site,
                    b"POST /channels/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
                    + b" " * 900,
                ),
                *[_drip(site, b"GET / HT" + b"T" * 1000) for _ in range(3)],
            )
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[:2]), answers[:2]
        assert all(answer[:13] in (b"HTTP/1.1 408 ", b"HTTP/1.1 400 ") for answer in answers[2:]), answers[2:]


async def _drip(site: Site, request: bytes) -> bytes:
    """Send a byte every 50 ms until the server has had enough; return its answer."""
    return await asyncio.to_thread(_drip_blocking, site, request)


def _drip_blocking(site: Site, request: bytes) -> bytes:
    # In a thread: uvloop's TLS clients may not see an answer to what they have not sent to its end.
    with site.connect_blocking() as connection:
        connection.settimeout(0.05)
        for at in range(len(request)):
            connection.sendall(request[at : at + 1])
            try:
                return connection.recv(4096)
            except TimeoutError:
                pass
    return b""


async def test_a_message_in_very_many_fragments_is_bounded(site: Site) -> None:
    """65,536 fragments of one byte are a message; more are too many."""
    if site.host == "asgi":
        return  # frames are the ASGI server's

    async def send(channel: bytes, fragments: int) -> bytes:
        reader, writer = await site.connect()
        try:
            writer.write(UPGRADE.replace(b"channels/x", b"channels/" + channel))
            async with asyncio.timeout(DEADLINE_S):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"\x01\x81\0\0\0\0 ")
                for _ in range(fragments // 1024):
                    if reader.at_eof() or writer.is_closing():
                        break
                    writer.write(b"\x00\x81\0\0\0\0 " * 1024)
                    await asyncio.sleep(0)
                writer.write(b"\x80\x81\0\0\0\0001")
                return await reader.readexactly(4)
        finally:
            writer.close()

    async with others_reading(site):
        legal, excessive = await asyncio.gather(send(b"x", 63 * 1024), send(b"y", 1024 * 1024))
    assert legal[0] == 0x81
    assert excessive[0] == 0x88 and struct.unpack(">H", excessive[2:4])[0] == 1009


async def test_readers_that_come_and_are_cut_at_any_moment(site: Site) -> None:
    """Resets in the middle of requests, answers and handshakes leave nothing behind."""
    chance = random.Random(7)
    paths = ["", "?wait=20", "?transport=stream", "?transport=sse", "?after=earliest&transport=sse"]

    async def come_and_go() -> None:
        for _ in range(20):
            reader, writer = await site.connect()
            path = chance.choice(paths)
            request = f"GET /channels/x{path} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode()
            request = chance.choice([request, UPGRADE, UPGRADE + b"\x81\x83\0\0\0\0123"])
            writer.write(request[: chance.choice([len(request), chance.randrange(len(request))])])
            await asyncio.sleep(chance.random() * 0.02)
            if chance.random() < 0.5 and site.tls is None and not reader.at_eof():
                writer.transport.abort()
            else:
                writer.close()

    async with others_reading(site):
        await asyncio.gather(*[come_and_go() for _ in range(20)])
    await until(lambda: site.wire.hub.subscribers("x") == 0)
    await until(lambda: site.wire.hub.subscribers("others") == 0)


@pytest.mark.parametrize("name", READERS)
async def test_a_reader_that_never_reads_is_not_waited_for(site: Site, name: str) -> None:
    async with others_reading(site):
        _, writer = await site.connect()
        accept = {"stream": "application/x-ndjson", "sse": "text/event-stream"}.get(name, "*/*")
        if name in ("websocket", "everywire.json"):
            writer.write(UPGRADE.replace(b"Host: localhost", b"Host: " + site.authority.encode()))
        else:
            wait = "?wait=20" if name == "long-poll" else ""
            fields = f"Host: {site.authority}\r\nAccept: {accept}\r\n"
            writer.write(f"GET /channels/x{wait} HTTP/1.1\r\n{fields}\r\n".encode())
        for number in range(100):
            await site.publish("x", {"n": number, "fill": "x" * 20_000})
            await asyncio.sleep(0)
        writer.close()
