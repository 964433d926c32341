"""One connection without sockets: whatever the pieces in which requests arrive, the answers are the same."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everywire.core.limits import Limits
from everywire.server.connection import HttpConnection
from everywire.server.host import Host, Listener
from everywire.server.options import ServerOptions
from tests.server.driving import Handlers

ERROR = re.compile(rb"HTTP/1.1 [45].*", re.DOTALL)
LIMITS = Limits(max_head_bytes=500, max_pipelined_bytes=300)


class Loop:
    """Keeps what is to be called soon until it is told to."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self.soon.append((callback, args))

    def time(self) -> float:
        return 1000.0

    def run(self) -> None:
        while self.soon:
            callback, args = self.soon.pop(0)
            callback(*args)


class Wire:
    """The transport's part, exact to the byte: what it is told to pause it holds back."""

    def __init__(self) -> None:
        self.out = b""
        self.held: list[bytes] = []
        self.is_paused = False
        self.is_closed = False
        self.ended = False
        self.connection: Any = None

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.out += data

    def feed(self, piece: bytes) -> None:
        self.held.append(piece)
        self.flush()

    def flush(self) -> None:
        while self.held and not self.is_paused and not self.is_closed:
            self.connection.data_received(self.held.pop(0))

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def write_eof(self) -> None:
        self.ended = True

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None


def listener(host: Host) -> Listener:
    return Listener(host, is_tls=True)  # nothing is sent past the transport


def converse(pieces: list[bytes]) -> tuple[bytes, list[str], bool]:
    """Feed the pieces, and answer what is held after each.

    Returns what came out, the paths that were asked for, and whether the connection ended. Of an error
    only that it was one: which is told of two depends on what is seen first.
    """
    loop = Loop()
    handlers = Handlers()
    host = Host(handlers, ServerOptions(limits=LIMITS, log_fd=None), loop)  # type: ignore[arg-type]
    host.dates.turn(784111777)
    wire = Wire()
    wire.connection = connection = HttpConnection(listener(host))
    connection.connection_made(wire)  # type: ignore[arg-type]

    def settle() -> None:
        while True:
            loop.run()
            wire.flush()
            if handlers.held:
                handlers.held.pop(0).respond(200, (), b"held")
            elif not loop.soon:
                return

    for piece in pieces:
        wire.feed(piece)
        settle()
    out = ERROR.sub(b"error", wire.out)
    return out, handlers.requests, wire.is_closed or wire.ended


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: a.test", *fields, "", ""]).encode() + body


REQUESTS = [
    request("GET /"),
    request("GET /framed"),
    request("GET /hold"),
    request("HEAD /whole"),
    request("GET /whole"),
    request("GET /empty", "X-Odd: 1"),
    b"\r\n" + request("GET /"),
    request("POST /echo", "Content-Length: 5", body=b"hello"),
    request("POST /echo", "Content-Length: 0"),
    request("POST /echo", "Content-Length: 400", body=b"x" * 400),
    request(
        "POST /echo", "Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nT: x\r\n\r\n"
    ),
    request("GET /", "Connection: close"),
    request("GET /", "X: " + "x" * 600),
    request("GET /", "X Y: 1"),
    request("BREW /"),
    b"GET / HTTP/1.1\nHost: a.test\n\n",
    b"nonsense\r\n\r\n",
    request("POST /echo", "Transfer-Encoding: chunked", body=b"5\r\nhello!\r\n"),
]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8), st.lists(st.integers(0, 5000), max_size=20)
)
def test_any_split_gives_the_same_answers(requests: list[bytes], cuts: list[int]) -> None:
    data = b"".join(requests)
    whole = converse([data])
    assert converse(cut(data, cuts)) == whole
    assert whole[2] or b"error" not in whole[0]


def test_byte_by_byte() -> None:
    data = b"".join(REQUESTS[:11])
    out, requests, ended = converse([data[at : at + 1] for at in range(len(data))])
    assert (out, requests, ended) == converse([data])
    assert len(requests) == 11
    assert not ended


def mutations(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 3):
        for byte in (0, 10, 13, 32, 58, 255):
            yield data[:at] + bytes([byte]) + data[at + 1 :]


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_broken_bytes_are_answered_or_waited_for(number: int) -> None:
    for data in mutations(REQUESTS[number][:120]):
        out, _, ended = converse([data + request("GET /")])
        if not out:
            assert not ended
        else:
            assert out.startswith((b"HTTP/1.1 2", b"error"))


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_nothing_escapes_and_nothing_is_asked_that_was_not_said(data: bytes, cuts: list[int]) -> None:
    out, requests, _ = converse(cut(data, cuts))
    assert requests == [] or b"HTTP/1.1" in data
    assert out in (b"", b"error")


async def test_a_blocked_loop_costs_no_deadline() -> None:
    """Deadlines count the time in which the event loop could hear its peers."""
    loop = asyncio.get_running_loop()
    limits = Limits(head_timeout_s=0.6)
    host = Host(Handlers(), ServerOptions(limits=limits, log_fd=None), loop)
    wire = Wire()
    wire.connection = connection = HttpConnection(listener(host))
    connection.connection_made(wire)  # type: ignore[arg-type]
    connection.data_received(b"GET / HT")
    wheel = host.wheel
    now = wheel.now_s + 60.0  # a minute of a handler that blocked
    wheel.advance(now)
    assert not wire.out
    connection.data_received(b"TP/1.1\r\nHost: a.test\r\n\r\n")
    assert wire.out.startswith(b"HTTP/1.1 200")
    connection.data_received(b"GET /")
    for _ in range(8):
        now += 0.25
        wheel.advance(now)
    assert b"HTTP/1.1 408" in wire.out
