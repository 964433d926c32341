"""Payloads of Engine.IO 4: round trips, garbage, and a million tiny packets."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.engineio import payload_v4
from everywire.codecs.engineio.packets import Packet, PacketType, text_of
from everywire.core.errors import BadPacket
from tests.codecs.engineio.drawing import any_packets, mutated, mutations

M = PacketType.MESSAGE

# As npm engine.io-parser 5 writes them.
VECTORS = [
    (b"4hello", [Packet(M, b"hello")]),
    (
        "4a€𝄞\x1e2\x1ebAQID".encode(),
        [Packet(M, "a€𝄞".encode()), Packet(PacketType.PING), Packet(M, b"\1\2\3", True)],
    ),
    (b"b", [Packet(M, b"", True)]),
    (b"4\x1e4", [Packet(M), Packet(M)]),
    (b"1", [Packet(PacketType.CLOSE)]),
]


@pytest.mark.parametrize(("payload", "packets"), VECTORS)
def test_the_reference_is_understood_and_understands(payload: bytes, packets: list[Packet]) -> None:
    assert payload_v4.decode_payload(payload, max_packets=9) == packets
    assert payload_v4.encode_payload([text_of(packet) for packet in packets]) == payload


@given(any_packets)
def test_packets_come_back(packets: list[Packet]) -> None:
    payload = payload_v4.encode_payload([text_of(packet) for packet in packets])
    assert payload_v4.decode_payload(payload, max_packets=len(packets)) == packets


@given(any_packets, any_packets)
def test_payloads_are_joined_as_they_are(first: list[Packet], then: list[Packet]) -> None:
    parts = [payload_v4.encode_payload([text_of(packet) for packet in part]) for part in (first, then)]
    assert payload_v4.decode_payload(payload_v4.JOINER.join(parts), max_packets=99) == first + then


@given(any_packets, mutations)
def test_nothing_but_bad_packet_escapes_when_bytes_change(
    packets: list[Packet], changes: list[tuple[int, int]]
) -> None:
    payload = mutated(payload_v4.encode_payload([text_of(packet) for packet in packets]), changes)
    check_garbage(payload)
    check_garbage(payload[: changes[0][0] % len(payload)])


@given(st.binary() | st.text(st.sampled_from("b4=A1\x1e:é"), max_size=60).map(str.encode))
def test_nothing_but_bad_packet_escapes(body: bytes) -> None:
    check_garbage(body)


def check_garbage(body: bytes) -> None:
    try:
        packets = payload_v4.decode_payload(body, max_packets=5)
    except BadPacket:
        return
    assert 0 < len(packets) <= 5
    for packet in packets:
        assert packet.binary or packet.data.decode() is not None
    assert payload_v4.decode_payload(
        payload_v4.encode_payload([text_of(packet) for packet in packets]), max_packets=5
    ) == packets


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x1e",
        b"4a\x1e",
        b"\x1e4a",
        b"abc",
        b"7",
        b"4\xff",
        b"4\xed\xa0\x80",
        b"bA",
        b"bAQI",
        b"bAQ=D",
        b"b====",
        b"bAQID\n",
        b"bAQ-_",
        b"4a\x1eb\xc3\xa9",
        b"b4AQID\x1e4",  # in version 3 it would be binary
    ],
)
def test_what_is_no_payload_is_refused(body: bytes) -> None:
    with pytest.raises(BadPacket):
        payload_v4.decode_payload(body, max_packets=9)


def test_packets_are_counted_before_anything_is_split() -> None:
    assert len(payload_v4.decode_payload(b"\x1e".join([b"4"] * 10), max_packets=10)) == 10
    with pytest.raises(BadPacket, match="10"):
        payload_v4.decode_payload(b"\x1e".join([b"4"] * 11), max_packets=10)
    with pytest.raises(BadPacket, match="10"):  # not its type, which comes later
        payload_v4.decode_payload(b"\x1e".join([b"x"] * 1_000_000), max_packets=10)


def test_a_million_tiny_packets_are_read() -> None:
    """In time that is linear, or this would not end."""
    body = payload_v4.JOINER.join([b"4"] * 1_000_000)
    assert len(payload_v4.decode_payload(body, max_packets=1_000_000)) == 1_000_000


def test_large_binary_comes_back() -> None:
    data = bytes(range(256)) * 4_000
    (packet,) = payload_v4.decode_payload(b"b" + base64.b64encode(data), max_packets=1)
    assert packet == Packet(M, data, True)
