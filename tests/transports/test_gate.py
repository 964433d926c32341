"""The gate, as a table: origins × fetch metadata × hosts × proxies."""

from __future__ import annotations

import pytest

from everywire.core import codes
from everywire.transports.exchange import Request
from everywire.transports.gate import Gate, Refusal, normalize_origin

LISTED = "https://app.example.com"
OPEN = Gate([LISTED, "http://dev.example.com:3000"])
ANY = Gate(["*"])
NONE = Gate()


def request(
    origin: str | None = None,
    site: str | None = None,
    *,
    method: str = "GET",
    scheme: str = "http",
    host: str = "chat.example.org",
    mode: str | None = None,
    dest: str | None = None,
    **more: str,
) -> Request:
    fields = {"origin": origin, "sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    headers = {name.encode(): value.encode() for name, value in fields.items() if value is not None}
    return Request(method, "/channels/a", "", headers, scheme=scheme, host=host)


def verdict(gate: Gate, asked: Request, is_page: bool = False) -> str:
    """Return "refused", "plain" (no CORS headers), or the allowed origin."""
    admitted = gate.admit(asked, is_page=is_page)
    if isinstance(admitted, Refusal):
        assert admitted.code is codes.FOREIGN_ORIGIN
        assert "allowed_origins" in admitted.sentence
        return "refused"
    return dict(admitted)[b"access-control-allow-origin"].decode() if admitted else "plain"


ORIGINS = [
    # gate, origin, scheme and host of the request, verdict
    (NONE, None, "http", "a.test", "plain"),
    (NONE, "http://a.test", "http", "a.test", "plain"),
    (NONE, "http://a.test:80", "http", "a.test", "plain"),
    (NONE, "http://A.Test", "http", "a.test:80", "plain"),
    (NONE, "https://a.test", "https", "a.test:443", "plain"),
    (NONE, "http://a.test.", "http", "a.test", "plain"),
    (NONE, "http://[::1]:8000", "http", "[::1]:8000", "plain"),
    (NONE, "https://a.test", "http", "a.test", "refused"),
    (NONE, "http://a.test:8000", "http", "a.test", "refused"),
    (NONE, "http://b.test", "http", "a.test", "refused"),
    (NONE, "http://a.test.evil", "http", "a.test", "refused"),
    (NONE, "http://evil-a.test", "http", "a.test", "refused"),
    (NONE, "http://a.test@evil", "http", "a.test", "refused"),
    (NONE, "http://127.0.0.1:8000", "http", "localhost:8000", "refused"),
    (NONE, "null", "http", "a.test", "refused"),
    (NONE, "", "http", "a.test", "refused"),
    (NONE, "file://", "http", "a.test", "refused"),
    (NONE, "http://a.test, http://a.test", "http", "a.test", "refused"),
    (NONE, "chrome-extension://abcdef", "http", "a.test", "refused"),
    (OPEN, LISTED, "http", "a.test", LISTED),
    (OPEN, "https://APP.example.com:443", "http", "a.test", "https://APP.example.com:443"),
    (OPEN, "http://app.example.com", "http", "a.test", "refused"),
    (OPEN, "https://app.example.com.evil", "http", "a.test", "refused"),
    (OPEN, "https://sub.app.example.com", "http", "a.test", "refused"),
    (OPEN, "http://dev.example.com:3000", "http", "a.test", "http://dev.example.com:3000"),
    (OPEN, "http://dev.example.com", "http", "a.test", "refused"),
    (OPEN, "null", "http", "a.test", "refused"),
    (ANY, "https://whoever.test", "http", "a.test", "*"),
    (ANY, "null", "http", "a.test", "*"),
    (ANY, None, "http", "a.test", "plain"),
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(("gate", "origin", "scheme", "host", "expected"), ORIGINS)
def test_origins(gate: Gate, origin: str | None, scheme: str, host: str, expected: str, method: str) -> None:
    assert verdict(gate, request(origin, scheme=scheme, host=host, method=method)) == expected


# What a browser says of a request without Origin: only another site's is refused, but for navigation.
METADATA = [
    (None, None, None, "plain", "plain"),
    ("none", "navigate", "document", "plain", "plain"),
    ("same-origin", "cors", "empty", "plain", "plain"),
    ("same-site", "no-cors", "image", "plain", "plain"),
    ("cross-site", "no-cors", "image", "refused", "refused"),
    ("cross-site", "no-cors", "script", "refused", "refused"),
    ("cross-site", "navigate", "iframe", "refused", "refused"),
    ("cross-site", "navigate", "document", "refused", "plain"),
    ("cross-site", None, None, "refused", "refused"),
]


@pytest.mark.parametrize(("site", "mode", "dest", "on_channel", "on_page"), METADATA)
@pytest.mark.parametrize("gate", [NONE, OPEN, ANY])
def test_fetch_metadata(
    gate: Gate, site: str | None, mode: str | None, dest: str | None, on_channel: str, on_page: str
) -> None:
    asked = request(None, site, mode=mode, dest=dest)
    assert verdict(gate, asked) == on_channel
    assert verdict(gate, asked, is_page=True) == on_page


def test_a_navigation_that_changes_something_is_refused() -> None:
    asked = request(None, "cross-site", mode="navigate", dest="document", method="POST")
    assert verdict(NONE, asked, is_page=True) == "refused"


def test_an_origin_counts_more_than_fetch_metadata() -> None:
    assert verdict(OPEN, request(LISTED, "cross-site")) == LISTED
    assert verdict(NONE, request("https://evil.test", "same-origin")) == "refused"


HOSTS = [
    # hosts in the settings, whether on loopback only, Host, served
    ([], False, "whatever.test", True),
    ([], False, "10.0.0.1:8000", True),
    ([], True, "localhost", True),
    ([], True, "LOCALHOST:8000", True),
    ([], True, "localhost.:8000", True),
    ([], True, "127.0.0.1:8000", True),
    ([], True, "127.9.9.9", True),
    ([], True, "[::1]:8000", True),
    ([], True, "[::1]", True),
    ([], True, "whatever.test:8000", False),
    ([], True, "localhost.evil.test", False),
    ([], True, "127.0.0.1.evil.test", False),
    ([], True, "[::2]:8000", False),
    ([], True, "0.0.0.0:8000", False),
    ([], True, "", False),
    (["my.test"], True, "my.test:8000", True),
    (["my.test"], True, "127.0.0.1", True),
    (["my.test"], True, "sub.my.test", False),
    (["my.test"], False, "My.Test", True),
    (["my.test"], False, "other.test", False),
    (["my.test"], False, "localhost:8000", True),
    (["*.my.test"], False, "a.my.test", True),
    (["*.my.test"], False, "a.b.my.test:1", True),
    (["*.my.test"], False, "my.test", False),
    (["*.my.test"], False, "evilmy.test", False),
]


@pytest.mark.parametrize(("allowed", "loopback_only", "host", "served"), HOSTS)
def test_hosts(allowed: list[str], loopback_only: bool, host: str, served: bool) -> None:
    gate = Gate(allowed_hosts=allowed, loopback_only=loopback_only)
    for _ in range(2):  # the second time from memory
        admitted = gate.admit(request(host=host))
        assert isinstance(admitted, Refusal) is not served
        if isinstance(admitted, Refusal):
            assert admitted.code is codes.FOREIGN_HOST
            assert "allowed_hosts" in admitted.sentence


def test_a_rebound_name_is_refused_though_it_is_same_origin() -> None:
    gate = Gate(loopback_only=True)
    admitted = gate.admit(request("http://evil.test:8000", "same-origin", host="evil.test:8000"))
    assert isinstance(admitted, Refusal)
    assert admitted.code is codes.FOREIGN_HOST


def test_equal_answers_are_one_object() -> None:
    first, second = OPEN.admit(request(LISTED)), OPEN.admit(request(LISTED))
    assert first is second


def test_credentials_go_only_to_listed_origins() -> None:
    gate = Gate([LISTED], allow_credentials=True)
    admitted = gate.admit(request(LISTED))
    assert not isinstance(admitted, Refusal)
    assert dict(admitted)[b"access-control-allow-credentials"] == b"true"
    assert b"access-control-allow-credentials" not in dict(OPEN.admit(request(LISTED)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="credentials"):
        Gate(["*"], allow_credentials=True)


@pytest.mark.parametrize("origin", ["example.com", "https://", "https://a/path", "null", "https://a:port"])
def test_settings_that_are_no_origin_are_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="no origin"):
        Gate([origin])


def test_preflight() -> None:
    answered = dict(OPEN.preflight(request(LISTED, method="OPTIONS")))
    assert answered[b"access-control-allow-origin"] == LISTED.encode()
    allowed = answered[b"access-control-allow-headers"].lower().split(b", ")
    assert {b"last-event-id", b"content-type", b"idempotency-key", b"authorization"} <= set(allowed)
    assert b"DELETE" in answered[b"access-control-allow-methods"]
    assert b"access-control-max-age" in answered
    assert b"Everywire-Position" in answered[b"access-control-expose-headers"]
    assert OPEN.preflight(request("https://evil.test", method="OPTIONS")) == ()
    assert OPEN.preflight(request(method="OPTIONS")) == ()


COOKIES = [
    ("POST", "application/json", None, True),
    ("POST", "application/vnd.thing+json; charset=utf-8", None, True),
    ("POST", "text/plain", None, False),
    ("POST", "application/x-www-form-urlencoded", "http://chat.example.org", False),
    ("POST", "text/plain; application/json", None, False),
    ("POST", None, None, False),
    ("DELETE", None, None, False),
    ("POST", "text/plain", LISTED, True),
    ("POST", "text/plain", "https://evil.test", False),
    ("GET", None, None, True),
]


@pytest.mark.parametrize(("method", "content_type", "origin", "passes"), COOKIES)
def test_cookies(method: str, content_type: str | None, origin: str | None, passes: bool) -> None:
    more = {} if content_type is None else {"content_type": content_type}
    refusal = OPEN.refuse_cookie(request(origin, method=method, **more))
    assert (refusal is None) is passes


def test_one_spelling() -> None:
    assert normalize_origin("HTTPS://Example.COM") == "https://example.com:443"
    assert normalize_origin("http://[::1]") == "http://[::1]:80"
    assert normalize_origin("http://a:080") == "http://a:80"
    assert normalize_origin("http://a/") is None
    assert normalize_origin("null") is None


def test_what_is_longer_than_any_origin_is_not_kept() -> None:
    """A thousand of them, each as long as a head may be, took 32 MiB."""
    before = normalize_origin.cache_info().currsize
    for number in range(10):
        assert verdict(OPEN, request(f"http://{'a' * 4000}{number}.test")) == "refused"
    assert normalize_origin.cache_info().currsize <= before + 1  # the server's own
