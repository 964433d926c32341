"""JSONP: scripts nothing can break out of, and forms with their doubly escaped newlines."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.engineio.jsonp import decode_jsonp_form, encode_jsonp, is_index


@pytest.mark.parametrize("text", ["0", "7", "1234567890"])
def test_an_index_is_ascii_digits(text: str) -> None:
    assert is_index(text)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1.0", "1e1", " 1", "1\n", "x", "alert(1)", "<script>", "١", "²", "１", "0" * 11, "1]", "0x1"],
)
def test_an_index_is_nothing_else(text: str) -> None:
    assert not is_index(text)


special = st.sampled_from("a\"'\\\n\r\u2028\u2029<>&/*]);é𝄞\x00\x7f\x85\ufeff")


@given(st.text(special | st.characters(codec="utf-8")))
def test_a_script_holds_the_payload_and_nothing_can_end_it(payload: str) -> None:
    script = encode_jsonp("3", payload.encode())
    assert script.startswith(b'___eio[3]("')
    assert script.endswith(b'");')
    literal = script[len(b"___eio[3](") : -2].decode()
    assert json.loads(literal) == payload
    assert not re.search("[<>&\n\r\u2028\u2029\ufeff\x00-\x1f]", literal)
    assert not re.search(r'(?<!\\)(?:\\\\)*"', literal[1:-1])


def form_of(payload: str) -> str:
    """Escape a payload as the client does: first what looks like an escape, then newlines."""
    return payload.replace("\\n", "\\\n").replace("\n", "\\n")


# A backslash right before a newline is written as an escape is: the client's escaping cannot tell them apart.
@given(st.text(st.sampled_from('\\n\na"4:é𝄞+&=% \x1e')).filter(lambda text: "\\\n" not in text))
def test_a_form_brings_the_payload(payload: str) -> None:
    for escape in (quote, quote_plus):
        assert decode_jsonp_form(b"d=" + escape(form_of(payload), safe="").encode()) == payload.encode()


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b"d=6%3A4hello", b"6:4hello"),
        (b"d=9%3A42%5B%22a%22%5D", b'9:42["a"]'),
        (b"a=1&d=1%3A2&b=2", b"1:2"),
        (b"d=a+b", b"a b"),
        (b"", b""),
        (b"d", b""),
        (b"e=1", b""),
        (b"d=%", b"%"),
        (b"d=%ff%00", b"\xff\x00"),
        (b"d=%5C%5Cn%5Cn", b"\\n\n"),
        (b"&" * 100_000 + b"d=1", b""),
    ],
)
def test_forms(body: bytes, payload: bytes) -> None:
    assert decode_jsonp_form(body) == payload


@given(st.binary())
def test_any_form_is_read(body: bytes) -> None:
    decode_jsonp_form(body)
    decode_jsonp_form(b"d=" + body)


def test_no_payload_is_too_strange_for_a_script() -> None:
    assert encode_jsonp("0", b"\xff") == '___eio[0]("\ufffd");'.encode()
