"""How a client connects to a namespace: who it is, whether it may come, and what it reads from the start.

In this order: the authority says whom the credentials prove; the connect hook is told, and may know better;
what the client was before it was cut off is looked for; there has to be room for one more of its user; where
the log stands is noted, for everybody's room, those of the token and those that the hook names; the
application's function is told, which may let it join more rooms. Then the client is told, and reading begins
at what was noted: nothing that was emitted meanwhile is missed.

A refusal is a packet of the protocol (``CONNECT_ERROR``; ``ERROR`` in version 4), and the connection stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from everywire.access.hooks import ConnectDecision, SubscribeDecision
from everywire.access.identity import Action, Identity
from everywire.codecs.json_text import check_json
from everywire.codecs.socketio.packet import PacketType, SocketPacket
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden, InvalidToken, LimitExceeded
from everywire.core.names import is_name
from everywire.core.publication import Gap
from everywire.sessions.asking import asked
from everywire.sockets.abilities import takes_positions
from everywire.sockets.acks import SocketGone
from everywire.sockets.bringing import Brought
from everywire.sockets.forms import encode
from everywire.sockets.handling import ConnectionRefused
from everywire.sockets.ids import make_token
from everywire.sockets.joining import enter
from everywire.sockets.keeping import Keeper, go_on, kept_of, user_of
from everywire.sockets.line import SERVER_DISCONNECT, Home
from everywire.sockets.local import LocalSockets
from everywire.sockets.marks import digest_of
from everywire.sockets.permissions import watch
from everywire.sockets.reading import Reading
from everywire.sockets.recovery import Recovered, Recovery
from everywire.sockets.rooms import everyone
from everywire.sockets.socket import Socket
from everywire.sockets.waiting import called

__all__ = ["Connecting", "Connection", "refusal"]

_log = logging.getLogger("everywire.sockets")

_INTERNAL: Final = EverywireError(code=codes.INTERNAL)


class Connection(Home, Protocol):
    """The connection that somebody connects by."""

    @property
    def local(self) -> LocalSockets:
        """The sockets of this node."""

    def admit(self, identity: Identity) -> Callable[[], None]:
        """Take a place among a user's connections; return what gives it back. Raises `LimitExceeded`."""

    def connected(self, socket: Socket) -> None:
        """Hear that a client is connected to a namespace, and is about to be told."""

    def refused(self, namespace: str) -> None:
        """Hear that nothing came of it; the client was told, if it was there to be told."""

    def tell_hook(self, socket: Socket, code: Code | None) -> None:
        """Tell the disconnect hook that a client has gone."""

    def tell_function(self, socket: Socket, reason: str) -> None:
        """Tell the application's function that a client has gone."""


def refusal(protocol: int, namespace: str, error: EverywireError) -> SocketPacket:
    """Return the packet that tells a client why it may not come."""
    data = error.data if isinstance(error, ConnectionRefused) else None
    if protocol == 3:
        told: Any = error.sentence if data is None else data
    else:
        told = {"message": error.sentence}
        if data is not None:
            told["data"] = data
        elif not isinstance(error, ConnectionRefused):
            told["data"] = {"code": error.code.number, "name": error.code.name}
    return SocketPacket(PacketType.CONNECT_ERROR, namespace, told)


class Connecting:
    """One client on its way into a namespace."""

    __slots__ = ("_brought", "_home", "_namespace", "_reason", "_recovered", "socket")

    def __init__(self, home: Connection, namespace: str, brought: Brought) -> None:
        self._home = home
        self._namespace = namespace
        self._brought = brought
        self._recovered: Recovered | None = None
        """Who the client was, if it goes on as that."""
        self._reason = ""
        """Why the client does not come any more."""
        self.socket: Socket | None = None

    def begin(self) -> None:
        """Begin; the connection hears how it ends."""
        self._home.shared.tasks.start(self._run(), "connecting to a namespace")

    def give_up(self, reason: str) -> None:
        """Hear that the client has gone: what has begun comes to its end, and is undone."""
        self._reason = reason
        if self.socket is not None:
            self.socket.release(None, reason)

    async def _run(self) -> None:
        error: EverywireError = _INTERNAL
        try:
            await self._connect()
            return
        except EverywireError as found:
            error = found
        except Exception:  # a task's top
            _log.exception("connecting to %s failed", self._namespace)
        self._refuse(error)

    def _refuse(self, error: EverywireError) -> None:
        home, socket = self._home, self.socket
        home.local.counted.refused += 1
        recovery = home.local.recovery
        if self._recovered is not None and recovery is not None:
            recovery.lost(self._brought.pid, self._recovered.kept)  # it was not told; it may try again
        if socket is not None:
            socket.release(error.code, self._reason or SERVER_DISCONNECT)
        if not self._reason:
            self._say(error)
        home.refused(self._namespace)

    def _say(self, error: EverywireError) -> None:
        home = self._home
        packet = refusal(home.link.protocol, self._namespace, error)
        try:
            packets = encode(home.form, packet)
        except (TypeError, ValueError) as unsendable:
            _log.error("what a refusal should tell cannot be sent: %s", unsendable)
            plain = EverywireError(error.sentence, code=error.code)
            packets = encode(home.form, refusal(home.link.protocol, self._namespace, plain))
        home.link.post(packets)

    def _check(self) -> None:
        """Raise an error when the client has gone, or was disconnected by the application."""
        if self._reason:
            raise SocketGone()
        if self.socket is not None and self.socket.is_ended:
            raise Forbidden("the server ended this connection")

    # -- who it is -----------------------------------------------------------------------

    async def _connect(self) -> None:
        home, brought = self._home, self._brought
        shared = home.shared
        identity = await called(partial(shared.authority.authenticate, brought.request))
        if isinstance(identity, EverywireError):
            raise identity
        self._check()
        socket = self.socket = self._make_socket(identity)
        await self._recover(socket)
        decision = await self._decide(socket)
        if decision.identity is not None:
            socket.set_identity(decision.identity)
            await self._recover_as(socket)
        socket.give_back = home.admit(socket.identity)
        socket.reading = self._make_reading(socket)
        home.local.add(socket)
        if self._recovered is not None:
            socket.is_recovered = True
            go_on(socket, self._recovered)
        await self._find_places(socket, decision)
        await self._welcome(socket)
        if shared.authority.is_revoked(socket.identity):
            raise InvalidToken("this credential was revoked")  # while the rest was found out
        self._tell(socket, decision)

    def _make_socket(self, identity: Identity) -> Socket:
        home, namespace = self._home, self._namespace
        link = home.link
        if link.protocol == 3:
            # The client takes the connection's id for its own; others must not see it, for it is a secret.
            sid = link.sid if namespace == "/" else f"{namespace}#{link.sid}"
            socket = Socket(home, namespace, sid, make_token())
        else:
            sid = make_token()
            socket = Socket(home, namespace, sid, sid)
            if home.local.settings.has_recovery and takes_positions(link.request):
                socket.pid = Recovery.make_pid()
        socket.set_identity(identity)
        socket.proved_user = identity.user
        return socket

    async def _decide(self, socket: Socket) -> ConnectDecision:
        """Ask the connect hook, if there is one."""
        shared = self._home.shared
        hook = shared.hooks.connect
        if hook is None:
            return ConnectDecision()
        found = await asked(
            "the connect hook", hook(socket, self._brought.request), shared.limits.hook_timeout_s
        )
        if isinstance(found, EverywireError):
            raise found
        if socket.is_ended:
            self._home.tell_hook(socket, None)  # it was let in, and has gone: the application hears of both
        socket.is_introduced = True
        self._check()
        return found or ConnectDecision()

    # -- who it was --------------------------------------------------------------------------

    async def _recover(self, socket: Socket) -> None:
        """Let the socket be who the client was, if that is known and nothing is missing."""
        recovery, brought = self._home.local.recovery, self._brought
        if recovery is None or not brought.pid:
            return
        found = await recovery.recover(brought.pid, brought.offset, self._namespace, socket.identity)
        if found is not None:
            self._recovered = found
            socket.sid = found.kept.sid
            socket.pid = brought.pid
            socket.set_client(found.kept.sid)
            await self._home.local.said_farewell(found.kept.sid)
        self._check()

    async def _recover_as(self, socket: Socket) -> None:
        """Look again whether it is still the same, now that the hook has said who it is."""
        found = self._recovered
        if found is None:
            return
        authority, ruled = self._home.shared.authority, found.kept.ruled
        is_same = user_of(found.kept) == socket.user
        if is_same and ruled:
            error = await called(partial(authority.authorize, socket.identity, Action.READ, ruled))
            is_same = error is None
        if not is_same:
            self._recovered = None
            socket.sid, socket.pid = make_token(), Recovery.make_pid()
            socket.set_client(socket.sid)
        self._check()

    def _make_reading(self, socket: Socket) -> Reading:
        home = self._home
        return Reading(
            home.shared.hub,
            home.link,
            self._namespace,
            digest_of(socket.sid),
            has_offsets=bool(socket.pid),
            form=home.form,
            ended=partial(_reading_ended, socket),
        )

    # -- what it reads ----------------------------------------------------------------------

    async def _find_places(self, socket: Socket, decision: ConnectDecision) -> None:
        """Note where the log stands in what the client reads from the start."""
        wanted = {channel: SubscribeDecision() for channel in socket.identity.channels}
        for channel, terms in socket.identity.terms.items():
            if channel in wanted:
                wanted[channel] = SubscribeDecision(info=terms.info)
        wanted.update(decision.channels)
        for channel in wanted:
            if not is_name(channel):
                _log.error("%.64r, which a client was to read from the start, is no channel name", channel)
                raise _INTERNAL
        reading = socket.reading
        assert reading is not None
        found = await called(partial(reading.join, everyone(self._namespace), None))
        if isinstance(found, EverywireError):
            raise found
        self._check()
        for channel, allowed in wanted.items():
            error = await called(partial(enter, socket, channel, decision=allowed))
            self._check()
            if isinstance(error, LimitExceeded):
                raise EverywireError(error.sentence, code=codes.CHANNEL_LIMIT)
            if error is not None:
                raise error

    async def _welcome(self, socket: Socket) -> None:
        """Ask the application's function."""
        home = self._home
        found = await asked(
            "the connect handler",
            home.local.handling.connect(socket, self._brought.auth),
            home.shared.limits.hook_timeout_s,
        )
        if isinstance(found, EverywireError):
            raise found
        if socket.is_ended:
            home.tell_function(socket, self._reason or SERVER_DISCONNECT)
        socket.is_welcomed = True
        self._check()

    # -- the answer ---------------------------------------------------------------------------

    def _tell(self, socket: Socket, decision: ConnectDecision) -> None:
        home, shared = self._home, self._home.shared
        told: dict[str, Any] | None = None
        if home.link.protocol != 3:
            told = {"sid": socket.sid}
            if socket.pid:
                told["pid"] = socket.pid
            if decision.data is not None:
                told["data"] = check_json(decision.data)
        packets = encode(home.form, SocketPacket(PacketType.CONNECT, self._namespace, told))
        socket.is_connected = socket.is_introduced = socket.is_entered = True
        shared.registry.enter(socket)
        home.local.counted.connected += 1
        home.connected(socket)
        home.link.post(packets)
        socket.post_held()
        if socket.is_ended:
            return  # it took nothing
        if socket.reading is not None:
            socket.reading.begin()
        if home.local.recovery is not None and socket.pid:
            home.local.recovery.began(socket.pid, Keeper(socket))
            home.local.recovery.renew(socket.pid, partial(kept_of, socket), has_changed=True)
        for joined in tuple(socket.joined.values()):
            if joined.is_open and not socket.is_ended:
                shared.presence.enter(joined.channel, socket.client, joined.info)
        watch(socket)


def _reading_ended(socket: Socket, code: Code, gap: Gap | None) -> None:
    """Hear that the hub ended a socket's reader: the client may come back."""
    socket.end(codes.SLOW if code in (codes.STALE, codes.SLOW) else codes.SERVER_ERROR)
