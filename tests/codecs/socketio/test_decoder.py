"""Packets of Socket.IO as they come: round trips, garbage, and what the field has seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.socketio.decoder import Decoder
from everywire.codecs.socketio.packet import RESERVED_EVENTS, PacketType, SocketPacket, encode
from everywire.core.errors import BadPacket
from tests.codecs.engineio.drawing import mutated, mutations
from tests.codecs.socketio.drawing import binary_packets, fed, plain_packets

EVENT, ACK = PacketType.EVENT, PacketType.ACK
HOLE = '{"_placeholder":true,"num":%d}'


@given(st.lists(plain_packets | binary_packets, max_size=4))
def test_packets_come_back(packets: list[SocketPacket]) -> None:
    decoder = Decoder(max_attachments=99, max_bytes=100_000)
    wires = [wire for packet in packets for wire in encode(packet)]
    assert fed(decoder, wires) == packets
    assert not decoder.is_waiting


@given(binary_packets, mutations)
def test_nothing_but_bad_packet_escapes_when_bytes_change(
    packet: SocketPacket, changes: list[tuple[int, int]]
) -> None:
    wires = encode(packet)
    text = mutated(wires[0][1], changes)
    for frame in (text, text[: changes[0][0] % len(text)]):
        check_garbage([(False, frame[1:]), *wires[1:]])


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), max_size=4))
def test_nothing_but_bad_packet_escapes(frames: list[Wire]) -> None:
    check_garbage(frames)


pieces = st.lists(
    st.sampled_from(
        ["0", "2", "3", "5", "6", "1-", "2-", "/a,", "/", ",", "7", '["x"', '["x",', HOLE % 0, HOLE % 1, "]",
         "{", '"', '\\', "null", "1e999", "\\ud800", "é", "𝄞", "[" * 2000]
    ),
    max_size=9,
).map("".join)  # fmt: skip


@given(pieces, st.lists(st.binary(max_size=3), max_size=3))
def test_nothing_but_bad_packet_escapes_what_is_nearly_right(text: str, attachments: list[bytes]) -> None:
    check_garbage([(False, text.encode()), *[(True, data) for data in attachments]])


def check_garbage(frames: list[Wire]) -> None:
    decoder = Decoder(max_attachments=3, max_bytes=10_000)
    for is_binary, data in frames:
        try:
            packet = decoder.feed_binary(data) if is_binary else decoder.feed_text(data)
        except BadPacket:
            assert not decoder.is_waiting
            continue
        if packet is not None:
            again = fed(Decoder(max_bytes=1 << 20), encode(packet))
            assert json.dumps(again, default=bytes.hex) == json.dumps([packet], default=bytes.hex)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "9",
        "a",
        "-1",
        "٢[]",
        "2",
        "2/",
        "2/a,",
        "2{}",
        "2[]",
        "2null",
        '2"a"',
        "2[null]",
        "2[true]",
        "2[{}]",
        "2[[]]",
        "2[[]",
        '2["a"]]',
        '2["a",]',
        '2["a"] x',
        '2["a",NaN]',
        '2["a",1e999]',
        '2["a",01]',
        "2['a']",
        '2abc["a"]',
        '2-1["a"]',
        '2 1["a"]',
        '2+1["a"]',
        '2٣["a"]',
        '2²["a"]',
        '212345678901234567["a"]',
        '29007199254740992["a"]',
        "2" + "1" * 100_000 + '["a"]',
        '3["a"]',
        '31"a"',
        "31{}",
        "31",
        "31null",
        "0[]",
        '0"a"',
        "0null",
        "1{}",
        '1["a"]',
        "4null",
        '5["a"]',
        '5-["a"]',
        '5x-["a"]',
        '5-1-["a"]',
        "51",
        "51-",
        "51-{}",
        '51-"a"',
        "51-" + HOLE % 0,
        '51-["a"]',
        '51["a"]',
        '5٣-["a"]',
        '5²-["a"]',
        '5+1-["a"]',
        '51.0-["a"]',
        "5" + "0" * 100_000 + '-["a"]',
        "61-[" + HOLE % 0 + "]",  # whose?
    ],
)
def test_what_is_no_packet_is_refused(text: str) -> None:
    with pytest.raises(BadPacket):
        Decoder(max_bytes=1 << 20).feed_text(text.encode())


@pytest.mark.parametrize("name", sorted(RESERVED_EVENTS))
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(BadPacket):
        Decoder(max_bytes=99).feed_text(f'2["{name}"]'.encode())


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0", SocketPacket(PacketType.CONNECT)),
        ("0/admin", SocketPacket(PacketType.CONNECT, "/admin")),
        ("0/admin,", SocketPacket(PacketType.CONNECT, "/admin")),
        ("0/chat?x=1&y=,", SocketPacket(PacketType.CONNECT, "/chat?x=1&y=")),
        ("1", SocketPacket(PacketType.DISCONNECT)),
        ("1/a,", SocketPacket(PacketType.DISCONNECT, "/a")),
        ("4/ns,5", SocketPacket(PacketType.CONNECT_ERROR, "/ns", None, 5)),
        ('4"no"', SocketPacket(PacketType.CONNECT_ERROR, "/", "no")),
        ('2["a"]', SocketPacket(EVENT, "/", ["a"])),
        ('2 ["a"]\n', SocketPacket(EVENT, "/", ["a"])),
        ('2007["a"]', SocketPacket(EVENT, "/", ["a"], 7)),
        ('29007199254740991["a"]', SocketPacket(EVENT, "/", ["a"], 2**53 - 1)),
        ('2/é,["a"]', SocketPacket(EVENT, "/é", ["a"])),
        ('50-["a",1]', SocketPacket(EVENT, "/", ["a", 1])),
        ("60-3[]", SocketPacket(ACK, "/", [], 3)),
        ('2["__proto__",{"__proto__":1}]', SocketPacket(EVENT, "/", ["__proto__", {"__proto__": 1}])),
        ('2["a","\\ud834\\udd1e"]', SocketPacket(EVENT, "/", ["a", "𝄞"])),
    ],
)  # fmt: skip
def test_packets_that_are_rare(text: str, packet: SocketPacket) -> None:
    assert Decoder(max_bytes=99).feed_text(text.encode()) == packet


@pytest.mark.parametrize(
    ("escaped", "read"),
    [
        ("\\ud800", "\ufffd"),
        ("\\udc00\\ud800", "\ufffd\ufffd"),
        ("\\uD83D", "\ufffd"),
        ("\\\\ud800", "\\ud800"),
        ("\\\\\\ud800", "\\\ufffd"),
        ("\\ud834\\udd1e\\ud834", "𝄞\ufffd"),
        ("\\ud834\\ud834\\udd1e", "\ufffd𝄞"),
        ("\\ud800\\n\\u0041", "\ufffd\nA"),
    ],
)
def test_half_of_a_pair_is_replaced(escaped: str, read: str) -> None:
    packet = Decoder(max_bytes=99).feed_text(f'2["a","{escaped}"]'.encode())
    assert packet is not None
    assert packet.data == ["a", read]


@pytest.mark.parametrize(
    "text", [b'2["a","\xff"]', b'2["a","\xed\xa0\x80"]', b'2/\xff,["a"]', b'2["\\ud800\xff"]']
)
def test_what_is_no_utf8_is_refused(text: bytes) -> None:
    with pytest.raises(BadPacket):
        Decoder(max_bytes=99).feed_text(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"_placeholder":'])
def test_json_a_hundred_thousand_deep_is_refused(opening: str) -> None:
    for head in ("2", "50-", "51-"):
        with pytest.raises(BadPacket):
            Decoder(max_bytes=1 << 23).feed_text((head + '["a",' + opening * 100_000).encode())
        closed = '["a",' + "[" * 100_000 + "]" * 100_000 + "]"
        with pytest.raises(BadPacket):
            Decoder(max_bytes=1 << 23).feed_text((head + closed).encode())


def test_a_million_tiny_values_are_read() -> None:
    """In time that is linear, or this would not end."""
    text = '51-["a",' + HOLE % 0 + ",{}" * 1_000_000 + "]"
    decoder = Decoder(max_bytes=1 << 23)
    assert decoder.feed_text(text.encode()) is None
    packet = decoder.feed_binary(b"x")
    assert packet is not None
    assert packet.data[1] == b"x"
    assert len(packet.data) == 1_000_002
    halves = '2["a"' + ',"\\ud800"' * 500_000 + "]"
    assert decoder.feed_text(halves.encode()) is not None


# -- attachments ---------------------------------------------------------------------------


def test_a_packet_is_complete_with_its_last_attachment() -> None:
    decoder = Decoder(max_bytes=999)
    text = f'52-/a,3["x",{{"b":[{HOLE % 1}]}},{HOLE % 0}]'
    assert decoder.feed_text(text.encode()) is None
    assert decoder.is_waiting
    assert decoder.feed_binary(b"first") is None
    assert decoder.feed_binary(b"then") == SocketPacket(EVENT, "/a", ["x", {"b": [b"then"]}, b"first"], 3)
    assert not decoder.is_waiting


@pytest.mark.parametrize("count", ["11", "59999999", "999999999", "9999999999", "1" * 400])
def test_more_attachments_than_allowed_are_refused_at_once(count: str) -> None:
    decoder = Decoder(max_bytes=9_999)
    with pytest.raises(BadPacket):
        decoder.feed_text(f'5{count}-["a",{HOLE % 0}]'.encode())
    assert not decoder.is_waiting


def test_ten_attachments_are_allowed() -> None:
    packet = SocketPacket(EVENT, "/", ["a", *[bytes([number]) for number in range(10)]])
    assert fed(Decoder(max_bytes=9_999), encode(packet)) == [packet]
    with pytest.raises(BadPacket):
        fed(Decoder(max_bytes=9_999, max_attachments=9), encode(packet))


@pytest.mark.parametrize(
    "number",
    ["-1", "1", "1.0", "0.0", "-0.0", "1e0", "true", "false", "null", '"0"', "[0]", "{}", "9" * 22],
)
def test_a_forged_placeholder_is_refused(number: str) -> None:
    with pytest.raises(BadPacket):
        Decoder(max_bytes=999).feed_text(f'51-["a",{{"_placeholder":true,"num":{number}}}]'.encode())


@pytest.mark.parametrize(
    "data",
    [
        '["a"]',
        '["a",{"_placeholder":true}]',
        '["a",{"_placeholder":1,"num":0}]',
        '["a",{"_placeholder":"true","num":0}]',
        f'["a",{HOLE % 0},{HOLE % 0}]',
        f'["a",{HOLE % 0},{HOLE % 2}]',
        '["a",{"_placeholder":true,"num":0,"num":1}]',
        '["a",{"_placeholder":true,"num":{"_placeholder":true,"num":0}}]',
    ],
)
def test_placeholders_name_each_attachment_once(data: str) -> None:
    with pytest.raises(BadPacket):
        Decoder(max_bytes=999).feed_text(f"52-{data}".encode())


def test_a_placeholder_can_be_no_name() -> None:
    with pytest.raises(BadPacket):
        Decoder(max_bytes=999).feed_text(f"51-[{HOLE % 0}]".encode())


def test_in_a_packet_without_attachments_a_placeholder_is_data() -> None:
    packet = Decoder(max_bytes=999).feed_text(f'2["a",{HOLE % 0}]'.encode())
    assert packet == SocketPacket(EVENT, "/", ["a", {"_placeholder": True, "num": 0}])


def test_text_while_attachments_are_due_is_refused() -> None:
    decoder = Decoder(max_bytes=999)
    decoder.feed_text(f'51-["a",{HOLE % 0}]'.encode())
    with pytest.raises(BadPacket):
        decoder.feed_text(b'2["b"]')
    assert not decoder.is_waiting


def test_an_attachment_that_was_not_announced_is_refused() -> None:
    decoder = Decoder(max_bytes=999)
    with pytest.raises(BadPacket):
        decoder.feed_binary(b"")
    decoder.feed_text(f'51-["a",{HOLE % 0}]'.encode())
    decoder.feed_binary(b"")
    with pytest.raises(BadPacket):
        decoder.feed_binary(b"")


def test_a_packet_is_bounded_with_all_its_attachments() -> None:
    text = f'53-["a",{HOLE % 0},{HOLE % 1},{HOLE % 2}]'.encode()
    exactly = Decoder(max_bytes=len(text) + 30)
    exactly.feed_text(text)
    assert [exactly.feed_binary(b"x" * 10) for _ in range(3)][2] is not None
    decoder = Decoder(max_bytes=len(text) + 29)
    decoder.feed_text(text)
    decoder.feed_binary(b"x" * 10)
    decoder.feed_binary(b"x" * 10)
    with pytest.raises(BadPacket):
        decoder.feed_binary(b"x" * 10)
    assert not decoder.is_waiting
    with pytest.raises(BadPacket):
        Decoder(max_bytes=len(text) - 1).feed_text(text)


def test_what_comes_in_is_not_shared_between_packets() -> None:
    decoder = Decoder(max_bytes=999)
    received: list[Any] = []
    for content in (b"1", b"2"):
        decoder.feed_text(f'51-["a",{HOLE % 0}]'.encode())
        received.append(decoder.feed_binary(content))
    assert [packet.data for packet in received] == [["a", b"1"], ["a", b"2"]]
