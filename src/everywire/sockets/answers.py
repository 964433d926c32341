"""What becomes of one event of a client: its acknowledgement, once, and the count of what is under way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.sessions.answers import ENDS
from everywire.sockets.socket import Socket

__all__ = ["Answer", "Busy", "error_object"]

_log = logging.getLogger("everywire.sockets")

_INTERNAL: Final = EverywireError(code=codes.INTERNAL)


def error_object(error: EverywireError) -> dict[str, Any]:
    """Return an error as clients see it in an acknowledgement."""
    return {"error": {"code": error.code.number, "name": error.code.name, "message": error.sentence}}


class Busy(Protocol):
    """The connection that events come by, as far as it has to know what is under way."""

    def begun(self, size: int) -> None:
        """Hear that an event of so many bytes is being handled."""

    def finished(self, size: int) -> None:
        """Hear that it was handled."""

    def held(self, is_held: bool) -> None:
        """Hear that the log is behind with what this client publishes, or no longer."""


class Answer:
    """One event that is being handled. `give` is called once, whatever happens."""

    __slots__ = ("_ack_id", "_busy", "_size", "_socket")

    def __init__(self, socket: Socket, busy: Busy, ack_id: int | None, size: int) -> None:
        self._socket = socket
        self._busy = busy
        self._ack_id = ack_id
        self._size = size
        busy.begun(size)

    def give(self, found: Sequence[Any] | EverywireError) -> None:
        """Acknowledge the event, if that is wanted, and let others begin.

        An error whose code ends connections ends the socket. What cannot be sent is logged, and the client
        is told code 100.
        """
        socket = self._socket
        if not socket.is_ended:
            self._acknowledge([error_object(found)] if isinstance(found, EverywireError) else found)
            if isinstance(found, EverywireError) and found.code.number >= ENDS:
                socket.end(found.code, found.sentence)
        self._busy.finished(self._size)

    def _acknowledge(self, args: Sequence[Any]) -> None:
        if self._ack_id is None:
            return
        try:
            self._socket.acknowledge(self._ack_id, args)
        except (TypeError, ValueError) as error:
            _log.error("what a handler returned cannot be sent to the client: %s", error)
            self._socket.acknowledge(self._ack_id, [error_object(_INTERNAL)])
