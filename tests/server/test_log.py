"""The log: one JSON object a line, nothing forged, no credential, and never in the way."""

from __future__ import annotations

import json
import os
import select
from typing import Any

import pytest

from everywire.server.log import Log, _pieces, loggable
from tests.server.driving import running, until


def lines_of(fd: int) -> list[dict[str, Any]]:
    """Read what is there."""
    data = b""
    while select.select([fd], [], [], 0.05)[0]:
        piece = os.read(fd, 1 << 20)
        if not piece:
            break
        data += piece
    return [json.loads(line) for line in data.splitlines()]


def clock() -> float:
    return 784111777.25


def test_a_line() -> None:
    reading, writing = os.pipe()
    log = Log(writing, clock)
    log.info("open", path="/a\r\n\x1b[31m\u2028", peer="::1")
    log.close()
    os.close(writing)
    raw = os.read(reading, 1000)
    os.close(reading)
    assert raw.count(b"\n") == 1
    assert b"\x1b" not in raw
    assert b"\r" not in raw
    assert json.loads(raw) == {
        "time": "1994-11-06T08:49:37.250Z",
        "level": "info",
        "event": "open",
        "path": "/a\r\n\x1b[31m\u2028",
        "peer": "::1",
    }


def test_levels() -> None:
    reading, writing = os.pipe()
    log = Log(writing, clock, "warning")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log.close()
    os.close(writing)
    assert [line["event"] for line in lines_of(reading)] == ["c", "d"]
    os.close(reading)
    silent = Log(None, clock)
    silent.error("nobody reads this")
    silent.close()


def test_a_reader_that_is_blocked_costs_lines_and_is_told_how_many() -> None:
    reading, writing = os.pipe()
    log = Log(writing, clock, max_waiting_bytes=200_000)
    for number in range(5000):
        log.info("line", number=number, filling="x" * 100)
        log.flush()
    dropped = log.dropped
    assert 0 < dropped < 5000
    lines = lines_of(reading)
    log.info("line", number=5000)
    log.close()
    os.close(writing)
    lines += lines_of(reading)
    os.close(reading)
    numbers = [line["number"] for line in lines if line["event"] == "line"]
    told = sum(line["count"] for line in lines if line["event"] == "log_lines_dropped")
    assert numbers == sorted(numbers)
    assert numbers[-1] == 5000
    assert len(numbers) + told == 5001
    assert told == dropped


def test_a_reader_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = Log(writing, clock)
    log.info("a")
    log.flush()
    log.info("b")
    log.close()
    os.close(writing)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "/p"),
        ("after=abc&wait=25", "/p?after=abc&wait=25"),
        ("token=s3cret&after=abc", "/p?token=***&after=abc"),
        ("after=abc&access_token=s3cret", "/p?after=abc&access_token=***"),
        ("API-Key=s3cret;ticket=s3cret", "/p?API-Key=***;ticket=***"),
        ("x=1&password=a=b", "/p?x=1&password=***"),
        ("session_id=1&jwt=", "/p?session_id=***&jwt=***"),
        ("cf_connect=%7B%22id%22%3A1%7D&wait=2", "/p?cf_connect=***&wait=2"),
        ("a=1&ticket=t.s3cret&api_key=s3cret", "/p?a=1&ticket=***&api_key=***"),
        ("%74oken=s3cret&cf%5Fconnect=s3cret&after=%2B", "/p?%74oken=***&cf%5Fconnect=***&after=%2B"),
    ],
)
def test_credentials_are_hidden(query: str, expected: str) -> None:
    assert loggable("/p", query) == expected


def test_long_paths_are_cut() -> None:
    assert len(loggable("/" + "p" * 5000, "q" * 5000)) <= 520


async def test_a_connection_has_one_line_at_open_and_one_at_close() -> None:
    reading, writing = os.pipe()
    async with running(log_fd=writing) as site:
        client = await site.connect()
        client.send(site.get("/"))
        await client.response()
        client.send(site.get("/stream?token=s3cret"))
        await client.reader.readuntil(b"first ")
        driver = site.handlers.drivers[0]
        assert driver.exchange is not None
        driver.exchange.note(7)
        client.close()
        await until(lambda: not site.server.open_connections())
        silent = await site.connect()
        silent.send(site.get("/"))
        await silent.response()
    os.close(writing)
    lines = lines_of(reading)
    os.close(reading)
    assert [line["event"] for line in lines] == ["start", "open", "close"]
    start, opened, closed = lines
    assert start["addresses"] == site.server.addresses
    about = {"connection": 1, "peer": "127.0.0.1", "transport": "sse", "path": "/stream?token=***"}
    assert about.items() <= opened.items()
    assert about.items() <= closed.items()
    assert (closed["requests"], closed["messages_out"], closed["reason"]) == (2, 7, "left")
    assert closed["duration_s"] >= 0
    assert closed["bytes_in"] == len(site.get("/")) + len(site.get("/stream?token=s3cret"))
    assert closed["bytes_out"] > 100


async def test_a_handler_that_fails_is_told_in_the_log_alone() -> None:
    reading, writing = os.pipe()
    async with running(log_fd=writing) as site:
        assert (await site.ask(site.get("/fail"))).status == 500
    os.close(writing)
    errors = [line for line in lines_of(reading) if line["level"] == "error"]
    os.close(reading)
    assert len(errors) == 1
    assert "a bug" in errors[0]["traceback"]


def test_lines_of_workers_say_whose_they_are_and_reach_a_pipe_whole() -> None:
    reading, writing = os.pipe()
    log = Log(writing, lambda: 0.0, worker=3)
    log.opened(1, "peer", "sse", "/a")
    log.closed((1, "peer", "sse", "/a"), 0.5, 1, 2, 3, 4, "left")
    for number in range(200):
        log.warning("x", number=number, text="y" * number)
    log.error("long", text="z" * 5000)
    log.error("end")
    log.close()
    os.close(writing)
    with open(reading, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    assert len(lines) == 204
    assert {line["worker"] for line in lines} == {3}
    assert [len(bytes(piece)) <= 4096 for piece in _pieces(b"a" * 4095 + b"\nb\n")] == [True, True]
    assert [bytes(piece) for piece in _pieces(b"a" * 5000 + b"\nb\n")] == [b"a" * 5000 + b"\n", b"b\n"]
