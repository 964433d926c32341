"""Permissions that end: of a socket, of its rooms, and those that are taken away.

A credential that runs out ends the socket in time, by closing the connection: its client comes back by
itself, and is judged anew. Where the application knows better (`Hooks.refresh`, with an empty token) it is
asked a little before, `Limits.expiry_notice_s`. A room's permission that runs out ends the stay there.

Every `Limits.recheck_s` the rules and the application are asked again whether what the client itself asked
for may stay so; rooms that the application let it join are its own affair. One deadline at a time on the
hub's wheel, and no task.
"""

from __future__ import annotations

import math
import random
from functools import partial

from everywire.access.authority import is_decision
from everywire.access.identity import Action, Identity
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.sessions.asking import asked
from everywire.sockets.joining import expel
from everywire.sockets.line import Line

__all__ = ["plan", "watch"]


def watch(line: Line) -> None:
    """Begin to look after what a socket that has just connected may do."""
    recheck_s = line.home.shared.limits.recheck_s
    # Not all that came back after a restart in the same second.
    line.recheck_due_s = line.now_s() + recheck_s * random.uniform(0.75, 1.0)
    plan(line)


def plan(line: Line) -> None:
    """Find out when the next thing is due, and have it done then."""
    if line.is_ended or not line.is_connected:
        return
    shared = line.home.shared
    ends_s = min(
        _identity_due_s(line),
        min((one.expires_s for one in line.joined.values() if one.expires_s is not None), default=math.inf),
    )
    now_s = line.now_s()
    line.expiry_due_s = math.inf if ends_s == math.inf else now_s + max(ends_s - shared.unix_s(), 0)
    due_s = min(line.recheck_due_s, line.expiry_due_s)
    deadlines = shared.hub.deadlines
    if line.slot is not None:
        if line.slot_s == due_s:
            return
        deadlines.disarm(line, line.slot)
    line.slot_s = due_s
    line.slot = deadlines.arm(line, due_s + deadlines.lost_s, _is_due)


def _identity_due_s(line: Line) -> float:
    expires_s = line.identity.expires_s
    if expires_s is None:
        return math.inf
    shared = line.home.shared
    if shared.hooks.refresh is not None and not line.is_forewarned:
        return expires_s - shared.limits.expiry_notice_s
    return expires_s


def _is_due(line: Line) -> None:
    line.slot = None
    now_s = line.now_s()
    if now_s >= line.expiry_due_s:
        _check_expiry(line)
    if now_s >= line.recheck_due_s and not line.is_ended:
        line.recheck_due_s = now_s + line.home.shared.limits.recheck_s
        line.home.looked_at(line)
        _look_again(line)
    plan(line)


def _check_expiry(line: Line) -> None:
    shared = line.home.shared
    unix_s = shared.unix_s()
    if unix_s >= _identity_due_s(line):
        if shared.hooks.refresh is None or line.is_forewarned:
            line.end(codes.EXPIRED)
            return
        line.is_forewarned = True
        _ask_to_go_on(line)
    for joined in tuple(line.joined.values()):
        if joined.expires_s is not None and unix_s >= joined.expires_s and not line.is_ended:
            expel(line, joined.channel, codes.SUBSCRIPTION_EXPIRED)


def _ask_to_go_on(line: Line) -> None:
    """Ask the application to let a client go on, which has no way to bring a new token."""
    shared = line.home.shared
    hook = shared.hooks.refresh
    assert hook is not None
    before = line.identity

    async def ask() -> None:
        found = await asked("the refresh hook", hook(line, ""), shared.limits.hook_timeout_s)
        if line.is_ended or line.identity is not before:
            return
        if isinstance(found, Identity) and found.user == before.user:
            line.set_identity(found)
            plan(line)

    shared.tasks.start(ask(), "the refresh hook")


def _look_again(line: Line) -> None:
    """Ask again whether what is open may stay so."""
    authority = line.home.shared.authority
    if authority.is_revoked(line.identity):
        line.end(codes.FORCE_RECONNECT)  # who comes back is told why it may not
        return
    names = [one.channel for one in line.joined.values() if one.is_ruled and one.is_open]
    if names:
        authority.authorize(line.identity, Action.READ, names, partial(_looked_again, line, line.identity))


def _looked_again(line: Line, identity: Identity, error: EverywireError | None) -> None:
    if error is None or line.is_ended or line.identity is not identity or not is_decision(error.code):
        return  # if nobody could say, the next time will do
    if error.channel is None:
        line.end(codes.FORCE_RECONNECT)
    elif error.channel in line.joined:
        expel(line, error.channel, codes.UNSUBSCRIBED)
        _look_again(line)
