"""Events of clients: to the application's functions, to the built-in ones, or to nobody.

Functions run in their lanes, so that nothing else of a client waits behind one: its acknowledgements, its
disconnects and its other namespaces go on. What a function raises is acknowledged, and ends no connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from everywire.access.hooks import IN_ORDER, Lane
from everywire.codecs.json_text import check_json, dump
from everywire.codecs.socketio.packet import SocketPacket, take_attachments
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError
from everywire.sessions.asking import asked
from everywire.sessions.lanes import Lanes, Work
from everywire.sockets.answers import Answer, Busy, error_object
from everywire.sockets.builtin import BUILT_IN, publish
from everywire.sockets.local import LocalSockets
from everywire.sockets.socket import Socket

__all__ = ["dispatch"]

_WORK_BYTES: Final = 1024
"""What an event takes besides its data until its handler is done."""
_SMALL_BYTES: Final = 1024
"""Of a packet as small as this nobody counts the values."""
_VALUE_BYTES: Final = 32
"""What a value takes besides its text, between a small number (8) and an empty list (64)."""


def dispatch(local: LocalSockets, busy: Busy, socket: Socket, packet: SocketPacket, size: int) -> None:
    """Have an event handled; ``size`` is what its packet had in bytes. Until it is, it counts as what its
    values take."""
    local.counted.events += 1
    name, *args = packet.data
    event = name if isinstance(name, str) else str(name)
    namespace = socket.namespace
    if local.handling.has_event(namespace, event):
        size = _weight(packet.data, size)
        if _has_room(local, socket, packet, size):
            _handle(local, socket, Answer(socket, busy, packet.id, size), event, args, size)
    elif namespace == "/" and event == "publish":
        publish(socket, Answer(socket, busy, packet.id, size), busy, args)
    elif namespace == "/" and event in BUILT_IN:
        _answer(local, socket, Answer(socket, busy, packet.id, size), event, args, size)
    elif packet.id is not None and len(args) == 1 and local.shared.hooks.rpc is not None:
        size = _weight(packet.data, size)
        if _has_room(local, socket, packet, size):
            _call(local, socket, Answer(socket, busy, packet.id, size), event, args[0], size)
    else:
        local.counted.unhandled += 1


def _weight(data: Sequence[Any], size: int) -> int:
    """Return about what the values of a packet take in memory: thirty times its text if they are tiny."""
    if size <= _SMALL_BYTES:
        return size
    count = 0
    stack: list[Any] = [data]
    while stack:
        value = stack.pop()
        items = value.values() if type(value) is dict else value
        count += len(items)
        stack.extend([item for item in items if type(item) is list or type(item) is dict])
    return size + count * _VALUE_BYTES


def _has_room(local: LocalSockets, socket: Socket, packet: SocketPacket, size: int) -> bool:
    """Whether the handlers of all connections together may be given one more event; if not, the client is
    told. Work may outlive its connection, so each connection's own bound is not enough."""
    held_bytes, most = local.shared.tasks.held_bytes, local.shared.limits.max_calling_bytes
    if not held_bytes or held_bytes + size + _WORK_BYTES <= most:
        return True
    if packet.id is None:
        socket.end(codes.SLOW_DOWN, "too many events are handled here; come back later")
    else:
        busy = EverywireError("too many events are handled here; try again later", code=codes.BUSY)
        socket.acknowledge(packet.id, [error_object(busy)])
    return False


def _put(local: LocalSockets, socket: Socket, lane: Lane, work: Work, size: int) -> None:
    if socket.lanes is None:
        socket.lanes = Lanes(local.shared.tasks)
    socket.lanes.put(lane, work, size + _WORK_BYTES)


def _handle(
    local: LocalSockets, socket: Socket, answer: Answer, event: str, args: Sequence[Any], size: int
) -> None:
    """Have the application's function handle an event."""
    handling, timeout_s = local.handling, local.shared.limits.call_timeout_s

    async def work() -> None:
        found: Sequence[Any] | EverywireError = EverywireError(code=codes.INTERNAL)
        try:
            found = await asked("the handler of an event", handling.event(socket, event, args), timeout_s)
        finally:
            answer.give(found)

    _put(local, socket, handling.lane(socket, event, args), work, size)


def _answer(
    local: LocalSockets, socket: Socket, answer: Answer, event: str, args: Sequence[Any], size: int
) -> None:
    """Handle a built-in event."""
    function = BUILT_IN[event]

    async def work() -> None:
        found: Sequence[Any] | EverywireError = EverywireError(code=codes.INTERNAL)
        try:
            found = await function(socket, args)
        except EverywireError as error:
            found = error
        finally:
            answer.give(found)

    # Those about one room keep their order; others do not wait for them.
    room = args[0] if args and isinstance(args[0], str) else ""
    _put(local, socket, Lane(key=("built-in", room)), work, size)


def _call(
    local: LocalSockets, socket: Socket, answer: Answer, event: str, arg: Any, size: int
) -> None:
    """Have the application's ``rpc`` answer an event with one argument, as it does for sessions."""
    shared = local.shared
    hook = shared.hooks.rpc
    assert hook is not None
    attachments: list[bytes] = []
    take_attachments(arg, attachments)
    if attachments:
        answer.give(BadRequest("a call takes one argument that is JSON, without bytes in it"))
        return
    data = dump(arg)

    async def work() -> None:
        found: Sequence[Any] | EverywireError = EverywireError(code=codes.INTERNAL)
        try:
            result = await asked(
                "the handler of an rpc", hook(socket, event, data), shared.limits.call_timeout_s
            )
            found = result if isinstance(result, EverywireError) else [_value(result)]
        finally:
            answer.give(found)

    choose = shared.hooks.lane
    _put(local, socket, IN_ORDER if choose is None else choose(socket, event, data), work, size)


def _value(result: bytes) -> Any:
    """Return what a call was answered with: JSON text, or nothing."""
    return check_json(result) if result else None
