"""Rules for signed-in users, the placeholder for a user's id, and what a credential itself opens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.access.identity import NOBODY, Action, Identity
from everywire.access.rules import Rules, check_user_pattern
from everywire.core import codes
from everywire.core.errors import BadChannelName, Forbidden
from everywire.core.names import is_name

NAMES = st.text("abAB01._:~@$#=+-", min_size=1, max_size=20)


def of(user: str, **more: object) -> Identity:
    return Identity(user=user, kind="token", **more)  # type: ignore[arg-type]


def open_to(user: str, pattern: str, channel: str) -> bool:
    return Rules(user_rules={Action.READ: [pattern]}).allow(of(user), Action.READ, channel)


@pytest.mark.parametrize(
    ("pattern", "user", "channel", "is_open"),
    [
        ("inbox:{user}", "ann", "inbox:ann", True),
        ("inbox:{user}", "ann", "inbox:bob", False),
        ("inbox:{user}", "ann", "inbox:anne", False),
        ("inbox:{user}", "ann", "inbox:", False),
        ("inbox:{user}", "", "inbox:", False),
        ("inbox:{user}", "*", "inbox:bob", False),
        ("inbox:{user}", "*", "inbox:*", False),
        ("inbox:{user}", "{user}", "inbox:{user}", False),
        ("inbox:{user}", "a b", "inbox:a b", False),
        ("inbox:{user}", ".*", "inbox:bob", False),
        ("inbox:{user}", "x" * 255, "inbox:x", False),
        ("docs.{user}.*", "ann", "docs.ann.1", True),
        ("docs.{user}.*", "ann", "docs.anne.1", False),
        ("docs.{user}.*", "ann", "docs.ann.b.1", True),
        ("docs.{user}.*", "ann.b", "docs.ann.b.1", False),
        ("*.{user}", "ann", "a.b.ann", True),
        ("*.{user}", "b.ann", "a.b.ann", False),
        ("{user}", "ann", "ann", True),
        ("{user}:{user}", "ann", "ann:ann", True),
        ("{user}:{user}", "ann", "ann:bob", False),
        ("a*b*:{user}", "ann", "a1b2:ann", True),
        ("chat.*", "ann", "chat.1", True),
        ("chat.*", "", "chat.1", False),
        ("a*b*c", "ann", "a1b2c", True),
        ("a*a", "ann", "a", False),
    ],
)
def test_what_a_rule_for_users_opens(pattern: str, user: str, channel: str, is_open: bool) -> None:
    assert open_to(user, pattern, channel) is is_open


@pytest.mark.parametrize(
    "pattern",
    ["{user}*", "*{user}", "a*b*{user}", "*.{user}.*", "{user}*{user}", "a b", "{name}", "", "{user"],
)
def test_patterns_that_could_open_anothers_channel_are_errors_at_the_start(pattern: str) -> None:
    with pytest.raises(BadChannelName):
        check_user_pattern(pattern)
    with pytest.raises(BadChannelName):
        Rules(user_rules={Action.READ: [pattern]})


@given(
    NAMES,
    NAMES,
    st.sampled_from(["inbox:{user}", "d.{user}.*", "*:{user}", "{user}", "x{user}y*", "*-{user}.z"]),
    NAMES,
)
def test_no_channel_is_opened_to_two_users_by_their_ids(ann: str, bob: str, pattern: str, rest: str) -> None:
    channel = pattern.replace("{user}", ann).replace("*", rest)
    if ann != bob and open_to(ann, pattern, channel):
        assert not open_to(bob, pattern, channel)


@given(st.text(max_size=20), NAMES, st.sampled_from(["inbox:{user}", "d.{user}.*"]))
def test_a_users_id_is_never_a_pattern(user: str, channel: str, pattern: str) -> None:
    if open_to(user, pattern, channel):
        assert is_name(user)
        assert user in channel


def test_a_rule_is_for_its_action_only() -> None:
    rules = Rules(user_rules={Action.PUBLISH: ["chat"]})
    assert rules.allow(of("ann"), Action.PUBLISH, "chat")
    for action in (Action.READ, Action.PRESENCE, Action.DELETE):
        assert not rules.allow(of("ann"), action, "chat")


def test_what_a_credential_itself_opens() -> None:
    ann = of("ann", channels=("news",), grants={Action.PUBLISH: ("chat.*",), Action.READ: ("a", "b*c*d")})
    rules = Rules()
    assert rules.allow(ann, Action.READ, "news"), "who is subscribed may read"
    assert not rules.allow(ann, Action.PUBLISH, "news")
    assert rules.allow(ann, Action.PUBLISH, "chat.1")
    assert not rules.allow(ann, Action.READ, "chat.1")
    assert rules.allow(ann, Action.READ, "b1c2d")
    assert not rules.allow(ann, Action.READ, "b1c2")
    nameless = Identity(kind="token", grants={Action.READ: ("a",)})
    assert rules.allow(nameless, Action.READ, "a")


def test_nobody_is_told_to_bring_a_credential_and_somebody_that_it_is_not_theirs() -> None:
    rules = Rules(user_rules={Action.READ: ["inbox:{user}"]})
    for identity, code in ((NOBODY, codes.UNAUTHORIZED), (of("ann"), codes.PERMISSION_DENIED)):
        with pytest.raises(Forbidden) as caught:
            rules.check(identity, Action.READ, ["inbox:bob"])
        assert caught.value.code is code
        assert caught.value.channel == "inbox:bob"
    with pytest.raises(Forbidden) as caught:
        rules.check(of(""), Action.READ, ["inbox:bob"])
    assert caught.value.code is codes.PERMISSION_DENIED, "a credential was brought, and helped nothing"
