"""Socket.IO: all sockets of this node, and the way to those of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everywire.core.errors import EverywireError
from everywire.sessions.shared import Shared
from everywire.sockets.handling import Handling, NoHandling
from everywire.sockets.link import Link, Upper
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket

__all__ = ["Sockets"]


def _ignore(error: EverywireError | None) -> None:
    """Nobody waits for this."""


class Sockets:
    """The sockets of this node, and what the application does with all of them.

    One for each mount and each `Shared`; `close` it before `Shared.tasks` is closed.
    """

    def __init__(
        self, shared: Shared, handling: Handling | None = None, settings: SocketSettings | None = None
    ) -> None:
        self.shared = shared
        self.handling: Handling = handling or NoHandling()
        self.settings = settings or SocketSettings()

    def accept(self, link: Link) -> Upper:
        """Speak Socket.IO over a new link."""
        raise NotImplementedError

    def find(self, sid: str) -> Socket | None:
        """Return the socket with an id, if it is connected to this node."""
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """Return what there is on this node at this moment, and what was counted."""
        raise NotImplementedError

    async def close(self, grace_s: float = 0.0) -> None:
        """Wait for the last words about clients that have gone; links are closed by then."""

    def emit(
        self,
        event: str | int | None,
        args: Sequence[Any] = (),
        *,
        namespace: str = "/",
        to: Sequence[str] = (),
        except_: Sequence[str] = (),
        skip: Sequence[str] = (),
        volatile: bool = False,
        done: Callable[[EverywireError | None], None] = _ignore,
    ) -> bool:
        """Send an event to rooms and sockets (``to``), or to everybody in the namespace, on every node.

        Whoever is in a room of ``except_`` (or is a socket named there) or is named in ``skip`` is left
        out; who is in several of the rooms gets it once. ``done`` is called once, when the log has it.
        A volatile event is in no log: it reaches who reads at this moment.

        Returns False when too much is unfinished: then wait for one of them. Raises `BadRequest` for a
        reserved name, a room name that is too long, and for what JSON cannot hold; `TooLarge`.
        """
        raise NotImplementedError

    async def call(
        self,
        sid: str,
        event: str | int | None,
        args: Sequence[Any] = (),
        *,
        namespace: str = "/",
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send an event to one socket, wherever it is, and return what it is acknowledged with; see
        `Socket.call`."""
        raise NotImplementedError

    async def enter_room(self, sid: str, room: str, *, namespace: str = "/") -> None:
        """Let a socket, wherever it is, enter a room. Raises `SocketGone` when it is nowhere."""
        raise NotImplementedError

    async def leave_room(self, sid: str, room: str, *, namespace: str = "/") -> None:
        """Let a socket, wherever it is, leave a room."""
        raise NotImplementedError

    async def close_room(self, room: str, *, namespace: str = "/") -> None:
        """Let all sockets leave a room, on every node."""
        raise NotImplementedError

    async def rooms(self, sid: str, *, namespace: str = "/") -> list[str]:
        """Return the rooms of a socket, wherever it is, without its own; empty when it is nowhere."""
        raise NotImplementedError

    async def disconnect(self, sid: str, *, namespace: str = "/") -> None:
        """End a socket, wherever it is; nothing happens when it is nowhere."""
        raise NotImplementedError
