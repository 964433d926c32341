"""The server HTTP API: ``POST /api/{method}``, in the shape of Centrifugo's."""

from __future__ import annotations

from everywire.sessions.shared import Shared
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Gate

__all__ = ["ServerApi"]


class ServerApi:
    """Answers ``POST /api/{method}``; ``gate`` None means that the caller asked it already."""

    def __init__(
        self, shared: Shared, name: str = "", version: str = "", *, gate: Gate | None = None
    ) -> None:
        self._shared = shared

    def __call__(self, exchange: Exchange) -> None:
        """Answer a request whose path begins with ``/api/``."""
        raise NotImplementedError
