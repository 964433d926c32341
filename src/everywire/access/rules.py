"""The rules of one server as its settings say them: API keys, and patterns of what is open to whom.

Deny by default. In development mode everybody may do everything.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from everywire.access.identity import NOBODY, Action, Identity
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden, SettingsError
from everywire.core.names import matches

__all__ = ["Rules"]

_REMEMBERED: Final = 10_000
"""Decisions remembered; then they are worked out anew."""


class Rules:
    """The rules of one server: API keys may do everything, nobody what a public pattern allows.

    ``api_keys`` maps a key's name, which shows in logs, to the key. ``public`` maps an action to
    patterns of channel names that anyone may do it on.
    """

    __slots__ = ("_decided", "_keys", "_public", "is_dev")

    def __init__(
        self,
        *,
        dev: bool = False,
        api_keys: Mapping[str, str] | None = None,
        public: Mapping[Action, Iterable[str]] | None = None,
        user_rules: Mapping[Action, Iterable[str]] | None = None,
    ) -> None:
        self.is_dev = dev
        self._keys = {name: key.encode() for name, key in (api_keys or {}).items()}
        self._public = {action: tuple(patterns) for action, patterns in (public or {}).items()}
        self._decided: dict[tuple[Action, str], bool] = {}
        for name, key in self._keys.items():
            if not name or not key:
                raise SettingsError("an API key and its name must not be empty")
        for patterns in self._public.values():
            for pattern in patterns:
                matches(pattern, "")  # a bad pattern is an error at start

    def identify(self, credential: str | None) -> Identity:
        """Return whom a credential proves; raise an error with code 101 when it proves nobody."""
        if credential is None:
            return NOBODY
        given = credential.encode("utf-8", "surrogateescape")
        found = NOBODY
        for name, key in self._keys.items():
            # Every key is compared, each in constant time: nothing is told by how long it takes.
            if hmac.compare_digest(given, key):
                found = Identity(user=name, kind="key", may_all=True, credential=_digest(given))
        if found is NOBODY:
            raise EverywireError("this credential is not valid here", code=codes.UNAUTHORIZED)
        return found

    def is_public(self, action: Action, channel: str) -> bool:
        """Say whether anyone may do this."""
        if self.is_dev:
            return True
        key = (action, channel)
        decided = self._decided.get(key)
        if decided is None:
            decided = any(matches(pattern, channel) for pattern in self._public.get(action, ()))
            if len(self._decided) >= _REMEMBERED:
                self._decided.clear()
            self._decided[key] = decided
        return decided

    def check(self, identity: Identity, action: Action, channels: Sequence[str]) -> None:
        """Raise when one of the channels is closed to the identity, naming it.

        Without a credential the code is 101 (one may help), with one 103.
        """
        if self.is_dev or identity.may_all:
            return
        for channel in channels:
            if not self.is_public(action, channel):
                raise Forbidden(
                    f"a credential is needed to {action.value} channel {channel}",
                    code=codes.UNAUTHORIZED,
                    channel=channel,
                )


def _digest(credential: bytes) -> bytes:
    return blake2b(credential, digest_size=16).digest()
