"""Payloads of Engine.IO 3: lengths in UTF-16 units, bytes, and what lengths can lie about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.engineio import payload_v3
from everywire.codecs.engineio.packets import Packet, PacketType, text_of
from everywire.core.errors import BadPacket
from tests.codecs.engineio.drawing import any_packets, mutated, mutations

M = PacketType.MESSAGE

# As npm engine.io-parser 2 writes them.
VECTORS = [
    (b"6:4hello", [Packet(M, b"hello")]),
    (b"1:26:4hello", [Packet(PacketType.PING), Packet(M, b"hello")]),
    (
        "3:4a€5:4𝄞👩6:b4AQID".encode(),
        [Packet(M, "a€".encode()), Packet(M, "𝄞👩".encode()), Packet(M, b"\1\2\3", True)],
    ),
    (b"1:11:4", [Packet(PacketType.CLOSE), Packet(M)]),
    (b"2:b4", [Packet(M, b"", True)]),
]
BYTES_VECTORS = [
    (b"\x00\x06\xff4hello", [Packet(M, b"hello")]),
    (b"\x00\x08\xff4" + "€𝄞".encode(), [Packet(M, "€𝄞".encode())]),
    (
        b"\x00\x01\xff2\x01\x01\x01\xff\x04" + b"0123456789",
        [Packet(PacketType.PING), Packet(M, b"0123456789", True)],
    ),
]


def as_bytes(packet: Packet) -> bytes:
    """Write a packet as clients do in payloads of bytes."""
    data = b"\x04" + packet.data if packet.binary else text_of(packet)[1]
    return bytes([packet.binary, *map(int, str(len(data))), 255]) + data


@pytest.mark.parametrize(("payload", "packets"), VECTORS)
def test_the_reference_is_understood_and_understands(payload: bytes, packets: list[Packet]) -> None:
    assert payload_v3.decode_payload(payload, max_packets=9) == packets
    assert payload_v3.encode_payload([text_of(packet) for packet in packets]) == payload


@pytest.mark.parametrize(("payload", "packets"), BYTES_VECTORS)
def test_the_references_bytes_are_understood(payload: bytes, packets: list[Packet]) -> None:
    assert payload_v3.decode_payload(payload, max_packets=9, binary=True) == packets
    assert b"".join(map(as_bytes, packets)) == payload


@given(any_packets)
def test_packets_come_back(packets: list[Packet]) -> None:
    payload = payload_v3.encode_payload([text_of(packet) for packet in packets])
    assert payload_v3.decode_payload(payload, max_packets=len(packets)) == packets


@given(any_packets)
def test_packets_as_bytes_come_back(packets: list[Packet]) -> None:
    payload = b"".join(map(as_bytes, packets))
    assert payload_v3.decode_payload(payload, max_packets=len(packets), binary=True) == packets


@given(any_packets, any_packets)
def test_payloads_are_joined_as_they_are(first: list[Packet], then: list[Packet]) -> None:
    parts = [payload_v3.encode_payload([text_of(packet) for packet in part]) for part in (first, then)]
    assert payload_v3.decode_payload(payload_v3.JOINER.join(parts), max_packets=99) == first + then


@given(any_packets, mutations, st.booleans())
def test_nothing_but_bad_packet_escapes_when_bytes_change(
    packets: list[Packet], changes: list[tuple[int, int]], is_bytes: bool
) -> None:
    whole = (
        b"".join(map(as_bytes, packets))
        if is_bytes
        else payload_v3.encode_payload([text_of(packet) for packet in packets])
    )
    payload = mutated(whole, changes)
    check_garbage(payload, is_bytes)
    check_garbage(payload[: changes[0][0] % len(payload)], is_bytes)


@given(
    st.binary() | st.text(st.sampled_from("0123456789:b4=Aé𝄞"), max_size=60).map(str.encode), st.booleans()
)
def test_nothing_but_bad_packet_escapes(body: bytes, is_bytes: bool) -> None:
    check_garbage(body, is_bytes)


def check_garbage(body: bytes, is_bytes: bool) -> None:
    try:
        packets = payload_v3.decode_payload(body, max_packets=5, binary=is_bytes)
    except BadPacket:
        return
    assert len(packets) <= 5
    payload = payload_v3.encode_payload([text_of(packet) for packet in packets])
    assert payload_v3.decode_payload(payload, max_packets=5) == packets


@pytest.mark.parametrize(
    "body",
    [
        b":",
        b"4hello",
        b"6",
        b"6:",
        b"6:4hell",
        b"5:4hello",  # what is left is no packet
        b"-1:4",
        b"+1:4",
        b" 1:4",
        b"1 :4",
        b"1_0:4hellohell",
        b"0x1:4",
        b"1.0:4",
        b"1e0:4",
        b"01234567890:4",
        b"9999999999:4",
        b"999999999:4",
        b"1" * 5000 + b":4",
        "٢:4a".encode(),  # a digit, yet no ASCII one
        "²:4a".encode(),
        "２:4a".encode(),
        "3:4é".encode(),
        "5:4é€".encode(),
        "2:4𝄞".encode(),  # half of a pair
        "5:4𝄞1:2".encode(),
        "2:4\x80".encode("latin-1"),
        b"2:4\xff",
        b"4:4\xed\xa0\x80",
        b"1:7",
        b"1:b",
        b"2:b2",
        b"3:b4A",
        b"6:b4AQI\xc3",
    ],
)
def test_what_is_no_payload_is_refused(body: bytes) -> None:
    with pytest.raises(BadPacket):
        payload_v3.decode_payload(body, max_packets=9)


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"\x00\xff4",
        b"\x00\x01",
        b"\x00\x01\xff",
        b"\x00\x02\xff4",
        b"\x00\x011\xff4",
        b"\x00\x0a\xff4",
        b"\x02\x01\xff4",
        b"\x000\x01\xff4",
        b"\x00" + b"\x09" * 10 + b"\xff4",
        b"\x00" + b"\x00" * 5000 + b"\xff4",
        b"\x01\x01\xff4",
        b"\x01\x00\xff",
        b"\x00\x02\xff4\xff",
        b"\x00\x04\xff4\xed\xa0\x80",
        b"6:4hello",
    ],
)
def test_what_is_no_payload_of_bytes_is_refused(body: bytes) -> None:
    with pytest.raises(BadPacket):
        payload_v3.decode_payload(body, max_packets=9, binary=True)


def test_an_empty_payload_has_no_packets() -> None:
    assert payload_v3.decode_payload(b"", max_packets=9) == []
    assert payload_v3.decode_payload(b"0:", max_packets=9) == []
    assert payload_v3.decode_payload(b"\x00\x00\xff", max_packets=9, binary=True) == []


@pytest.mark.parametrize("ending", ["", "é"])
def test_no_more_packets_than_allowed(ending: str) -> None:
    last = f"{1 + len(ending)}:4{ending}".encode()
    assert len(payload_v3.decode_payload(b"1:4" * 9 + last, max_packets=10)) == 10
    with pytest.raises(BadPacket, match="10"):
        payload_v3.decode_payload(b"1:4" * 10 + last, max_packets=10)


@pytest.mark.parametrize(
    ("body", "binary"),
    [(b"0:" * 11, False), (b"0:" * 10 + b"2:4\xc3\xa9", False), (b"\0\0\xff" * 11, True)],
)
def test_packets_that_are_empty_count_too(body: bytes, binary: bool) -> None:
    assert len(payload_v3.decode_payload(body, max_packets=11, binary=binary)) <= 1
    with pytest.raises(BadPacket, match="10"):
        payload_v3.decode_payload(body, max_packets=10, binary=binary)


@pytest.mark.parametrize("one", ["1:4", "0:", "2:4é", "3:4𝄞", "000000001:4"])
def test_a_million_tiny_packets_are_read(one: str) -> None:
    """In time that is linear, or this would not end."""
    packet = one.encode()
    count = len(payload_v3.decode_payload(packet * 1_000_000, max_packets=1_000_000))
    assert count == (0 if one == "0:" else 1_000_000)


@pytest.mark.parametrize("prefix", ["", "é"])
def test_a_length_that_never_ends_takes_no_time(prefix: str) -> None:
    body = (f"{1 + len(prefix)}:4{prefix}" + "1" * 10_000_000).encode()
    with pytest.raises(BadPacket):
        payload_v3.decode_payload(body, max_packets=9)
