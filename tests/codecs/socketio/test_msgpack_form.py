"""Packets of Socket.IO as MessagePack: the JavaScript library's own bytes, round trips and garbage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.socketio import msgpack_form
from everywire.codecs.socketio.packet import PacketType, SocketPacket
from everywire.core.errors import BadPacket
from tests.codecs.engineio.drawing import mutated, mutations
from tests.codecs.socketio.drawing import binary_packets, plain_packets

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = list(PacketType)[:5]

# As npm socket.io-msgpack-parser 3 writes what socket.io-client gives it.
VECTORS = [
    ("82a47479706500a36e7370a12f", SocketPacket(CONNECT)),
    ("83a47479706502a464617461"
     "93a1612ad40000a36e7370a12f", SocketPacket(EVENT, "/", ["a", 42, None])),
    ("84a47479706502a46461746193a161c70300010203cb3ff8000000000000a76f7074696f6e7381a8636f6d7072657373c3a36e7370a22f78",
     SocketPacket(EVENT, "/x", ["a", b"\1\2\3", 1.5])),
    ("84a47479706503a2696407a46461746191c0a36e7370a12f", SocketPacket(ACK, "/", [None], 7)),
    ("83a47479706502a46461746192a164d7000000018bcfe56800a36e7370a12f",
     SocketPacket(EVENT, "/", ["d", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)])),
    ("84a47479706502a26964d40000a464617461"
     "92a161cf0020000000000000a36e7370a12f", SocketPacket(EVENT, "/", ["a", 2**53])),
]  # fmt: skip


@pytest.mark.parametrize(("text", "packet"), VECTORS)
def test_the_library_is_understood(text: str, packet: SocketPacket) -> None:
    assert msgpack_form.decode(bytes.fromhex(text)) == packet


def test_a_node_clients_array_buffer_is_read_as_bytes() -> None:
    data = [msgspec.msgpack.Ext(0, part) for part in (b"\1", b"xx", b"\x7f" * 8)]
    assert msgpack_form.decode(packed(data=["a", *data])).data == ["a", b"\1", b"xx", b"\x7f" * 8]


def sent(packet: SocketPacket) -> bytes:
    (wire,) = msgpack_form.encode(packet)
    assert wire[0]
    return wire[1]


@given(plain_packets | binary_packets)
def test_packets_come_back(packet: SocketPacket) -> None:
    assert msgpack_form.decode(sent(packet)) == packet


@given(plain_packets | binary_packets, mutations)
def test_nothing_but_bad_packet_escapes_when_bytes_change(
    packet: SocketPacket, changes: list[tuple[int, int]]
) -> None:
    data = mutated(sent(packet), changes)
    check_garbage(data)
    check_garbage(data[: changes[0][0] % len(data)])


@given(st.binary(max_size=60))
def test_nothing_but_bad_packet_escapes(data: bytes) -> None:
    check_garbage(data)
    check_garbage(b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1a" + data)


def check_garbage(data: bytes) -> None:
    try:
        packet = msgpack_form.decode(data)
    except BadPacket:
        return
    sent(packet)  # what was let in can go on to others


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode({"type": 2, "nsp": "/", "data": ["a"]} | fields)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x90",
        b"\xa1a",
        packed(type=5),
        packed(type=6),
        packed(type=-1),
        packed(type="2"),
        packed(type=2.5),
        packed(type=2**64 - 1),
        packed(nsp=1),
        packed(nsp=None),
        packed(nsp=b"/"),
        packed(id="1"),
        packed(id=-1),
        packed(id=1.5),
        packed(id=True),
        packed(id=2**53),
        packed(id=[]),
        packed(data=None),
        packed(data={}),
        packed(data=[]),
        packed(data=["connect"]),
        packed(data=[None]),
        packed(data=[b"a"]),
        packed(data=["a", {1: 2}]),
        packed(data=["a", [{b"k": 2}]]),
        packed(data=["a", {None: 2}]),
        packed(data=["a", msgspec.msgpack.Ext(5, b"x")]),
        packed(data=["a", msgspec.msgpack.Ext(-1, b"\xff" * 8)]),
        packed(type=3),
        packed(type=1),
        packed(type=0),
        packed() + b"\x00",
        packed()[:-1],
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdd\xff\xff\xff\xff",
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdf\xff\xff\xff\xff",
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xc6\xff\xff\xff\xff",
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1a" + b"\x91" * 100_000,
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1a" + b"\x91" * 100_000 + b"\xc0",
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1a\xa3\xed\xa0\x80",
    ],
    ids=range(42),
)  # fmt: skip
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    with pytest.raises(BadPacket):
        msgpack_form.decode(data)


def test_a_million_tiny_values_are_read() -> None:
    """In time that is linear, or this would not end."""
    packet = msgpack_form.decode(packed(data=["a", *[{}] * 1_000_000]))
    assert len(packet.data) == 1_000_001


def test_what_msgpack_cannot_hold_is_sent_as_javascript_would() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    packet = SocketPacket(EVENT, "/", ["a", 10**30, -(10**30), 10**5000, {"k": (when, bytearray(b"x"))}])
    assert msgpack_form.decode(sent(packet)).data == [
        "a", 1e30, -1e30, None, {"k": ["2026-01-02T00:00:00Z", b"x"]}
    ]  # fmt: skip


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


UNSENDABLE = {"object": object(), "complex": 1j, "half of a pair": "\ud800", "deep": deep(100_000)}


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE)
def test_what_cannot_be_sent_is_told(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        msgpack_form.encode(SocketPacket(EVENT, "/", ["a", value]))
