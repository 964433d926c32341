"""``POST /ticket``: something that browsers can show where they can set no headers.

Whoever is known by a header or a cookie gets a ticket that works once, soon, and from the same origin:
``new WebSocket(`…/channels/a?ticket=${ticket}`)``. Nobody gets none, and no ticket buys another.
"""

from __future__ import annotations

from everywire.transports.exchange import Exchange
from everywire.transports.service import Service

__all__ = ["serve_ticket"]


def serve_ticket(service: Service, exchange: Exchange) -> None:
    """Answer 201 ``{"ticket": "t.…", "expires_in": 30}``.

    Errors: 401 for nobody or a ticket's bearer; 403 for a cookie without a JSON type or a listed origin;
    429 when one user asks too often.
    """
    raise NotImplementedError
