"""A socket's line to its client: who is at the other end, its rooms, what is under way, and how it ends.

`Line` is the state that the parts of a socket work on; `everywire.sockets.socket.Socket` is one. All that a
socket has taken from others (a reader, a deadline, a place among visitors, members and connections, lanes,
acknowledgements that are waited for) is given back in one place: `Line.release`.

While a client connects, what is sent to it is held back, bounded, and goes out behind the packet that tells
it that it is connected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from everywire.access.identity import NOBODY, Identity
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.codecs.json_text import dump
from everywire.codecs.socketio.packet import PacketType, SocketPacket
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.position import Place
from everywire.core.wheel import Slot
from everywire.sessions.answers import field
from everywire.sessions.lanes import Lanes
from everywire.sessions.shared import Shared
from everywire.sockets.acks import Acks
from everywire.sockets.forms import encode
from everywire.sockets.happenings import Form, Name, direct_wires
from everywire.sockets.link import Link, Packets
from everywire.sockets.reading import Reading

__all__ = ["CLIENT_DISCONNECT", "SERVER_DISCONNECT", "Home", "Joined", "Line"]

CLIENT_DISCONNECT: Final = "client disconnect"
"""Why a socket ended: its client said so."""
SERVER_DISCONNECT: Final = "server disconnect"
"""Why a socket ended: the application said so, or a permission is gone."""


def _nothing() -> None:
    """Give nothing back: there was no place to take."""


class Joined:
    """A room that a socket is in, or is about to be."""

    __slots__ = ("channel", "expires_s", "info", "is_open", "is_ruled", "place", "waiting")

    def __init__(self, channel: str, info: ClientInfo, *, is_ruled: bool) -> None:
        self.channel = channel
        self.info = info
        """What others see of this client in this room."""
        self.is_open = False
        """Whether what is emitted there reaches the client."""
        self.is_ruled = is_ruled
        """Whether the client asked for it and the rules allowed it, which are asked again now and then."""
        self.expires_s: float | None = None
        """When the permission ends (UNIX time)."""
        self.place = Place("", 0)
        """What follows this place is for the client."""
        self.waiting: list[Callable[[EverywireError | None], None]] = []
        """Who is told when it is open, or cannot be."""


class Home(Protocol):
    """The connection that a socket is on, as the socket sees it."""

    @property
    def shared(self) -> Shared:
        """The parts that all connections of the server share."""

    @property
    def link(self) -> Link:
        """What carries the connection."""

    @property
    def form(self) -> Form:
        """How packets are written."""

    def entered(self, line: Line, channel: str) -> None:
        """Hear that a socket is in a room."""

    def exited(self, line: Line, channel: str) -> None:
        """Hear that a socket is in a room no more."""

    def waits(self, line: Line) -> None:
        """Hear that a client is asked for an acknowledgement, which must not wait behind its events."""

    def looked_at(self, line: Line) -> None:
        """Hear that a socket is looked at again, as it is now and then: it lives."""

    def leaving(self, line: Line, *, may_return: bool) -> None:
        """Hear that a socket is about to end: note where it stands, if it may come back."""

    def left(self, line: Line, code: Code | None, reason: str) -> None:
        """Hear that a socket has ended, and holds nothing any more."""


class Line:
    """The state of one socket, and the way to its client."""

    __slots__ = (
        "__weakref__",
        "acks",
        "client",
        "expiry_due_s",
        "give_back",
        "held",
        "held_bytes",
        "home",
        "identity",
        "info",
        "is_connected",
        "is_ended",
        "is_entered",
        "is_forewarned",
        "is_introduced",
        "is_recovered",
        "is_welcomed",
        "joined",
        "lanes",
        "memo",
        "namespace",
        "pid",
        "proved_user",
        "reading",
        "recheck_due_s",
        "sid",
        "slot",
        "slot_s",
    )

    def __init__(self, home: Home, namespace: str, sid: str, client: str) -> None:
        self.home = home
        self.namespace = namespace
        self.sid = sid
        self.client = client
        """What others may see as its client id: the socket's id, where that is not the connection's."""
        self.pid = ""
        """The secret by which its client comes back as who it was; empty where that is switched off."""
        self.identity: Identity = NOBODY
        self.proved_user = ""
        """Whom its credential proved; the connect hook may know better."""
        self.info = ClientInfo()
        self.memo: Any = None
        # Its life: it connects, is connected, has ended.
        self.is_connected = self.is_ended = self.is_recovered = False
        self.is_introduced = False
        """Whether the connect hook was told of it, and the disconnect hook is to be."""
        self.is_welcomed = False
        """Whether the application's function has let it come, and is to hear when it goes."""
        self.is_entered = self.is_forewarned = False
        self.give_back: Callable[[], object] | None = None
        """Gives back its place among the connections of its user."""
        # Its rooms, by channel.
        self.joined: dict[str, Joined] = {}
        self.reading: Reading | None = None
        """What reads them: made while the client connects, and begun when it is told so."""
        # What is under way.
        self.acks = Acks(home.shared.limits.max_socket_acks)
        self.lanes: Lanes | None = None
        self.held: list[Packets] = []
        self.held_bytes = 0
        # The clockwork: see `everywire.sockets.permissions`.
        self.slot: Slot | None = None
        self.slot_s = math.inf
        self.recheck_due_s = self.expiry_due_s = math.inf

    # -- who it is ------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.home.link.peer

    @property
    def user(self) -> str:
        """The user id; empty for nobody."""
        return self.identity.user

    @property
    def channels(self) -> Iterable[str]:
        """The names of the channels that its rooms are."""
        return self.joined.keys()

    def set_client(self, client: str) -> None:
        """Have another client id, before anybody has heard of it."""
        self.client = client
        self.set_identity(self.identity)

    def set_identity(self, identity: Identity) -> None:
        """Learn who it is, and what others see of it."""
        before, self.identity = self.identity, identity
        conn_info = field(identity.info, False)
        self.info = ClientInfo(user=identity.user, client=self.client, conn_info=conn_info)
        shared, expires_s = self.home.shared, identity.expires_s
        # Who is known to end soon was asked about already.
        self.is_forewarned = self.is_entered and (
            expires_s is not None and expires_s - shared.unix_s() <= shared.limits.expiry_notice_s
        )
        if self.is_entered:
            shared.registry.moved(self, before)

    # -- what is said to it ------------------------------------------------------------------

    def post(self, packets: Packets) -> None:
        """Send packets of this socket, as soon as its client may have them."""
        if self.is_ended:
            return
        if self.is_connected:
            self.home.link.post(packets)
            return
        self.held.append(packets)
        self.held_bytes += sum(len(data) for _, data in packets)
        if self.held_bytes > 2 * self.home.shared.limits.max_session_queue_bytes:
            self.end(codes.SLOW)

    def post_held(self) -> None:
        """Send what was held back while the client connected."""
        held, self.held, self.held_bytes = self.held, [], 0
        for packets in held:
            self.home.link.post(packets)

    def tell(self, event: Name | None, args: Sequence[Any], ack_id: int | None = None) -> None:
        """Send an event. Raises `BadRequest` for a name that no event may have and for what cannot be sent.

        Where a client may recover, each event ends with where it stands: it takes the last text of any
        event for that. Those with an acknowledgement, where the text would be in the way, do not.
        """
        offset = dump(self.position()) if self.pid and ack_id is None else None
        home = self.home
        self.post(
            direct_wires(
                self.namespace,
                event,
                args,
                limits=home.shared.limits,
                ack_id=ack_id,
                offset=offset,
                form=home.form,
            )
        )

    def acknowledge(self, ack_id: int, args: Sequence[Any]) -> None:
        """Acknowledge an event of the client. Raises TypeError or ValueError for what the form cannot
        hold."""
        packet = SocketPacket(PacketType.ACK, self.namespace, list(args), ack_id)
        self.post(encode(self.home.form, packet))

    def position(self) -> str:
        """Return where the client stands in all its rooms."""
        return "" if self.reading is None else self.reading.position()

    # -- the clockwork -----------------------------------------------------------------------

    def now_s(self) -> float:
        """Return the time that deadlines go by: time in which the event loop was blocked does not count."""
        hub = self.home.shared.hub
        return hub.time() - hub.deadlines.lost_s

    # -- the end ---------------------------------------------------------------------------------

    def disconnect(self, code: Code = codes.DISCONNECTED, reason: str = "") -> None:
        """End the socket. With a code after which one may come back the connection is closed, so that the
        client does; with others it is told that the server ended it, which it takes for final."""
        self.end(code, reason)

    def end(self, code: Code, reason: str = "") -> None:
        """End the socket, and tell the client."""
        if self.is_ended:
            return
        if not self.is_connected:
            self.release(code, SERVER_DISCONNECT)  # who connects it tells why
            return
        if code.reconnect:
            self.home.link.close(code, reason or code.sentence)
            return
        if code.number != codes.DISCONNECTED.number or reason not in ("", codes.DISCONNECTED.sentence):
            self.tell(
                "everywire:ended",
                [{"code": code.number, "name": code.name, "reason": reason or code.sentence}],
            )
        self.post(encode(self.home.form, SocketPacket(PacketType.DISCONNECT, self.namespace)))
        self.release(code, SERVER_DISCONNECT)

    def release(self, code: Code | None, reason: str, *, may_return: bool = False) -> None:
        """Let go of everything. ``may_return``: the client was cut off, and may recover."""
        if self.is_ended:
            return
        home, shared = self.home, self.home.shared
        if self.is_connected:
            home.leaving(self, may_return=may_return)
        self.is_ended = True
        if self.slot is not None:
            shared.hub.deadlines.disarm(self, self.slot)
            self.slot = None
        if self.reading is not None:
            home.link.note(self.reading.close(), code)
            self.reading = None
        joined, self.joined = self.joined, {}
        for one in joined.values():
            if one.is_open:
                home.exited(self, one.channel)
                if self.is_connected:
                    shared.presence.leave(one.channel, self.client)
        if self.is_entered:
            shared.registry.leave(self)
            shared.quotas.forget(self)
        give_back, self.give_back = self.give_back or _nothing, None
        if self.lanes is None:
            give_back()
        else:
            # Its place is taken as long as its handlers have work.
            self.lanes.close(give_back)
            self.lanes = None
        self.acks.close()
        self.held.clear()
        home.left(self, code, reason)

    # -- what it is to others (Resident): the socket's -------------------------------------------

    session_id: Final = ""
    transport: Final = "socketio"

    def unsubscribe(self, channel: str, code: Code) -> None:
        """Leave a room by order of the server; the socket's."""
        raise NotImplementedError
