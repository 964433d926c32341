"""Request heads: what is taken, and what is refused with which code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.http.request import METHODS, Fields, HeadReader
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import RequestError


class Told(NamedTuple):
    """What was read, by name."""

    method: str
    path: str
    query: str
    host: str
    is_http11: bool
    fields: Fields
    values: Mapping[bytes, bytes]


def head(line: str = "GET / HTTP/1.1", *fields: str, host: str | None = "a.test") -> bytes:
    lines = [line, *([] if host is None else [f"Host: {host}"]), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def read(data: bytes, max_headers: int = 100) -> Told:
    return Told(*HeadReader(max_headers).read(data))


def refusal(data: bytes, max_headers: int = 100) -> Code:
    """Return the code with which a head is refused; it is so again from what was remembered."""
    reader = HeadReader(max_headers)
    with pytest.raises(RequestError) as first:
        reader.read(data)
    with pytest.raises(RequestError) as second:
        reader.read(data)
    assert first.value.code is second.value.code
    return first.value.code


def test_a_plain_head() -> None:
    told = read(head("GET /channels/a?after=x&after=y? HTTP/1.1", "Accept: */*", "X-Odd:  two  words \t"))
    assert told[:5] == ("GET", "/channels/a", "after=x&after=y?", "a.test", True)
    fields = told.fields
    assert fields.values == {b"host": b"a.test", b"accept": b"*/*", b"x-odd": b"two  words"}
    assert not (fields.asks_close or fields.asks_keep_alive or fields.is_chunked or fields.wants_websocket)
    assert fields.content_length == 0


def test_the_same_fields_are_remembered_and_the_line_is_not() -> None:
    reader = HeadReader(100)
    one, two = Told(*reader.read(head("GET /1 HTTP/1.1"))), Told(*reader.read(head("POST /2 HTTP/1.1")))
    assert one.fields is two.fields
    assert (one.method, one.path, two.method, two.path) == ("GET", "/1", "POST", "/2")
    with pytest.raises(RequestError):
        reader.read(head("GET /\x7f HTTP/1.1"))
    with pytest.raises(RequestError):
        reader.read(head("GET / HTTP/1.2"))


def test_what_is_remembered_is_bounded() -> None:
    reader = HeadReader(100)
    for number in range(3000):
        reader.read(head("GET / HTTP/1.1", f"Cookie: {number}"))
    assert len(reader._blocks) <= 512
    assert len(reader._heads) <= 128
    reader.read(head("GET / HTTP/1.1", "Cookie: " + "x" * 5000))
    reader.read(head("GET / HTTP/1.1", "Sec-WebSocket-Key: abc"))
    remembered = [*reader._blocks, *reader._heads]
    assert not any(b"xxxx" in block or b"Sec-WebSocket" in block for block in remembered)


@pytest.mark.parametrize("method", sorted(METHODS.values()))
def test_every_method_that_a_handler_may_see_is_one_that_llhttp_knows(method: str) -> None:
    assert read(head(f"{method} /x HTTP/1.1")).method == method


def test_repeated_fields_are_joined() -> None:
    values = read(
        head("GET / HTTP/1.1", "Accept: a", "Cookie: b=1", "ACCEPT: c", "cookie: d=2")
    ).fields.values
    assert values[b"accept"] == b"a, c"
    assert values[b"cookie"] == b"b=1; d=2"


LINES = [
    ("GET  / HTTP/1.1", codes.BAD_REQUEST),
    ("GET / HTTP/1.1 ", codes.BAD_REQUEST),
    (" GET / HTTP/1.1", codes.BAD_REQUEST),
    ("GET\t/\tHTTP/1.1", codes.BAD_REQUEST),
    ("GET /", codes.BAD_REQUEST),
    ("GET", codes.BAD_REQUEST),
    ("", codes.BAD_REQUEST),
    ("GET / HTTP/1.2", codes.BAD_REQUEST),
    ("GET / HTTP/2.0", codes.BAD_REQUEST),
    ("GET / HTTP/0.9", codes.BAD_REQUEST),
    ("GET / http/1.1", codes.BAD_REQUEST),
    ("GET / HTTP/1.1\x00", codes.BAD_REQUEST),
    ("PRI * HTTP/2.0", codes.BAD_REQUEST),
    ("get / HTTP/1.1", codes.NOT_AVAILABLE),
    ("BREW /pot HTTP/1.1", codes.NOT_AVAILABLE),
    ("CONNECT a.test:80 HTTP/1.1", codes.NOT_AVAILABLE),
    ("G(T / HTTP/1.1", codes.BAD_REQUEST),
    ("X" * 41 + " / HTTP/1.1", codes.BAD_REQUEST),
    ("GET /a b HTTP/1.1", codes.BAD_REQUEST),
    ("GET /\x80 HTTP/1.1", codes.BAD_REQUEST),
    ("GET /\x01 HTTP/1.1", codes.BAD_REQUEST),
    ("GET /#fragment HTTP/1.1", codes.BAD_REQUEST),
    ("GET a HTTP/1.1", codes.BAD_REQUEST),
    ("GET * HTTP/1.1", codes.BAD_REQUEST),
    ("GET ftp://a.test/ HTTP/1.1", codes.BAD_REQUEST),
    ("GET http://user@a.test/ HTTP/1.1", codes.BAD_REQUEST),
    ("GET http:///x HTTP/1.1", codes.BAD_REQUEST),
    ("GET a.test:80 HTTP/1.1", codes.BAD_REQUEST),
]


@pytest.mark.parametrize(("line", "code"), LINES)
def test_request_lines_that_are_refused(line: str, code: Code) -> None:
    assert refusal(head(line)) is code


def test_other_forms_of_the_target() -> None:
    assert read(head("GET http://b.test:8000/x?y HTTP/1.1"))[1:4] == ("/x", "y", "b.test:8000")
    assert read(head("GET HTTPS://b.test HTTP/1.1"))[1:4] == ("/", "", "b.test")
    assert read(head("GET http://b.test?q HTTP/1.1"))[1:4] == ("/", "q", "b.test")
    assert read(head("OPTIONS * HTTP/1.1"))[1:4] == ("*", "", "a.test")


HOSTS = ["a.test", "a.test:80", "127.0.0.1:8000", "[::1]", "[2001:db8::1]:443", "under_score", "a.test."]


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_that_are_taken(host: str) -> None:
    assert read(head(host=host)).host == host


BAD_HOSTS = [
    *(
        "",
        " ",
        "a b",
        "a/b",
        "a.test:",
        "a.test:x",
        "a.test:123456",
        "user@a.test",
        "a.test, b.test",
        "a.test#",
    ),
    *("[::1", "::1", "[::1]x", "[zz]", "a\\b", "<a>", "a.test?x", "http://a.test", "a" * 300, "a\xe4.test"),
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_hosts_that_are_malformed(host: str) -> None:
    assert refusal(head(host=host)) is codes.BAD_REQUEST


def test_host_is_needed_once() -> None:
    assert refusal(head(host=None)) is codes.BAD_REQUEST
    assert refusal(head("GET / HTTP/1.1", "host: a.test")) is codes.BAD_REQUEST
    assert refusal(head("GET http://a.test/ HTTP/1.1", host=None)) is codes.BAD_REQUEST
    assert read(head("GET / HTTP/1.0", host=None)).host == ""
    assert refusal(head("GET / HTTP/1.0", "Host: b.test")) is codes.BAD_REQUEST


@pytest.mark.parametrize("where", ["middle", "start", "end"])
@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127, *range(128, 160)])
def test_control_characters_in_values_are_refused(byte: int, where: str) -> None:
    value = {"middle": b"x%cy", "start": b"%cy", "end": b"x%c"}[where] % byte
    data = head().replace(b"Host", b"X-Odd: " + value + b"\r\nHost")
    if byte in (10, 13):
        assert b"\n" in data
    assert refusal(data) is codes.BAD_REQUEST


@pytest.mark.parametrize(
    "value", ["ä".encode("latin-1"), "Å ü 漢字 \N{NO-BREAK SPACE}".encode(), b"\xff", b"a\tb"]
)
def test_other_bytes_beyond_ascii_are_taken(value: bytes) -> None:
    data = head().replace(b"Host", b"X-Odd: " + value + b"\r\nHost")
    assert read(data).fields.values[b"x-odd"] == value


FIELDS = [
    "X y: 1",
    "X : 1",
    ": 1",
    "X",
    "X: 1\r\n folded",
    " X: 1",
    "X\x00: 1",
    "X\xe4: 1",
    "X(: 1",
    "X: 1\nY: 2",
    "X: 1\rY: 2",
    "X: 1\r\r\nY: 2",
    "Content-Length: +1",
    "Content-Length: -1",
    "Content-Length: 0x1",
    "Content-Length: 1_0",
    "Content-Length: 1 1",
    "Content-Length: 1, 1",
    "Content-Length: ",
    "Content-Length: 99999999999999999999",
    "Content-Length: 1\r\nContent-Length: 1",
    "Content-Length: 1\r\nContent-Length: 2",
    "Content-Length: 1\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 1",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: \x0bchunked",
]


@pytest.mark.parametrize("field", FIELDS)
def test_fields_that_are_malformed(field: str) -> None:
    assert refusal(head("POST / HTTP/1.1", field)) is codes.BAD_REQUEST


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "chunked, chunked"])
def test_transfer_codings_that_are_not_spoken(coding: str) -> None:
    assert refusal(head("POST / HTTP/1.1", f"Transfer-Encoding: {coding}")).status in (400, 501)


def test_chunked_needs_http_11() -> None:
    assert read(head("POST / HTTP/1.1", "Transfer-Encoding: Chunked")).fields.is_chunked
    assert refusal(head("POST / HTTP/1.0", "Transfer-Encoding: chunked")) is codes.BAD_REQUEST


def test_the_number_of_fields_is_bounded() -> None:
    assert read(head("GET / HTTP/1.1", *["X: 1"] * 9), 10).fields.values[b"x"].count(b"1") == 9
    assert refusal(head("GET / HTTP/1.1", *["X: 1"] * 10), 10) is codes.HEAD_TOO_LARGE
    assert refusal(head("GET / HTTP/1.1", *["X: 1"] * 10_000)) is codes.HEAD_TOO_LARGE


@pytest.mark.parametrize(
    ("fields", "close", "keep", "websocket"),
    [
        (["Connection: close"], True, False, False),
        (["Connection: Keep-Alive"], False, True, False),
        (["Connection: upgrade, Close"], True, False, False),
        (["Upgrade: WebSocket", "Connection: Upgrade"], False, False, True),
        (["Upgrade: h2c, websocket"], False, False, True),
        (["Upgrade: websocketx"], False, False, False),
        (["Connection: notclose"], False, False, False),
    ],
)
def test_what_the_fields_say_of_the_connection(
    fields: list[str], close: bool, keep: bool, websocket: bool
) -> None:
    told = read(head("GET / HTTP/1.1", *fields)).fields
    assert (told.asks_close, told.asks_keep_alive, told.wants_websocket) == (close, keep, websocket)


@pytest.mark.parametrize(
    "field", ["Forwarded: for=1", "X-Forwarded-For: 1", "X-Forwarded-Port: 1", "Via: 1.1 x"]
)
def test_a_proxy_leaves_its_marks(field: str) -> None:
    assert read(head("GET / HTTP/1.1", field)).fields.has_forwarding
    assert not read(head()).fields.has_forwarding


def test_one_reader_goes_on_after_whatever_came_before() -> None:
    """No head may leave anything behind for the next one."""
    reader = HeadReader(100)
    before = [
        head("POST / HTTP/1.1", "Content-Length: 5"),
        head("POST / HTTP/1.1", "Transfer-Encoding: chunked"),
        head("GET / HTTP/1.1", "Connection: close"),
        head("GET / HTTP/1.0"),
        head("GET / HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"),
        head("GET / HTTP/1.1", "broken"),
        head("GET / HTTP/1.1", "X: \x00"),
        head("HEAD / HTTP/1.1"),
    ]
    for number, data in enumerate(before * 3):
        try:
            reader.read(data.replace(b"Host", b"X-Number: %d\r\nHost" % number))
        except RequestError:
            pass
        fields = Told(*reader.read(head("GET /next HTTP/1.1", f"X-Next: {number}"))).fields
        assert fields.values == {b"host": b"a.test", b"x-next": b"%d" % number}


@given(st.binary(max_size=300))
def test_only_documented_errors_escape(data: bytes) -> None:
    for candidate in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        try:
            told = read(candidate)
        except RequestError as error:
            assert error.code.status in (400, 431, 501)
        else:
            assert told.path.startswith("/") or told.path == "*"


def handshake(key: str, *fields: str) -> bytes:
    return head("GET /x HTTP/1.1", "Upgrade: websocket", f"Sec-WebSocket-Key: {key}", *fields)


def test_handshakes_differ_in_their_key_alone() -> None:
    reader = HeadReader(100)
    keys = ["AQIDBAUGBwgJCgsMDQ4PEA==", "AAAAAAAAAAAAAAAAAAAAAA==", "AQIDBAUGBwgJCgsMDQ4PEA=="]
    told = [Told(*reader.read(handshake(key, "Origin: http://a.test"))) for key in keys]
    assert [one.values[b"sec-websocket-key"].decode() for one in told] == keys
    assert all(one.values[b"origin"] == b"http://a.test" for one in told)
    assert told[0].fields is told[1].fields
    assert b"sec-websocket-key" not in told[0].fields.values
    assert not any(key.encode() in block for key in keys for block in (*reader._blocks, *reader._heads))


@pytest.mark.parametrize("key", ["short", "", "AQIDBAUGBwgJCgsMDQ4P\tA==", "AQIDBAUGBwgJCgsMDQ4PEA==x"])
def test_a_key_of_another_form_is_left_to_the_handshake(key: str) -> None:
    for _ in range(2):
        assert read(handshake(key)).values[b"sec-websocket-key"].decode() == key


def test_two_keys_are_joined() -> None:
    key = "AQIDBAUGBwgJCgsMDQ4PEA=="
    for name in ("Sec-WebSocket-Key", "sec-websocket-key"):
        assert read(handshake(key, f"{name}: {key}")).values[b"sec-websocket-key"].decode() == f"{key}, {key}"


def test_what_is_wrong_beside_the_key_is_refused() -> None:
    key = "AQIDBAUGBwgJCgsMDQ4PEA=="
    assert refusal(handshake(key, "X : 1")) is codes.BAD_REQUEST
    assert refusal(handshake(key, "Host: b.test")) is codes.BAD_REQUEST
    assert (
        refusal(handshake(key).replace(key.encode(), b"AQIDBAUGBwgJ\r\nX Y: 1Q4PEA==")) is codes.BAD_REQUEST
    )
