"""The way of a request to the node that owns its session: the seam, and the default that knows no other node.

A session id names its owner, so that no load balancer has to keep a client on one node: whichever node gets
a request forwards it. How is the broker's and the workers' matter; transports only ask.
"""

from __future__ import annotations

from typing import Final, Protocol

from everywire.transports.exchange import Exchange

__all__ = ["NOWHERE", "Relay"]


class Relay(Protocol):
    """Takes requests to other nodes."""

    def forward(self, node: str, exchange: Exchange) -> bool:
        """Have the node of that name answer an exchange whose session it owns; False when it is not known,
        and the exchange is still to be answered here. The request has passed this node's gate."""


class _Nowhere:
    """Knows no other node."""

    __slots__ = ()

    def forward(self, node: str, exchange: Exchange) -> bool:
        """Know nothing of it."""
        return False


NOWHERE: Final[Relay] = _Nowhere()
