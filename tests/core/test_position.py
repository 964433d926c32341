"""Positions: what is encoded is decoded, nothing else is, and they stay small."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.core.errors import BadPosition
from everywire.core.names import is_name
from everywire.core.position import MAX_OFFSET, MAX_POSITION_CHARACTERS, Place, Position, encode_position

NAME_CHARACTERS = string.ascii_letters + string.digits + "._:~@$#=+-"
names = st.text(NAME_CHARACTERS, min_size=1, max_size=255)
epochs = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
offsets = st.one_of(st.integers(0, 300), st.integers(0, MAX_OFFSET), st.just(MAX_OFFSET))


@st.composite
def places(draw: st.DrawFn) -> dict[str, Place]:
    """Between 1 and 32 channels whose logs are in one store or several."""
    stores = draw(st.lists(epochs, min_size=1, max_size=4, unique=True))
    channels = draw(st.lists(names, min_size=1, max_size=32, unique=True))
    return {name: Place(draw(st.sampled_from(stores)), draw(offsets)) for name in channels}


@given(places())
def test_what_is_encoded_is_decoded(known: dict[str, Place]) -> None:
    text = encode_position(known.items())
    assert len(text) <= MAX_POSITION_CHARACTERS
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    position = Position.decode(text)
    assert len(position) == len(known)
    for name, place in known.items():
        assert position.place(name) == place
    assert position.place("another" + "x" * 240) is None


def test_a_full_position_of_one_store_stays_below_what_is_promised() -> None:
    text = encode_position((f"channel-{number}", Place("a" * 8, MAX_OFFSET)) for number in range(32))
    assert len(text) < 640


@given(st.one_of(st.text(), st.text(string.ascii_letters + string.digits + "-_", max_size=1100)))
def test_garbage_is_a_bad_position_or_a_forged_one(text: str) -> None:
    try:
        position = Position.decode(text)
    except BadPosition:
        return
    assert len(position) > 0
    position.place("a")


@given(places(), st.data())
def test_a_damaged_position_raises_nothing_else(known: dict[str, Place], data: st.DataObject) -> None:
    text = encode_position(known.items())
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(st.sampled_from([text[:at], text[at:], text[:at] + "A" + text[at + 1 :], text + "A"]))
    try:
        Position.decode(damaged)
    except BadPosition:
        pass


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


PLACE = b"\x01\x01e\x01" + b"hhhhhh"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "====",
        "AQ==",
        "A" * (MAX_POSITION_CHARACTERS + 1),
        "é",
        "AQ\n",
        encoded(b"\x01"),
        encoded(b"\x02\x01e\x01hhhhhh\x05"),
        encoded(b"\x01\x00\x01hhhhhh\x05"),
        encoded(b"\x01\x21" + b"e" * 33 + b"\x01hhhhhh\x05"),
        encoded(b"\x01\x01\xff\x01hhhhhh\x05"),
        encoded(b"\x01\x01e\x00"),
        encoded(b"\x01\x01e\x02hhhhhh\x05"),
        encoded(PLACE),
        encoded(PLACE + b"\x80"),
        encoded(PLACE + b"\xff" * 7 + b"\x1f"),
        encoded(PLACE + b"\x80" * 8 + b"\x01"),
        encoded(PLACE + b"\x05\x01"),
    ],
)
def test_what_no_server_made_is_refused(text: str) -> None:
    with pytest.raises(BadPosition) as caught:
        Position.decode(text)
    assert caught.value.code.status == 400


def test_the_largest_offset_is_that_of_javascript() -> None:
    assert MAX_OFFSET == 2**53 - 1
    assert Position.decode(encoded(PLACE + b"\xff" * 7 + b"\x0f")) is not None


@given(names)
def test_the_strategy_makes_names(name: str) -> None:
    assert is_name(name)
