"""Tickets: what a browser shows where it cannot set headers (`WebSocket`, `EventSource`).

A ticket is asked for by somebody who is known already (``POST /ticket``), works once, for at most
`Limits.ticket_ttl_s`, from the origin that asked for it, and is nothing but ``t.`` and 256 random bits. What
it stands for is in the broker's store, under a digest of it, so that whoever reads the store holds no
tickets. It refuses to give a ticket to nobody, and one ticket for another.
"""

from __future__ import annotations

from everywire.access.identity import Identity
from everywire.brokers.base import Store
from everywire.core.limits import Limits

__all__ = ["Tickets", "is_ticket"]


def is_ticket(text: str) -> bool:
    """Say whether a credential has the form of a ticket."""
    return text.startswith("t.") and len(text) == 45


class Tickets:
    """Gives tickets and takes them back."""

    __slots__ = ("_limits", "_store")

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()

    async def issue(self, identity: Identity, origin: str) -> str:
        """Return a new ticket; errors: 101 for nobody or a ticket's bearer, `BrokerError`."""
        raise NotImplementedError

    async def redeem(self, ticket: str, origin: str) -> Identity:
        """Return whom the ticket stands for, once.

        Errors: 101 for one that is not there, was used, has run out or is of another origin, and the log
        says which; 109 when the credential behind it has expired; `BrokerError`.
        """
        raise NotImplementedError
