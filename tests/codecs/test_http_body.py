"""Bodies: strict, bounded, and the same whatever the pieces in which they arrive."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.http.body import ChunkedDecoder, LengthDecoder
from everywire.core.errors import BadRequest, RequestError, TooLarge

MAX_BYTES = 1000


def decode(pieces: list[bytes]) -> Any:
    """Return the body and what follows it, or None while it is unfinished, or the error's class."""
    decoder = ChunkedDecoder(MAX_BYTES)
    rest = b""
    try:
        for piece in pieces:
            if decoder.is_done:
                rest += piece
            else:
                rest += decoder.feed(piece)
    except RequestError as error:
        return type(error)
    return (bytes(decoder.body), rest) if decoder.is_done else None


GOOD = [
    (b"0\r\n\r\n", b"", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET / HTTP", b"hello world", b"GET / HTTP"),
    (b"A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", b""),
    (b"00000000000000a;x\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
    (b'5;name=value;q="a b"\r\nhello\r\n0;last\r\n\r\n', b"hello", b""),
    (b"5 ; x\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
    (b"1\r\nx\r\n0\r\nTrailer: yes\r\nOther:\r\n\r\nmore", b"x", b"more"),
]

BAD = [
    b"x\r\n",
    b"\r\n",
    b" 5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"5_0\r\n",
    b"5\nhello\r\n",
    b"5\r\nhello0\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhell\r\n0\r\n\r\n",
    b"5;\x00\r\nhello\r\n",
    b"5;a\rb\r\nhello\r\n",
    b"5;a\nb\r\nhello\r\n",
    b"11111111111111111\r\n",
    b"5;" + b"x" * 300 + b"\r\nhello\r\n",
    b"5;" + b"x" * 300,
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n: empty\r\n\r\n",
    b"0\r\nA b: c\r\n\r\n",
    b"0\r\nA: \x01\r\n\r\n",
    b"0\r\nA: b\nC: d\r\n\r\n",
    b"0\r\n" + b"A: b\r\n" * 33 + b"\r\n",
    b"0\r\nA: " + b"x" * 9000 + b"\r\n\r\n",
    b"0\r\nA: " + b"x" * 9000,
    (b"1;" + b"x" * 200 + b"\r\ny\r\n") * 100,
]


@pytest.mark.parametrize(("data", "body", "rest"), GOOD)
def test_good_bodies_whole_and_byte_by_byte(data: bytes, body: bytes, rest: bytes) -> None:
    assert decode([data]) == (body, rest)
    assert decode([data[at : at + 1] for at in range(len(data))]) == (body, rest)


@pytest.mark.parametrize("data", BAD)
def test_bad_bodies_whole_and_byte_by_byte(data: bytes) -> None:
    assert decode([data]) is BadRequest
    assert decode([data[at : at + 1] for at in range(len(data))]) is BadRequest


def test_a_body_is_too_large_before_it_is_read() -> None:
    assert decode([b"3e8\r\n"]) is None
    assert decode([b"3e9\r\n"]) is TooLarge
    assert decode([b"ffffffffffffffff\r\n"]) is TooLarge
    assert decode([b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n"]) is TooLarge
    assert decode([(b"1\r\nx\r\n") * 1001]) is TooLarge


def test_many_tiny_chunks_are_taken() -> None:
    assert decode([b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"]) == (b"x" * 1000, b"")


PIECES = st.sampled_from(
    [b"5", b"\r\n", b"\r", b"\n", b"hello", b"0", b";", b"ext", b"a" * 260, b"A: b", b"x", b" ", b"3e9"]
)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(0, 500), max_size=12),
    st.binary(max_size=20),
)
def test_round_trip_with_any_split(chunks: list[bytes], cuts: list[int], rest: bytes) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + rest
    assert decode(split(data, cuts)) == (b"".join(chunks), rest)


@given(st.lists(PIECES, max_size=14), st.lists(st.integers(0, 600), max_size=12))
def test_any_split_of_anything_gives_the_same(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    assert decode(split(data, cuts)) == decode([data])


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(st.binary(max_size=60), st.integers(0, 50), st.lists(st.integers(0, 60), max_size=8))
def test_a_body_of_known_length(data: bytes, length: int, cuts: list[int]) -> None:
    decoder = LengthDecoder(length)
    rest = b"".join(decoder.feed(piece) for piece in split(data, cuts))
    assert bytes(decoder.body) + rest == data
    assert len(decoder.body) == min(length, len(data))
    assert decoder.is_done is (len(data) >= length)
