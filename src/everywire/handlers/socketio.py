"""Socket.IO for applications: functions for events, namespaces, and emitting to rooms.

Whoever knows python-socketio can read it at once; ``wire.socketio`` is a `SocketIO`. Functions get a
`everywire.handlers.socketio_session.SocketSession` and the event's arguments. They are coroutine functions,
or synchronous ones, which run in threads. Annotations are types that arguments have to fit (msgspec
structs, dataclasses, plain types); what does not fit is refused with code 107. What a function returns is
the acknowledgement: None is none, a tuple several values. How to use it is in docs/socketio.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from everywire.access.hooks import IN_ORDER, Lane
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.handlers.functions import Function, Threads
from everywire.handlers.lanes import lane_of
from everywire.handlers.outside import Outside, Receipt
from everywire.handlers.payloads import ANYTHING, payload_of
from everywire.handlers.socketio_session import Broadcast, SocketSession, args_of, value_of
from everywire.sockets.handling import ConnectionRefused
from everywire.sockets.happenings import Name
from everywire.sockets.socket import Socket
from everywire.sockets.sockets import Sockets

__all__ = ["Namespace", "SocketIO"]

F = TypeVar("F", bound=Callable[..., Any])

_ANY: Final = "*"
_MAX_ARGUMENTS: Final = 32
"""Positional arguments of a function; one with ``*args`` takes all that there are."""
_LIFE: Final = frozenset({"connect", "disconnect"})
_SPARE_S: Final = 2.0


class _EventFunction:
    """A function for an event, and what its arguments have to be."""

    __slots__ = ("_call", "_most", "_required", "_types", "key", "lane", "name")

    def __init__(
        self, function: Callable[..., Any], name: str, lane: Lane, key: Callable[..., Hashable] | None
    ) -> None:
        self.name = name
        self.lane = lane
        self.key = key
        offered = ("session", *(f"argument {number}" for number in range(1, _MAX_ARGUMENTS + 1)))
        self._call = Function(function, offered, name)
        parameters = list(inspect.signature(function).parameters.values())
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        positional = [one for one in parameters if one.kind in kinds]
        self._required = sum(one.default is one.empty for one in positional) - 1
        has_rest = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
        self._most = _MAX_ARGUMENTS if has_rest else len(positional) - 1
        self._types: list[Any] = []
        for index in range(1, len(positional)):
            payload = payload_of(function, index)
            self._types.append(None if payload is ANYTHING or payload.is_anything else payload.type)

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        """Return what the function is called with; raise `BadRequest` when that is not what it takes.

        What is too much is left out: a client of Socket.IO may send more than an older server knows of.
        """
        if len(args) < self._required:
            raise BadRequest(f"this event takes at least {self._required} arguments")
        found = list(args[: max(self._most, 0)])
        for index, type_ in enumerate(self._types[: len(found)]):
            if type_ is None:
                continue
            try:
                found[index] = msgspec.convert(found[index], type_, builtin_types=(bytes,))
            except (msgspec.ValidationError, RecursionError) as error:
                raise BadRequest(f"argument {index + 1} is not what is wanted here: {error}") from None
        return found

    async def __call__(self, threads: Threads, timeout_s: float, session: SocketSession, *args: Any) -> Any:
        return await self._call(threads, timeout_s, session, *args)


class _Table:
    """The functions of one namespace."""

    __slots__ = ("any_event", "connect", "disconnect", "events")

    def __init__(self) -> None:
        self.events: dict[str, _EventFunction] = {}
        self.any_event: _EventFunction | None = None
        self.connect: Function | None = None
        self.disconnect: Function | None = None

    def find(self, event: str) -> tuple[_EventFunction | None, bool]:
        """Return the function for an event, and whether it is the one for any, which gets the name, too."""
        found = self.events.get(event)
        return (found, False) if found is not None else (self.any_event, True)


class _Handlers:
    """The application's functions: a `everywire.sockets.handling.Handling`."""

    def __init__(self, limits: Limits, threads: Threads) -> None:
        self.limits = limits
        self.threads = threads
        self.tables: dict[str, _Table] = {"/": _Table()}
        self.session: Callable[[Socket], SocketSession]

    def has_namespace(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace: those in which anything is registered."""
        return namespace in self.tables

    def has_event(self, namespace: str, event: str) -> bool:
        """Whether there is a function for an event."""
        table = self.tables.get(namespace)
        return table is not None and table.find(event)[0] is not None

    def lane(self, socket: Socket, event: str, args: Sequence[Any]) -> Lane:
        """Say in which lane an event waits for its turn."""
        function, is_any = self.tables[socket.namespace].find(event)
        if function is None:
            return IN_ORDER
        if function.key is None:
            return function.lane
        try:
            key = function.key(self.session(socket), *function.arguments([event, *args] if is_any else args))
            hash(key)
        except Exception:
            # The event itself is going to be refused for its arguments, or to fail: in its order.
            return function.lane
        return function.lane._replace(key=(function.name, key))

    async def connect(self, socket: Socket, auth: Any) -> None:
        """Tell that a client comes."""
        function = self.tables[socket.namespace].connect
        if function is None:
            return
        found = await function(self.threads, self.limits.hook_timeout_s, self.session(socket), auth)
        if found is False:
            raise ConnectionRefused("the application does not let you in")

    async def event(self, socket: Socket, event: str, args: Sequence[Any]) -> Sequence[Any]:
        """Handle an event."""
        function, is_any = self.tables[socket.namespace].find(event)
        if function is None:
            raise EverywireError(f"there is no event {event[:64]!r}", code=codes.METHOD_NOT_FOUND)
        given = function.arguments([event, *args] if is_any else args)
        session = self.session(socket)
        return args_of(await function(self.threads, self.limits.call_timeout_s, session, *given))

    async def disconnect(self, socket: Socket, reason: str) -> None:
        """Tell that a client has gone."""
        function = self.tables[socket.namespace].disconnect
        if function is not None:
            await function(self.threads, self.limits.hook_timeout_s, self.session(socket), reason)


class Namespace:
    """One namespace: its functions, and whoever is connected to it."""

    def __init__(self, io: SocketIO, name: str) -> None:
        if not name.startswith("/") or "," in name or "?" in name:
            raise SettingsError(f"{name!r} is no namespace; expected one such as /admin")
        self.name = name
        self._io = io

    # -- functions ---------------------------------------------------------------------

    def on(
        self,
        event: str,
        *,
        namespace: str | None = None,
        concurrency: int | None = None,
        key: Callable[..., Hashable] | None = None,
        cancel: bool = False,
    ) -> Callable[[F], F]:
        """Handle an event: ``function(session, *arguments)``, whose result is the acknowledgement.

        ``connect`` is ``function(session, auth)``: it lets nobody in when it returns False or raises
        `everywire.ConnectionRefused`. ``disconnect`` is ``function(session, reason)``. ``*`` is every other
        event, ``function(session, event, *arguments)``.

        Events of one client are handled one after the other; ``concurrency``, ``key`` (called with session
        and arguments) and ``cancel`` are those of `Everywire.rpc`.
        """
        table = self._io._table(self.name if namespace is None else namespace)
        what = f"socketio {event!r}"
        lane = lane_of(what, concurrency, key, cancel)

        def register(function: F) -> F:
            if event in _LIFE:
                offered = ("session", "auth" if event == "connect" else "reason")
                setattr(table, event, Function(function, offered, what))
                return function
            made = _EventFunction(function, what, lane, key)
            if event == _ANY:
                table.any_event = made
            elif event in table.events:
                raise SettingsError(f"the event {event!r} has a function already")
            else:
                table.events[event] = made
            return function

        return register

    def event(self, function: F) -> F:
        """Handle the event that is called as the function is."""
        return self.on(function.__name__)(function)

    # -- everybody, rooms and clients ----------------------------------------------------

    def emit(
        self,
        event: Name | None,
        data: Any = None,
        *,
        to: str | Sequence[str] | None = None,
        room: str | Sequence[str] | None = None,
        except_room: str | Sequence[str] | None = None,
        skip: str | SocketSession | Sequence[str | SocketSession] | None = None,
        volatile: bool = False,
        namespace: str | None = None,
    ) -> Receipt[None]:
        """Send an event to rooms and clients (``to``, or ``room``), or to everybody in the namespace.

        A tuple is several arguments. It reaches all nodes, and every other wire that reads the rooms, which
        are channels. ``skip`` names clients, or gives their sessions. Awaited, it is in the log.
        """
        skipped = [skip] if isinstance(skip, str | SocketSession) else skip or ()
        return Broadcast(
            self._io.sockets,
            self._io.outside,
            self.name if namespace is None else namespace,
            to=(*_names(to), *_names(room)),
            except_=_names(except_room),
            skip=tuple([one.sid if isinstance(one, SocketSession) else one for one in skipped]),
        ).emit(event, data, volatile=volatile)

    def to(self, *rooms: str) -> Broadcast:
        """Whoever is in one of the rooms."""
        return Broadcast(self._io.sockets, self._io.outside, self.name, to=rooms)

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

    def _begin(self, method: Callable[..., Any], *arguments: Any, namespace: str | None) -> Receipt[Any]:
        name = self.name if namespace is None else namespace
        return self._io.outside.begin(partial(method, *arguments, namespace=name))


class SocketIO(Namespace):
    """``wire.socketio``: the namespace ``/``, and the way to the others."""

    def __init__(self, limits: Limits, threads: Threads) -> None:
        super().__init__(self, "/")
        self.handlers = _Handlers(limits, threads)
        self.handlers.session = self._session
        self._running: tuple[Sockets, Outside] | None = None

    def namespace(self, name: str) -> Namespace:
        """Return a namespace, and let clients connect to it."""
        self._table(name)
        return Namespace(self, name)

    def _table(self, name: str) -> _Table:
        table = self.handlers.tables.get(name)
        if table is None:
            Namespace(self, name)  # is it one?
            table = self.handlers.tables[name] = _Table()
        return table

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

    def _session(self, socket: Socket) -> SocketSession:
        return SocketSession(socket, self.sockets, self.outside)


def _names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)
