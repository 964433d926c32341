"""The decoder of server-sent events, against the standard's own examples and any split of the bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.sse_decoder import SseDecoder, SseEvent
from everywire.core.errors import TooLarge


def decode(stream: bytes) -> list[SseEvent]:
    return SseDecoder().receive_data(stream)


def message(data: str, id: str = "", event: str = "message") -> SseEvent:
    return SseEvent(event, data, id)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The examples of the standard.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [message("YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [message("first event", "1"), message("second event", ""), message(" third event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [message(""), message("\n")]),
        (b"data:test\n\ndata: test\n\n", [message("test"), message("test")]),
        (b"event: add\ndata: 73857293\n\n", [message("73857293", event="add")]),
        # Line ends, alone and mixed.
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [message("a"), message("b"), message("c")]),
        (b"data: a\r\n\rdata: b\n\r", [message("a"), message("b")]),
        # One BOM only, and only at the start.
        (b"\xef\xbb\xbfdata: a\n\n", [message("a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [message("a")]),
        # Ids persist; one with NUL is ignored, an empty one resets.
        (b"id: 7\ndata: a\n\ndata: b\n\n", [message("a", "7"), message("b", "7")]),
        (b"id: 7\ndata: a\n\nid: 8\x00\ndata: b\n\n", [message("a", "7"), message("b", "7")]),
        (b"id: 7\ndata: a\n\nid:\ndata: b\n\n", [message("a", "7"), message("b", "")]),
        # An event type without data is dropped, and does not leak into the next.
        (b"event: lost\n\ndata: a\n\n", [message("a")]),
        (b"data:a:b\nDATA: no\nunknown: x\n\n", [message("a:b")]),
        (b"data: \xff\xc3(\n\n", [message("\ufffd\ufffd(")]),
        (b"data: unfinished\n", []),
        ("data: Grüße 🚀\u2028\n\n".encode(), [message("Grüße 🚀\u2028")]),
    ],
)
def test_streams_decode_as_the_standard_says(stream: bytes, events: list[SseEvent]) -> None:
    assert decode(stream) == events


def test_a_block_with_only_an_id_sets_the_last_event_id_without_an_event() -> None:
    decoder = SseDecoder()
    assert decoder.receive_data(b"id: 42\n") == []
    assert decoder.last_event_id == ""
    assert decoder.receive_data(b"\n") == []
    assert decoder.last_event_id == "42"


def test_an_event_is_there_as_soon_as_its_cr_is() -> None:
    decoder = SseDecoder()
    assert decoder.receive_data(b"data: a\r\r") == [message("a")]
    assert decoder.receive_data(b"\n") == []


@pytest.mark.parametrize(
    ("value", "retry_ms"),
    [(b"1500", 1500), (b"0", 0), (b"-1", None), (b"1.5", None), (b"", None), (b"12a", None),
     (b"\xd9\xa1", None), (b"9" * 400, None)],
)  # fmt: skip
def test_retry_takes_ascii_digits_only(value: bytes, retry_ms: int | None) -> None:
    decoder = SseDecoder()
    decoder.receive_data(b"retry: " + value + b"\n\n")
    assert decoder.retry_ms == retry_ms


def test_an_event_beyond_the_bound_is_refused_and_comments_are_not_counted() -> None:
    decoder = SseDecoder(max_event_bytes=100)
    for _ in range(50):
        assert decoder.receive_data(b": heartbeat\n") == []
    assert len(decoder.receive_data(b"data: " + b"x" * 94 + b"\n\n")) == 1
    with pytest.raises(TooLarge):
        decoder.receive_data(b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60 + b"\n")


def test_an_unfinished_line_is_bounded() -> None:
    decoder = SseDecoder(max_event_bytes=100)
    with pytest.raises(TooLarge):
        for _ in range(101):
            decoder.receive_data(b"x")


FIELDS = st.sampled_from(
    [b"data", b"event", b"id", b"retry", b"", b"other", b":", b" ", b"\xef\xbb\xbf", b"\0", b"1", b"\xff",
     "é🚀".encode(), b"\r", b"\n", b"\r\n", b"\n\n"]
)  # fmt: skip
STREAMS = st.lists(FIELDS | st.binary(max_size=4), max_size=60).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 200), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    whole, split, bytewise = SseDecoder(), SseDecoder(), SseDecoder()
    expected = whole.receive_data(stream)
    bounds = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(bounds)]
    assert [event for piece in pieces for event in split.receive_data(piece)] == expected
    assert [
        event for at in range(len(stream)) for event in bytewise.receive_data(stream[at : at + 1])
    ] == expected
    assert split.last_event_id == bytewise.last_event_id == whole.last_event_id
    assert split.retry_ms == bytewise.retry_ms == whole.retry_ms


TEXT = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXT.filter(bool), st.lists(TEXT, min_size=1, max_size=3), TEXT), max_size=6))
def test_what_is_written_plainly_is_read_back(rows: list[tuple[str, list[str], str]]) -> None:
    stream = "\ufeff" + "".join(
        f"event: {event}\nid: {id}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
        for event, lines, id in rows
    )
    assert decode(stream.encode()) == [SseEvent(event, "\n".join(lines), id) for event, lines, id in rows]
