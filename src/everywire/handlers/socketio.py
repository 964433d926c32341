"""Socket.IO for applications: functions for events, namespaces, and emitting to rooms.

Whoever knows python-socketio can read it at once; ``wire.socketio`` is a `SocketIO`. Functions get a
`everywire.handlers.socketio_session.SocketSession` and the event's arguments. They are coroutine functions,
or synchronous ones, which run in threads. Annotations are types that arguments have to fit (msgspec
structs, dataclasses, plain types); what does not fit is refused with code 107. What a function returns is
the acknowledgement: None is none, a tuple several values. How to use it is in docs/socketio.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, TypeVar, overload

from everywire.codecs.socketio.packet import RESERVED_EVENTS
from everywire.core import codes
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.handlers.functions import Threads
from everywire.handlers.lanes import lane_of
from everywire.handlers.outside import Outside, Receipt
from everywire.handlers.socketio_functions import CONNECT, DISCONNECT, EventFunction, Key, SocketFunctions
from everywire.handlers.socketio_session import Broadcast, SocketSession, args_of, value_of
from everywire.sockets.happenings import Name
from everywire.sockets.socket import Socket
from everywire.sockets.sockets import Sockets

__all__ = ["Namespace", "SocketIO"]

F = TypeVar("F", bound=Callable[..., Any])
Names = str | SocketSession | Iterable[str | SocketSession] | None
"""Rooms, and clients by their ids or sessions."""

_NEVER: Final = RESERVED_EVENTS - {CONNECT, DISCONNECT}
_SPARE_S: Final = 2.0
"""How much longer a thread waits than the client may take."""


class Namespace:
    """One namespace: its functions, and whoever is connected to it.

    What its methods begin reaches all nodes. In the event loop what they return may be awaited, or not; in
    a thread they wait.
    """

    def __init__(self, io: SocketIO, name: str) -> None:
        self.name = name
        self._io = io

    # -- functions ---------------------------------------------------------------------

    @overload
    def on(
        self,
        event: str,
        function: None = None,
        *,
        namespace: str | None = None,
        concurrency: int | None = None,
        key: Key | None = None,
        cancel: bool = False,
    ) -> Callable[[F], F]: ...

    @overload
    def on(
        self,
        event: str,
        function: F,
        *,
        namespace: str | None = None,
        concurrency: int | None = None,
        key: Key | None = None,
        cancel: bool = False,
    ) -> F: ...

    def on(
        self,
        event: str,
        function: Any = None,
        *,
        namespace: str | None = None,
        concurrency: int | None = None,
        key: Key | None = None,
        cancel: bool = False,
    ) -> Any:
        """Handle an event: ``function(session, *arguments)``; what it returns is the acknowledgement.

        ``connect`` is ``function(session, auth)``, asked before the client is told that it is connected: it
        lets nobody in when it returns False or raises, best `everywire.ConnectionRefused`. ``disconnect`` is
        ``function(session, reason)``. ``*`` is every event that has no function, the built-in ones included:
        ``function(session, event, *arguments)``.

        Events of one client are handled one after the other; ``concurrency``, ``key`` (called with session
        and arguments) and ``cancel`` are those of `Everywire.rpc`.

        Raises `SettingsError` when the event has a function, or no client could send it.
        """
        table = self._io.functions.table(self.name if namespace is None else namespace)
        if event in _NEVER:
            raise SettingsError(f"no client sends the event {event!r}")
        lane = lane_of(event, concurrency, key, cancel)

        def register(function: F) -> F:
            table.add(event, EventFunction(function, event, lane, key))
            return function

        return register if function is None else register(function)

    def event(self, function: Any = None, **options: Any) -> Any:
        """Handle the event that is called as the function is; options as for `on`."""

        def register(function: F) -> F:
            return self.on(function.__name__, function, **options)

        return register if function is None else register(function)

    # -- everybody, rooms and clients ----------------------------------------------------

    def emit(
        self,
        event: Name | None,
        data: Any = None,
        *,
        to: Names = None,
        room: Names = None,
        skip: Names = None,
        except_room: Names = None,
        volatile: bool = False,
        namespace: str | None = None,
    ) -> Receipt[None]:
        """Send an event to rooms and clients (``to``, or ``room``), or to everybody in the namespace.

        A tuple is several arguments. Rooms are channels: it reaches every other wire that reads them, and
        clients that are cut off and come back. ``skip`` are clients that do not get it. Awaited, it is in
        the log. A volatile event is in no log, and goes to who can take it at this moment.

        Raises `BadRequest`, `TooLarge` or `LimitExceeded` (when awaited or at once), and `BrokerError` when
        awaited.
        """
        found = self._everyone(namespace)
        if to is not None or room is not None:
            # An empty list is nobody, and not everybody.
            names = (*_names(to), *_names(room))
            if not names:
                return self._io.outside.at_once(lambda done: done(None))
            found = found.to(*names)
        found = found.except_room(*_names(except_room))
        return found.skipping(*_names(skip)).emit(event, data, volatile=volatile)

    def to(self, *rooms: str) -> Broadcast:
        """Whoever is in one of the rooms."""
        return self._everyone(None).to(*rooms)

    def except_room(self, *rooms: str) -> Broadcast:
        """Whoever is in none of the rooms."""
        return self._everyone(None).except_room(*rooms)

    def _everyone(self, namespace: str | None) -> Broadcast:
        name = self.name if namespace is None else namespace
        return Broadcast(self._io.sockets, self._io.outside, name)

    def call(
        self,
        event: Name | None,
        data: Any = None,
        *,
        to: str,
        timeout_s: float | None = None,
        namespace: str | None = None,
    ) -> Receipt[Any]:
        """Send an event to one client, wherever it is, and return what it acknowledges it with; see
        `SocketSession.call`."""
        sockets = self._io.sockets
        limit_s = sockets.shared.limits.socket_ack_timeout_s if timeout_s is None else timeout_s
        name = self.name if namespace is None else namespace

        async def ask() -> Any:
            return value_of(await sockets.call(to, event, args_of(data), namespace=name, timeout_s=limit_s))

        return self._io.outside.begin(ask, limit_s + _SPARE_S)

    def enter_room(self, sid: str, room: str, *, namespace: str | None = None) -> Receipt[None]:
        """Let a client enter a room."""
        return self._begin(self._io.sockets.enter_room, sid, room, namespace=namespace)

    def leave_room(self, sid: str, room: str, *, namespace: str | None = None) -> Receipt[None]:
        """Let a client leave a room."""
        return self._begin(self._io.sockets.leave_room, sid, room, namespace=namespace)

    def close_room(self, room: str, *, namespace: str | None = None) -> Receipt[None]:
        """Let everybody leave a room."""
        return self._begin(self._io.sockets.close_room, room, namespace=namespace)

    def rooms(self, sid: str, *, namespace: str | None = None) -> Receipt[list[str]]:
        """Return the rooms that a client is in, without its own."""
        return self._begin(self._io.sockets.rooms, sid, namespace=namespace)

    def disconnect(self, sid: str, *, namespace: str | None = None) -> Receipt[None]:
        """End a client; it does not come back by itself."""
        return self._begin(self._io.sockets.disconnect, sid, namespace=namespace)

    def session(self, sid: str, *, namespace: str | None = None) -> SocketSession | None:
        """Return the session of a client that is connected to this node. In the event loop."""
        socket = self._io.sockets.find(sid)
        name = self.name if namespace is None else namespace
        return None if socket is None or socket.namespace != name else self._io.session_of(socket)

    def _begin(self, method: Callable[..., Any], *arguments: Any, namespace: str | None) -> Receipt[Any]:
        name = self.name if namespace is None else namespace
        return self._io.outside.begin(partial(method, *arguments, namespace=name))


class SocketIO(Namespace):
    """``wire.socketio``: the namespace ``/``, and the way to the others."""

    def __init__(self, limits: Limits, threads: Threads) -> None:
        super().__init__(self, "/")
        self.functions: Final = SocketFunctions(limits, threads, self.session_of)
        """The functions that are registered, and how sockets call them."""
        self._running: tuple[Sockets, Outside] | None = None

    def namespace(self, name: str) -> Namespace:
        """Return a namespace, and let clients connect to it.

        Raises `SettingsError` when this is no name of one, such as ``/admin``.
        """
        return Namespace(self, self.functions.table(name).namespace)

    def start(self, sockets: Sockets, outside: Outside) -> None:
        """Begin, when the server has started."""
        self._running = (sockets, outside)

    def close(self) -> None:
        """Stop."""
        self._running = None

    @property
    def sockets(self) -> Sockets:
        """The sockets of this node. Raises an error with code 108 when no server runs, or none for
        Socket.IO."""
        return self._ready()[0]

    @property
    def outside(self) -> Outside:
        """The way into the event loop; raises as `sockets` does."""
        return self._ready()[1]

    def _ready(self) -> tuple[Sockets, Outside]:
        if self._running is None:
            raise EverywireError("Socket.IO is not served now", code=codes.NOT_AVAILABLE)
        return self._running

    def session_of(self, socket: Socket) -> SocketSession:
        """Return what the application sees of a socket."""
        return SocketSession(socket, self.sockets, self.outside)


def _names(names: Names) -> tuple[str, ...]:
    if names is None:
        return ()
    if isinstance(names, str | SocketSession):
        names = (names,)
    return tuple([one if isinstance(one, str) else one.sid for one in names])
