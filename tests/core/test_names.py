"""Channel names and the patterns for them."""

from __future__ import annotations

import fnmatch
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.core.errors import BadChannelName
from everywire.core.names import check_name, is_name, is_opened_by, matches

GOOD = ["a", "A", "a.b_c:d~e@f$g#h=i+j-k", "-", ".", "..", "a" * 255, string.ascii_letters, string.digits]
BAD = [
    *["", "a" * 256, "a,b", "a/b", "a b", " a", "a\n", "\n", "a\0", "*", "a*", "ä", "а", "a\u200b", "a%20"],
    *['"', "'", "\\", "?", "&", "(", "[", "{", "|", "^", "`", "<", "!", ";", "\x7f", "\u0661"],
]


@pytest.mark.parametrize("text", GOOD)
def test_names(text: str) -> None:
    assert is_name(text)
    assert check_name(text) == text


@pytest.mark.parametrize("text", BAD)
def test_no_names(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(BadChannelName) as caught:
        check_name(text)
    assert caught.value.code.number == 107
    assert caught.value.code.status == 400


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("a", "a", True),
        ("a", "A", False),
        ("a", "ab", False),
        ("a", "ba", False),
        ("a.b", "a.b", True),
        ("a.b", "axb", False),
        ("a+b", "a+b", True),
        ("a+b", "aab", False),
        ("$a", "$a", True),
        ("*", "anything.at:all", True),
        ("*", "", True),
        ("**", "a", True),
        ("chat:*", "chat:", True),
        ("chat:*", "chat:room", True),
        ("chat:*", "chat", False),
        ("*:room", "chat:room", True),
        ("*:room", "chat:rooms", False),
        ("a*c", "ac", True),
        ("a*c", "abbbc", True),
        ("a*c", "abcb", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "abcbc", True),
        ("a*b*c", "acb", False),
        ("a*bc*c", "abcc", True),
        ("a*bc*c", "abc", False),
        ("*a*", "bab", True),
        ("*a*", "bbb", False),
        ("*aa*aa", "aaa", False),
        ("*aa*aa", "aaaa", True),
    ],
)
def test_patterns(pattern: str, name: str, does: bool) -> None:
    assert matches(pattern, name) is does


@pytest.mark.parametrize("pattern", ["", "a b", "a,b", "a/*", "?", "[ab]", "a" * 256, "a\n", "ä*"])
def test_no_patterns(pattern: str) -> None:
    with pytest.raises(BadChannelName):
        matches(pattern, "a")


@given(st.text("ab*", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=10))
def test_a_star_means_what_it_does_elsewhere(pattern: str, name: str) -> None:
    assert matches(pattern, name) is fnmatch.fnmatchcase(name, pattern)


def test_a_pattern_of_many_stars_is_decided_without_trying_everything() -> None:
    # With plain backtracking each star multiplies the work by the length of the name.
    assert not matches("*a" * 60 + "b", "a" * 255)
    assert matches("*a" * 60 + "*b", "a" * 254 + "b")


def test_who_opens_what_is_socket_ios_own() -> None:
    assert is_opened_by("*", "room") and is_opened_by("*", "sio") and is_opened_by("*", "sio:r::a=20b")
    assert not is_opened_by("*", "sio:n:") and not is_opened_by("s*", "sio:r:=2Fchat:room")
    assert is_opened_by("sio:*", "sio:n:") and is_opened_by("sio:n:", "sio:n:")
