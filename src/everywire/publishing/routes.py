"""The ways to where publications stand: a server's HTTP API, or its broker.

A route lives in the publishing loop. It takes orders one after the other and finishes each of them; those of
one author to one channel stand in the order they were taken.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from everywire.publishing.destination import Destination
from everywire.publishing.order import Order

__all__ = ["Route", "open_route"]


class Route(Protocol):
    """A way for orders; every call in the publishing loop."""

    def send(self, order: Order) -> None:
        """Take an order; it is finished later, or within the call."""

    async def close(self) -> None:
        """Let go of connections; orders that are not finished are not finished any more."""


def open_route(destination: Destination, loop: asyncio.AbstractEventLoop) -> Route:
    """Return the way to a destination; only what that way needs is loaded."""
    if destination.is_http:
        from everywire.publishing.by_http import HttpRoute

        return HttpRoute(destination, loop)
    from everywire.publishing.by_broker import BrokerRoute

    return BrokerRoute(destination, loop)
