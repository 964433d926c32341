"""SockJS's frames, and what its clients send: what the protocol asks for, and what nobody may make of it."""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.sockjs import (
    EVENT_PRELUDE,
    GREETING,
    HEARTBEAT,
    OPEN,
    XHR_PRELUDE,
    as_event,
    as_jsonp,
    as_line,
    as_script,
    check_callback,
    decode_form,
    decode_messages,
    encode_close,
    encode_messages,
    htmlfile_head,
    iframe_page,
    quote,
)
from everywire.core.errors import BadRequest

MUST_BE_ESCAPED: Final = [
    *range(0x20),
    *range(0x200C, 0x2010),
    *range(0x2028, 0x2030),
    *range(0x2060, 0x2070),
    *range(0xFFF0, 0x10000),
    *range(0xD800, 0xE000),
]
"""The protocol's list, and the halves of surrogate pairs."""

TEXTS: Final = st.text(st.characters(exclude_categories=[]))
"""Any that JavaScript can have, halves of surrogate pairs included."""


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# -- to the client -------------------------------------------------------------------------


def test_frames_are_what_the_protocol_has() -> None:
    assert (OPEN, HEARTBEAT, GREETING) == (b"o", b"h", b"Welcome to SockJS!\n")
    assert encode_messages([quote(b"a"), quote('"é\\'.encode())]) == 'a["a","\\"é\\\\"]'.encode()
    assert encode_close(3000, "Go away!") == b'c[3000,"Go away!"]'
    assert encode_close(3000, '"]\u2028') == rb'c[3000,"\"]\u2028"]'


def test_each_transport_wraps_a_frame_in_its_own_way() -> None:
    frame = encode_messages([quote(b"x")])
    assert as_line(frame) == b'a["x"]\n'
    assert as_event(frame) == b'data: a["x"]\r\n\r\n'
    assert as_script(frame) == b'<script>\np("a[\\"x\\"]");\n</script>\r\n'
    assert as_jsonp("call.back_1", frame) == b'/**/call.back_1("a[\\"x\\"]");\r\n'
    assert XHR_PRELUDE == b"h" * 2048 + b"\n"
    assert EVENT_PRELUDE == b"\r\n"


def test_what_browsers_mangle_is_escaped() -> None:
    for code in MUST_BE_ESCAPED:
        quoted = quote(as_bytes(f"<{chr(code)}>"))
        assert quoted.isascii()
        assert json.loads(quoted) == f"<{chr(code)}>"
        if code >= 0x20:
            assert quoted == f'"<\\u{code:04x}>"'.encode()


@given(TEXTS)
def test_a_quoted_message_is_the_message(text: str) -> None:
    quoted = quote(as_bytes(text))
    assert json.loads(quoted.decode()) == text
    assert not any(chr(code) in quoted.decode() for code in MUST_BE_ESCAPED)


@given(st.lists(TEXTS, max_size=5))
def test_what_one_client_sends_another_gets(texts: list[str]) -> None:
    """With escapes or without, as clients of any age write it; halves of pairs are ever escaped."""
    escaped = json.dumps(texts).encode()
    verbatim = as_bytes(json.dumps(texts, ensure_ascii=False))
    for sent in (escaped, verbatim):
        messages = decode_messages(sent, 5)
        frame = encode_messages(list(map(quote, messages)))
        assert json.loads(frame[1:].decode()) == texts


@given(TEXTS)
def test_nothing_ends_the_script_it_stands_in(text: str) -> None:
    frame = encode_messages([quote(as_bytes(f"</script><!--{text}"))])
    script = as_script(frame)
    inside = script.removeprefix(b"<script>\np(").removesuffix(b");\n</script>\r\n")
    assert b"<" not in inside and b">" not in inside and b"\n" not in inside
    assert json.loads(inside) == frame.decode()
    called = as_jsonp("c", frame).removeprefix(b"/**/c(").removesuffix(b");\r\n")
    assert json.loads(called) == frame.decode()
    assert not re.search("[\u2028\u2029\n\r]", called.decode())


# -- from the client -----------------------------------------------------------------------


def test_messages_come_as_an_array_or_alone() -> None:
    assert decode_messages(b'["a", "b\\u0000"]', 2) == [b"a", b"b\0"]
    assert decode_messages(b' "a" ', 2) == [b"a"]
    assert decode_messages(b"[]", 2) == []
    assert decode_messages(b'["\\ud83d\\ude00"]', 2) == ["😀".encode()]
    assert decode_messages(b'["\\ud83d", "\\ude00x"]', 2) == [as_bytes("\ud83d"), as_bytes("\ude00x")]


@pytest.mark.parametrize(
    "sent",
    [
        b'["x',
        b"[",
        b"]",
        b"x",
        b"{}",
        b"null",
        b"true",
        b"1",
        b"[1]",
        b"[null]",
        b'["a", 1]',
        b'[["a"]]',
        b'[{"a": "b"}]',
        b'["a" "b"]',
        b'["a",]',
        b'["a"]["b"]',
        b'["\\x"]',
        b'["\\u12"]',
        b'["\\ud800", 1]',
        b'[["\\ud800"]]',
        b'["\n"]',
        b'["\xff"]',
        b"\xff\xfe",
        b"\xef\xbb\xbf[]",
        b" ",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'["\\ud800",' + b"[" * 100_000,
        b'["\\ud800' + b"\\" * 100_001,
        b'["\\ud800",' + b'"",' * 100_000,
        b'"\\ud800' * 50_000,
    ],
)
def test_anything_else_is_refused_in_the_protocols_words(sent: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        decode_messages(sent, 1_000_000)
    assert refused.value.sentence == "Broken JSON encoding."


def test_nothing_at_all_is_refused_in_words_of_its_own() -> None:
    with pytest.raises(BadRequest) as refused:
        decode_messages(b"", 10)
    assert refused.value.sentence == "Payload expected."


@pytest.mark.parametrize("message", ['""', '"\\ud800"'])
def test_a_million_tiny_messages_are_too_many(message: str) -> None:
    sent = ("[" + ",".join([message] * 200_000) + "]").encode()
    with pytest.raises(BadRequest):
        decode_messages(sent, 10_000)


ALMOST: Final = st.from_regex(rb'\["(\\u[0-9a-f]{4}|[^"]){0,8}"(,"x"){0,2}\]?', fullmatch=True)


@given(st.binary(max_size=80) | ALMOST)
def test_nothing_but_the_documented_error_comes_of_any_bytes(sent: bytes) -> None:
    try:
        messages = decode_messages(sent, 10)
    except BadRequest:
        return
    assert all(isinstance(message, bytes) for message in messages)
    encode_messages(list(map(quote, messages)))


@given(st.binary(max_size=40), st.binary(max_size=10))
def test_a_form_has_the_messages_in_d(value: bytes, other: bytes) -> None:
    filled = b"p=%b&d=%b" % (quote_from_bytes(other).encode(), quote_from_bytes(value).encode())
    assert decode_form(filled) == value


@pytest.mark.parametrize("form", [b"", b"d", b"d=", b"p=p", b"&&=", b"D=1", b"&" * 1000 + b"d=late"])
def test_a_form_without_them_has_nothing(form: bytes) -> None:
    assert decode_form(form) == b""


def test_a_plus_in_a_form_is_a_space() -> None:
    assert decode_form(b"d=%5B%22a+b%2B%22%5D") == b'["a b+"]'


# -- callbacks and pages -------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["x", "callback", "_jp.abc123", "a-b_c.D9"])
def test_a_callback_is_a_name(callback: str) -> None:
    assert check_callback(callback) == callback


@pytest.mark.parametrize(
    "callback",
    [
        " ",
        "*",
        "abc(",
        "abc()",
        "a;alert(1)",
        "<script>",
        "a\n",
        "a\u2028",
        "\\u0061",
        "é",
        "a" * 65,
        "a" * 5_000,
        "ａ",
        "CWSMIKI0hCD0Up0IZUnnnnnnnnnnnnnnnnnnnUU5nnnnnn3Snn7iiudIbEAt333swW0ssG03",
    ],
)
def test_what_is_more_than_a_name_is_no_callback(callback: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_callback(callback)
    assert refused.value.sentence == 'invalid "callback" parameter'


@pytest.mark.parametrize("callback", [None, ""])
def test_a_callback_is_required(callback: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        check_callback(callback)
    assert refused.value.sentence == '"callback" parameter required'


def test_the_page_of_htmlfile_calls_its_parent() -> None:
    head = htmlfile_head("call.back")
    assert len(head) > 1024
    assert head.startswith(b"<!doctype html>\n")
    assert head.count(b"\n    var c = parent.call.back;\n    c.start();\n") == 1
    assert head.rstrip().endswith(b"</script>")


def test_the_page_for_iframes_names_the_client() -> None:
    page = iframe_page('/a.js?x=1&y="><script>')
    assert b'<script src="/a.js?x=1&amp;y=&quot;&gt;&lt;script&gt;"></script>' in page
    assert b"SockJS.bootstrap_iframe();" in page
