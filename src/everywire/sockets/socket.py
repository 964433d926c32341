"""A socket: one client in one namespace, whatever carries it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.position import Place

__all__ = ["Socket"]


class Socket:
    """One client in one namespace; a `everywire.sessions.registry.Resident`. All calls from the event loop."""

    sid: str
    """Its id: a secret that says nothing, and a room of its own."""
    namespace: str
    identity: Identity
    """Whom its credential proved."""
    memo: Any
    """What the application keeps with this socket; None at first. It is given back when the client's state
    is recovered, if JSON can hold it."""
    is_recovered: bool
    """Whether it came back as who it was, and misses nothing."""
    is_connected: bool
    """Whether the client was told that it is connected."""
    is_ended: bool

    session_id: Final = ""
    transport: Final = "socketio"

    @property
    def client(self) -> str:
        """The client id: the socket's own."""
        return self.sid

    @property
    def user(self) -> str:
        """The user id; empty for nobody."""
        return self.identity.user

    @property
    def carrier(self) -> str:
        """What carries it at the moment: ``polling`` or ``websocket``."""
        raise NotImplementedError

    @property
    def peer(self) -> str:
        """The client's address."""
        raise NotImplementedError

    @property
    def channels(self) -> Iterable[str]:
        """The names of the channels that its rooms are."""
        raise NotImplementedError

    def rooms(self) -> list[str]:
        """Return the rooms that it is in, without its own."""
        raise NotImplementedError

    def emit(self, event: str | int | None, args: Sequence[Any] = (), *, volatile: bool = False) -> bool:
        """Send an event to this client alone; False when it was not sent: the socket has ended, or the
        event is volatile and the client reads nothing now.

        None is ``message``. Bytes anywhere in the arguments travel as they are. Raises `BadRequest` for a
        reserved name and for what JSON cannot hold.
        """
        raise NotImplementedError

    async def call(
        self, event: str | int | None, args: Sequence[Any] = (), timeout_s: float | None = None
    ) -> list[Any]:
        """Send an event and return what the client acknowledges it with.

        At most `Limits.ack_timeout_s` long. Raises `AckTimeout` (a TimeoutError), `SocketGone` when the
        socket has ended or ends meanwhile, `LimitExceeded` when too many are waited for.
        """
        raise NotImplementedError

    async def join(self, room: str) -> None:
        """Enter a room: what is emitted there from now on reaches the client. Nothing is asked of rules.

        Raises `LimitExceeded` above `Limits.max_socket_rooms`, `BadRequest` for a name that is too long.
        """
        raise NotImplementedError

    def leave(self, room: str) -> None:
        """Leave a room; nothing happens when it is not in it."""
        raise NotImplementedError

    def disconnect(self, code: Code = codes.DISCONNECTED, reason: str = "") -> None:
        """End the socket. With a code after which one may come back the connection is closed, so that the
        client does; with others it is told that the server ended it, which it takes for final."""
        raise NotImplementedError

    def receive_bytes(self, data: bytes) -> None:
        """Ignore what came by another request: sockets have no session id."""

    def unsubscribe(self, channel: str, code: Code) -> None:
        """Leave a room by order of the server, and tell the client."""
        raise NotImplementedError

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        """Enter a room by order of the server."""
        raise NotImplementedError

    def refresh(self, expires_s: float | None) -> None:
        """Hear until when the connection is good now (UNIX time); None is for ever."""
        raise NotImplementedError

    def message(self, data: bytes) -> None:
        """Send JSON text as the event ``message``."""
        raise NotImplementedError
