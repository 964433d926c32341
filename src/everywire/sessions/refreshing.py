"""New tokens on an open connection: the identity is swapped, and subscriptions stay where they are.

A refresh must bring a token of the same user (else 3500); one that has expired ends the session so that
its client comes back with another (3005). What the new token no longer allows is ended after it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Identity
from everywire.access.tokens import SubscriptionToken
from everywire.codecs.centrifuge.messages import (
    Push,
    RefreshPush,
    RefreshRequest,
    RefreshResult,
    Reply,
    SubRefreshRequest,
    SubRefreshResult,
)
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden, InvalidToken, RequestError
from everywire.sessions.asking import asked
from everywire.sessions.commands import check_channel, check_room
from everywire.sessions.expiry import look_again, plan_expiry, take_identity, ttl_of
from everywire.sessions.line import Line
from everywire.sessions.subscribing import give_terms

__all__ = ["refresh", "refresh_from_server", "refresh_subscription"]

_log = logging.getLogger("everywire.sessions")


# -- the connection --------------------------------------------------------------------


def refresh(line: Line, command_id: int, request: RefreshRequest) -> None:
    """Take a new connection token."""
    if not request.token:
        raise RequestError("a token is missing", code=codes.BAD_PROTOCOL)
    check_room(line)
    line.begin()
    _Refreshing(line, command_id, request.token).begin()


class _Refreshing:
    """One refresh command under way."""

    __slots__ = ("_id", "_line", "_token")

    def __init__(self, line: Line, command_id: int, token: str) -> None:
        self._line = line
        self._id = command_id
        self._token = token

    def begin(self) -> None:
        """Find out whose the token is."""
        line = self._line
        if line.shared.hooks.refresh is None:
            self._judge()
        else:
            line.shared.tasks.start(self._ask(), "the refresh hook")

    async def _ask(self) -> None:
        line = self._line
        hook = line.shared.hooks.refresh
        assert hook is not None
        found = await asked("the refresh hook", hook(line, self._token), line.shared.limits.hook_timeout_s)
        if line.is_ended:
            return
        if found is None:
            self._judge()
        else:
            self._judged(found)

    def _judge(self) -> None:
        line = self._line
        # Wherever the first token stood, this one came in a command.
        request = replace(line.request, token=self._token, is_token_in_query=False)
        line.shared.authority.authenticate(request, self._judged)

    def _judged(self, found: Identity | EverywireError) -> None:
        line = self._line
        if line.is_ended:
            return
        if isinstance(found, EverywireError):
            self._refuse(found)
        elif found.user != line.identity.user:
            _log.warning("user %r brought a token of user %r to refresh", line.identity.user, found.user)
            line.end(codes.INVALID_TOKEN, "this token is another user's")
        else:
            self._take(found)

    def _take(self, identity: Identity) -> None:
        line = self._line
        take_identity(line, identity)
        result = RefreshResult(client=line.client, version=line.shared.version)
        if identity.expires_s is not None:
            result.expires = True
            result.ttl = ttl_of(line, identity.expires_s)
            line.can_refresh = True
        line.reply(Reply(id=self._id, refresh=result))
        line.finish()
        if not line.is_ended:
            look_again(line)

    def _refuse(self, error: EverywireError) -> None:
        line = self._line
        end = _END.get(error.code.number)
        if isinstance(error, InvalidToken):
            end = codes.INVALID_TOKEN
        if end is not None:
            line.end(end, error.sentence)
        else:
            line.fail(self._id, error)
            line.finish()


_END: dict[int, Code] = {
    codes.TOKEN_EXPIRED.number: codes.EXPIRED,
    codes.CREDENTIAL_EXPIRED.number: codes.EXPIRED,
    codes.UNAUTHORIZED.number: codes.INVALID_TOKEN,
    codes.PERMISSION_DENIED.number: codes.REFUSED,
}
"""How the session ends for a token that is of no use; anything else may be tried again."""


def refresh_from_server(line: Line, expires_s: float | None) -> None:
    """Let the session be good until another time, and tell the client."""
    take_identity(line, replace(line.identity, expires_s=expires_s))
    push = RefreshPush()
    if expires_s is not None:
        push = RefreshPush(expires=True, ttl=ttl_of(line, expires_s))
    line.push(Push(refresh=push))


# -- a subscription ----------------------------------------------------------------------


def refresh_subscription(line: Line, command_id: int, request: SubRefreshRequest) -> None:
    """Take a new subscription token. Some clients leave the channel out: it is the token's then."""
    if not request.token:
        raise RequestError("a token is missing", code=codes.BAD_PROTOCOL)
    if request.channel:
        check_channel(request.channel)
        _subscribed(line, request.channel)
    check_room(line)

    def judged(found: SubscriptionToken | EverywireError) -> None:
        if line.is_ended:
            return
        try:
            if isinstance(found, EverywireError):
                raise found
            result = _take_subscription_token(line, found)
        except InvalidToken as error:
            line.end(codes.INVALID_TOKEN, error.sentence)
            return
        except EverywireError as error:
            line.fail(command_id, error)
        else:
            line.reply(Reply(id=command_id, sub_refresh=result))
        line.finish()

    line.begin()
    line.shared.authority.judge_subscription(
        line.identity, request.channel, line.client, request.token, judged
    )


def _take_subscription_token(line: Line, token: SubscriptionToken) -> SubRefreshResult:
    _subscribed(line, token.channel)
    subscription = line.subscriptions[token.channel]
    if token.info is not None:
        give_terms(line, subscription, SubscribeDecision(info=token.info))
    subscription.expires_s = token.expires_s
    subscription.can_refresh = token.expires_s is not None
    plan_expiry(line)
    if token.expires_s is None:
        return SubRefreshResult()
    return SubRefreshResult(expires=True, ttl=ttl_of(line, token.expires_s))


def _subscribed(line: Line, channel: str) -> None:
    subscription = line.subscriptions.get(channel)
    if subscription is None or not subscription.is_open:
        raise Forbidden("there is no such subscription", channel=channel)
