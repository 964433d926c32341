"""The opening handshake: RFC 6455 §4, both sides."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.websocket import (
    Deflate,
    DeflateOptions,
    HandshakeError,
    accept_handshake,
    check_response,
    make_key,
    request_headers,
)
from everywire.codecs.websocket.header_values import (
    HeaderValueError,
    has_token,
    parse_extensions,
    parse_tokens,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # §1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GOOD = {
    b"host": b"server.example.com",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}


def without(name: bytes) -> dict[bytes, bytes]:
    return {key: value for key, value in GOOD.items() if key != name}


def test_example_of_1_3() -> None:
    handshake = accept_handshake(b"GET", "1.1", GOOD)
    assert handshake.headers == [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", ACCEPT),
    ]
    assert handshake.subprotocol is None
    assert handshake.deflate is None


@pytest.mark.parametrize(
    "change",
    [
        {b"upgrade": b"WebSocket"},
        {b"upgrade": b"h2c, websocket"},
        {b"connection": b"keep-alive, Upgrade"},
        {b"connection": b"keep-alive,\tupgrade ,"},
        {b"content-length": b"0"},
        {b"sec-websocket-extensions": b"x-webkit-deflate-frame, foo; bar=1"},
        {b"sec-websocket-protocol": b"chat"},
        {b"origin": b"http://example.com"},
    ],
)
def test_good_requests(change: dict[bytes, bytes]) -> None:
    assert accept_handshake(b"GET", "1.1", GOOD | change).headers[2] == (b"Sec-WebSocket-Accept", ACCEPT)


@pytest.mark.parametrize("method", [b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"get"])
def test_other_methods_are_405(method: bytes) -> None:
    with pytest.raises(HandshakeError) as caught:
        accept_handshake(method, "1.1", GOOD)
    assert caught.value.status == 405
    assert caught.value.headers == ((b"Allow", b"GET"),)


@pytest.mark.parametrize(
    "headers",
    [
        without(b"upgrade"),
        GOOD | {b"upgrade": b"h2c"},
        GOOD | {b"upgrade": b"websocket2"},
        without(b"sec-websocket-version"),
        GOOD | {b"sec-websocket-version": b"8"},
        GOOD | {b"sec-websocket-version": b"13, 13"},
        GOOD | {b"sec-websocket-version": b"013"},
    ],
)
def test_upgrade_required(headers: dict[bytes, bytes]) -> None:
    """§4.2.2 item 4, §4.4; RFC 9110 §15.5.22: a 426 has an Upgrade header."""
    with pytest.raises(HandshakeError) as caught:
        accept_handshake(b"GET", "1.1", headers)
    assert caught.value.status == 426
    assert set(caught.value.headers) == {
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
    }


@pytest.mark.parametrize(
    "headers",
    [
        without(b"host"),
        GOOD | {b"host": b""},
        without(b"connection"),
        GOOD | {b"connection": b"keep-alive"},
        GOOD | {b"connection": b"upgraded"},
        without(b"sec-websocket-key"),
        GOOD | {b"sec-websocket-key": b""},
        GOOD | {b"sec-websocket-key": base64.b64encode(bytes(15))},
        GOOD | {b"sec-websocket-key": base64.b64encode(bytes(17))},
        GOOD | {b"sec-websocket-key": base64.b64encode(bytes(18))},
        GOOD | {b"sec-websocket-key": KEY + b", " + KEY},
        GOOD | {b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ=*"},
        GOOD | {b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZ==="},
        GOOD | {b"sec-websocket-key": b"*" * 24},
        GOOD | {b"content-length": b"5"},
        GOOD | {b"transfer-encoding": b"chunked"},
        GOOD | {b"sec-websocket-protocol": b""},
        GOOD | {b"sec-websocket-protocol": b"a b"},
        GOOD | {b"sec-websocket-protocol": b"chat, chat"},
        GOOD | {b"sec-websocket-protocol": b"ch\xe4t"},
        GOOD | {b"sec-websocket-extensions": b"a b"},
        GOOD | {b"sec-websocket-extensions": b"permessage-deflate; ="},
        GOOD | {b"sec-websocket-extensions": b'permessage-deflate; a="b'},
    ],
)
def test_bad_requests(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(HandshakeError) as caught:
        accept_handshake(b"GET", "1.1", headers, subprotocols=["chat"], deflate=DeflateOptions())
    assert caught.value.status == 400
    assert caught.value.headers == ()


@pytest.mark.parametrize("version", ["1.0", "0.9", "2", "2.0", ""])
def test_other_http_versions(version: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        accept_handshake(b"GET", version, GOOD)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(b"b, a", "b"), (b"c,b", "b"), (b"c", None), (b"A", None), (b",a,,", "a")],
)
def test_subprotocol_follows_the_client_order(offered: bytes, chosen: str | None) -> None:
    handshake = accept_handshake(
        b"GET", "1.1", GOOD | {b"sec-websocket-protocol": offered}, subprotocols=["a", "b"]
    )
    assert handshake.subprotocol == chosen
    answered = dict(handshake.headers).get(b"Sec-WebSocket-Protocol")
    assert answered == (None if chosen is None else chosen.encode())


def test_nothing_is_answered_that_was_not_asked() -> None:
    handshake = accept_handshake(b"GET", "1.1", GOOD, subprotocols=["a"], deflate=DeflateOptions())
    assert len(handshake.headers) == 3


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, b"sec-websocket-protocol", b"sec-websocket-extensions", b"content-length"]),
        st.binary(max_size=40) | st.text('ab"\\;,= \t', max_size=40).map(str.encode),
        max_size=3,
    )
)
def test_only_handshake_errors_escape(change: dict[bytes, bytes]) -> None:
    try:
        handshake = accept_handshake(
            b"GET", "1.1", GOOD | change, subprotocols=["a"], deflate=DeflateOptions()
        )
    except HandshakeError as error:
        assert error.status in (400, 426)
    else:
        assert all(b"\r" not in value and b"\n" not in value for _, value in handshake.headers)


# The client's side


def lowered(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in headers}


@pytest.mark.parametrize("server_deflate", [None, DeflateOptions(), DeflateOptions(max_window_bits=11)])
@pytest.mark.parametrize("client_deflate", [None, DeflateOptions(), DeflateOptions(max_window_bits=9)])
def test_both_sides_agree(
    server_deflate: DeflateOptions | None, client_deflate: DeflateOptions | None
) -> None:
    key = make_key()
    wanted = ["x", "chat"]
    request = request_headers("h:1", key, subprotocols=wanted, deflate=client_deflate)
    accepted = accept_handshake(
        b"GET", "1.1", lowered(request), subprotocols=["chat"], deflate=server_deflate
    )
    agreed = check_response(
        101, lowered(accepted.headers), key=key, subprotocols=wanted, deflate=client_deflate
    )
    assert agreed.subprotocol == accepted.subprotocol == "chat"
    assert (agreed.deflate is None) == (accepted.deflate is None)
    assert (agreed.deflate is not None) == (server_deflate is not None and client_deflate is not None)
    if agreed.deflate is not None and client_deflate is not None:
        assert agreed.deflate.window_bits == client_deflate.max_window_bits
        assert not agreed.deflate.peer_takeover


def test_keys_are_random_and_of_16_bytes() -> None:
    keys = {make_key() for _ in range(50)}
    assert len(keys) == 50
    assert {len(base64.b64decode(key)) for key in keys} == {16}


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "a/b", "ü", "a\x00", "u@h"])
def test_host_cannot_smuggle(host: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        request_headers(host, KEY)


@pytest.mark.parametrize("names", [["a", "a"], ["a b"], [""], ["a\r\nb"], ["ü"]])
def test_subprotocols_cannot_smuggle(names: list[str]) -> None:
    with pytest.raises(ValueError, match="subprotocols"):
        request_headers("h", KEY, subprotocols=names)


ANSWER = {b"upgrade": b"WebSocket", b"connection": b"upgrade", b"sec-websocket-accept": ACCEPT}


@pytest.mark.parametrize(
    ("status", "change", "says"),
    [
        (200, {}, "200 instead of 101"),
        (426, {b"upgrade": b""}, "426 instead of 101"),
        (101, {b"upgrade": b"h2c"}, "did not upgrade"),
        (101, {b"connection": b"close"}, "lacks Connection"),
        (101, {b"sec-websocket-accept": ACCEPT.lower()}, "does not fit the key"),
        (101, {b"sec-websocket-accept": b""}, "does not fit the key"),
        (101, {b"sec-websocket-protocol": b"other"}, "not offered"),
        (101, {b"sec-websocket-protocol": b"a, b"}, "not offered"),
        (101, {b"sec-websocket-extensions": b"foo"}, "not offered"),
        (101, {b"sec-websocket-extensions": b"permessage-deflate, permessage-deflate"}, "not offered"),
        (101, {b"sec-websocket-extensions": b"permessage-deflate; client_max_window_bits"}, "bad parameters"),
        (101, {b"sec-websocket-extensions": b"permessage-deflate; server_max_window_bits"}, "bad parameters"),
        (101, {b"sec-websocket-extensions": b"permessage-deflate; what"}, "bad parameters"),
        (101, {b"sec-websocket-extensions": b"permessage-deflate; ;"}, "bad extension parameter"),
    ],
)
def test_bad_answers(status: int, change: dict[bytes, bytes], says: str) -> None:
    with pytest.raises(HandshakeError, match=says) as caught:
        check_response(status, ANSWER | change, key=KEY, subprotocols=["a", "b"], deflate=DeflateOptions())
    assert caught.value.status == status


def test_answer_with_an_extension_that_was_not_asked() -> None:
    with pytest.raises(HandshakeError, match="not offered"):
        check_response(101, ANSWER | {b"sec-websocket-extensions": b"permessage-deflate"}, key=KEY)


def test_server_that_keeps_its_context() -> None:
    answer = ANSWER | {b"sec-websocket-extensions": b"permessage-deflate; client_max_window_bits=10"}
    handshake = check_response(101, answer, key=KEY, deflate=DeflateOptions())
    assert handshake.deflate is Deflate(10, peer_takeover=True)


# Values of list headers


@pytest.mark.parametrize(
    ("value", "extensions"),
    [
        (b"", []),
        (b"a", [(b"a", ())]),
        (b" a ;\tb ; c = 1 , d", [(b"a", ((b"b", None), (b"c", b"1"))), (b"d", ())]),
        (b'a; b="c"; d = "e\\f" ,, g', [(b"a", ((b"b", b"c"), (b"d", b"ef"))), (b"g", ())]),
    ],
)
def test_extensions(value: bytes, extensions: object) -> None:
    assert parse_extensions(value) == extensions


@pytest.mark.parametrize(
    "value",
    [
        b"a;",
        b"a b",
        b"a; b c",
        b"a; b=",
        b"a; =b",
        b"a; b=c d",
        b'"a"',
        b'a; "b"=c',
        b'a; b="c"d',
        b'a; b=c"d"',
        b'a; b="c" "d"',
        b'a; b="c d"',
        b'a; b="c,d"',
        b'a; b=""',
        b'a; b="c\\"d"',
        b'a; b="c\\", d="e"',
        b'a; b="c\\"; d="e"',
        b'a; b="c\\\\d"',
        b'a; b="c\\\\"',
        b'a; b="',
        b"a; b='c d'",
        b"a\x00",
        b"\xff",
        b"a," * 100,
        b"a" + b";b" * 100,
        b"a" * 9000,
    ],
)
def test_what_is_no_list_of_extensions(value: bytes) -> None:
    with pytest.raises(HeaderValueError):
        parse_extensions(value)


def test_tokens() -> None:
    assert parse_tokens(b"a ,\tb,,c") == [b"a", b"b", b"c"]
    assert has_token(b"Keep-Alive , Upgrade", b"upgrade")
    assert not has_token(b"upgrade-insecure", b"upgrade")
    assert not has_token(None, b"upgrade")


@pytest.mark.parametrize("size", [8 * 1024, 64 * 1024])
@pytest.mark.parametrize(
    "pattern", [b"\t ", b'"\\c', b'a="\\c', b",", b"; ", b'="', b'="a"', b'a;b="c",', b"a,", b" a"]
)
def test_hostile_lists_end_quickly(pattern: bytes, size: int) -> None:
    """CVE-2021-32640, CVE-2020-7663: a backtracking parser needs minutes for these.

    Ours splits, and refuses what is longer than 8 KiB before it looks.
    """
    value = (pattern * (size // len(pattern) + 1))[:size] + b"!"
    for name in (b"sec-websocket-extensions", b"sec-websocket-protocol"):
        headers = GOOD | {name: b"!" + value}
        with pytest.raises(HandshakeError) as caught:
            accept_handshake(b"GET", "1.1", headers, subprotocols=["a"], deflate=DeflateOptions())
        assert caught.value.status == 400
    with pytest.raises(HandshakeError):
        accept_handshake(b"GET", "1.1", GOOD | {b"connection": value})
