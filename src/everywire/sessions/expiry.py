"""Permissions that end: of the connection, of subscriptions, and those that are taken away.

Before a credential runs out the client is told (push ``refresh``, after ``expires`` and ``ttl`` of the
connect reply). A client that can bring a new token has `Limits.expiry_grace_s` more; then the session ends
(3005). Where the client has none to bring (a cookie, a header), the application is asked beforehand to let
it go on (`Hooks.refresh`, with an empty token), and without that the session ends in time: who comes back is
judged anew. A subscription whose permission has run out is ended so that the client asks again (2501); one
that the server began ends the connection (3006).

Between these, the rules and the application are asked again now and then whether what is open may stay so.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final

from everywire.access.authority import is_decision
from everywire.access.identity import Action, Identity
from everywire.codecs.centrifuge.messages import Push, RefreshPush
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.sessions.asking import asked
from everywire.sessions.line import Line

__all__ = ["check_expiry", "is_soon", "look_again", "plan_expiry", "take_identity", "ttl_of"]

_MAX_TTL_S: Final = 2**31 - 1


def ttl_of(line: Line, expires_s: float) -> int:
    """Return how many whole seconds are left; at least one, since none would mean nothing to clients, and at
    most what the protocol's number can say."""
    return int(min(max(expires_s - line.shared.unix_s(), 1), _MAX_TTL_S))


def is_soon(line: Line) -> bool:
    """Say whether the credential is about to run out."""
    expires_s, shared = line.identity.expires_s, line.shared
    return expires_s is not None and expires_s - shared.unix_s() <= shared.limits.expiry_notice_s


def plan_expiry(line: Line) -> None:
    """Find out when the next permission ends, and have it seen to."""
    end_s = min(_connection_due_s(line), _subscriptions_due_s(line))
    line.expiry_due_s = math.inf if end_s == math.inf else line.now_s() + max(end_s - line.shared.unix_s(), 0)
    line.arm()


def check_expiry(line: Line) -> None:
    """End what has run out, and tell of what is about to."""
    unix_s = line.shared.unix_s()
    if unix_s >= _connection_due_s(line):
        _connection_is_due(line)
    grace_s = line.shared.limits.expiry_grace_s
    for subscription in tuple(line.subscriptions.values()):
        expires_s = subscription.expires_s
        if line.is_ended:
            return
        if expires_s is None or not subscription.is_open:
            continue
        if unix_s >= expires_s + (grace_s if subscription.can_refresh else 0):
            if subscription.is_server_side:
                line.end(codes.SUBSCRIPTION_END)
            else:
                line.push_unsubscribe(subscription, codes.SUBSCRIPTION_EXPIRED)
    if not line.is_ended:
        plan_expiry(line)


def _connection_due_s(line: Line) -> float:
    expires_s = line.identity.expires_s
    if expires_s is None or not line.is_connected:
        return math.inf
    limits = line.shared.limits
    if not line.is_forewarned:
        return expires_s - limits.expiry_notice_s
    return expires_s + (limits.expiry_grace_s if line.can_refresh else 0)


def _subscriptions_due_s(line: Line) -> float:
    grace_s = line.shared.limits.expiry_grace_s
    return min(
        (
            one.expires_s + (grace_s if one.can_refresh else 0)
            for one in line.subscriptions.values()
            if one.expires_s is not None and one.is_open
        ),
        default=math.inf,
    )


def _connection_is_due(line: Line) -> None:
    expires_s = line.identity.expires_s
    assert expires_s is not None
    if line.is_forewarned:
        line.end(codes.EXPIRED)
        return
    line.is_forewarned = True
    if not line.can_refresh and line.shared.hooks.refresh is not None:
        _ask_to_go_on(line)
    else:
        line.push(Push(refresh=RefreshPush(expires=True, ttl=ttl_of(line, expires_s))))


def _ask_to_go_on(line: Line) -> None:
    """Ask the application to let a client go on that has no token to bring."""
    hook = line.shared.hooks.refresh
    assert hook is not None
    before = line.identity

    async def ask() -> None:
        found = await asked("the refresh hook", hook(line, ""), line.shared.limits.hook_timeout_s)
        if line.is_ended or line.identity is not before:
            return
        if isinstance(found, Identity) and found.user == before.user:
            take_identity(line, found)
            if found.expires_s is not None:
                line.push(Push(refresh=RefreshPush(expires=True, ttl=ttl_of(line, found.expires_s))))

    line.shared.tasks.start(ask(), "the refresh hook")


def take_identity(line: Line, identity: Identity) -> None:
    """Go on as somebody who was proved anew; subscriptions stay where they are."""
    before, line.identity = line.identity, identity
    line.is_forewarned = is_soon(line)  # it is told now, and that is as good
    line.set_info()
    if line.is_entered:
        line.shared.registry.moved(line, before)
    plan_expiry(line)


# -- what may have been taken away -----------------------------------------------------


def look_again(line: Line) -> None:
    """Ask again whether what is open may stay so."""
    authority = line.shared.authority
    if authority.is_revoked(line.identity):
        # The next connect command is judged anew, and is told why it is refused.
        line.end(codes.FORCE_RECONNECT)
        return
    names = [one.channel for one in line.subscriptions.values() if one.is_ruled and one.is_open]
    if names:
        authority.authorize(line.identity, Action.READ, names, partial(_looked_again, line, line.identity))


def _looked_again(line: Line, identity: Identity, error: EverywireError | None) -> None:
    if error is None or line.is_ended or line.identity is not identity:
        return
    if not is_decision(error.code):
        return  # nobody could say; the next time will do
    subscription = line.subscriptions.get(error.channel or "")
    if subscription is None:
        if error.channel is None:
            line.end(codes.FORCE_RECONNECT)
        return
    if subscription.is_server_side:
        line.end(codes.FORCE_RECONNECT)
        return
    line.push_unsubscribe(subscription, codes.UNSUBSCRIBED)
    look_again(line)
