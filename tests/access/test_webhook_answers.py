"""What an application may answer: whatever it is, it is understood or a fault, and never anything else."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.access.webhook_answers import BadAnswer, Result, read_answer
from everywire.core.codes import CODES
from everywire.core.errors import EverywireError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["user", "expire_at", "info", "b64info", "data", "b64data", "override", "channels", "subs", "meta"]
)
RESULTS = st.dictionaries(FIELDS, VALUES, max_size=4)
ANSWERS = st.dictionaries(
    st.sampled_from(["result", "error", "disconnect", "else"]),
    VALUES | RESULTS | st.dictionaries(st.sampled_from(["code", "message", "reason"]), VALUES),
    max_size=3,
)


@given(ANSWERS, st.booleans())
def test_any_json_is_understood_or_a_fault(answer: object, is_data_binary: bool) -> None:
    read(json.dumps(answer).encode(), is_data_binary)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_understood_or_a_fault(text: bytes, is_data_binary: bool) -> None:
    read(text, is_data_binary)


def read(text: bytes, is_data_binary: bool) -> None:
    try:
        said = read_answer(text, is_data_binary=is_data_binary)
    except BadAnswer:
        return
    if isinstance(said, EverywireError):
        assert 100 <= said.code.number < 5000 and 0 < len(said.sentence) <= 500
        return
    # All that is read later can be read now.
    texts = [said.info_text()]
    texts += [said.binary()] if is_data_binary else [said.data_text()]
    if not is_data_binary:
        try:
            said.decision()
        except EverywireError as error:
            assert error.code.number == 110
    for terms in (one.terms() for one in (said.subs or {}).values()):
        texts += [terms.info, terms.data]
    assert said.expire_at is None or math.isfinite(said.expire_at)
    for one in texts[: None if not is_data_binary else 1]:
        assert one is None or b"\n" not in one


@given(st.integers(-10, 6000), st.sampled_from(["error", "disconnect"]))
def test_a_refusal_has_a_code_of_its_kind(number: int, kind: str) -> None:
    said = read_answer(json.dumps({kind: {"code": number}}).encode())
    assert isinstance(said, EverywireError)
    code = said.code
    low, high, other = (100, 2000, 103) if kind == "error" else (3000, 5000, 3507)
    assert code.number == (number if low <= number < high else other)
    known = {row.number: row for row in CODES}
    if code.number in known:
        assert code is known[code.number]
    else:
        assert code.name == "application" and code.status == (403 if kind == "error" else 0)


@pytest.mark.parametrize("number", ["1e400", "1e300", "-1e18", "Infinity"])
def test_a_time_that_is_none_is_a_fault(number: str) -> None:
    for text in (
        '{"result": {"expire_at": %s}}',
        '{"result": {"subs": {"a": {"expire_at": %s}}}}',
    ):
        with pytest.raises(BadAnswer):
            read_answer((text % number).encode())


def test_a_whole_answer_is_read() -> None:
    said = read_answer(b'{"result": {"user": "ann", "info": {\n"n": [1,\n 2]}, "channels": ["a"], "new": 1}}')
    assert isinstance(said, Result)
    assert (said.user, said.info_text(), said.channels) == ("ann", b'{"n":[1,2]}', ["a"])
    assert said.data_text() is None
