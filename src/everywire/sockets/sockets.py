"""Socket.IO: all sockets of this node, and the way to those of the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from everywire.core import codes
from everywire.core.codes import CODES
from everywire.core.errors import BadRequest, EverywireError, LimitExceeded, TooLarge
from everywire.sessions.shared import Shared
from everywire.sockets.acks import AckTimeout, SocketGone
from everywire.sockets.broadcast import publish_event
from everywire.sockets.client import Client
from everywire.sockets.emitting import emit_here, target_of
from everywire.sockets.handling import Handling, NoHandling
from everywire.sockets.happenings import Name, direct_wires
from everywire.sockets.joining import exit_room
from everywire.sockets.link import Link, Upper
from everywire.sockets.local import LocalSockets
from everywire.sockets.orders import (
    ORDERS,
    QUESTIONS,
    Answer,
    Call,
    CloseRoom,
    Disconnect,
    Emit,
    Enter,
    Find,
    Leave,
    Order,
    Question,
    Rooms,
    decode_answer,
    decode_order,
    decode_question,
    encode,
    plain,
)
from everywire.sockets.rooms import channel_of, everyone
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket

__all__ = ["Sockets"]

_log = logging.getLogger("everywire.sockets")

_SPARE_S: Final = 1.0
"""How much longer than a client may take the node is waited for that has it."""
_BY_NUMBER: Final = {row.number: row for row in CODES}
_KINDS: Final[Mapping[int, type[EverywireError]]] = {
    kind.code.number: kind for kind in (AckTimeout, SocketGone, BadRequest, LimitExceeded, TooLarge)
}
"""Errors that are raised here as they would be where the socket is."""


def _ignore(error: EverywireError | None) -> None:
    """Nobody waits for this."""


class Sockets:
    """The sockets of this node, and what the application does with all of them.

    One for each `Shared`; `close` it before `Shared.tasks` is closed.
    """

    def __init__(
        self, shared: Shared, handling: Handling | None = None, settings: SocketSettings | None = None
    ) -> None:
        self.shared = shared
        self._local = LocalSockets(shared, handling or NoHandling(), settings or SocketSettings())
        shared.hub.on_broadcast(ORDERS, self._hear)
        shared.hub.on_ask(QUESTIONS, self._asked)

    @property
    def settings(self) -> SocketSettings:
        """What this mount is set to."""
        return self._local.settings

    @property
    def handling(self) -> Handling:
        """The application's functions."""
        return self._local.handling

    def accept(self, link: Link) -> Upper:
        """Speak Socket.IO over a new link."""
        return Client(self._local, link)

    def find(self, sid: str) -> Socket | None:
        """Return the socket with an id, if it is connected to this node."""
        return self._local.find(sid)

    def statistics(self) -> dict[str, int]:
        """Return what there is on this node at this moment, and what was counted."""
        return self._local.statistics()

    async def close(self, grace_s: float = 0.0) -> None:
        """Wait for the last words about clients that have gone; links are closed by then."""
        await self._local.close(grace_s)

    # -- emitting -----------------------------------------------------------------------------

    def emit(
        self,
        event: Name | None,
        args: Sequence[Any] = (),
        *,
        namespace: str = "/",
        to: Sequence[str] = (),
        except_: Sequence[str] = (),
        skip: Sequence[str] = (),
        volatile: bool = False,
        done: Callable[[EverywireError | None], None] = _ignore,
    ) -> bool:
        """Send an event to rooms and sockets (``to``), or to everybody in the namespace, on every node.

        Whoever is in a room of ``except_`` (or is a socket named there) or is named in ``skip`` is left
        out; who is in several of the rooms gets it once. ``done`` is called once, when the log has it. To
        a socket by its id it goes directly, and is in no log. A volatile event is in no log: it reaches who
        reads at this moment.

        Returns False when too much is unfinished: then wait for one of them. Raises `BadRequest` for a name
        that no event may have, a room's name that is too long and what cannot be sent, `TooLarge`,
        `LimitExceeded` for too many rooms.
        """
        target = target_of(self._local, namespace, to, except_, skip)
        goes_on = True
        if volatile or target.sids:
            order = Emit(
                namespace=namespace,
                event="message" if event is None else event,
                args=plain(args),
                sids=list(target.sids),
                channels=list(target.channels),
                except_=list(target.except_),
                skip=list(target.skip),
                volatile=volatile,
                everyone=not to,
            )
            # Whether it can be sent must be known before anything is.
            direct_wires(namespace, event, args, limits=self.shared.limits, form=self._local.form)
        if volatile or not (target.channels or not to):
            done(None)
        else:
            goes_on = publish_event(
                self.shared.hub,
                target.channels or [everyone(namespace)],
                event,
                args,
                lambda result: done(result if isinstance(result, EverywireError) else None),
                except_=target.except_,
                skip=target.skip,
            )
        if volatile or target.sids:
            emit_here(self._local, order)
            if volatile or any(self._local.find(sid) is None for sid in target.sids):
                self._tell_others(order)
        return goes_on

    async def call(
        self,
        sid: str,
        event: Name | None,
        args: Sequence[Any] = (),
        *,
        namespace: str = "/",
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Send an event to one socket, wherever it is, and return what it is acknowledged with; see
        `Socket.call`."""
        socket = self._local.find(sid, namespace)
        if socket is not None:
            return await socket.call(event, args, timeout_s)
        node = await self._locate(sid, namespace)
        if timeout_s is None:
            timeout_s = self.shared.limits.socket_ack_timeout_s
        name = "message" if event is None else event
        question = Call(namespace=namespace, sid=sid, event=name, args=plain(args), timeout_s=timeout_s)
        control = self.shared.hub.broker.control
        payload = await control.ask(node, QUESTIONS, encode(question), timeout_s + _SPARE_S)
        return _result(decode_answer(payload, node))

    # -- rooms ---------------------------------------------------------------------------------

    async def enter_room(self, sid: str, room: str, *, namespace: str = "/") -> None:
        """Let a socket, wherever it is, enter a room. Raises `SocketGone` when it is nowhere, and what
        `Socket.join` raises."""
        socket = self._local.find(sid, namespace)
        if socket is not None:
            await socket.join(room)
        else:
            _result(await self._ask_all(Enter(namespace=namespace, sid=sid, room=room)))

    async def leave_room(self, sid: str, room: str, *, namespace: str = "/") -> None:
        """Let a socket, wherever it is, leave a room. Raises `SocketGone` when it is nowhere."""
        socket = self._local.find(sid, namespace)
        if socket is not None:
            socket.leave(room)
        else:
            _result(await self._ask_all(Leave(namespace=namespace, sid=sid, room=room)))

    async def close_room(self, room: str, *, namespace: str = "/") -> None:
        """Let all sockets leave a room, on every node."""
        order = CloseRoom(namespace=namespace, channel=channel_of(namespace, room))
        self._obey(order)
        await self.shared.hub.broker.control.broadcast(ORDERS, encode(order))

    async def rooms(self, sid: str, *, namespace: str = "/") -> list[str]:
        """Return the rooms of a socket, wherever it is, without its own; empty when it is nowhere."""
        socket = self._local.find(sid, namespace)
        if socket is not None:
            return socket.rooms()
        answer = await self._ask_all(Rooms(namespace=namespace, sid=sid))
        return [room for room in answer.result if isinstance(room, str)]

    async def disconnect(self, sid: str, *, namespace: str = "/") -> None:
        """End a socket, wherever it is; nothing happens when it is nowhere."""
        order = Disconnect(namespace=namespace, sid=sid)
        if self._local.find(sid, namespace) is not None:
            self._obey(order)
        else:
            await self.shared.hub.broker.control.broadcast(ORDERS, encode(order))

    # -- to other nodes ------------------------------------------------------------------------

    def _tell_others(self, order: Order) -> None:
        work = self.shared.hub.broker.control.broadcast(ORDERS, encode(order))
        self._local.tasks.start(_told(work), "telling other nodes")

    async def _locate(self, sid: str, namespace: str) -> str:
        """Return the node that has a socket."""
        question = encode(Find(namespace=namespace, sid=sid))
        found = await self.shared.registry.nodes.ask_all(QUESTIONS, question)
        for node, payload in found.answers.items():
            if decode_answer(payload, node).is_here:
                return node
        raise SocketGone()

    async def _ask_all(self, question: Question) -> Answer:
        """Return what the node says that has the socket; that none has it otherwise."""
        found = await self.shared.registry.nodes.ask_all(QUESTIONS, encode(question))
        for node, payload in found.answers.items():
            answer = decode_answer(payload, node)
            if answer.is_here:
                return answer
        return Answer()

    # -- from other nodes ----------------------------------------------------------------------

    def _hear(self, payload: bytes, node: str) -> None:
        if node == self.shared.hub.broker.node:
            return  # done already, when it was ordered
        order = decode_order(payload, node)
        if order is None:
            return
        try:
            self._obey(order)
        except EverywireError as error:
            _log.warning("what node %s ordered cannot be done: %s", node, error)

    def _obey(self, order: Order) -> None:
        if isinstance(order, Emit):
            emit_here(self._local, order)
        elif isinstance(order, CloseRoom):
            for socket in self._local.of_rooms(order.namespace, [order.channel]):
                exit_room(socket, order.channel)
        else:
            found = self._local.find(order.sid, order.namespace)
            if found is not None:
                found.disconnect()

    async def _asked(self, payload: bytes, node: str) -> bytes:
        question = decode_question(payload, node)
        socket = None if question is None else self._local.find(question.sid, question.namespace)
        if question is None or socket is None:
            return encode(Answer())
        try:
            result = await _answered(socket, question)
            return encode(Answer(is_here=True, result=plain(result)))
        except EverywireError as error:
            return encode(Answer(is_here=True, error=error.code.number, sentence=error.sentence))


async def _told(telling: Awaitable[None]) -> None:
    """Wait until other nodes were told, if they can be: what is in no log may be lost on the way."""
    try:
        await telling
    except EverywireError as error:
        _log.warning("other nodes were not told of an event that is in no log: %s", error)


async def _answered(socket: Socket, question: Question) -> list[Any]:
    if isinstance(question, Call):
        return await socket.call(question.event, question.args, question.timeout_s)
    if isinstance(question, Enter):
        await socket.join(question.room)
    elif isinstance(question, Leave):
        socket.leave(question.room)
    elif isinstance(question, Rooms):
        return socket.rooms()
    return []


def _result(answer: Answer) -> list[Any]:
    """Return what a node answered, or raise the error that it did."""
    if not answer.is_here:
        raise SocketGone()
    kind = _KINDS.get(answer.error)
    if kind is not None:
        raise kind(answer.sentence)
    if answer.error:
        raise EverywireError(answer.sentence, code=_BY_NUMBER.get(answer.error, codes.INTERNAL))
    return answer.result
