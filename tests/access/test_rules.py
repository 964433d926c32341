"""Who may do what: deny by default, public patterns, API keys, development."""

from __future__ import annotations

import pytest

from everywire.access.identity import NOBODY, Action, Identity
from everywire.access.rules import Rules
from everywire.core import codes
from everywire.core.errors import BadChannelName, EverywireError, Forbidden, SettingsError

KEYS = {"backend": "secret-1", "feed": "secret-2"}
PUBLIC = {Action.READ: ["news.*", "open"], Action.PUBLISH: ["open"]}
BACKEND = Identity(user="backend", may_all=True)


def may(rules: Rules, identity: Identity, action: Action, *channels: str) -> bool:
    try:
        rules.check(identity, action, channels)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("action", "channel", "is_open"),
    [
        (Action.READ, "open", True),
        (Action.READ, "news.today", True),
        (Action.READ, "news.", True),
        (Action.READ, "news", False),
        (Action.READ, "opened", False),
        (Action.READ, "Open", False),
        (Action.PUBLISH, "open", True),
        (Action.PUBLISH, "news.today", False),
        (Action.PRESENCE, "open", False),
        (Action.DELETE, "open", False),
    ],
)
def test_what_a_table_of_rules_allows(action: Action, channel: str, is_open: bool) -> None:
    rules = Rules(api_keys=KEYS, public=PUBLIC)
    for _ in range(2):  # the second time the decision is remembered
        assert may(rules, NOBODY, action, channel) is is_open
        assert rules.is_public(action, channel) is is_open
        assert may(rules, BACKEND, action, channel)
        assert may(Rules(dev=True), NOBODY, action, channel)


@pytest.mark.parametrize("action", Action)
def test_without_a_rule_nothing_is_allowed(action: Action) -> None:
    rules = Rules()
    assert not may(rules, NOBODY, action, "a")
    assert not rules.is_public(action, "a")
    assert not rules.is_dev


def test_one_forbidden_channel_refuses_all_and_is_named() -> None:
    rules = Rules(public=PUBLIC)
    with pytest.raises(Forbidden) as caught:
        rules.check(NOBODY, Action.READ, ["open", "closed", "shut"])
    assert caught.value.channel == "closed"
    assert caught.value.code is codes.UNAUTHORIZED, "a credential may help"
    assert "closed" in caught.value.sentence
    rules.check(NOBODY, Action.READ, [])


def test_a_credential_proves_an_identity() -> None:
    rules = Rules(api_keys=KEYS)
    assert rules.identify(None) is NOBODY
    assert rules.identify("secret-1").may_all
    assert rules.identify("secret-2").user == "feed"


@pytest.mark.parametrize("credential", ["", "secret", "secret-11", "SECRET-1", "backend", "\udcff", "é"])
@pytest.mark.parametrize(
    "rules", [Rules(api_keys=KEYS), Rules(), Rules(dev=True)], ids=["keys", "none", "dev"]
)
def test_a_credential_that_proves_nobody_is_refused(rules: Rules, credential: str) -> None:
    with pytest.raises(EverywireError) as caught:
        rules.identify(credential)
    assert caught.value.code is codes.UNAUTHORIZED
    assert not credential or credential not in caught.value.sentence, "what was sent is not echoed"


@pytest.mark.parametrize("keys", [{"name": ""}, {"": "key"}])
def test_an_empty_key_is_an_error_at_the_start(keys: dict[str, str]) -> None:
    # An empty X-API-Key header would prove it.
    with pytest.raises(SettingsError):
        Rules(api_keys=keys)


def test_a_bad_pattern_is_an_error_at_the_start() -> None:
    with pytest.raises(BadChannelName):
        Rules(public={Action.READ: ["a b"]})


def test_decisions_that_are_remembered_are_bounded() -> None:
    rules = Rules(public=PUBLIC)
    for number in range(25_000):
        assert rules.is_public(Action.READ, f"news.{number}")
        assert not rules.is_public(Action.READ, f"olds.{number}")
    assert len(rules._decided) <= 10_000


@pytest.mark.parametrize("own", ["sio:n:", "sio:n:=2Fadmin", "sio:r:=2Fadmin:room"])
def test_no_star_opens_what_a_namespace_of_socket_io_keeps_for_its_clients(own: str) -> None:
    """The application's function lets each client into ``/admin``; with ``read = ["*"]`` anybody could read
    over a plain wire what was emitted there, and publish to all sockets."""
    every = {Action.READ: ["*"], Action.PUBLISH: ["*:*"]}
    ann = Identity(user="ann", grants={Action.PRESENCE: ("*",), Action.DELETE: ("s*",)})
    for rules in (Rules(public=every), Rules(user_rules=every)):
        for action in Action:
            assert not may(rules, ann, action, own)
        assert may(rules, ann, Action.READ, "sio:r::my=20room") and may(rules, ann, Action.READ, "room")
        assert may(rules, ann, Action.PRESENCE, "sio:r::my=20room")
    said = {Action.READ: ["sio:*"], Action.PUBLISH: [own]}
    for rules in (Rules(public=said), Rules(user_rules=said)):
        assert may(rules, ann, Action.READ, own) and may(rules, ann, Action.PUBLISH, own)
    granted = Identity(user="ann", grants={Action.READ: ("sio:*",)}, channels=("sio:n:",))
    assert may(Rules(), granted, Action.READ, own)
    assert may(Rules(dev=True), NOBODY, Action.READ, own)
