"""URLs taken apart."""

from __future__ import annotations

import pytest

from everywire.client.address import Address, is_url
from everywire.core.errors import BadRequest


@pytest.mark.parametrize(
    ("url", "address", "text", "host_header"),
    [
        ("http://127.0.0.1:80", Address("127.0.0.1", 80, False), "http://127.0.0.1", "127.0.0.1"),
        ("http://h:8000", Address("h", 8000, False), "http://h:8000", "h:8000"),
        ("ws://example.com", Address("example.com", 80, False), "http://example.com", "example.com"),
        ("https://example.com/live/", Address("example.com", 443, True, "/live"), "https://example.com/live",
         "example.com"),
        ("wss://[::1]:9000", Address("::1", 9000, True), "https://[::1]:9000", "[::1]:9000"),
    ],
)  # fmt: skip
def test_a_url_is_taken_apart(url: str, address: Address, text: str, host_header: str) -> None:
    assert Address.parse(url) == address
    assert str(address) == text
    assert address.host_header == host_header


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com", "http://", "http://h:99999", "http://h:x", "http://me:pw@h", "http://h/?a=1", "http://h/#a",
     "http://[::1", "://x"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        Address.parse(url)


def test_a_channel_name_is_no_url_and_stays_itself_in_a_path() -> None:
    assert not is_url("chat:1")
    target = Address.parse("http://h/p").target(["a#b", "c+d"], {"after": "x y", "tag": ["a:1", "b:2"]})
    assert target == "/p/channels/a%23b,c%2Bd?after=x+y&tag=a%3A1&tag=b%3A2"
