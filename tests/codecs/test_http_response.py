"""Response heads and framings."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.http.response import (
    CHUNKED,
    IDENTITY,
    LAST_CHUNK,
    Dates,
    WholeResponse,
    date_line,
    encode_fields,
    has_body,
)

DATES = Dates(784111777.5)
FIELDS = ((b"content-type", b"text/plain"), (b"etag", b'"x"'))


class Heard:
    """What llhttp hears of a response."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(data)
        self.status = parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def test_the_date_of_the_rfc() -> None:
    assert date_line(784111777) == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_dates_turn_with_the_second() -> None:
    dates = Dates(784111777.0)
    line = dates.line
    dates.turn(784111777.9)
    assert dates.line is line
    dates.turn(784111778.0)
    assert b"08:49:38" in dates.line


@given(st.binary(max_size=200))
def test_a_whole_response_is_heard_by_llhttp(body: bytes) -> None:
    heard = Heard(WholeResponse(200, FIELDS, DATES).frame(body))
    assert (heard.status, heard.body, heard.is_complete) == (200, body, True)
    assert heard.headers[b"content-length"] == b"%d" % len(body)
    assert heard.headers[b"date"].endswith(b"GMT")


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_chunks_are_heard_by_llhttp(payloads: list[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    heard = Heard(head + b"".join(map(CHUNKED.frame, payloads)) + LAST_CHUNK)
    assert (heard.body, heard.is_complete) == (b"".join(payloads), True)


def test_an_empty_chunk_would_end_the_body() -> None:
    assert CHUNKED.frame(b"") == b""
    assert IDENTITY.frame(b"x") == b"x"


def test_head_tells_the_length_and_sends_nothing() -> None:
    framed = WholeResponse(200, FIELDS, DATES, b"", is_head_only=True).frame(b"hello")
    assert b"content-length: 5\r\n" in framed
    assert framed.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [101, 204, 304])
def test_statuses_without_body_have_no_length(status: int) -> None:
    assert not has_body(status)
    framed = WholeResponse(status, (), DATES, b"connection: close\r\n").frame(b"ignored")
    assert framed.endswith(b"GMT\r\n\r\n")
    assert b"content-length" not in framed
    assert b"connection: close\r\n" in framed


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"a\rb", b"a\x00b", b"\x1b[31m", b"\x7f"])
def test_values_that_would_split_a_response_are_bugs(value: bytes) -> None:
    with pytest.raises(ValueError, match="control"):
        encode_fields([(b"location", value)])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\n", b"\xe4"])
def test_names_that_are_none_are_bugs(name: bytes) -> None:
    with pytest.raises(ValueError, match="no name"):
        encode_fields([(name, b"x")])


def test_fields_may_hold_what_is_no_control() -> None:
    assert encode_fields([(b"x", b"a\tb \xc3\xa4")]) == b"x: a\tb \xc3\xa4\r\n"
