"""What can go wrong for a client.

::

    EverywireError
    └── ClientError
        ├── ConnectionLost    the way to the server is broken, or it is busy: worth another attempt
        │   ├── Busy          … it is busy, on whatever wire one comes
        │   └── TokenExpired  … it wants a new token
        ├── Refused           the server said no, and would say it again
        └── CommandError      a command failed; the session goes on
"""

from __future__ import annotations

from everywire.core.errors import EverywireError

__all__ = ["Busy", "ClientError", "CommandError", "ConnectionLost", "Refused", "TokenExpired"]


class ClientError(EverywireError):
    """A client could not do what it was asked."""


class ConnectionLost(ClientError):
    """There was no connection, or it broke, or the server asked to come back later.

    ``retry_after_s`` is what the server said about when.
    """

    def __init__(self, sentence: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Busy(ConnectionLost):
    """The server is busy: another wire would end at the same server, so waiting is all that helps."""


class TokenExpired(ConnectionLost):
    """The server wants a new token (109)."""


class CommandError(ClientError):
    """A command failed: ``number`` is the code in the reply; ``is_temporary`` says whether to try again."""

    def __init__(self, sentence: str, number: int, is_temporary: bool = False) -> None:
        super().__init__(sentence)
        self.number = number
        self.is_temporary = is_temporary


class Refused(ClientError):
    """The server refused for good: ``number`` is the HTTP status or the WebSocket close code."""

    def __init__(self, sentence: str, number: int = 0) -> None:
        super().__init__(sentence)
        self.number = number
