"""permessage-deflate: negotiation, compressing, inflating (RFC 7692)."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.websocket import (
    BinaryMessage,
    Deflate,
    DeflateOptions,
    Event,
    Failed,
    Opcode,
    PingReceived,
    Role,
    TextMessage,
    WebSocketCodec,
    encode_frame,
)
from everywire.codecs.websocket.deflate import Inflater, accept_offer
from everywire.codecs.websocket.header_values import parse_extensions
from tests.codecs.websocket_driving import frames_of_server, masked, one_by_one, read, read_all, verdict

CORRUPT = Failed(1007, "compressed message is corrupt")
NOISE = random.Random(7692).randbytes(40_000)
HELLO = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # §7.2.3.1


def server(max_message_bytes: int = 1 << 20) -> WebSocketCodec:
    return WebSocketCodec(Role.SERVER, max_message_bytes=max_message_bytes, deflate=Deflate())


def client(peer_takeover: bool = True) -> WebSocketCodec:
    return WebSocketCodec(Role.CLIENT, deflate=Deflate(peer_takeover=peer_takeover))


def raw_deflate(data: bytes, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


NO_TAKEOVER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "answer", "window_bits"),
    [
        (b"permessage-deflate", NO_TAKEOVER, 15),
        (b"permessage-deflate; client_max_window_bits", NO_TAKEOVER, 15),
        (b"permessage-deflate; client_max_window_bits=8", NO_TAKEOVER, 15),
        (b"permessage-deflate; server_no_context_takeover", NO_TAKEOVER, 15),
        (b"permessage-deflate; client_no_context_takeover", NO_TAKEOVER, 15),
        *(
            (
                b"permessage-deflate; server_max_window_bits=%d" % bits,
                NO_TAKEOVER + b"; server_max_window_bits=%d" % bits,
                bits,
            )
            for bits in range(8, 16)
        ),
        (
            b'permessage-deflate; server_max_window_bits="10"',
            NO_TAKEOVER + b"; server_max_window_bits=10",
            10,
        ),
        # The first acceptable offer wins; what is unknown, malformed or repeated is passed over.
        (b"x-foo, permessage-deflate", NO_TAKEOVER, 15),
        (
            b"permessage-deflate; what, permessage-deflate; server_max_window_bits=9, permessage-deflate",
            NO_TAKEOVER + b"; server_max_window_bits=9",
            9,
        ),
    ],
)
def test_accepted_offers(offer: bytes, answer: bytes, window_bits: int) -> None:
    accepted = accept_offer(parse_extensions(offer), DeflateOptions())
    assert accepted is not None
    deflate, answered = accepted
    assert answered == answer
    assert deflate is Deflate(window_bits)


@pytest.mark.parametrize(
    "offer",
    [
        b"x-webkit-deflate-frame",
        b"Permessage-Deflate",
        b"permessage-deflate; what",
        b"permessage-deflate; server_no_context_takeover=1",
        b"permessage-deflate; client_no_context_takeover=true",
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=09",
        b"permessage-deflate; server_max_window_bits=+9",
        b"permessage-deflate; server_max_window_bits=ten",
        b"permessage-deflate; server_max_window_bits=10; server_max_window_bits=11",
        b"permessage-deflate; client_max_window_bits=7",
        b"permessage-deflate; client_max_window_bits=16",
        b"permessage-deflate; client_max_window_bits; client_max_window_bits=10",
    ],
)
def test_declined_offers(offer: bytes) -> None:
    assert accept_offer(parse_extensions(offer), DeflateOptions()) is None


def test_our_own_window_is_told() -> None:
    accepted = accept_offer(parse_extensions(b"permessage-deflate"), DeflateOptions(max_window_bits=11))
    assert accepted == (Deflate(11), NO_TAKEOVER + b"; server_max_window_bits=11")


@pytest.mark.parametrize(
    "options",
    [{"max_window_bits": 8}, {"max_window_bits": 16}, {"level": 0}, {"level": 10}, {"memory_level": 0}],
)
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DeflateOptions(**options)


def test_equal_parameters_are_one_object() -> None:
    assert Deflate(12, 1, 5) is Deflate(12)
    assert Deflate(12) is not Deflate(13)
    assert Deflate(12) is not Deflate(12, peer_takeover=True)
    assert len({Deflate(12), Deflate(12, 1, 5, False), Deflate(13)}) == 2


# Compressing


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize(
    "payload", [b"", b"a", b"abcabcabc" * 500, NOISE[:300] * 2, bytes(100_000), NOISE * 2], ids=len
)
def test_what_is_compressed_fits_the_window(bits: int, payload: bytes) -> None:
    """zlib refuses a distance beyond the window it is given, 256 bytes for 8 bits too."""
    compressed = Deflate(bits).compress(payload)
    decompressor = zlib.decompressobj(-bits)
    assert decompressor.decompress(compressed + b"\x00\x00\xff\xff") == payload


def test_messages_stand_alone() -> None:
    """The same bytes for every reader, whatever came before (no context takeover)."""
    deflate = Deflate()
    payload = b'{"price": 17.25, "name": "everywire"}' * 3
    assert deflate.compress(payload) == deflate.compress(payload)
    frame = encode_frame(Opcode.TEXT, deflate.compress(payload), rsv1=True)
    for reader in (client(True), client(False)):
        assert read(reader, frame * 3) == [TextMessage(payload)] * 3


def test_codec_compresses_where_it_pays() -> None:
    codec = server()
    codec.send_text("a" * 1000)
    compressed = codec.data_to_send()
    assert compressed[0] == 0xC1
    assert len(compressed) < 50
    assert frames_of_server(compressed, Deflate()) == [TextMessage(b"a" * 1000)]
    for payload in (b"short", NOISE[:1000]):
        codec.send_binary(payload)
        assert codec.data_to_send() == encode_frame(Opcode.BINARY, payload)


# Inflating


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        pytest.param(masked(Opcode.TEXT, HELLO, rsv1=True), [TextMessage(b"Hello")], id="§7.2.3.1"),
        pytest.param(
            masked(Opcode.TEXT, HELLO[:3], rsv1=True, fin=False) + masked(Opcode.CONTINUATION, HELLO[3:]),
            [TextMessage(b"Hello")],
            id="§7.2.3.1 two fragments",
        ),
        pytest.param(
            masked(Opcode.TEXT, bytes.fromhex("000500faff48656c6c6f00"), rsv1=True),
            [TextMessage(b"Hello")],
            id="§7.2.3.3 stored block",
        ),
        pytest.param(
            masked(Opcode.TEXT, bytes.fromhex("f348cdc9c9070000"), rsv1=True),
            [TextMessage(b"Hello")],
            id="§7.2.3.4 final block",
        ),
        pytest.param(
            masked(Opcode.TEXT, bytes.fromhex("f348cdc9c90700"), rsv1=True),
            [TextMessage(b"Hello")],
            id="final block and nothing after it",
        ),
        pytest.param(
            masked(Opcode.TEXT, bytes.fromhex("f248050000 00ffffcac9c90700"), rsv1=True),
            [TextMessage(b"Hello")],
            id="§7.2.3.5 two blocks",
        ),
        pytest.param(masked(Opcode.TEXT, b"\x00", rsv1=True), [TextMessage(b"")], id="§7.2.3.6 empty"),
        pytest.param(masked(Opcode.TEXT, b"Hello"), [TextMessage(b"Hello")], id="§6 not compressed"),
        pytest.param(
            masked(Opcode.BINARY, HELLO[:3], rsv1=True, fin=False)
            + masked(Opcode.PING, b"!")
            + masked(Opcode.CONTINUATION, b"", fin=False)
            + masked(Opcode.CONTINUATION, HELLO[3:], fin=False)
            + masked(Opcode.CONTINUATION),
            [PingReceived(b"!"), BinaryMessage(b"Hello")],
            id="control and empty frames between",
        ),
        pytest.param(
            masked(Opcode.TEXT, HELLO, rsv1=True) * 2, [TextMessage(b"Hello")] * 2, id="§7.2.3.2 no takeover"
        ),
        pytest.param(
            masked(Opcode.TEXT, raw_deflate("€".encode() * 100), rsv1=True),
            [TextMessage("€".encode() * 100)],
            id="not ascii",
        ),
    ],
)
def test_inflating(wire: bytes, events: list[Event]) -> None:
    assert read(server(), wire) == events
    assert read_all(server(), one_by_one(wire)) == events


@pytest.mark.parametrize(
    ("wire", "failed"),
    [
        (masked(Opcode.TEXT, b"\x07", rsv1=True), CORRUPT),
        (masked(Opcode.TEXT, b"\xff" * 10, rsv1=True), CORRUPT),
        (masked(Opcode.TEXT, b"", rsv1=True), CORRUPT),  # §7.2.3.6: an empty message is one byte
        (masked(Opcode.BINARY, raw_deflate(NOISE)[:20], rsv1=True), CORRUPT),
        (masked(Opcode.TEXT, bytes.fromhex("000500faff4865"), rsv1=True), CORRUPT),  # stored block, cut short
        # A reference to the message before, though the context was to be reset (§7.2.3.2).
        (masked(Opcode.TEXT, b"\xf2\x00\x11\x00\x00", rsv1=True), CORRUPT),
        (masked(Opcode.BINARY, b"\x03\x00" * 20, rsv1=True), CORRUPT),  # final blocks without end
        (masked(Opcode.TEXT, raw_deflate(b"\xff\xfe"), rsv1=True), Failed(1007, "text message is not UTF-8")),
        (masked(Opcode.TEXT, raw_deflate(b"\xe2\x82"), rsv1=True), Failed(1007, "text message is not UTF-8")),
        (b"\xc9\x80", Failed(1002, "reserved bit set")),
        (
            masked(Opcode.TEXT, HELLO[:3], rsv1=True, fin=False) + b"\xc0\x80",
            Failed(1002, "reserved bit set"),
        ),
    ],
)
def test_bad_compressed_messages(wire: bytes, failed: Failed) -> None:
    assert read(server(), masked(Opcode.TEXT, HELLO, rsv1=True) + wire)[1:] == [failed]
    assert verdict(read_all(server(), one_by_one(wire))) == verdict([failed])


def test_inflated_text_is_checked_as_it_arrives() -> None:
    wire = masked(Opcode.TEXT, raw_deflate(b"\xff" + NOISE, level=0), rsv1=True)
    assert read(server(), wire[:100]) == [Failed(1007, "text message is not UTF-8")]


BOMB_BYTES = 64 << 20


@pytest.mark.parametrize("fragment_bytes", [1 << 20, 100])
def test_bomb_stops_while_inflating(fragment_bytes: int) -> None:
    """CVE-2018-1000518, CVE-2021-21419, CVE-2026-27571."""
    limit = 100_000
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(bytes(BOMB_BYTES)) + compressor.flush()
    assert len(bomb) < 70_000
    parts = [bomb[at : at + fragment_bytes] for at in range(0, len(bomb), fragment_bytes)]
    wire = b"".join(
        masked(Opcode.CONTINUATION if n else Opcode.BINARY, part, rsv1=n == 0, fin=n == len(parts) - 1)
        for n, part in enumerate(parts)
    )
    codec = server(limit)
    tracemalloc.start()
    try:
        events = read(codec, wire)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert events == [Failed(1009, "message of more than 100000 bytes")]
    assert peak < 10 * limit


def test_limit_is_of_the_inflated_size_and_exact() -> None:
    for payload in (bytes(1000), NOISE[:1000]):
        assert read(server(1000), masked(Opcode.BINARY, raw_deflate(payload), rsv1=True)) == [
            BinaryMessage(payload)
        ]
    assert read(server(1000), masked(Opcode.BINARY, raw_deflate(bytes(1001)), rsv1=True)) == [
        Failed(1009, "message of more than 1000 bytes")
    ]


def test_blocks_that_inflate_to_nothing_are_bounded() -> None:
    codec = server(1000)
    read(codec, masked(Opcode.BINARY, b"", rsv1=True, fin=False))
    empty = masked(Opcode.CONTINUATION, b"\x00\x00\x00\xff\xff" * 20, fin=False)
    assert read(codec, empty * 20) == [Failed(1009, "message of more than 1000 bytes")]


# A server that keeps its context (client role)


def test_context_takeover_of_the_peer() -> None:
    """§7.2.3.2: the second message refers to the first."""
    first = encode_frame(Opcode.TEXT, HELLO, rsv1=True)
    second = encode_frame(Opcode.TEXT, b"\xf2\x00\x11\x00\x00", rsv1=True)
    assert read(client(), first + second) == [TextMessage(b"Hello"), TextMessage(b"Hello")]
    assert read_all(client(), one_by_one(first + second)) == [TextMessage(b"Hello"), TextMessage(b"Hello")]
    assert read(client(peer_takeover=False), first + second) == [TextMessage(b"Hello"), CORRUPT]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.data())
def test_any_stream_with_context(payloads: list[bytes], data: st.DataObject) -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -12)
    wire = b""
    for payload in payloads:
        part = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        cut = data.draw(st.integers(0, len(part)))
        wire += encode_frame(Opcode.BINARY, part[:cut], rsv1=True, fin=False)
        wire += encode_frame(Opcode.CONTINUATION, part[cut:])
        wire += encode_frame(Opcode.BINARY, payload)  # uncompressed ones leave the context alone
    assert read(client(), wire) == [BinaryMessage(payload) for payload in payloads for _ in range(2)]


@pytest.mark.parametrize(
    ("codec", "frame", "is_kept"),
    [
        (server(), masked(Opcode.TEXT, HELLO, rsv1=True), False),
        (client(peer_takeover=False), encode_frame(Opcode.TEXT, HELLO, rsv1=True), False),
        (client(peer_takeover=True), encode_frame(Opcode.TEXT, HELLO, rsv1=True), True),
    ],
)
def test_inflater_is_kept_only_with_takeover(codec: WebSocketCodec, frame: bytes, is_kept: bool) -> None:
    assert read(codec, frame) == [TextMessage(b"Hello")]
    held = [getattr(codec, name) for name in codec.__slots__]
    assert any(isinstance(value, Inflater) for value in held) == is_kept
