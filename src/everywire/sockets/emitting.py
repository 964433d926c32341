"""Where an event of the application goes: to rooms by the log, to sockets directly, to who reads now.

An event for rooms is published (`everywire.sockets.broadcast`), so that it reaches every wire and every node,
and those who were cut off. An event for a socket by its id goes to the node that has it, and is in no log,
like one that is volatile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from everywire.sockets.happenings import Name, direct_wires
from everywire.sockets.ids import is_socket_id
from everywire.sockets.local import LocalSockets
from everywire.sockets.orders import Emit
from everywire.sockets.rooms import channel_of
from everywire.sockets.socket import Socket

__all__ = ["Target", "emit_here", "target_of"]


class Target(NamedTuple):
    """Whom an event is for, in a namespace."""

    channels: Sequence[str]
    """Rooms; with no rooms and no sockets it is for everyone."""
    sids: Sequence[str]
    except_: Sequence[str]
    """Rooms whose sockets are left out."""
    skip: Sequence[str]
    """Sockets that are left out."""


def target_of(
    local: LocalSockets, namespace: str, to: Sequence[str], except_: Sequence[str], skip: Sequence[str]
) -> Target:
    """Tell rooms and sockets apart. Raises `BadRequest` for the name of a room that is too long."""
    rooms, sids = _told_apart(local, to)
    other_rooms, other_sids = _told_apart(local, except_)
    return Target(
        [channel_of(namespace, room) for room in rooms],
        sids,
        [channel_of(namespace, room) for room in other_rooms],
        [*skip, *other_sids],
    )


def _told_apart(local: LocalSockets, names: Sequence[str]) -> tuple[list[str], list[str]]:
    rooms: list[str] = []
    sids: list[str] = []
    for name in dict.fromkeys(names):
        (sids if local.find(name) is not None or is_socket_id(name) else rooms).append(name)
    return rooms, sids


def emit_here(local: LocalSockets, order: Emit) -> None:
    """Send an event that is in no log to those whom it is for on this node."""
    receivers = dict.fromkeys(one for sid in order.sids if (one := local.find(sid, order.namespace)))
    in_rooms = local.of_rooms(order.namespace, order.channels)
    if order.volatile:
        more = local.of_namespace(order.namespace) if order.everyone else in_rooms
        receivers.update(dict.fromkeys(more))
    else:
        for one in in_rooms:
            receivers.pop(one, None)  # these get it from the log
    for one in local.of_rooms(order.namespace, order.except_):
        receivers.pop(one, None)
    skipped = frozenset(order.skip)
    found = [one for one in receivers if one.sid not in skipped]
    if not order.volatile:
        for socket in found:
            socket.emit(order.event, order.args)
    elif found:
        _emit_volatile(local, found, order.event, order.args)


def _emit_volatile(local: LocalSockets, sockets: Sequence[Socket], event: Name, args: Sequence[Any]) -> None:
    """Send an event to those of the sockets that take it at this moment; encoded once where positions, which
    are each socket's own, are no part of it."""
    packets = None
    for socket in sockets:
        if socket.is_ended or not socket.is_connected or socket.home.link.is_stalled:
            local.counted.volatile_dropped += 1
        elif socket.pid:
            socket.tell(event, args)
        else:
            if packets is None:
                limits = local.shared.limits
                packets = direct_wires(socket.namespace, event, args, limits=limits, form=local.form)
            socket.post(packets)
