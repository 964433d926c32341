"""Tokens: JSON Web Tokens that say who a connection is, or that it may read a channel.

RFC 7515 (JWS, compact form), RFC 7519 (JWT), RFC 8725 (best practices), and the claims of the Centrifuge
protocol. A key says which algorithms it is for, never the token: a secret of at least 32 bytes HS256,
HS384, HS512; an RSA key RS256, RS384, RS512; an elliptic curve ES256, ES384 or ES512; Ed25519 EdDSA. It
refuses ``none``, ``crit``, encrypted tokens, and any that is larger than `Limits.max_token_bytes`; no
claim of a token is looked at before its signature was verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Final

from everywire.access.identity import Action, Identity
from everywire.access.jwks import Jwks
from everywire.core.limits import Limits

__all__ = ["GRANT_CLAIMS", "SubscriptionToken", "Tokens"]

GRANT_CLAIMS: Final[Mapping[Action, str]] = {
    Action.READ: "read",
    Action.PUBLISH: "publish",
    Action.PRESENCE: "presence",
    Action.DELETE: "delete",
}
"""Claims with lists of patterns of channel names that a token opens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionToken:
    """What a verified subscription token says."""

    user: str
    channel: str
    client: str = ""
    """The client it is for; empty is any of the user's."""
    expires_s: float | None = None
    """When the permission ends (UNIX time); None is never."""
    info: bytes | None = None
    """JSON text that others see of this client in this channel (``chan_info``)."""
    data: bytes | None = None
    """JSON text that the subscriber gets with the reply."""
    join_leave: bool | None = None
    """Whether joins and leaves are told to this client; None lets it choose."""
    token_id: str = ""
    issued_s: float | None = None


class Tokens:
    """Verifies tokens.

    Args:
        secret: the shared secret of HS tokens, at least 32 bytes.
        public_keys: PEM texts of public keys or certificates.
        jwks: where more public keys are fetched.
        audience, issuer: what ``aud`` and ``iss`` must say; unchecked when empty.
        grant_claims: which claim opens channels for which action.
        clock: UNIX time in seconds.

    Raises `SettingsError` for a key that cannot be used.
    """

    def __init__(
        self,
        *,
        secret: str | bytes = "",
        public_keys: Sequence[str] = (),
        jwks: Jwks | None = None,
        audience: str = "",
        issuer: str = "",
        grant_claims: Mapping[Action, str] = GRANT_CLAIMS,
        limits: Limits | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._limits = limits or Limits()

    def verify_nowait(self, token: str) -> Identity | None:
        """Return whom a connection token proves, or None when a key must be fetched first: `verify`.

        Raises `InvalidToken`, or an error with code 109 for one that has expired.
        """
        raise NotImplementedError

    async def verify(self, token: str) -> Identity:
        """Return whom a connection token proves; raises as `verify_nowait`."""
        raise NotImplementedError

    def subscription_nowait(self, token: str) -> SubscriptionToken | None:
        """Return what a subscription token says, or None when a key must be fetched first: `subscription`.

        Whose and which channel's it is stays to be compared: `Authority.subscription`.
        """
        raise NotImplementedError

    async def subscription(self, token: str) -> SubscriptionToken:
        """Return what a subscription token says; raises as `subscription_nowait`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop fetching keys."""
