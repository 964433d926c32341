"""Rooms: how a socket enters and leaves them, and how its client hears of it.

A room is a channel. Where reading it begins is fixed at once, and told to whoever asked; what is emitted
from then on reaches the client. Of several who ask for the same room at the same time all are told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from everywire.access.hooks import SubscribeDecision
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, LimitExceeded
from everywire.core.position import Place
from everywire.sessions.answers import field
from everywire.sockets.acks import SocketGone
from everywire.sockets.line import Joined, Line

__all__ = ["enter", "exit_room", "expel", "go_on_in", "tell_expelled"]

Done = Callable[[EverywireError | None], None]


def enter(
    line: Line,
    channel: str,
    done: Done,
    *,
    place: Place | None = None,
    is_ruled: bool = False,
    decision: SubscribeDecision | None = None,
) -> None:
    """Let a socket enter a room, at its head or after a place. ``done`` is called once; its errors:
    `SocketGone`, `LimitExceeded`, and what the log says."""
    if line.is_ended or line.reading is None:
        done(SocketGone())
        return
    known = line.joined.get(channel)
    if known is not None:
        if known.is_open:
            done(None)
        else:
            known.waiting.append(done)
        return
    most = line.home.shared.limits.max_socket_rooms
    if len(line.joined) >= most:
        done(LimitExceeded(f"a socket is in at most {most} rooms"))
        return
    joined = line.joined[channel] = Joined(channel, _info(line, decision), is_ruled=is_ruled)
    joined.expires_s = None if decision is None else decision.expires_s
    joined.waiting.append(done)
    line.reading.join(channel, place, partial(_entered, line, joined))


def _info(line: Line, decision: SubscribeDecision | None) -> ClientInfo:
    if decision is None or decision.info is None:
        return line.info
    info, chan_info = line.info, field(decision.info, False)
    return ClientInfo(user=info.user, client=info.client, conn_info=info.conn_info, chan_info=chan_info)


def _entered(line: Line, joined: Joined, found: Place | EverywireError) -> None:
    waiting, joined.waiting = joined.waiting, []
    error = found if isinstance(found, EverywireError) else None
    if line.joined.get(joined.channel) is not joined:
        error = error or SocketGone("the room was left again")
    elif error is not None:
        del line.joined[joined.channel]
    else:
        joined.is_open = True
        joined.place = found if isinstance(found, Place) else Place("", 0)
        line.home.entered(line, joined.channel)
        if line.is_connected:
            line.home.shared.presence.enter(joined.channel, line.client, joined.info)
    for done in waiting:
        done(error)


def go_on_in(line: Line, channel: str, place: Place, *, is_ruled: bool) -> None:
    """Let a socket that is recovered be in a room that it reads already."""
    joined = line.joined[channel] = Joined(channel, line.info, is_ruled=is_ruled)
    joined.is_open = True
    joined.place = place
    line.home.entered(line, channel)


def exit_room(line: Line, channel: str, *, at_once: bool = False) -> bool:
    """Let a socket leave a room; False when it was not in it. What was emitted there until now still reaches
    the client, unless it leaves ``at_once``."""
    joined = line.joined.pop(channel, None)
    if joined is None:
        return False
    if line.reading is not None:
        line.reading.leave(channel, at_once=at_once)
    if joined.is_open:
        line.home.exited(line, channel)
        if line.is_connected:
            line.home.shared.presence.leave(channel, line.client)
    return True


def expel(line: Line, channel: str, code: Code) -> None:
    """Let a socket leave a room by order of the server, and tell its client."""
    if exit_room(line, channel, at_once=True):
        tell_expelled(line, channel, code)


def tell_expelled(line: Line, channel: str, code: Code) -> None:
    """Tell a client that it is in a room no more, and why."""
    told = {"channel": channel, "code": code.number, "reason": code.sentence}
    line.tell("everywire:unsubscribed", [told])
