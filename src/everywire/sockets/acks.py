"""Acknowledgements that are waited for: what a server asked a client, and the errors when none comes."""

from __future__ import annotations

from everywire.core import codes
from everywire.core.errors import EverywireError

__all__ = ["AckTimeout", "SocketGone"]


class AckTimeout(EverywireError, TimeoutError):
    """A client did not acknowledge an event in time."""

    code = codes.TIMEOUT

    def __init__(self, sentence: str = "the client did not acknowledge the event in time") -> None:
        super().__init__(sentence)


class SocketGone(EverywireError):
    """The client that an event was for is not there, or went before it acknowledged it."""

    code = codes.UNKNOWN_CHANNEL

    def __init__(self, sentence: str = "this client is not connected") -> None:
        super().__init__(sentence)
