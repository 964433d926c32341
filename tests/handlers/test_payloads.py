from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.core import codes
from everywire.core.errors import BadRequest, SettingsError
from everywire.handlers.payloads import Payload, encode, payload_of


class Guess(msgspec.Struct):
    word: str
    row: Annotated[int, msgspec.Meta(ge=1, le=6)] = 1


@dataclass
class Score:
    by: str
    points: int = 0


class Move(TypedDict):
    x: int
    y: int


def test_a_struct_a_dataclass_and_a_typed_dictionary_are_made() -> None:
    assert Payload(Guess).decode(b'{"word":"crane","row":2}') == Guess("crane", 2)
    assert Payload(Score).decode(b'{"by":"ann"}') == Score("ann")
    assert Payload(Move).decode(b'{"x":1,"y":2}') == {"x": 1, "y": 2}
    assert Payload(int | str).decode(b'"x"') == "x"


@pytest.mark.parametrize(
    ("type_", "data", "named"),
    [
        (Guess, b'{"row":2}', "`word`"),
        (Guess, b'{"word":7}', "$.word"),
        (Guess, b'{"word":"x","row":7}', "$.row"),
        (Score, b'{"by":"ann","points":"many"}', "$.points"),
        (Move, b'{"x":1}', "`y`"),
        (list[Guess], b'[{"word":"x"},{"word":1}]', "$[1].word"),
        (Guess, b"", "JSON"),
        (int, b"{", "int"),
        (Any, b"{", "JSON"),
        (Any, b"[" * 100_000, "JSON"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_field_is_named(type_: Any, data: bytes, named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Payload(type_).decode(data)
    assert caught.value.code is codes.BAD_REQUEST
    assert named in caught.value.sentence


def test_no_data_is_none_where_anything_will_do() -> None:
    assert Payload().decode(b"") is None
    assert Payload(bytes).decode(b"\0not json") == b"\0not json"


def test_structs_and_dataclasses_are_encoded() -> None:
    assert encode({"guess": Guess("crane"), "score": Score("ann", 3)}) == (
        b'{"guess":{"word":"crane","row":1},"score":{"by":"ann","points":3}}'
    )


@pytest.mark.parametrize("value", [object(), {1j: 2}, float])
def test_what_json_cannot_say_is_an_error(value: object) -> None:
    with pytest.raises(BadRequest):
        encode(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False, width=32),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_any_value_comes_back(value: Any) -> None:
    assert Payload().decode(encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_bad_request(data: bytes) -> None:
    for payload in (Payload(), Payload(Guess), Payload(Score)):
        try:
            payload.decode(data)
        except BadRequest as error:
            assert error.sentence


# -- from annotations -----------------------------------------------------------------


async def plain(session: Any, data: Any) -> None: ...
async def bare(session, data): ...  # type: ignore[no-untyped-def]
async def short(session: Any) -> None: ...
async def typed(session: Any, data: Guess) -> None: ...
async def gathering(*arguments: Any) -> None: ...
async def unresolved(session: Any, data: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def impossible(session: Any, data: Payload) -> None: ...


@pytest.mark.parametrize(
    ("function", "type_"), [(plain, Any), (bare, Any), (short, Any), (typed, Guess), (gathering, Any)]
)
def test_the_annotation_is_the_type(function: Any, type_: Any) -> None:
    assert payload_of(function, 1).type is type_


def test_the_given_type_wins_over_the_annotation() -> None:
    assert payload_of(typed, 1, Score).type is Score


def test_an_annotation_that_cannot_be_understood_is_an_error_at_once() -> None:
    with pytest.raises(SettingsError, match="payload="):
        payload_of(unresolved, 1)
    with pytest.raises(SettingsError, match="Payload"):
        payload_of(impossible, 1)


def test_values_in_which_bytes_may_be_are_converted() -> None:
    class Picture(msgspec.Struct):
        name: str
        data: bytes = b""

    assert Payload(Picture).convert({"name": "a", "data": b"\xff"}) == Picture("a", b"\xff")
    value = {"any": [b"x"]}
    assert Payload().convert(value) is value is Payload(object).convert(value)
    for wrong in ({"name": 1}, {"name": "a", "data": "eA=="}, None, b"x"):
        with pytest.raises(BadRequest):
            Payload(Picture).convert(wrong)
