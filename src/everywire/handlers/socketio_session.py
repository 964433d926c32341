"""A Socket.IO client as the application's functions see it, and what is emitted to others on its behalf.

As with python-socketio, a tuple is several arguments, None is none, and anything else is one. What a method
says is begun when it is called: in the event loop what it returns may be awaited, or not; in a thread it
waits until the event loop has done it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from everywire.access.identity import AuthRequest, Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.handlers.outside import Outside, Receipt
from everywire.handlers.refused import code_of
from everywire.sockets.happenings import Name
from everywire.sockets.joining import enter
from everywire.sockets.rooms import channel_of
from everywire.sockets.socket import Socket
from everywire.sockets.sockets import Sockets

__all__ = ["Broadcast", "SocketSession", "args_of", "value_of"]

_SPARE_S: Final = 2.0
"""How much longer a thread waits than the client may take."""


def args_of(data: Any) -> Sequence[Any]:
    """Return the arguments that data stands for."""
    if data is None:
        return ()
    return data if isinstance(data, tuple) else (data,)


def value_of(args: Sequence[Any]) -> Any:
    """Return what arguments are: None, the only one, or a tuple."""
    if len(args) == 1:
        return args[0]
    return tuple(args) if args else None


class SocketSession:
    """One client in one namespace."""

    __slots__ = ("_outside", "_sockets", "socket")

    def __init__(self, socket: Socket, sockets: Sockets, outside: Outside) -> None:
        self.socket = socket
        self._sockets = sockets
        self._outside = outside

    @property
    def sid(self) -> str:
        """The client's id in this namespace; in its browser ``socket.id``."""
        return self.socket.sid

    @property
    def namespace(self) -> str:
        """The namespace, such as ``/``."""
        return self.socket.namespace

    @property
    def identity(self) -> Identity:
        """Whom its credential proved."""
        return self.socket.identity

    @property
    def user(self) -> str:
        """The user id; empty is nobody."""
        return self.socket.identity.user

    @property
    def info(self) -> Any:
        """What others see of it, or None."""
        info = self.socket.identity.info
        return None if info is None else msgspec.json.decode(info)

    @property
    def claims(self) -> Mapping[str, Any]:
        """All that its credential says; never shown to others."""
        return self.socket.identity.claims

    @property
    def request(self) -> AuthRequest:
        """What its handshake brought: headers, cookies, query."""
        return self.socket.home.link.request

    @property
    def transport(self) -> str:
        """``socketio``."""
        return self.socket.transport

    @property
    def carrier(self) -> str:
        """What carries it at the moment: ``polling`` or ``websocket``."""
        return self.socket.carrier

    @property
    def peer(self) -> str:
        """Its address."""
        return self.socket.peer

    @property
    def recovered(self) -> bool:
        """Whether it was cut off, and is back as who it was, with its rooms and its `memo`."""
        return self.socket.is_recovered

    @property
    def memo(self) -> Any:
        """What the application keeps with it, at first an empty dictionary. What JSON can say of it is there
        again after a recovery."""
        if self.socket.memo is None:
            self.socket.memo = {}
        return self.socket.memo

    @memo.setter
    def memo(self, value: Any) -> None:
        self.socket.memo = value

    @property
    def is_over(self) -> bool:
        """Whether it has gone."""
        return self.socket.is_ended

    def emit(self, event: Name | None, data: Any = None, *, volatile: bool = False) -> Receipt[bool]:
        """Send an event to this client alone; the result says whether it was sent."""

        def send(done: Callable[[bool], None]) -> None:
            done(self.socket.emit(event, args_of(data), volatile=volatile))

        return self._outside.at_once(send)

    def call(self, event: Name | None, data: Any = None, *, timeout_s: float | None = None) -> Receipt[Any]:
        """Send an event, and return what the client acknowledges it with: one value, or a tuple.

        Waits at most ``timeout_s`` (by default `Limits.socket_ack_timeout_s`) and raises a TimeoutError then;
        `SocketGone` when the client has gone or goes.
        """
        limit_s = self._sockets.shared.limits.socket_ack_timeout_s if timeout_s is None else timeout_s

        async def ask() -> Any:
            return value_of(await self.socket.call(event, args_of(data), limit_s))

        return self._outside.begin(ask, limit_s + _SPARE_S)

    def join(self, room: str) -> Receipt[None]:
        """Enter a room: a channel, so that what is published there from now on reaches the client, on
        whatever wire it is published. No rule is asked.

        Raises `LimitExceeded` above `Limits.max_socket_rooms`, `BadRequest`, `SocketGone`, `BrokerError`.
        """

        def go(done: Callable[[EverywireError | None], None]) -> None:
            enter(self.socket, channel_of(self.namespace, room), done)

        return self._outside.at_once(go)

    enter_room = join

    def leave(self, room: str) -> Receipt[None]:
        """Leave a room."""

        def go(done: Callable[[None], None]) -> None:
            self.socket.leave(room)
            done(None)

        return self._outside.at_once(go)

    leave_room = leave

    def rooms(self) -> list[str]:
        """Return the rooms that it is in, without its own."""
        return self.socket.rooms()

    def disconnect(self, code: Code | int = codes.DISCONNECTED, reason: str = "") -> Receipt[None]:
        """End it. The client is told, and does not come back by itself, unless the code says that it may:
        then the connection is closed. Applications use codes from 4000 to 4999; from 4500 on clients do not
        come back."""
        row = code_of(code, reason)

        def end(done: Callable[[None], None]) -> None:
            self.socket.disconnect(row, reason)
            done(None)

        return self._outside.at_once(end)

    @property
    def broadcast(self) -> Broadcast:
        """Everybody in the namespace but this client."""
        return Broadcast(self._sockets, self._outside, self.namespace, skip=(self.sid,))

    def to(self, *rooms: str) -> Broadcast:
        """Whoever is in one of the rooms, but this client."""
        return self.broadcast.to(*rooms)

    def except_room(self, *rooms: str) -> Broadcast:
        """Whoever is in none of the rooms, but this client."""
        return self.broadcast.except_room(*rooms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SocketSession) and other.socket is self.socket

    def __hash__(self) -> int:
        return hash(self.socket)

    def __repr__(self) -> str:
        return f"SocketSession(sid={self.sid!r}, namespace={self.namespace!r}, user={self.user!r})"


class Broadcast:
    """Many clients of a namespace, on every node. Its methods return another one, narrowed down."""

    __slots__ = ("_except", "_namespace", "_outside", "_skip", "_sockets", "_to")

    def __init__(
        self,
        sockets: Sockets,
        outside: Outside,
        namespace: str,
        *,
        to: tuple[str, ...] = (),
        except_: tuple[str, ...] = (),
        skip: tuple[str, ...] = (),
    ) -> None:
        self._sockets = sockets
        self._outside = outside
        self._namespace = namespace
        self._to = to
        self._except = except_
        self._skip = skip

    def to(self, *rooms: str) -> Broadcast:
        """Whoever is in one of these rooms, or those named before; each client gets an event once."""
        return self._narrowed((*self._to, *rooms), self._except, self._skip)

    def except_room(self, *rooms: str) -> Broadcast:
        """Without those who are in one of these rooms."""
        return self._narrowed(self._to, (*self._except, *rooms), self._skip)

    def skipping(self, *sids: str) -> Broadcast:
        """Without these clients."""
        return self._narrowed(self._to, self._except, (*self._skip, *sids))

    def _narrowed(self, to: tuple[str, ...], except_: tuple[str, ...], skip: tuple[str, ...]) -> Broadcast:
        return Broadcast(self._sockets, self._outside, self._namespace, to=to, except_=except_, skip=skip)

    def emit(self, event: Name | None, data: Any = None, *, volatile: bool = False) -> Receipt[None]:
        """Send an event; awaited, it is in the log of its channels."""

        def send(done: Callable[[EverywireError | None], None]) -> None:
            self._sockets.emit(
                event,
                args_of(data),
                namespace=self._namespace,
                to=self._to,
                except_=self._except,
                skip=self._skip,
                volatile=volatile,
                done=done,
            )

        return self._outside.at_once(send)
