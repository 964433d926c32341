"""Revocations: users who are shut out, and tokens that count no more.

They are kept in the broker's store until they run out, and told to every node at once by a broadcast on
`TOPIC`, which every node hands to `Revocations.heard`. Each process remembers what it heard, bounded, so
that identities in its memory are checked within the call (`is_revoked`); a node that was not there when
it was told reads the store when it judges a credential (`load`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from everywire.access.identity import Identity
from everywire.brokers.base import Broker
from everywire.core.limits import Limits

__all__ = ["TOPIC", "Revocation", "Revocations"]

TOPIC: Final = "revocations"


class Revocation(NamedTuple):
    """What was revoked, or allowed again."""

    kind: str
    """``user`` (blocked), ``token`` (one, by its ``jti``) or ``tokens`` (of a user, by their ``iat``)."""
    subject: str
    """The user id or the token's id."""
    until_s: float
    """When it ends (UNIX time); 0 takes it back."""
    issued_before_s: float = 0.0
    """``tokens``: those issued before this (UNIX time), and those that do not say when, are revoked."""


class Revocations:
    """What is revoked, as far as this process knows, and the way to the store."""

    def __init__(self, broker: Broker, limits: Limits | None = None) -> None:
        self._broker = broker
        self._limits = limits or Limits()

    async def block_user(self, user: str, until_s: float | None = None) -> None:
        """Shut a user out until a time (UNIX), or for good: code 103 wherever they come."""
        raise NotImplementedError

    async def unblock_user(self, user: str) -> None:
        """Let a user in again."""
        raise NotImplementedError

    async def revoke_token(self, token_id: str, until_s: float | None = None) -> None:
        """Let the token with this ``jti`` count no more; until it runs out (UNIX time), or for good."""
        raise NotImplementedError

    async def invalidate_user_tokens(
        self, user: str, issued_before_s: float | None = None, until_s: float | None = None
    ) -> None:
        """Let a user's tokens that were issued before a time (now) count no more, nor those that do not
        say when they were issued."""
        raise NotImplementedError

    def listen(self, listener: Callable[[Revocation], None]) -> None:
        """Call back at every revocation that this process hears of, its own included, once it is in force."""
        raise NotImplementedError

    def heard(self, payload: bytes, node: str) -> None:
        """Take what a node broadcasts on `TOPIC`."""
        raise NotImplementedError

    def is_revoked(self, identity: Identity) -> bool:
        """Whether this process knows that an identity is revoked; cheap."""
        return False
