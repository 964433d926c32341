"""The rules of one server as its settings say them: API keys, and patterns of what is open to whom.

Deny by default. In development mode everybody may do everything. A pattern is a channel name in which
``*`` stands for any characters; in a rule for signed-in users ``{user}`` stands for the user's id:
``inbox:{user}``.

A user's id may be anything that the issuer of tokens says, so it is never taken for a pattern: ``{user}``
fits no user whose id is no channel name, ``*`` included. Where a ``*`` follows, the id may not hold the
character that stands between them, nor where one precedes: with ``docs.{user}.*`` the channels of ``ann.b``
would be open to ``ann``, too. Such users fit no such pattern; choose a separator that no id holds.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from everywire.access.identity import NOBODY, Action, Identity
from everywire.core import codes
from everywire.core.errors import BadChannelName, EverywireError, Forbidden, SettingsError
from everywire.core.names import is_name, is_opened_by, matches

__all__ = ["Rules", "check_user_pattern", "is_pattern"]

_REMEMBERED: Final = 10_000
"""Decisions remembered; then they are worked out anew."""
_USER: Final = "{user}"


def is_pattern(text: str) -> bool:
    """Say whether the text is a channel name in which ``*`` may stand for any characters."""
    return is_name(text.replace("*", "x"))


def check_user_pattern(pattern: str) -> None:
    """Raise `BadChannelName` for what is no pattern of a rule for signed-in users."""
    _UserPattern(pattern)


def _fits(pattern: str, name: str) -> bool:
    """Say whether a name fits a pattern, without compiling those of one star: there is one for each user."""
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern == name
    if "*" in tail:
        return is_pattern(pattern) and matches(pattern, name)
    return len(name) >= len(head) + len(tail) and name.startswith(head) and name.endswith(tail)


class _UserPattern:
    """A pattern in which ``{user}`` may stand for the user's id."""

    __slots__ = ("_has_user", "_not_in_user", "_pattern")

    def __init__(self, pattern: str) -> None:
        if not is_pattern(pattern.replace(_USER, "u")):
            raise BadChannelName(f"{pattern!r} is no pattern: a channel name where * is any characters")
        before, placeholder, after = pattern.partition(_USER)
        after = after.rpartition(_USER)[2]  # what is between two of them is fixed by the user's id
        between = pattern[len(before) : len(pattern) - len(after)]
        if placeholder and ("*" in between or ("*" in before and "*" in after)):
            raise BadChannelName(f"{pattern!r}: {_USER} may have * on one side only, and none between two")
        if placeholder and (before.endswith("*") or after.startswith("*")):
            raise BadChannelName(f"{pattern!r}: between {_USER} and * a separator is needed")
        self._pattern = pattern
        self._has_user = bool(placeholder)
        self._not_in_user = (before[-1:] if "*" in before else "") + (after[:1] if "*" in after else "")

    def fits(self, user: str, channel: str) -> bool:
        """Say whether the pattern opens a channel to a user."""
        if not is_opened_by(self._pattern, channel):
            return False
        if not self._has_user:
            return _fits(self._pattern, channel)
        if not is_name(user) or any(character in user for character in self._not_in_user):
            return False
        return _fits(self._pattern.replace(_USER, user), channel)


class Rules:
    """The rules of one server.

    API keys may do everything; signed-in users what a user rule allows; a bearer what the credential
    itself grants; anyone what a public pattern allows; nobody anything else.

    ``api_keys`` maps a key's name, which shows in logs, to the key. ``public`` maps an action to
    patterns of channel names that anyone may do it on, ``user_rules`` to those that a signed-in user may.
    """

    __slots__ = ("_decided", "_keys", "_public", "_user_rules", "is_dev")

    def __init__(
        self,
        *,
        dev: bool = False,
        api_keys: Mapping[str, str] | None = None,
        public: Mapping[Action, Iterable[str]] | None = None,
        user_rules: Mapping[Action, Iterable[str]] | None = None,
    ) -> None:
        self.is_dev = dev
        self._keys = {
            key.encode(): Identity(user=name, kind="key", may_all=True, credential=_digest(key.encode()))
            for name, key in (api_keys or {}).items()
        }
        self._public = {action: tuple(patterns) for action, patterns in (public or {}).items()}
        self._user_rules = {
            action: tuple(_UserPattern(pattern) for pattern in patterns)
            for action, patterns in (user_rules or {}).items()
        }
        self._decided: dict[tuple[Action, str], bool] = {}
        for key, identity in self._keys.items():
            if not identity.user or not key:
                raise SettingsError("an API key and its name must not be empty")
        for patterns in self._public.values():
            for pattern in patterns:
                matches(pattern, "")  # a bad pattern is an error at start

    def identify(self, credential: str | None) -> Identity:
        """Return whom a credential proves; raise an error with code 101 when it proves nobody."""
        if credential is None:
            return NOBODY
        found = self.find_key(credential)
        if found is None:
            raise EverywireError("this credential is not valid here", code=codes.UNAUTHORIZED)
        return found

    def find_key(self, credential: str) -> Identity | None:
        """Return whom an API key proves; None when it is none."""
        given = credential.encode("utf-8", "surrogateescape")
        found = None
        for key, identity in self._keys.items():
            # Every key is compared, each in constant time: nothing is told by how long it takes.
            if hmac.compare_digest(given, key):
                found = identity
        return found

    @property
    def has_keys(self) -> bool:
        """Whether there are API keys at all."""
        return bool(self._keys)

    def is_public(self, action: Action, channel: str) -> bool:
        """Say whether anyone may do this."""
        if self.is_dev:
            return True
        key = (action, channel)
        decided = self._decided.get(key)
        if decided is None:
            decided = any(
                matches(pattern, channel) and is_opened_by(pattern, channel)
                for pattern in self._public.get(action, ())
            )
            if len(self._decided) >= _REMEMBERED:
                self._decided.clear()
            self._decided[key] = decided
        return decided

    def allow(self, identity: Identity, action: Action, channel: str) -> bool:
        """Say whether an identity may do this."""
        if self.is_dev or identity.may_all or self.is_public(action, channel):
            return True
        if identity.user and any(
            pattern.fits(identity.user, channel) for pattern in self._user_rules.get(action, ())
        ):
            return True
        if action is Action.READ and channel in identity.channels:
            return True
        return any(
            _fits(pattern, channel) and is_opened_by(pattern, channel)
            for pattern in identity.grants.get(action, ())
        )

    def check(self, identity: Identity, action: Action, channels: Sequence[str]) -> None:
        """Raise when one of the channels is closed to the identity, naming it: see `refusal`."""
        for channel in channels:
            if not self.allow(identity, action, channel):
                raise self.refusal(identity, action, channel)

    @staticmethod
    def refusal(identity: Identity, action: Action, channel: str) -> Forbidden:
        """Make the error for a channel that is closed: 101 for nobody (a credential may help), else 103."""
        if not identity.user and not identity.kind:
            return Forbidden(
                f"a credential is needed to {action.value} channel {channel}",
                code=codes.UNAUTHORIZED,
                channel=channel,
            )
        return Forbidden(f"you may not {action.value} channel {channel}", channel=channel)


def _digest(credential: bytes) -> bytes:
    return blake2b(credential, digest_size=16).digest()
