"""Keys by HTTP: a JWKS document (RFC 7517), fetched, remembered, and fetched again when it must be.

One fetch at a time, however many wait for it; a key that is not known leads to one at most every
`Limits.jwks_interval_s`, and keys that were fetched stay until others came. The address comes from the
settings, never from a token. It refuses shared secrets, redirects, and documents over
`Limits.max_jwks_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from everywire.core.limits import Limits

__all__ = ["Jwks"]


class Jwks:
    """The public keys at one address."""

    def __init__(
        self, url: str, limits: Limits | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self.url = url
        self._limits = limits or Limits()

    async def close(self) -> None:
        """Stop a fetch that is under way."""
