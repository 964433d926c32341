"""``/connection/…`` and ``/emulation``: sessions over each of their carriers."""

from __future__ import annotations

from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.transports.exchange import Exchange
from everywire.transports.service import Service, refuse

__all__ = ["Connections"]


class Connections:
    """Answers requests that open a session, or hand commands to one."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        refuse(exchange, EverywireError(code=codes.NOT_AVAILABLE))
