"""What the application answers to Socket.IO clients: one interface, implemented by `everywire.handlers`.

A socket asks it whether a namespace is known, tells it who connects, what they send and that they have gone.
The functions of an application run here and nowhere else: in their lanes, bounded in time, and what they
raise never ends a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from everywire.access.hooks import IN_ORDER, Lane
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import RequestError
from everywire.sockets.socket import Socket

__all__ = ["ConnectionRefused", "Handling", "NoHandling"]


class ConnectionRefused(RequestError):
    """The application does not let a client come; raised while it connects to a namespace.

    ``data`` goes to the client beside the message (``err.data``): anything that JSON can hold.
    """

    code = codes.PERMISSION_DENIED

    def __init__(self, message: str = "", data: Any = None, *, code: Code | None = None) -> None:
        super().__init__(message, code=code)
        self.data = data


class Handling(Protocol):
    """The application's functions for Socket.IO, whatever they are written as."""

    def has_namespace(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace; always to ``/``."""

    def has_event(self, namespace: str, event: str) -> bool:
        """Whether there is a function for an event; if not, the built-in one answers, if there is one. An
        event whose name is a number is asked for by its digits."""

    def lane(self, socket: Socket, event: str, args: Sequence[Any]) -> Lane:
        """Say in which lane an event waits for its turn. Answers at once, and raises nothing."""

    async def connect(self, socket: Socket, auth: Any) -> None:
        """Hear that a client comes, before it is told that it is connected. What is sent to it or joined by
        it here counts as soon as it is told.

        ``auth`` is what it brought: an object, or None. Raise an `EverywireError` to refuse: a
        `ConnectionRefused` says what the client is told.
        """

    async def event(self, socket: Socket, event: str, args: Sequence[Any]) -> Sequence[Any]:
        """Handle an event, and return the arguments of its acknowledgement, whether one is wanted or not.

        An `EverywireError` is acknowledged as ``{"error": {"code", "message"}}``; so is any other error, as
        code 100, and it is logged. At most `Limits.call_timeout_s` long.
        """

    async def disconnect(self, socket: Socket, reason: str) -> None:
        """Hear that a client has gone whose `connect` had let it come. It is called at once, whatever else
        still runs for the client. Reasons are those of `everywire.sockets.link`, ``client disconnect`` and
        ``server disconnect``."""


class NoHandling:
    """No application: ``/`` alone is known, and only built-in events are answered."""

    def has_namespace(self, namespace: str) -> bool:
        """Whether clients may connect."""
        return namespace == "/"

    def has_event(self, namespace: str, event: str) -> bool:
        """Say that there is no function."""
        return False

    def lane(self, socket: Socket, event: str, args: Sequence[Any]) -> Lane:
        """Say that events wait for one another."""
        return IN_ORDER

    async def connect(self, socket: Socket, auth: Any) -> None:
        """Let everybody come whom the authority lets come."""

    async def event(self, socket: Socket, event: str, args: Sequence[Any]) -> Sequence[Any]:
        """Answer nothing."""
        return ()

    async def disconnect(self, socket: Socket, reason: str) -> None:
        """Do nothing."""
