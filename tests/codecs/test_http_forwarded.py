"""Whom trusted proxies spoke for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.http.forwarded import Client, Trust

PROXIES = Trust(["10.0.0.0/8", "::1", "192.0.2.7"])


def client(peer: str, **fields: str) -> Client:
    return PROXIES.client(
        peer, {name.replace("_", "-").encode(): text.encode() for name, text in fields.items()}
    )


CASES = [
    ({}, ("10.0.0.1", None, None)),
    ({"x_forwarded_for": "203.0.113.5"}, ("203.0.113.5", None, None)),
    ({"x_forwarded_for": "6.6.6.6, 203.0.113.5"}, ("203.0.113.5", None, None)),
    ({"x_forwarded_for": "6.6.6.6, 203.0.113.5, 10.9.9.9"}, ("203.0.113.5", None, None)),
    ({"x_forwarded_for": "10.2.2.2, 10.9.9.9"}, ("10.2.2.2", None, None)),
    ({"x_forwarded_for": "203.0.113.5:4711"}, ("203.0.113.5", None, None)),
    ({"x_forwarded_for": "[2001:db8::1]:4711"}, ("2001:db8::1", None, None)),
    ({"x_forwarded_for": "2001:db8::1"}, ("2001:db8::1", None, None)),
    ({"x_forwarded_for": "nonsense"}, ("10.0.0.1", None, None)),
    ({"x_forwarded_for": "203.0.113.5, unknown, 10.9.9.9"}, ("10.9.9.9", None, None)),
    ({"x_forwarded_proto": "https"}, ("10.0.0.1", "https", None)),
    ({"x_forwarded_proto": "wss", "x_forwarded_for": "1.2.3.4"}, ("1.2.3.4", "https", None)),
    ({"x_forwarded_proto": "gopher"}, ("10.0.0.1", None, None)),
    (
        {"x_forwarded_for": "1.2.3.4, 10.1.1.1", "x_forwarded_proto": "https, http"},
        ("1.2.3.4", "https", None),
    ),
    (
        {"x_forwarded_for": "1.2.3.4, 10.1.1.1", "x_forwarded_proto": "https"},
        ("1.2.3.4", "https", None),
    ),
    ({"x_forwarded_host": "chat.example.org"}, ("10.0.0.1", None, "chat.example.org")),
    ({"x_forwarded_host": "evil/../host"}, ("10.0.0.1", None, None)),
    ({"forwarded": "for=203.0.113.5;proto=https;host=a.test"}, ("203.0.113.5", "https", "a.test")),
    ({"forwarded": 'For="[2001:db8::1]:80" ; Proto=https'}, ("2001:db8::1", "https", None)),
    ({"forwarded": "for=6.6.6.6, for=203.0.113.5, for=10.3.3.3;proto=http"}, ("203.0.113.5", None, None)),
    ({"forwarded": "for=_hidden;proto=https"}, ("10.0.0.1", "https", None)),
    ({"forwarded": 'for="\\2\\0\\3.0.113.5"'}, ("203.0.113.5", None, None)),
    ({"forwarded": "for=1.2.3.4;;proto"}, ("10.0.0.1", None, None)),
    ({"forwarded": "for=6.6.6.6;host=evil.test", "x_forwarded_for": "1.2.3.4"}, ("1.2.3.4", None, None)),
]


@pytest.mark.parametrize(("fields", "expected"), CASES)
def test_what_a_trusted_proxy_says(
    fields: dict[str, str], expected: tuple[str, str | None, str | None]
) -> None:
    assert client("10.0.0.1", **fields) == expected


def test_whom_to_trust() -> None:
    assert PROXIES.trusts("10.200.1.1")
    assert PROXIES.trusts("::1")
    assert PROXIES.trusts("::ffff:10.0.0.1")
    assert PROXIES.trusts("192.0.2.7")
    assert not PROXIES.trusts("192.0.2.8")
    assert not PROXIES.trusts("127.0.0.1")
    assert not PROXIES.trusts("unix")
    assert not Trust([])
    assert Trust(["unix"]).trusts("unix")
    assert not Trust(["unix"]).trusts("10.0.0.1")


def test_a_long_list_is_bounded_and_read_from_the_right() -> None:
    assert client("10.0.0.1", x_forwarded_for="6.6.6.6, " * 5000 + "203.0.113.5").peer == "203.0.113.5"
    assert client("10.0.0.1", forwarded="for=6.6.6.6, " * 5000 + "for=203.0.113.5").peer == "203.0.113.5"


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=50))
def test_nonsense_never_raises(forwarded: bytes, addresses: bytes, proto: bytes) -> None:
    PROXIES.client("10.0.0.1", {b"forwarded": forwarded})
    PROXIES.client("10.0.0.1", {b"x-forwarded-for": addresses, b"x-forwarded-proto": proto})
