"""The small HTTP client, against a server that answers byte by byte as told."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from everywire.client.address import Address
from everywire.client.errors import ConnectionLost, Refused
from everywire.client.http import HttpClient
from everywire.core.errors import BadRequest
from tests.client.certificates import make_certificate
from tests.client.scripted import Peer, scripted


def client(url: str, **more) -> HttpClient:
    return HttpClient(Address.parse(url), **more)


async def test_a_chunked_answer_arrives_however_it_is_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
    answer = head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"

    async def bytewise(peer: Peer) -> None:
        await peer.request()
        for at in range(len(answer)):
            await peer.send(answer[at : at + 1])
            await asyncio.sleep(0)
        await peer.hang()

    async with scripted(bytewise) as server:
        http = client(server.url)
        got = await http.exchange("GET", "/x")
        assert (got.status, got.body, got.headers["x-a"]) == (200, b"abcde", "1, 2")
        await http.close()


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async def twice(peer: Peer) -> None:
        for body in (b"one", b"two"):
            await peer.request()
            await peer.answer(body)
        await peer.hang()

    async with scripted(twice) as server:
        http = client(server.url, headers={"X-Who": "me"})
        assert (await http.exchange("GET", "/1")).body == b"one"
        assert (await http.exchange("POST", "/2", {"X-More": "yes"}, b"data")).body == b"two"
        await http.close()
        assert len(server.connections) == 1
        first, second = server.asked
        assert first.headers["host"] == server.url.removeprefix("http://")
        assert (second.body, second.headers["x-who"], second.headers["x-more"]) == (b"data", "me", "yes")


async def test_a_kept_connection_that_was_closed_is_replaced_where_repeating_is_safe() -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"fine")

    async with scripted(once) as server:
        http = client(server.url)
        await http.exchange("GET", "/")
        assert (await http.exchange("GET", "/")).body == b"fine"
        assert (await http.exchange("POST", "/", {"Idempotency-Key": "k"}, b"x")).body == b"fine"
        with pytest.raises(ConnectionLost):
            await http.exchange("POST", "/", {}, b"x")
        await http.close()


async def test_interim_answers_are_skipped() -> None:
    async def interim(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)
        await peer.send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
        )
        await peer.hang()

    async with scripted(interim) as server:
        http = client(server.url)
        got = await http.exchange("GET", "/")
        assert (got.status, got.body) == (201, b"ok")
        assert "link" not in got.headers
        await http.close()


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def until_end(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")

    async with scripted(until_end) as server:
        http = client(server.url)
        assert (await http.exchange("GET", "/")).body == b"all of it"
        await http.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    ],
)
async def test_a_torn_or_broken_answer_is_a_lost_connection(answer: bytes) -> None:
    async def torn(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async with scripted(torn) as server:
        http = client(server.url)
        with pytest.raises(ConnectionLost):
            await http.exchange("GET", "/")
        await http.close()


async def test_a_silent_server_is_a_lost_connection() -> None:
    async def silent(peer: Peer) -> None:
        await peer.hang()

    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.start("text/plain", b"abc")
        await peer.hang()

    async with scripted(silent, half) as server:
        http = client(server.url)
        with pytest.raises(ConnectionLost, match=r"no answer within 0.1 s"):
            await http.exchange("GET", "/", timeout_s=0.1)
        response = await http.start("GET", "/")
        assert await response.read_some(5) == b"abc"
        with pytest.raises(ConnectionLost, match=r"nothing was heard for 0.1 s"):
            await response.read_some(0.1)
        await http.close()


async def test_nobody_listening_is_a_lost_connection() -> None:
    async with scripted(Peer.hang) as server:
        pass
    with pytest.raises(ConnectionLost) as caught:
        await client(server.url).exchange("GET", "/")
    assert server.url in caught.value.sentence


async def test_a_field_cannot_break_out_of_the_head() -> None:
    async with scripted(Peer.hang) as server:
        http = client(server.url)
        for name, value in [
            ("X-A", "1\r\nX-B: 2"),
            ("X A", "1"),
            ("X-A", "1\n"),
            ("X-A", "\0"),
            ("X-A", "é—"),
        ]:
            with pytest.raises(BadRequest):
                await http.exchange("GET", "/", {name: value})
        await http.close()


async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"private")
        await peer.hang()

    async with scripted(once, tls=serving) as server:
        trusting = client(server.url, tls=ssl.create_default_context(cafile=cert))
        assert (await trusting.exchange("GET", "/")).body == b"private"
        await trusting.close()
        with pytest.raises(Refused, match="certificate is not trusted"):
            await client(server.url).exchange("GET", "/")
