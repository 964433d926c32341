"""The sockets of this node: where each is found, and what all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from everywire.sessions.shared import Shared
from everywire.sessions.tasks import Tasks
from everywire.sockets.handling import Handling
from everywire.sockets.happenings import Form
from everywire.sockets.incomplete import Incomplete
from everywire.sockets.recovery import Recovery
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket

__all__ = ["Counted", "LocalSockets"]


class Counted:
    """What was counted since the start."""

    __slots__ = (
        "acks_lost",
        "connected",
        "events",
        "refused",
        "unhandled",
        "unsent",
        "volatile_dropped",
    )

    def __init__(self) -> None:
        self.connected = 0
        """Sockets that were told that they are connected."""
        self.refused = 0
        """Connects that were refused."""
        self.events = 0
        """Events of clients."""
        self.unhandled = 0
        """Those for which there was no function, or no namespace any more."""
        self.acks_lost = 0
        """Acknowledgements of clients that nobody waited for, or waited no more."""
        self.volatile_dropped = 0
        """Volatile events that did not go to a client because it took nothing."""
        self.unsent = 0
        """Acknowledgements of handlers that could not be sent."""

    def as_dict(self) -> dict[str, int]:
        """Return all of them by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class LocalSockets:
    """The sockets of one mount on this node, and what they share."""

    def __init__(self, shared: Shared, handling: Handling, settings: SocketSettings) -> None:
        self.shared = shared
        self.handling = handling
        self.settings = settings
        self.form = Form(settings.parser)
        self.counted = Counted()
        self.recovery = Recovery(shared, settings.recovery_window_s) if settings.has_recovery else None
        self.incomplete = Incomplete(shared.hub, shared.limits)
        self.tasks = Tasks()
        """What is told to the application about clients that have gone, and the like."""
        self.farewells: dict[str, asyncio.Task[None]] = {}
        """What the application is being told of sockets that have ended, by their id."""
        self.connections = 0
        """Links that are open."""
        self._by_sid: dict[str, Socket] = {}
        self._namespaces: dict[str, dict[Socket, None]] = {}
        self._rooms: dict[str, dict[Socket, None]] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def add(self, socket: Socket) -> None:
        """Let a socket be found, until `drop`."""
        self._by_sid[socket.sid] = socket
        self._namespaces.setdefault(socket.namespace, {})[socket] = None

    def drop(self, socket: Socket) -> None:
        """Let a socket be found no longer; nothing happens if it never was."""
        if self._by_sid.get(socket.sid) is socket:
            del self._by_sid[socket.sid]
        _take(self._namespaces, socket.namespace, socket)

    def enter(self, socket: Socket, channel: str) -> None:
        """Let a socket be found by a room that it is in."""
        self._rooms.setdefault(channel, {})[socket] = None

    def exit(self, socket: Socket, channel: str) -> None:
        """Let a socket be found by a room no longer."""
        _take(self._rooms, channel, socket)

    def find(self, sid: str, namespace: str | None = None) -> Socket | None:
        """Return the socket with an id, in a namespace if one is given."""
        found = self._by_sid.get(sid)
        return found if found is None or namespace is None or found.namespace == namespace else None

    def of_namespace(self, namespace: str) -> Sequence[Socket]:
        """Return the sockets of a namespace."""
        return tuple(self._namespaces.get(namespace, ()))

    def of_rooms(self, namespace: str, channels: Iterable[str]) -> Sequence[Socket]:
        """Return the sockets of a namespace that are in any of the rooms, each once."""
        found = dict.fromkeys(one for channel in channels for one in self._rooms.get(channel, ()))
        return [one for one in found if one.namespace == namespace]

    async def said_farewell(self, sid: str) -> None:
        """Wait until the application was told that a socket has gone, so that it hears after that, and not
        before, that it is back."""
        farewell = self.farewells.get(sid)
        if farewell is not None:
            await asyncio.wait((farewell,), timeout=self.shared.limits.hook_timeout_s)

    def statistics(self) -> dict[str, int]:
        """Return what there is at this moment, and what was counted."""
        return {
            "connections": self.connections,
            "sockets": len(self._by_sid),
            "namespaces": len(self._namespaces),
            "rooms": len(self._rooms),
            "incomplete": len(self.incomplete),
            "incomplete_ended": self.incomplete.ended,
            **self.counted.as_dict(),
            **({} if self.recovery is None else self.recovery.statistics()),
        }

    async def close(self, grace_s: float) -> None:
        """Wait for what is told about clients that have gone, and let go of those that might come back."""
        self.incomplete.close()
        await self.tasks.close(grace_s)
        if self.recovery is not None:
            self.recovery.close()


def _take(index: dict[str, dict[Socket, None]], key: str, socket: Socket) -> None:
    members = index.get(key)
    if members is not None:
        members.pop(socket, None)
        if not members:
            del index[key]
