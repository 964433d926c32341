"""What to draw packets and payloads from."""

from __future__ import annotations

from hypothesis import strategies as st

from everywire.codecs.engineio.packets import Packet, PacketType

# Characters that lengths and separators could stumble over: wide in UTF-8, wide in UTF-16, digits, colons.
characters = st.sampled_from("a:b0149٤é€𝄞👩\u2028\\n\"'<>&") | st.characters(
    exclude_characters="\x1e", exclude_categories=("Cs",)
)
texts = st.text(characters, max_size=30)
text_packets = st.builds(Packet, st.sampled_from(PacketType), texts.map(str.encode), st.just(False))
binary_packets = st.builds(Packet, st.just(PacketType.MESSAGE), st.binary(max_size=40), st.just(True))
any_packets = st.lists(text_packets | binary_packets, min_size=1, max_size=8)


def mutated(data: bytes, cuts: list[tuple[int, int]]) -> bytes:
    """Change some bytes of it."""
    changed = bytearray(data)
    for at, value in cuts:
        changed[at % len(changed)] = value
    return bytes(changed)


mutations = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=5)
