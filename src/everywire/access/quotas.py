"""Quotas: how many connections an address and a user may have, and how fast clients may publish."""

from __future__ import annotations

from collections.abc import Callable

from everywire.access.hooks import Caller
from everywire.access.identity import Identity
from everywire.core.limits import Limits

__all__ = ["Admission", "Quotas"]


class Admission:
    """A connection's place; given back once."""

    __slots__ = ()

    def release(self) -> None:
        """Give the place back."""


class Quotas:
    """The bounds of one server on what its clients may use."""

    def __init__(self, limits: Limits, clock: Callable[[], float], *, is_dev: bool = False) -> None:
        self._limits = limits

    def admit(self, identity: Identity, peer: str) -> Admission:
        """Take a place for a connection; raises an error when the address or the user has too many."""
        return Admission()

    def check_publish(self, caller: Caller, channel: str) -> None:
        """Raise an error with code 111 when a caller publishes too fast."""
