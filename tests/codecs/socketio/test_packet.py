"""Packets of Socket.IO as they are sent: the reference's own bytes, and what cannot be sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.json_text import dump
from everywire.codecs.socketio.decoder import Decoder
from everywire.codecs.socketio.packet import (
    RESERVED_EVENTS,
    PacketType,
    SocketPacket,
    encode,
    event_wires,
    is_event_name,
    placeholder,
    split_query,
    take_attachments,
)
from tests.codecs.socketio.drawing import fed, ids, names, namespaces, values

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = list(PacketType)[:5]

# As npm socket.io-parser 4 writes them, with Engine.IO's digit before each text.
VECTORS: list[tuple[SocketPacket, list[bytes]]] = [
    (SocketPacket(CONNECT), [b"40"]),
    (SocketPacket(CONNECT, "/woot", {"token": "123"}), [b'40/woot,{"token":"123"}']),
    (SocketPacket(DISCONNECT, "/woot"), [b"41/woot,"]),
    (SocketPacket(EVENT, "/", ["a", 1, {}]), [b'42["a",1,{}]']),
    (SocketPacket(EVENT, "/test", ["a", 1, {}], 1), [b'42/test,1["a",1,{}]']),
    (SocketPacket(EVENT, "/", [1, "a"]), [b'42[1,"a"]']),
    (SocketPacket(ACK, "/", ["a", 1, {}], 123), [b'43123["a",1,{}]']),
    (SocketPacket(ACK, "/x", [], 0), [b"43/x,0[]"]),
    (SocketPacket(CONNECT_ERROR, "/x", {"message": "Invalid"}), [b'44/x,{"message":"Invalid"}']),
    (SocketPacket(CONNECT_ERROR, "/", "Unauthorized"), [b'44"Unauthorized"']),
    (
        SocketPacket(EVENT, "/cool", ["a", b"abc"], 23),
        [b'451-/cool,23["a",{"_placeholder":true,"num":0}]', b"abc"],
    ),
    (
        SocketPacket(EVENT, "/", ["é𝄞", b"\1", {"why": [b"\2", b""]}]),
        ['453-["é𝄞",{"_placeholder":true,"num":0},{"why":[{"_placeholder":true,"num":1},'
         '{"_placeholder":true,"num":2}]}]'.encode(), b"\1", b"\2", b""],
    ),
    (SocketPacket(ACK, "/back", [b"x"], 127), [b'461-/back,127[{"_placeholder":true,"num":0}]', b"x"]),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "frames"), VECTORS)
def test_packets_are_sent_as_the_reference_sends_them(packet: SocketPacket, frames: list[bytes]) -> None:
    assert encode(packet) == [(index > 0, frame) for index, frame in enumerate(frames)]


@pytest.mark.parametrize(("packet", "frames"), VECTORS)
def test_packets_come_as_the_reference_sends_them(packet: SocketPacket, frames: list[bytes]) -> None:
    wires = [(index > 0, frame) for index, frame in enumerate(frames)]
    assert fed(Decoder(max_bytes=1000), wires) == [packet]


@given(namespaces, names, st.lists(values, max_size=3), st.none() | ids, st.none() | st.text(max_size=5))
def test_an_event_of_json_texts_is_the_same_as_one_of_values(
    namespace: str, name: str | int, args: list[Any], packet_id: int | None, extra: str | None
) -> None:
    texts = [dump(arg) for arg in args]
    wires = event_wires(namespace, name, texts, ack_id=packet_id, extra=dump(extra) if extra else None)
    data = [name, *args, *([extra] if extra else [])]
    assert wires == encode(SocketPacket(EVENT, namespace, data, packet_id))


def test_an_event_of_json_texts_leaves_them_as_they_stand() -> None:
    number = b"123456789012345678901234567890.10"
    assert event_wires("/", "n", [number, b'{ "a" : 1 }']) == [(False, b'42["n",%b,{ "a" : 1 }]' % number)]


def test_an_event_of_json_texts_can_have_attachments() -> None:
    args = [placeholder(0), b"[%b]" % placeholder(1)]
    wires = event_wires("/n", "b", args, ack_id=7, attachments=[b"x", b""])
    assert wires == encode(SocketPacket(EVENT, "/n", ["b", b"x", [b""]], 7))


@dataclass
class Point:
    x: int
    tail: bytes


class Level(IntEnum):
    HIGH = 3


class Box(msgspec.Struct):
    items: tuple[Any, ...]


@pytest.mark.parametrize(
    ("value", "text", "attachments"),
    [
        (bytearray(b"a"), b'{"_placeholder":true,"num":0}', [b"a"]),
        (memoryview(b"a"), b'{"_placeholder":true,"num":0}', [b"a"]),
        ((1, (b"a",)), b'[1,[{"_placeholder":true,"num":0}]]', [b"a"]),
        (Point(1, b"t"), b'{"x":1,"tail":{"_placeholder":true,"num":0}}', [b"t"]),
        (Box((b"a", Point(2, b"b"))),
         b'{"items":[{"_placeholder":true,"num":0},{"x":2,"tail":{"_placeholder":true,"num":1}}]}',
         [b"a", b"b"]),
        (Level.HIGH, b"3", []),
        ({1: 2.5, "a": float("nan")}, b'{"1":2.5,"a":null}', []),
        (datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00Z"', []),
    ],
)  # fmt: skip
def test_what_applications_send(value: object, text: bytes, attachments: list[bytes]) -> None:
    taken: list[bytes] = []
    assert dump(take_attachments(value, taken)) == text
    assert taken == attachments


def test_the_value_itself_is_not_changed() -> None:
    value = {"a": [b"x", {"b": b"y"}], "c": [1]}
    taken = take_attachments(value, [])
    assert value == {"a": [b"x", {"b": b"y"}], "c": [1]}
    assert taken["c"] is value["c"]


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


UNSENDABLE = {
    "object": object(),
    "complex": 1j,
    "key": {(1, 2): 3},
    "half of a pair": "\ud800",
    "deep": deep(100_000),
    "circle": circle(),
    "long": 10**5000,
}


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE)
def test_what_cannot_be_sent_is_told(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode(SocketPacket(EVENT, "/", ["a", value]))


@pytest.mark.parametrize("name", [*sorted(RESERVED_EVENTS), None, True, False, [], {}, b"a"])
def test_no_event_has_such_a_name(name: object) -> None:
    assert not is_event_name(name)


@pytest.mark.parametrize("name", ["", "message", "Connect", "__proto__", "error", 0, -1, 1.5])
def test_events_have_such_names(name: object) -> None:
    assert is_event_name(name)


def test_a_namespace_can_have_a_query() -> None:
    assert split_query("/chat?a=1?2") == ("/chat", "a=1?2")
    assert split_query("/chat") == ("/chat", "")
