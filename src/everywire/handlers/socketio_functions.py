"""The application's functions for Socket.IO: which there are, and how they are called.

`SocketFunctions` is what `everywire.sockets` asks (`everywire.sockets.handling.Handling`). Arguments become
the types that a function's annotations ask for; what does not fit, and what is too little, is refused with
code 107. What is too much is left out: a client may know more than this server does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from everywire.access.hooks import IN_ORDER, Lane
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.handlers.functions import Function, Threads
from everywire.handlers.payloads import ANYTHING, payload_of
from everywire.handlers.socketio_session import SocketSession, args_of
from everywire.sockets.handling import ConnectionRefused
from everywire.sockets.rooms import everyone
from everywire.sockets.socket import Socket

__all__ = ["ANY", "CONNECT", "DISCONNECT", "EventFunction", "Key", "SocketFunctions", "Table"]

ANY: Final = "*"
"""Stands for every event that has no function of its own."""
CONNECT: Final = "connect"
DISCONNECT: Final = "disconnect"

Key = Callable[..., Hashable]

_OFFERED: Final = {CONNECT: ("session", "auth"), DISCONNECT: ("session", "reason")}
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class EventFunction:
    """A function for an event, and what its arguments have to be."""

    __slots__ = ("_most", "_payloads", "_required", "call", "key", "lane")

    def __init__(
        self, function: Callable[..., Any], event: str, lane: Lane = IN_ORDER, key: Key | None = None
    ) -> None:
        self.lane = lane
        self.key = key
        offered = _OFFERED.get(event, ("session", "*arguments"))
        self.call = Function(function, offered, f"the function of the event {event!r}")
        parameters = list(inspect.signature(function).parameters.values())
        positional = [one for one in parameters if one.kind in _POSITIONAL]
        has_rest = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
        self._required = sum(one.default is one.empty for one in positional) - 1
        self._most = None if has_rest else max(len(positional) - 1, 0)
        payloads = [payload_of(function, index) for index in range(1, len(positional))]
        self._payloads = payloads if any(not one.is_anything for one in payloads) else []

    def arguments(self, args: Sequence[Any]) -> Sequence[Any]:
        """Return what the function is called with besides the session.

        Raises `BadRequest` when it cannot be called with these arguments.
        """
        if len(args) < self._required:
            raise BadRequest(f"{len(args)} arguments are not enough: this wants {self._required}")
        if self._most is not None:
            args = args[: self._most]
        if not self._payloads:
            return args
        typed = [*self._payloads, *[ANYTHING] * (len(args) - len(self._payloads))]
        return [payload.convert(value) for payload, value in zip(typed, args, strict=False)]


class Table:
    """The functions of one namespace, by event."""

    __slots__ = ("_functions", "namespace")

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._functions: dict[str, EventFunction] = {}

    def add(self, event: str, function: EventFunction) -> None:
        """Add a function; raise `SettingsError` if the event has one."""
        if event in self._functions:
            raise SettingsError(f"event {event!r} of namespace {self.namespace} is registered already")
        self._functions[event] = function

    def life(self, event: str) -> EventFunction | None:
        """Return the function for ``connect`` or ``disconnect``."""
        return self._functions.get(event)

    def find(self, event: str, args: Sequence[Any]) -> tuple[EventFunction | None, Sequence[Any]]:
        """Return the function for an event of a client, and the arguments that it is offered: the one for
        every event gets the event's name, too."""
        found = self._functions.get(event)
        if found is not None and event not in _OFFERED:
            return found, args
        return self._functions.get(ANY), (event, *args)


class SocketFunctions:
    """All functions; a `everywire.sockets.handling.Handling`."""

    def __init__(
        self, limits: Limits, threads: Threads, session_of: Callable[[Socket], SocketSession]
    ) -> None:
        self._limits = limits
        self._threads = threads
        self._session_of = session_of
        self._tables: dict[str, Table] = {"/": Table("/")}

    def table(self, namespace: str) -> Table:
        """Return the functions of a namespace, and know it from now on.

        Raises `SettingsError` when this is no namespace.
        """
        table = self._tables.get(namespace)
        if table is None:
            _check_namespace(namespace)
            table = self._tables[namespace] = Table(namespace)
        return table

    # -- what sockets ask (Handling) ---------------------------------------------------------

    def has_namespace(self, namespace: str) -> bool:
        """Whether clients may connect to a namespace: to ``/``, and to those that were asked for."""
        return namespace in self._tables

    def has_event(self, namespace: str, event: str) -> bool:
        """Whether there is a function for an event."""
        return self._tables[namespace].find(event, ())[0] is not None

    def lane(self, socket: Socket, event: str, args: Sequence[Any]) -> Lane:
        """Say in which lane an event waits for its turn."""
        function, args = self._tables[socket.namespace].find(event, args)
        if function is None:
            return IN_ORDER
        if function.key is None:
            return function.lane
        try:
            key = function.key(self._session_of(socket), *function.arguments(args))
            hash(key)
        except Exception:
            # The event itself is going to be refused for its arguments, or to fail: in its order.
            return function.lane
        return function.lane._replace(key=(event, key))

    async def connect(self, socket: Socket, auth: Any) -> None:
        """Tell that a client comes."""
        found = await self._tell(CONNECT, socket, auth)
        if found is False:
            raise ConnectionRefused("the application does not let you in")

    async def event(self, socket: Socket, event: str, args: Sequence[Any]) -> Sequence[Any]:
        """Handle an event."""
        function, args = self._tables[socket.namespace].find(event, args)
        if function is None:
            raise EverywireError(f"there is no event {event[:64]!r}", code=codes.METHOD_NOT_FOUND)
        given = function.arguments(args)
        session, timeout_s = self._session_of(socket), self._limits.call_timeout_s
        return args_of(await function.call(self._threads, timeout_s, session, *given))

    async def disconnect(self, socket: Socket, reason: str) -> None:
        """Tell that a client has gone."""
        await self._tell(DISCONNECT, socket, reason)

    async def _tell(self, event: str, socket: Socket, argument: Any) -> Any:
        function = self._tables[socket.namespace].life(event)
        if function is None:
            return None
        given = function.arguments([argument])
        timeout_s = self._limits.hook_timeout_s
        return await function.call(self._threads, timeout_s, self._session_of(socket), *given)


def _check_namespace(namespace: str) -> None:
    if not namespace.startswith("/") or "," in namespace or "?" in namespace:
        raise SettingsError(f"{namespace!r} is no namespace; expected one such as /admin")
    try:
        everyone(namespace)
    except BadRequest:
        raise SettingsError(f"the namespace {namespace!r} has too long a name") from None
