"""Properties of the WebSocket codec: round trips, any split of the bytes, and any garbage."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.websocket import (
    BinaryMessage,
    CloseReceived,
    Deflate,
    Event,
    Failed,
    Opcode,
    PingReceived,
    PongReceived,
    Role,
    TextMessage,
    WebSocketCodec,
    encode_close,
    encode_frame,
)
from tests.codecs.websocket_driving import MASK, echo, frames_of_server, masked, read, read_all, send, verdict

OTHER = {Role.SERVER: Role.CLIENT, Role.CLIENT: Role.SERVER}

texts = st.text(max_size=200).map(str.encode)
payloads = st.binary(max_size=200) | st.binary(min_size=1, max_size=3).map(lambda part: part * 300)
controls = st.binary(max_size=125)
messages = st.one_of(
    st.builds(TextMessage, texts),
    st.builds(BinaryMessage, payloads),
    st.builds(PingReceived, controls),
    st.builds(PongReceived, controls),
)
closes = st.none() | st.builds(
    CloseReceived, st.sampled_from([1000, 1001, 1011, 3000, 4999]), st.text(max_size=30)
)
deflates = st.sampled_from([None, Deflate(), Deflate(8), Deflate(9, level=9), Deflate(peer_takeover=True)])
roles = st.sampled_from(Role)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


splits = st.lists(st.integers(0, 1 << 20), max_size=20)


@given(roles, deflates, st.lists(messages, max_size=6), closes, splits)
def test_what_is_sent_is_received_however_it_is_split(
    role: Role, deflate: Deflate | None, sent: list[Event], close: CloseReceived | None, cuts: list[int]
) -> None:
    sender = WebSocketCodec(role, deflate=deflate)
    for event in sent:
        send(sender, event)
    if close is not None:
        send(sender, close)
        sent = [*sent, close]
    wire = sender.data_to_send()
    whole = WebSocketCodec(OTHER[role], deflate=deflate)
    assert read(whole, wire) == sent
    parted = WebSocketCodec(OTHER[role], deflate=deflate)
    assert read_all(parted, split(wire, cuts)) == sent
    for codec in (whole, parted):
        assert codec.close_received == (close is not None)
        codec.data_to_send()
        assert codec.closed == (close is not None)


@given(deflates, st.lists(messages, max_size=6), splits, splits)
def test_echo_comes_back(
    deflate: Deflate | None, sent: list[Event], cuts: list[int], cuts_back: list[int]
) -> None:
    client = WebSocketCodec(Role.CLIENT, deflate=deflate)
    for event in sent:
        send(client, event)
    wire = client.data_to_send()
    answer = echo(WebSocketCodec(Role.SERVER, deflate=deflate), split(wire, cuts))
    expected = [
        PongReceived(event.payload) if isinstance(event, PingReceived) else event
        for event in sent
        if not isinstance(event, PongReceived)
    ]
    assert read_all(client, split(answer, cuts_back)) == expected


@st.composite
def almost_frames(draw: st.DrawFn, role: Role) -> bytes:
    """Frames of which any part may be wrong."""
    deflate = draw(deflates)
    payload = draw(st.one_of(payloads, texts, st.just(encode_close(1000)[2:])))
    if deflate is not None:
        payload = deflate.compress(payload)
    first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0xC2, 0x41]))
    if not draw(st.integers(0, 9)):
        first = draw(st.integers(0, 255))
    if first & 0x08:
        payload = payload[:125]
    frame = encode_frame(0, payload, mask=MASK if role is Role.SERVER else None)
    frame = bytes((first,)) + frame[1:]
    if not draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(frame) - 1))
        frame = frame[:at] + bytes((draw(st.integers(0, 255)),)) + frame[at + 1 :]
    return frame


@given(st.data(), roles, deflates, splits, st.sampled_from([0, 50, 1 << 20]), st.sampled_from([1, 3, 65536]))
def test_garbage_ends_in_documented_events(
    data: st.DataObject, role: Role, deflate: Deflate | None, cuts: list[int], max_bytes: int, fragments: int
) -> None:
    wire = data.draw(st.binary(max_size=60) | st.lists(almost_frames(role), max_size=6).map(b"".join))

    def fresh() -> WebSocketCodec:
        return WebSocketCodec(role, max_message_bytes=max_bytes, max_fragments=fragments, deflate=deflate)

    written = []
    results = []
    for chunks in ([wire], split(wire, cuts)):
        codec = fresh()
        events = read_all(codec, chunks)
        written.append(read_written(codec, OTHER[role], deflate))
        ended = [event for event in events if isinstance(event, CloseReceived | Failed)]
        assert ended in ([], [events[-1]] if events else [])
        assert codec.closed == bool(ended)
        events += codec.receive_eof()
        assert codec.closed
        results.append(verdict(events))
        assert len([event for event in events if isinstance(event, CloseReceived | Failed)]) == 1
        assert all(event.text.encode() == event.data for event in events if isinstance(event, TextMessage))
    assert results[0] == results[1]
    assert written[0] == written[1]


def read_written(codec: WebSocketCodec, role: Role, deflate: Deflate | None) -> list[object]:
    """What the other end reads, without the sentence of a close frame."""
    return [
        ("close", event.code) if isinstance(event, CloseReceived) else event
        for event in read(WebSocketCodec(role, deflate=deflate), codec.data_to_send())
    ]


# What an attacker would try (RFC 6455 sets no bounds of its own)


def test_tiny_fragments_cost_no_more_than_their_bytes() -> None:
    """CVE-2026-48779, CVE-2026-42786: bookkeeping per fragment must not outgrow the payload."""
    count = 200_000
    codec = WebSocketCodec(Role.SERVER, max_fragments=count)
    read(codec, masked(Opcode.BINARY, b"x", fin=False))
    piece = masked(Opcode.CONTINUATION, b"x", fin=False) * 1000
    tracemalloc.start()
    try:
        for _ in range(count // 1000 - 1):
            assert read(codec, piece) == []
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        events = read(codec, masked(Opcode.CONTINUATION, b"x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert events == [BinaryMessage(b"x" * (count - 1000 + 2))]
    assert held < 1.5 * count
    assert peak < 2.5 * count


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_a_million_fragments_are_stopped_early(payload: bytes) -> None:
    codec = WebSocketCodec(Role.SERVER)
    read(codec, masked(Opcode.TEXT, payload, fin=False))
    piece = masked(Opcode.CONTINUATION, payload, fin=False) * 10_000
    for turn in range(100):
        if events := read(codec, piece):
            assert events == [Failed(1009, "message of more than 65536 fragments")]
            assert turn == 6
    assert codec.close_sent


def test_65536_fragments_are_legal() -> None:
    codec = WebSocketCodec(Role.SERVER)
    wire = masked(Opcode.TEXT, b"ab", fin=False) + masked(Opcode.CONTINUATION, b"ab", fin=False) * 65534
    assert read(codec, wire + masked(Opcode.CONTINUATION, b"ab")) == [TextMessage(b"ab" * 65536)]


def test_declared_length_allocates_nothing() -> None:
    """A head that promises a gigabyte is not believed before the bytes come."""
    codec = WebSocketCodec(Role.SERVER, max_message_bytes=1 << 40)
    tracemalloc.start()
    try:
        assert read(codec, b"\x82\xff" + (1 << 39).to_bytes(8, "big") + MASK + b"x") == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_large_message_in_small_reads_costs_twice_its_size() -> None:
    size = 2 << 20
    wire = masked(Opcode.TEXT, "é".encode() * (size // 2))
    codec = WebSocketCodec(Role.SERVER, max_message_bytes=size)
    tracemalloc.start()
    try:
        for at in range(0, len(wire), 4096):
            events = read(codec, wire[at : at + 4096])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(events) == 1
    assert peak < 2.3 * size


def test_endless_unfinished_message_with_pings_is_answered_and_bounded() -> None:
    codec = WebSocketCodec(Role.SERVER, max_fragments=10)
    read(codec, masked(Opcode.TEXT, b"a", fin=False))
    mixed = (masked(Opcode.CONTINUATION, b"a", fin=False) + masked(Opcode.PING)) * 20
    *pings, failed = read(codec, mixed)
    assert pings == [PingReceived(b"")] * 9
    assert failed == Failed(1009, "message of more than 10 fragments")
    assert len(frames_of_server(codec.data_to_send())) == 10
