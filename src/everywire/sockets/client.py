"""One Socket.IO connection: the packets of all its namespaces over one link. Socket.IO protocol 5, §4-§6.

Acknowledgements, connects and disconnects are done as they come; events go to
`everywire.sockets.dispatching`. What is out of place (events of a namespace that was not joined, a second
connect, errors of a client) closes the connection, as what is no packet does. Only after the server ended a
namespace its client's packets may still be on their way: those are passed over.

A client that is in no namespace in time is closed, and so is one that was refused too often, or does not
send the attachments that it announced (`everywire.sockets.incomplete`). While too much of a client is being
handled its input is paused; if it is waited for its acknowledgements, four times as much may come before
that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from everywire.access.identity import Identity
from everywire.access.quotas import Admission
from everywire.codecs.socketio.packet import PacketType, SocketPacket, split_query
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadPacket, EverywireError, LimitExceeded
from everywire.core.wheel import Slot
from everywire.sessions.asking import asked
from everywire.sessions.shared import Shared
from everywire.sockets.bringing import Brought, brought_by_packet, brought_by_query
from everywire.sockets.connecting import Connecting, refusal
from everywire.sockets.dispatching import dispatch
from everywire.sockets.forms import decoder_of, encode
from everywire.sockets.handling import ConnectionRefused
from everywire.sockets.happenings import Form
from everywire.sockets.keeping import kept_of
from everywire.sockets.line import CLIENT_DISCONNECT, SERVER_DISCONNECT, Line
from everywire.sockets.link import PARSE_ERROR, Link
from everywire.sockets.local import LocalSockets
from everywire.sockets.socket import Socket

__all__ = ["Client"]

_log = logging.getLogger("everywire.sockets")

_WAITING_SHARE: Final = 4
"""How many times `Limits.max_pending_commands` may be handled while the client is asked for something."""
_PACKET_SHARE: Final = 2
"""How many times as large as a message a packet may be with all its attachments."""


_UNKNOWN: Final = ConnectionRefused("Invalid namespace")
"""In the words of the reference implementation, which clients look for."""


class _Place:
    """A connection's place among those of a user, which its namespaces share."""

    __slots__ = ("admission", "taken")

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.taken = 0


class Client:
    """What speaks over one link: an `everywire.sockets.link.Upper`."""

    __slots__ = (
        "__weakref__",
        "_coming_bytes",
        "_connecting",
        "_decoder",
        "_ended",
        "_held",
        "_is_gone",
        "_is_paused",
        "_pending",
        "_pending_bytes",
        "_places",
        "_refusals",
        "_slot",
        "_sockets",
        "link",
        "local",
    )

    def __init__(self, local: LocalSockets, link: Link) -> None:
        self.local = local
        self.link = link
        settings = local.settings
        max_bytes = _PACKET_SHARE * settings.max_payload
        self._decoder = decoder_of(local.form, local.shared.limits, max_bytes)
        self._coming_bytes = 0
        self._sockets: dict[str, Socket] = {}
        self._connecting: dict[str, Connecting] = {}
        self._ended: dict[str, None] = {}
        """Namespaces that the server ended: what the client says there was said before it knew."""
        self._refusals = 0
        self._places: dict[str, _Place] = {}
        self._pending = self._pending_bytes = self._held = 0
        self._is_paused = self._is_gone = False
        self._slot: Slot | None = None
        local.connections += 1
        self._await_connect()
        if link.protocol == 3:
            self._connect_by_query("/", "")

    @property
    def shared(self) -> Shared:
        """The parts that all connections of the server share."""
        return self.local.shared

    @property
    def form(self) -> Form:
        """How packets are written."""
        return self.local.form

    # -- what the link tells (Upper) -----------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Take one message."""
        if self._is_gone:
            return
        self._coming_bytes += len(data)
        try:
            if not self._sockets and data[:1] in (b"5", b"6") and not binary:
                raise BadPacket("Attachments are for those who are connected.")
            packet = self._decoder.feed(data, binary)
            if packet is None:
                self.local.incomplete.add(self, len(data))
                return
            size, self._coming_bytes = self._coming_bytes, 0
            if binary:
                self.local.incomplete.drop(self)
            self._take(packet, size)
        except BadPacket as error:
            _log.debug("closed a connection of %s: %s", self.link.peer, error.sentence)
            self.link.close(codes.BAD_PROTOCOL, PARSE_ERROR)

    def stalled(self) -> None:
        """Hear that the carrier takes no more."""
        for socket in self._readers():
            if socket.reading is not None:
                socket.reading.stalled()

    def writable(self) -> None:
        """Hear that the carrier takes more."""
        readers = self._readers()
        if len(readers) > 1:
            # Another namespace is first every time: the first one may fill the carrier again.
            first = readers[0].namespace
            self._sockets[first] = self._sockets.pop(first)
        for socket in readers:
            if socket.reading is not None:
                socket.reading.writable()

    def moved(self) -> None:
        """Hear that the carrier changed."""
        for socket in self._readers():
            if socket.reading is not None:
                socket.reading.moved()

    def _readers(self) -> list[Socket]:
        return [socket for socket in self._sockets.values() if socket.reading is not None]

    def gone(self, reason: str) -> None:
        """Hear that the link ended."""
        if self._is_gone:
            return
        self._is_gone = True
        self._disarm()
        self.local.incomplete.drop(self)
        self._decoder.forget()
        self.local.connections -= 1
        for connecting in tuple(self._connecting.values()):
            connecting.give_up(reason)
        for socket in tuple(self._sockets.values()):
            socket.release(None, reason, may_return=reason != PARSE_ERROR)

    def drain(self, retry_ms: int) -> None:
        """Say nothing: the link closes without a packet of ours, and clients come back by themselves."""

    # -- what the client says ----------------------------------------------------------------

    def _take(self, packet: SocketPacket, size: int) -> None:
        packet_type, namespace, data, packet_id = packet
        query = ""
        if self.link.protocol == 3:
            namespace, query = split_query(namespace)
        socket = self._sockets.get(namespace)
        if packet_type is PacketType.CONNECT:
            self._take_connect(namespace, query, data)
        elif packet_type is PacketType.CONNECT_ERROR:
            raise BadPacket("Errors are the server's to tell.")
        elif socket is not None:
            if packet_type is PacketType.EVENT:
                dispatch(self.local, self, socket, packet, size)
            elif packet_type is PacketType.DISCONNECT:
                socket.release(None, CLIENT_DISCONNECT)
            elif packet_id is None or not socket.acks.take(packet_id, data):
                self.local.counted.acks_lost += 1
            else:
                self._hold_back()
        elif packet_type is PacketType.DISCONNECT and namespace in self._connecting:
            self._connecting[namespace].give_up(CLIENT_DISCONNECT)
        elif namespace in self._ended:
            self.local.counted.unhandled += 1
        else:
            raise BadPacket("This namespace was not joined.")

    def _take_connect(self, namespace: str, query: str, auth: dict[str, Any] | None) -> None:
        if namespace in self._sockets or namespace in self._connecting:
            if self.link.protocol == 3 and namespace == "/":
                return  # it is connected unasked; some clients ask nevertheless
            raise BadPacket("This namespace was joined already.")
        if self.link.protocol == 3:
            self._connect_by_query(namespace, query)
        else:
            has_recovery = self.local.settings.has_recovery
            may_judge = self.shared.authority.may_judge
            brought = brought_by_packet(self.link.request, auth, may_judge, has_recovery=has_recovery)
            self._connect(namespace, brought)

    def _connect_by_query(self, namespace: str, query: str) -> None:
        try:
            brought = brought_by_query(self.link.request, query, self.shared.authority.may_judge)
        except EverywireError as error:
            self._refuse(namespace, error)
        else:
            self._connect(namespace, brought)

    def _connect(self, namespace: str, brought: Brought) -> None:
        most = self.shared.limits.max_socket_namespaces
        if not self.local.handling.has_namespace(namespace):
            self._refuse(namespace, _UNKNOWN)
        elif len(self._sockets) + len(self._connecting) >= most:
            self._refuse(namespace, LimitExceeded(f"a connection has at most {most} namespaces"))
        else:
            self._ended.pop(namespace, None)
            connecting = self._connecting[namespace] = Connecting(self, namespace, brought)
            connecting.begin()

    def _refuse(self, namespace: str, error: EverywireError) -> None:
        self.local.counted.refused += 1
        packet = refusal(self.link.protocol, namespace, error)
        if error is _UNKNOWN:
            packet = packet._replace(data={"message": error.sentence})  # an object in version 4, too
        self.link.post(encode(self.form, packet))
        self._count_refusal()

    # -- what becomes of those who connect (Connection) ----------------------------------------------

    def connected(self, socket: Socket) -> None:
        """Hear that a client is connected to a namespace."""
        self._connecting.pop(socket.namespace, None)
        self._sockets[socket.namespace] = socket
        self._refusals = 0
        self._disarm()

    def refused(self, namespace: str) -> None:
        """Hear that nothing came of it."""
        self._connecting.pop(namespace, None)
        self._count_refusal()

    def _count_refusal(self) -> None:
        self._refusals += 1
        if self._refusals > self.shared.limits.max_socket_refusals:
            self.link.close(codes.REFUSED)

    def admit(self, identity: Identity) -> Callable[[], None]:
        """Take a place among a user's connections; all namespaces of a user share it."""
        user = identity.user
        place = self._places.get(user)
        if place is None:
            # The address was counted when the connection was opened.
            place = self._places[user] = _Place(self.shared.quotas.admit(identity, ""))
        place.taken += 1
        return partial(self._give_back, user, place)

    def _give_back(self, user: str, place: _Place) -> None:
        place.taken -= 1
        if not place.taken:
            place.admission.release()
            if self._places.get(user) is place:
                del self._places[user]

    # -- what a socket tells (Home) --------------------------------------------------------------------

    def entered(self, line: Line, channel: str) -> None:
        """Hear that a socket is in a room."""
        socket = _socket(line)
        self.local.enter(socket, channel)
        self._renew(socket, has_changed=True)

    def exited(self, line: Line, channel: str) -> None:
        """Hear that a socket is in a room no more."""
        socket = _socket(line)
        self.local.exit(socket, channel)
        if not socket.is_ended:
            self._renew(socket, has_changed=True)

    def waits(self, line: Line) -> None:
        """Hear that a client is asked for an acknowledgement."""
        self._hold_back()

    def looked_at(self, line: Line) -> None:
        """Hear that a socket is looked at again."""
        self._renew(_socket(line), has_changed=False)

    def _renew(self, socket: Socket, *, has_changed: bool) -> None:
        """Keep what a socket is, in case that this node is killed."""
        recovery = self.local.recovery
        if recovery is not None and socket.pid and socket.is_connected:
            recovery.renew(socket.pid, partial(kept_of, socket), has_changed=has_changed)

    def leaving(self, line: Line, *, may_return: bool) -> None:
        """Hear that a socket is about to end."""
        recovery, socket = self.local.recovery, _socket(line)
        if recovery is None or not socket.pid:
            return
        if may_return:
            recovery.lost(socket.pid, kept_of(socket))
        else:
            recovery.ended(socket.pid)

    def left(self, line: Line, code: Code | None, reason: str) -> None:
        """Hear that a socket has ended."""
        socket = _socket(line)
        self.local.drop(socket)
        if self._sockets.get(socket.namespace) is socket:
            del self._sockets[socket.namespace]
            if not self._is_gone:
                self._lost_namespace(socket.namespace, reason)
        if socket.is_welcomed:
            self.tell_function(socket, reason)
        if socket.is_introduced:
            self.tell_hook(socket, code)

    def _lost_namespace(self, namespace: str, reason: str) -> None:
        if reason == SERVER_DISCONNECT:
            if len(self._ended) >= self.shared.limits.max_socket_namespaces:
                del self._ended[next(iter(self._ended))]
            self._ended[namespace] = None
        if not self._sockets and not self._connecting:
            # Whom the server ended closes the connection itself. To close it here would bring the close with
            # the DISCONNECT, and the clients of version 4 hear of the close first: they take it for an
            # accident, and come back.
            self._await_connect()

    def tell_function(self, socket: Socket, reason: str) -> None:
        """Tell the application's function that a client has gone, whatever of it still runs."""
        local, sid = self.local, socket.sid
        timeout_s = self.shared.limits.call_timeout_s

        async def tell() -> None:
            await asked("the disconnect handler", local.handling.disconnect(socket, reason), timeout_s)
            if local.farewells.get(sid) is farewell:
                del local.farewells[sid]

        farewell = local.farewells[sid] = local.tasks.start(tell(), "the disconnect handler")

    def tell_hook(self, socket: Socket, code: Code | None) -> None:
        """Tell the disconnect hook that a client has gone."""
        shared = self.shared
        hook = shared.hooks.disconnect
        if hook is None:
            return

        async def tell() -> None:
            await asked("the disconnect hook", hook(socket, code), shared.limits.hook_timeout_s)

        self.local.tasks.start(tell(), "the disconnect hook")

    # -- how much is under way (Busy) -----------------------------------------------------------------

    def begun(self, size: int) -> None:
        """Hear that an event is being handled."""
        self._pending += 1
        self._pending_bytes += size
        self._hold_back()

    def finished(self, size: int) -> None:
        """Hear that an event was handled."""
        self._pending -= 1
        self._pending_bytes -= size
        self._hold_back()

    def held(self, is_held: bool) -> None:
        """Hear that the log is behind with what this client publishes, or no longer."""
        self._held += 1 if is_held else -1
        self._hold_back()

    @property
    def is_paused(self) -> bool:
        """Whether its messages wait."""
        return self._is_paused

    def _hold_back(self) -> None:
        """Say whether the client's next messages may come."""
        if self._is_gone:
            return
        limits = self.shared.limits
        share = 1
        if self._pending >= limits.max_pending_commands or self._pending_bytes > limits.max_pending_bytes:
            # What a handler waits for must not wait behind the events of which it is one.
            share = _WAITING_SHARE if any(socket.acks for socket in self._sockets.values()) else 1
        must_wait = (
            self._held > 0
            or self._pending >= share * limits.max_pending_commands
            or self._pending_bytes > share * limits.max_pending_bytes
        )
        if must_wait != self._is_paused:
            self._is_paused = must_wait
            if must_wait:
                self.link.pause_reading()
            else:
                self.link.resume_reading()

    # -- the time to connect ----------------------------------------------------------------------------

    def _await_connect(self) -> None:
        """Close the connection unless it connects to a namespace in time."""
        deadlines = self.shared.hub.deadlines
        self._disarm()
        due_s = self.shared.hub.time() + self.local.settings.connect_timeout_s
        self._slot = deadlines.arm(self, due_s, Client._is_due)

    def _disarm(self) -> None:
        if self._slot is not None:
            self.shared.hub.deadlines.disarm(self, self._slot)
            self._slot = None

    def _is_due(self) -> None:
        self._slot = None
        if self._connecting:
            self._await_connect()  # it has asked; who is asked about it has a deadline of its own
        elif not self._sockets:
            self.link.close(codes.STALE)


def _socket(line: Line) -> Socket:
    assert isinstance(line, Socket)
    return line
