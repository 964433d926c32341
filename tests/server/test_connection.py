"""One connection: requests in, answers out, in order; and what the driver hears."""

from __future__ import annotations

import asyncio
import socket

import pytest

from everywire.core.limits import Limits
from tests.server.driving import DEADLINE_S, Client, Handlers, Site, running, until

STALLED = b"x" * 8_000_000


async def test_keep_alive() -> None:
    async with running() as site:
        client = await site.connect()
        for path in ("/", "/framed", "/empty", "/whole", "/"):
            client.send(site.get(path))
            response = await client.response()
            assert response.status in (200, 204)
            assert response.headers["date"].endswith("GMT")
            assert "connection" not in response.headers
        assert response.body == b"/"


async def test_connection_close_is_obeyed() -> None:
    async with running() as site:
        for path in ("/", "/framed", "/whole", "/empty"):
            client = await site.connect()
            client.send(site.get(path, "Connection: close"))
            response = await client.response()
            assert response.headers["connection"] == "close"
            assert await client.is_closed()


async def test_http_10_has_no_chunks_and_closes_unless_asked() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/", "Connection: keep-alive", version="1.0"))
        response = await client.response()
        assert response.headers["connection"] == "keep-alive"
        client.send(site.get("/whole", "Connection: keep-alive", version="1.0"))
        response = await client.response()
        assert "transfer-encoding" not in response.headers
        assert response.body == b"one two three"
        assert response.headers["connection"] == "close"
        client = await site.connect()
        client.send("GET / HTTP/1.0\r\n\r\n")
        assert (await client.response()).headers["connection"] == "close"
        assert await client.is_closed()


async def test_head_has_no_body() -> None:
    async with running() as site:
        client = await site.connect()
        for path, length in (("/", "1"), ("/framed", "6"), ("/whole", None)):
            client.send(site.get(path, method="HEAD"))
            response = await client.response(is_head=True)
            assert response.status == 200
            assert response.headers.get("content-length") == length
        client.send(site.get("/", "Connection: close"))
        assert (await client.rest()).endswith(b"\r\n\r\n/")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as site:
        client = await site.connect()
        site.handlers.on_1 = site.handlers.on_2 = site.handlers.on_plain  # type: ignore[attr-defined]
        data = (
            site.get("/1")
            + site.get("/echo", "Content-Length: 5", method="POST")
            + b"hello"
            + site.get("/echo", "Transfer-Encoding: chunked", method="POST")
            + b"3\r\nabc\r\n0\r\nT: x\r\n\r\n"
            + site.get("/whole")
            + b"\r\n"
            + site.get("/2")
        )
        expected = [b"/1", b"hello", b"abc", b"one two three", b"/2"]
        client.send(data)
        assert [(await client.response()).body for _ in expected] == expected
        for at in range(len(data)):
            client.send(data[at : at + 1])
            await client.writer.drain()
            if not at % 50:
                await asyncio.sleep(0)
        assert [(await client.response()).body for _ in expected] == expected


async def test_what_follows_a_held_request_waits() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/hold") + site.get("/echo", "Content-Length: 2", method="POST") + b"hi")
        client.send(site.get("/"))
        await until(lambda: site.handlers.held)
        await asyncio.sleep(0.05)
        assert site.handlers.requests == ["/hold"]
        site.handlers.held[0].respond(200, (), b"held")
        assert [(await client.response()).body for _ in range(3)] == [b"held", b"hi", b"/"]


async def test_reading_pauses_when_too_much_waits_and_nothing_is_lost() -> None:
    async with running(limits=Limits(max_pipelined_bytes=1000)) as site:
        client = await site.connect()
        count = 60_000
        client.send(site.get("/hold"))
        client.send(site.get("/") * count)
        await until(lambda: site.handlers.held)
        await asyncio.sleep(0.1)
        (connection,) = site.server._host.connections  # type: ignore[union-attr]
        assert len(connection._buffer) < 400_000  # type: ignore[attr-defined]
        assert not connection._is_reading  # type: ignore[attr-defined]
        site.handlers.held[0].respond(200, (), b"held")
        assert (await client.response()).body == b"held"
        for _ in range(count):
            assert (await client.response()).body == b"/"


async def test_one_that_pipelines_leaves_others_their_turn() -> None:
    async with running() as site:
        greedy, other = await site.connect(), await site.connect()
        greedy.send(site.get("/") * 5000)
        other.send(site.get("/"))
        await other.response()
        assert len(site.handlers.requests) < 5001
        for _ in range(5000):
            await greedy.response()


async def test_a_peer_that_does_not_read_is_asked_nothing_more() -> None:
    handlers = Handlers()
    handlers.on_big = lambda exchange: exchange.respond(200, (), STALLED)  # type: ignore[attr-defined]
    async with running(handlers) as site:
        client = await site.connect(limit=1000)
        client.send(site.get("/big") * 5)
        await until(lambda: handlers.requests)
        await asyncio.sleep(0.1)
        assert len(handlers.requests) < 5
        for _ in range(5):
            assert len((await client.response()).body) == len(STALLED)


async def test_a_streamed_answer() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/stream"))
        await until(lambda: site.handlers.drivers)
        driver = site.handlers.drivers[0]
        exchange = driver.exchange
        assert exchange is not None
        assert exchange.request.headers == {}
        for number in range(3):
            exchange.write(exchange.framing.frame(b"%d " % number))
        exchange.finish(exchange.framing.frame(b"end"))
        response = await client.response()
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.body == b"first 0 1 2 end"
        client.send(site.get("/"))
        assert (await client.response()).body == b"/"
        assert driver.heard == []


async def test_framings_are_shared() -> None:
    seen = []
    handlers = Handlers()

    def framed(exchange: object) -> None:
        seen.append((exchange.framing, exchange.response_framing(200, [(b"a", b"b")])))  # type: ignore[attr-defined]
        exchange.answer(seen[-1][1].frame(b""))  # type: ignore[attr-defined]

    handlers.on_framed = framed  # type: ignore[method-assign]
    async with running(handlers) as site:
        for _ in range(2):
            await site.ask(site.get("/framed"))
        await site.ask(site.get("/framed", "Connection: close"))
    assert seen[0][0] is seen[1][0] is seen[2][0]
    assert seen[0][1] is seen[1][1]
    assert seen[0][1] is not seen[2][1]


async def test_the_driver_hears_of_back_pressure_within_write() -> None:
    async with running() as site:
        client = await site.connect(limit=1000)
        client.send(site.get("/stream"))
        await until(lambda: site.handlers.drivers)
        driver = site.handlers.drivers[0]
        assert driver.exchange is not None
        driver.exchange.write(driver.exchange.framing.frame(b"small"))
        assert driver.heard == []
        driver.exchange.write(driver.exchange.framing.frame(STALLED))
        assert driver.heard == ["stalled"]
        async with asyncio.timeout(DEADLINE_S):
            await client.reader.readuntil(b"\r\n\r\n")
            received = 0
            while received < len(STALLED):
                received += len(await client.reader.read(1 << 20))
        await until(lambda: driver.heard == ["stalled", "writable"])


@pytest.mark.parametrize("path", ["/stream", "/hold"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_the_driver_hears_once_that_the_peer_is_gone(path: str, how: str) -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get(path))
        await until(lambda: site.handlers.drivers)
        if how == "reset":
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        driver = site.handlers.drivers[0]
        await until(lambda: driver.is_gone)
        await asyncio.sleep(0.02)
        assert len(driver.heard) == 1
        await until(lambda: not site.server.open_connections())
        assert driver.exchange is not None
        driver.exchange.write(b"nobody hears this")
        if path == "/hold":
            driver.exchange.respond(200, (), b"nor this")


async def test_abort_cuts_and_tells_the_driver() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/stream"))
        await client.reader.readuntil(b"first ")
        driver = site.handlers.drivers[0]
        assert driver.exchange is not None
        driver.exchange.abort("enough")
        await until(lambda: driver.heard == ["gone enough"])
        assert await client.rest() != b"0\r\n\r\n"


@pytest.mark.parametrize("path", ["/", "/framed", "/whole", "/echo", "/brief"])
async def test_a_peer_that_has_closed_its_sending_half_is_answered(path: str) -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/empty") + site.get(path, "Content-Length: 2", method="POST") + b"hi")
        client.writer.write_eof()
        if path == "/brief":
            await until(lambda: site.handlers.held)
            await asyncio.sleep(0.05)
            site.handlers.held[0].respond(200, (), b"at last")
        assert (await client.response()).status == 204
        assert (await client.response()).status == 200
        assert await client.is_closed()


async def test_many_pipelined_requests_and_an_end_are_all_answered() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/") * 500)
        client.writer.write_eof()
        for _ in range(500):
            assert (await client.response()).body == b"/"
        assert await client.is_closed()


async def test_a_head_that_ends_too_early_is_no_request() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/")[:-2])
        client.writer.write_eof()
        assert await client.is_closed()
        assert site.handlers.requests == []


async def test_bodies_that_are_not_read_do_not_become_requests() -> None:
    inner = b"GET /inner HTTP/1.1\r\nHost: a.test\r\n\r\n"
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/", f"Content-Length: {len(inner)}", method="POST") + inner + site.get("/"))
        assert (await client.response()).body == b"/"
        assert (await client.response()).body == b"/"
        # What was not there yet when the answer was made cannot be skipped: the connection ends.
        client.send(site.get("/", f"Content-Length: {len(inner)}", method="POST"))
        assert (await client.response()).headers["connection"] == "close"
        client.send(inner)
        assert await client.is_closed()
        client = await site.connect()
        client.send(site.get("/", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n" + inner)
        assert (await client.response()).headers["connection"] == "close"
        assert await client.is_closed()
        assert set(site.handlers.requests) == {"/"}


async def test_expect_100_continue() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/echo", "Expect: 100-Continue", "Content-Length: 5", method="POST"))
        assert (await client.response()).status == 100
        client.send("hello")
        assert (await client.response()).body == b"hello"
        # The body is there already: no interim answer.
        client.send(site.get("/echo", "Expect: 100-continue", "Content-Length: 5", method="POST") + b"hello")
        assert (await client.response()).body == b"hello"
        # Nobody wants the body: the final answer says so at once, and the connection ends.
        client.send(site.get("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        old = await site.connect()
        old.send(site.get("/echo", "Expect: 100-continue", "Content-Length: 2", method="POST", version="1.0"))
        await asyncio.sleep(0.05)
        old.send("hi")
        assert (await old.response()).status == 200


async def test_a_handler_that_fails_is_500_and_takes_only_its_connection() -> None:
    async with running() as site:
        client, other = await site.connect(), await site.connect()
        other.send(site.get("/stream"))
        await until(lambda: site.handlers.drivers)
        client.send(site.get("/fail"))
        response = await client.response()
        assert response.status == 500
        assert b'"name":"internal"' in response.body
        assert b"a bug" not in response.body
        assert await client.is_closed()
        assert site.handlers.drivers[0].heard == []


async def test_to_answer_twice_is_a_bug() -> None:
    errors = []
    handlers = Handlers()

    def twice(exchange: object) -> None:
        exchange.respond(200, (), b"once")  # type: ignore[attr-defined]
        for again in (exchange.respond, exchange.start):  # type: ignore[attr-defined]
            with pytest.raises(RuntimeError) as error:
                again(200, ())
            errors.append(error)
        with pytest.raises(RuntimeError):
            exchange.finish()  # type: ignore[attr-defined]

    handlers.on_twice = twice  # type: ignore[attr-defined]
    async with running(handlers) as site:
        assert (await site.ask(site.get("/twice"))).body == b"once"
    assert len(errors) == 2


async def test_header_values_that_would_split_the_answer_are_bugs() -> None:
    handlers = Handlers()
    bad = ((b"location", b"/\r\nset-cookie: a=b"),)
    handlers.on_split = lambda exchange: exchange.respond(200, bad, b"")  # type: ignore[attr-defined]
    async with running(handlers) as site:
        response = await site.ask(site.get("/split"))
        assert response.status == 500
        assert "set-cookie" not in response.headers


async def test_too_many_connections_are_told_so() -> None:
    async with running(limits=Limits(max_connections=2)) as site:
        first, second = await site.connect(), await site.connect()
        first.send(site.get("/stream"))
        second.send(site.get("/"))
        await second.response()
        third = await site.connect()
        response = await third.response()
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert await third.is_closed()
        second.close()
        await until(lambda: sum(site.server.open_connections().values()) == 1)
        assert (await site.ask(site.get("/"))).status == 200


async def test_one_address_cannot_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that ask for nothing were counted for nobody: one machine could hold all that there are."""
    peers = iter(["192.0.2.1"] * 5 + ["192.0.2.2", "127.0.0.1"])
    monkeypatch.setattr("everywire.server.connection.peer_of", lambda transport: next(peers, "192.0.2.1"))
    async with running(limits=Limits(max_connections_per_address=2)) as site:
        clients = [await site.connect() for _ in range(4)]
        await until(lambda: sum(site.server.open_connections().values()) == 4)
        refused = await site.connect()
        assert (await refused.response()).status == 429 and await refused.is_closed()
        for _ in range(2):
            assert (await site.ask(site.get("/"))).status == 200
        clients[0].close()
        await until(lambda: sum(site.server.open_connections().values()) == 5)  # with the other two
        assert (await site.ask(site.get("/"))).status == 200


async def ask_for_drain(site: Site, client: Client) -> None:
    client.send(site.get("/stream"))
    await client.reader.readuntil(b"first ")


async def test_drain() -> None:
    async with running() as site:
        idle, silent, streaming, held = [await site.connect() for _ in range(4)]
        idle.send(site.get("/"))
        await idle.response()
        await ask_for_drain(site, streaming)
        held.send(site.get("/hold"))
        await until(lambda: site.handlers.held)
        site.handlers.drivers[1].on_drain = lambda retry_ms: site.handlers.held[0].respond(200, (), b"go")
        assert await site.server.drain(DEADLINE_S) is True
        assert await idle.is_closed()
        assert await silent.is_closed()
        assert b"bye\r\n0\r\n\r\n" in await streaming.rest()
        response = await held.response()
        assert (response.body, response.headers["connection"]) == (b"go", "close")
        assert [driver.heard for driver in site.handlers.drivers] == [["drain"], ["drain"]]
        with pytest.raises(OSError):
            await site.connect()


async def test_drain_cuts_those_that_stay() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/hold"))
        await until(lambda: site.handlers.held)
        assert await site.server.drain(0.2) is False
        assert await client.is_closed()
        assert site.handlers.drivers[0].heard == ["drain", "gone drain"]


async def test_a_request_in_progress_is_finished_while_the_server_drains() -> None:
    async with running() as site:
        client = await site.connect()
        client.send(site.get("/echo", "Content-Length: 4", method="POST") + b"he")
        await until(lambda: site.handlers.requests)
        draining = asyncio.ensure_future(site.server.drain(DEADLINE_S))
        await asyncio.sleep(0.05)
        client.send("y!")
        response = await client.response()
        assert (response.body, response.headers["connection"]) == (b"hey!", "close")
        assert await draining is True
