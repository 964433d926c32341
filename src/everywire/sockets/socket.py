"""A socket: one client in one namespace, whatever carries it. What the application and operators do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from everywire.access.hooks import SubscribeDecision
from everywire.codecs.json_text import check_json
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.position import Place, encode_position
from everywire.sockets.acks import AckTimeout, SocketGone
from everywire.sockets.happenings import Name
from everywire.sockets.joining import enter, exit_room, expel
from everywire.sockets.line import Line
from everywire.sockets.permissions import plan
from everywire.sockets.rooms import channel_of, room_of
from everywire.sockets.waiting import called

__all__ = ["Socket"]


class Socket(Line):
    """One client in one namespace; a `everywire.sessions.registry.Resident`.

    All calls from the event loop. After its end a socket ignores what it is told, and holds nothing.
    """

    __slots__ = ()

    @property
    def carrier(self) -> str:
        """What carries it at the moment: ``polling`` or ``websocket``."""
        return self.home.link.transport

    # -- what the application does ---------------------------------------------------------

    def emit(self, event: Name | None, args: Sequence[Any] = (), *, volatile: bool = False) -> bool:
        """Send an event to this client alone; False when it was not sent: the socket has ended, or the
        event is volatile and the client takes nothing now.

        None is ``message``. Bytes anywhere in the arguments travel as they are. Raises `BadRequest` for a
        name that is Socket.IO's own and for what cannot be sent.
        """
        if self.is_ended:
            return False
        if volatile and (not self.is_connected or self.home.link.is_stalled):
            return False
        self.tell(event, args)
        return not self.is_ended

    async def call(
        self, event: Name | None, args: Sequence[Any] = (), timeout_s: float | None = None
    ) -> list[Any]:
        """Send an event and return what the client acknowledges it with.

        Waits at most ``timeout_s``, by default `Limits.socket_ack_timeout_s`. Raises `AckTimeout` (a
        TimeoutError), `SocketGone` when the socket has ended or ends meanwhile, `LimitExceeded` when too
        many are waited for, and what `emit` raises. To cancel it only means not to wait.
        """
        if self.is_ended:
            raise SocketGone()
        if timeout_s is None:
            timeout_s = self.home.shared.limits.socket_ack_timeout_s
        ack_id, acknowledged = self.acks.expect()
        self.home.waits(self)
        try:
            self.tell(event, args, ack_id)
            async with asyncio.timeout(timeout_s):
                return await acknowledged
        except TimeoutError:
            raise AckTimeout() from None
        finally:
            self.acks.forget(ack_id)

    def rooms(self) -> list[str]:
        """Return the rooms that it is in, without its own."""
        found = [(channel, room_of(channel)) for channel, one in self.joined.items() if one.is_open]
        return [
            room[1] if room is not None and room[0] == self.namespace else channel for channel, room in found
        ]

    async def join(self, room: str) -> None:
        """Enter a room: what is emitted there from now on reaches the client. Nothing is asked of rules.

        Raises `LimitExceeded` above `Limits.max_socket_rooms`, `BadRequest` for a name that is too long,
        `SocketGone`, and `BrokerError` when the log cannot be asked.
        """
        channel = channel_of(self.namespace, room)
        error = await called(partial(enter, self, channel))
        if error is not None:
            raise error

    def leave(self, room: str) -> None:
        """Leave a room; nothing happens when it is not in it."""
        exit_room(self, channel_of(self.namespace, room))

    # -- what operators do (Resident) --------------------------------------------------------

    def receive_bytes(self, data: bytes) -> None:
        """Ignore what came by another request: sockets have no session id."""

    def unsubscribe(self, channel: str, code: Code) -> None:
        """Leave a room by order of the server, and tell the client: ``everywire:unsubscribed``."""
        if not self.is_ended:
            expel(self, channel, code)

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        """Enter a room by order of the server, and tell the client: ``everywire:subscribed``. Nothing
        happens when it is there already, or in too many."""
        if self.is_ended or channel in self.joined:
            return

        def done(error: EverywireError | None) -> None:
            if error is None and not self.is_ended:
                self.tell("everywire:subscribed", [{"channel": channel, "position": self.place_in(channel)}])
                plan(self)

        enter(self, channel, done, place=since, decision=decision)

    def place_in(self, channel: str) -> str:
        """Return where the client began to read a room, as a position; empty when it does not read it."""
        joined = self.joined.get(channel)
        return "" if joined is None or not joined.is_open else encode_position([(channel, joined.place)])

    def refresh(self, expires_s: float | None) -> None:
        """Hear until when the connection is good now (UNIX time); None is for ever."""
        if not self.is_ended:
            self.set_identity(replace(self.identity, expires_s=expires_s))
            plan(self)

    def message(self, data: bytes) -> None:
        """Send JSON text as the event ``message``."""
        if not self.is_ended:
            self.tell(None, [check_json(data)])
