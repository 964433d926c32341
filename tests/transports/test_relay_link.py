"""Connections to other nodes: answers in any pieces, and peers that do not do as they should."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.core.limits import Limits
from everywire.hub.hub import Hub
from everywire.testing.shared_broker import SharedStore
from everywire.transports.relay_link import AnswerHead, PeerLink
from everywire.transports.relay_way import _Carried
from tests.serving import DEADLINE_S, until
from tests.transports.engines import open_polling
from tests.transports.relaying import Node, at, node_of, relaying

WHOLE: Final = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE
EMPTY: Final = b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"
CLOSING: Final = WHOLE.replace(b"A: b", b"Connection: close")
UPGRADED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello"
)


class Deadlines:
    """A wheel on which nothing comes due."""

    def arm(self, *_: object) -> dict[object, object]:
        return {}

    def disarm(self, *_: object) -> None:
        """Do nothing."""


class QuietHub:
    """As much of a hub as a connection needs."""

    limits = Limits()
    deadlines = Deadlines()

    def time(self) -> float:
        return 0.0


class Wire:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.is_aborted = self.is_closed = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int) -> None:
        """Take any."""

    def is_closing(self) -> bool:
        return self.is_aborted or self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class Heard:
    """Who notes what a link tells."""

    def __init__(self) -> None:
        self.head: AnswerHead | None = None
        self.body = b""
        self.ends: list[str] = []

    def answered(self, head: AnswerHead, data: bytes) -> None:
        assert self.head is None and not self.ends
        self.head = head
        self.body += data

    def data(self, data: bytes) -> None:
        assert self.head is not None and (not self.ends or self.ends == ["upgraded"])
        self.body += data

    def ended(self) -> None:
        self.ends.append("ended")

    def upgraded(self, head: AnswerHead, data: bytes) -> None:
        self.answered(head, data)
        self.ends.append("upgraded")

    def broken(self, reason: str) -> None:
        self.ends.append(reason)

    def full(self) -> None:
        """Note nothing."""

    def ready(self) -> None:
        """Note nothing."""


class Tried:
    """One answer, in pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.idle: list[PeerLink] = []
        self.heard = Heard()
        self.wire = Wire()
        link = PeerLink(cast(Hub, QuietHub()), self.idle.append, lambda link: None)
        link.connection_made(cast(Any, self.wire))
        link.ask(self.heard, b"GET / HTTP/1.1\r\n\r\n", is_whole=True)
        for piece in pieces:
            if piece:
                link.data_received(piece)


def split(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED, INTERIM, EMPTY, CLOSING, UPGRADED])
@given(places=st.lists(st.integers(0, 200), max_size=12))
def test_an_answer_is_the_same_in_any_pieces(answer: bytes, places: list[int]) -> None:
    tried = Tried(split(answer, places))
    assert tried.heard.head is not None
    assert tried.heard.head.status == int(answer[9:12]) if answer is not INTERIM else 200
    assert tried.heard.body == (b"" if answer is EMPTY else b"hello")
    assert tried.heard.ends == ["upgraded" if answer is UPGRADED else "ended"]
    assert len(tried.idle) == (answer in (WHOLE, CHUNKED, INTERIM, EMPTY))
    assert tried.wire.is_closed is (answer is CLOSING)


@given(data=st.binary(max_size=200), places=st.lists(st.integers(0, 200), max_size=5))
def test_nothing_that_a_peer_sends_does_harm(data: bytes, places: list[int]) -> None:
    tried = Tried(split(b"HTTP/1.1 " + data, places))
    assert len(tried.heard.ends) <= 1
    if tried.heard.ends not in ([], ["ended"], ["upgraded"]):
        assert tried.wire.is_aborted


def test_a_head_without_end_is_cut_off() -> None:
    tried = Tried([b"HTTP/1.1 200 OK\r\n", *[b"A: " + b"b" * 1000 + b"\r\n"] * 100])
    assert tried.heard.ends == ["sent too large a head"] and tried.wire.is_aborted


@pytest.mark.parametrize(
    "pieces",
    [
        [b"0\r\n", *[b"A: " + b"b" * 1000 + b"\r\n"] * 100],
        [b"0\r\nA: ", *[b"b" * 1000] * 100],
        [b"3;", *[b"b" * 1000] * 100],
    ],
    ids=["trailers", "one-trailer", "extension"],
)
def test_what_comes_beside_a_body_has_an_end(pieces: list[bytes]) -> None:
    tried = Tried([CHUNKED[: CHUNKED.index(b"2\r\nlo")], *pieces])
    assert tried.heard.ends == ["sent too large a head"] and tried.wire.is_aborted


def test_trailers_are_no_fields_of_the_answer() -> None:
    tried = Tried([CHUNKED[:-2] + b"A: b\r\n\r\n"])
    assert tried.heard.head is not None and tried.heard.ends == ["ended"]
    assert b"a" not in dict(tried.heard.head.headers)


@pytest.mark.parametrize("first", [WHOLE, CHUNKED, EMPTY])
def test_a_second_answer_is_nobodys(first: bytes) -> None:
    """It must not be given to whoever asks next, nor with the first to whoever asked."""
    tried = Tried([first + WHOLE])
    assert tried.heard.ends == ["sent no HTTP"] and tried.wire.is_aborted and not tried.idle


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    tried = Tried([WHOLE])
    tried.idle[0].data_received(WHOLE)
    assert tried.wire.is_aborted and tried.heard.ends == ["ended"]


class Told:
    """An exchange that notes what its driver does; a body as an ASGI server might give it."""

    def __init__(self, length: bytes = b"3") -> None:
        self.request = SimpleNamespace(headers={b"content-length": length}, method="POST")
        self.framing = SimpleNamespace(frame=bytes)
        self.said: list[bytes] = []

    def start(self, status: int, headers: object, first: bytes | None) -> None:
        self.said.append(first or b"")

    def write(self, data: bytes) -> None:
        self.said.append(data)


def carried(exchange: Told, link: PeerLink | None = None) -> _Carried:
    relay = SimpleNamespace(lost=0, broken=0)
    made = _Carried(cast(Any, relay), "n", cast(Any, exchange), lambda: None, "/", 100)
    made._link = link
    return made


@pytest.mark.parametrize("body", [b"ab", b"abcGET / HTTP/1.1\r\n\r\n"])
def test_a_body_of_another_length_than_was_told_does_not_go_on(body: bytes) -> None:
    """It would be taken for a request, whose answer somebody else would get."""
    wire = Wire()
    link = PeerLink(cast(Hub, QuietHub()), lambda link: None, lambda link: None)
    link.connection_made(cast(Any, wire))
    driver = carried(Told(), link)
    driver._send(body, False)
    assert wire.is_aborted and not wire.written
    assert cast(Any, driver._relay).lost == 1


def test_an_answer_that_ends_with_its_connection_is_not_kept_whole() -> None:
    exchange = Told()
    driver = carried(exchange)
    driver.answered(AnswerHead(200, [], None), b"x" * 100_000)
    assert not exchange.said, "a short one is given whole"
    for _ in range(3):
        driver.data(b"x" * 100_000)
    assert [len(said) for said in exchange.said] == [300_000, 100_000] and not driver._body


# -- owners that are none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 200),
        (b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n", 400),
    ],
)
async def test_what_a_peer_breaks_off_is_broken_off(said: bytes, status: int | None) -> None:
    """A node whose private address somebody else has taken, or which dies in the middle of a word."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    store = SharedStore()
    async with relaying(2, store=store) as (here, there):
        client = at(there, await open_polling(here))
        path = node_of(here).private_server.unix
        node_of(here).private_server.stop_listening()
        server = await asyncio.start_unix_server(answer, path)
        reader, writer = await there.connect()
        writer.write(f"GET {client.target} HTTP/1.1\r\nHost: {there.authority}\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            got = await reader.read(100)
        assert got[9:12] == (b"" if status is None else b"%d" % status)
        if status == 200:
            assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
        server.close()
        assert cast(Node, there.wire).relay.lost == (status == 400)
        await until(lambda: len(node_of(there).relay.links) == 0)
