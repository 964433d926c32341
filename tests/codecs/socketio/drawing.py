"""What to draw packets of Socket.IO from, and how to send and read them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.socketio.decoder import Decoder
from everywire.codecs.socketio.packet import RESERVED_EVENTS, PacketType, SocketPacket

characters = st.sampled_from('a/,-?"\\[{0159٤é€𝄞👩\u2028\n\x00') | st.characters(exclude_categories=("Cs",))
texts = st.text(characters, max_size=12)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | texts
# A placeholder that stands in data on its own is data.
forged = st.fixed_dictionaries({"_placeholder": st.booleans() | leaves, "num": leaves})


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)


values = st.recursive(leaves | forged, containers, max_leaves=12)
values_with_bytes = st.recursive(leaves | st.binary(max_size=20), containers, max_leaves=12)

namespaces = st.just("/") | st.text(st.characters(exclude_characters=","), max_size=8).map(
    lambda name: "/" + name.encode("utf-8", "replace").decode()
)
names = st.integers(-9, 9) | texts.filter(lambda name: name not in RESERVED_EVENTS)
ids = st.integers(0, 2**53 - 1)


def events(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[SocketPacket]:
    data = st.builds(lambda name, args: [name, *args], names, st.lists(inner, max_size=4))
    return st.builds(SocketPacket, st.just(PacketType.EVENT), namespaces, data, st.none() | ids)


def acks(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[SocketPacket]:
    return st.builds(SocketPacket, st.just(PacketType.ACK), namespaces, st.lists(inner, max_size=4), ids)


connects = st.builds(
    SocketPacket,
    st.just(PacketType.CONNECT),
    namespaces,
    st.none() | st.dictionaries(texts, values, max_size=3),
    st.none(),
)
disconnects = st.builds(SocketPacket, st.just(PacketType.DISCONNECT), namespaces, st.none(), st.none())
connect_errors = st.builds(
    SocketPacket,
    st.just(PacketType.CONNECT_ERROR),
    namespaces,
    texts | st.dictionaries(texts, values, max_size=3),
    st.none(),
)
plain_packets = st.one_of(connects, disconnects, connect_errors, events(values), acks(values))
binary_packets = events(values_with_bytes) | acks(values_with_bytes)


def fed(decoder: Decoder, wires: list[Wire]) -> list[SocketPacket]:
    """Feed what was sent; return what came of it. The digit of Engine.IO stands before each text."""
    packets = []
    for is_binary, data in wires:
        if not is_binary:
            assert data[:1] == b"4"
        packet = decoder.feed_binary(data) if is_binary else decoder.feed_text(data[1:])
        if packet is not None:
            packets.append(packet)
    return packets
