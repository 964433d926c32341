"""The way of a request to the node that owns its session: the seam, and the default that knows no other node.

A session id names its owner, or the owner can be looked up, so that no load balancer has to keep a client on
one node: whichever node gets a request forwards it, and the owner's answer goes the same way back. One hop
only: what was forwarded is answered where it came to. How nodes find and trust each other is in
`everywire.transports.relay_peers` and `everywire.transports.relay_letters`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from everywire.transports.exchange import Exchange, Request

__all__ = ["FORWARDED", "NOWHERE", "Confirmable", "Relay", "Releasable", "was_forwarded"]

FORWARDED: Final = object()
"""In the memo of a request that another node forwarded: nothing that a client sends gets there."""


def was_forwarded(request: Request) -> bool:
    """Whether another node forwarded the request to this one."""
    return FORWARDED in request.memo


class Relay(Protocol):
    """Takes requests to other nodes."""

    def forward(
        self,
        node: str,
        exchange: Exchange,
        lost: Callable[[], None],
        *,
        max_body_bytes: int = 0,
        path: str = "",
    ) -> bool:
        """Have the node of that label answer an exchange whose session it owns; False when the exchange is
        to be answered here, because it was forwarded already, or there is no way to other nodes.

        ``lost`` is called when the owner turns out to be gone before it answered: it answers in the words
        of its protocol. A body is read up to ``max_body_bytes``; ``path`` is the request's, where the
        exchange's own was replaced. The request has passed this node's gate, and passes the owner's.
        """


@runtime_checkable
class Releasable(Protocol):
    """A driver whose answer can end while what it is of lives on."""

    def release(self) -> None:
        """End the answer so that the client asks again: the node that carries it to the client stops."""


@runtime_checkable
class Confirmable(Protocol):
    """A driver whose answer must not get lost on its way unnoticed: nobody would ask for it again."""

    def unheard(self) -> None:
        """Hear that the node broke down that was to give the answer to the client. Whether it did nobody
        knows: a proxy before it may ask again, and the client would never see that anything is missing."""


class _Nowhere:
    """Knows no other node."""

    __slots__ = ()

    def forward(
        self,
        node: str,
        exchange: Exchange,
        lost: Callable[[], None],
        *,
        max_body_bytes: int = 0,
        path: str = "",
    ) -> bool:
        """Know nothing of it."""
        return False


NOWHERE: Final[Relay] = _Nowhere()
