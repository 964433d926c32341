"""What can go wrong for a client.

::

    EverywireError
    └── ClientError
        ├── ConnectionLost    the way to the server is broken, or it is busy: worth another attempt
        └── Refused           the server said no, and would say it again
"""

from __future__ import annotations

from everywire.core.errors import EverywireError

__all__ = ["ClientError", "ConnectionLost", "Refused"]


class ClientError(EverywireError):
    """A client could not do what it was asked."""


class ConnectionLost(ClientError):
    """There was no connection, or it broke, or the server asked to come back later.

    ``retry_after_s`` is what the server said about when.
    """

    def __init__(self, sentence: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Refused(ClientError):
    """The server refused for good: ``number`` is the HTTP status or the WebSocket close code."""

    def __init__(self, sentence: str, number: int = 0) -> None:
        super().__init__(sentence)
        self.number = number
