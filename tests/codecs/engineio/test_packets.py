"""Single packets of Engine.IO, as WebSocket frames carry them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.engineio import packets
from everywire.codecs.engineio.packets import Packet, PacketType
from everywire.core.errors import BadPacket, BadRequest
from tests.codecs.engineio.drawing import text_packets


@given(text_packets)
def test_text_comes_back(packet: Packet) -> None:
    is_binary, frame = packets.text_of(packet)
    assert not is_binary
    assert packets.decode_text(frame) == packet


@given(st.binary())
def test_binary_comes_back_and_has_a_byte_before_it_in_version_3(data: bytes) -> None:
    packet = Packet(PacketType.MESSAGE, data, True)
    assert packets.text_of(packet) == (True, data)
    assert packets.encode_binary_v3(data) == b"\x04" + data
    assert packets.decode_binary_v3(packets.encode_binary_v3(data)) == packet


@given(st.binary())
def test_nothing_but_bad_packet_escapes(frame: bytes) -> None:
    for decode in (packets.decode_text, packets.decode_binary_v3):
        try:
            decode(frame)
        except BadPacket as error:
            assert error.sentence


@pytest.mark.parametrize("frame", [b"", b"7", b"9x", b"b", b"\x04x", b"-1", b" 4x", "٤x".encode(), b"\xff"])
def test_what_has_no_type_is_no_packet(frame: bytes) -> None:
    with pytest.raises(BadPacket) as caught:
        packets.decode_text(frame)
    assert isinstance(caught.value, BadRequest)


@pytest.mark.parametrize("frame", [b"", b"4x", b"\x02", b"\x00{}", b"\xff"])
def test_only_messages_are_binary_in_version_3(frame: bytes) -> None:
    with pytest.raises(BadPacket):
        packets.decode_binary_v3(frame)


def test_the_packet_that_opens_has_exactly_five_members() -> None:
    is_binary, frame = packets.encode_open("s", ["websocket"], 25_000, 20_000, 1_000_000)
    assert not is_binary
    assert frame[:1] == b"0"
    assert json.loads(frame[1:]) == {
        "sid": "s",
        "upgrades": ["websocket"],
        "pingInterval": 25_000,
        "pingTimeout": 20_000,
        "maxPayload": 1_000_000,
    }


def test_the_fixed_packets_are_what_they_are_called() -> None:
    for wire, expected in {
        packets.CLOSE: Packet(PacketType.CLOSE),
        packets.PING: Packet(PacketType.PING),
        packets.PONG: Packet(PacketType.PONG),
        packets.UPGRADE: Packet(PacketType.UPGRADE),
        packets.NOOP: Packet(PacketType.NOOP),
        packets.PROBE_PING: Packet(PacketType.PING, b"probe"),
        packets.PROBE_PONG: Packet(PacketType.PONG, b"probe"),
    }.items():
        assert packets.decode_text(wire[1]) == expected
