"""Subscriptions that the client asks for, and ends.

A subscribe command is authorized (by the rules, or by a subscription token), told to the application,
prepared (`everywire.sessions.preparing`), answered, and only then read. Meanwhile, further commands about the
same channel wait for it, so that subscribe, unsubscribe and subscribe again keep their order.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Action
from everywire.access.tokens import SubscriptionToken
from everywire.codecs.centrifuge.messages import (
    ClientInfo,
    Command,
    Empty,
    Reply,
    SubscribeRequest,
    SubscribeResult,
    Target,
)
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken, RequestError
from everywire.core.position import Place
from everywire.sessions.answers import field, field_bytes, refused
from everywire.sessions.asking import asked
from everywire.sessions.commands import check_channel, check_room
from everywire.sessions.expiry import plan_expiry
from everywire.sessions.line import POLL, Line
from everywire.sessions.preparing import Preparation
from everywire.sessions.subscription import Subscription

__all__ = ["give_terms", "joined", "subscribe", "unsubscribe", "wait_behind"]

_MUST_RECOVER: Final = 2
"""The flag's bit that turns an unrecoverable position into error 112."""
_NOTHING: Final = SubscribeDecision()


def wait_behind(line: Line, channel: str, command: Command) -> bool:
    """Let a command wait that is about a channel whose subscription is being made; say whether it does."""
    subscription = line.subscriptions.get(channel)
    if subscription is None or subscription.is_open or subscription.is_server_side:
        return False
    check_room(line)
    if subscription.waiting is None:
        subscription.waiting = deque()
    subscription.waiting.append(command)
    line.begin()
    return True


def subscribe(line: Line, command_id: int, request: SubscribeRequest) -> None:
    """Begin a subscription that the client asks for."""
    channel = request.channel
    check_channel(channel)
    if request.type:
        raise RequestError("only subscriptions to a stream are known here", code=codes.NOT_AVAILABLE)
    if field_bytes(request.tf):
        raise RequestError("tag filters are not known here", code=codes.BAD_REQUEST)
    if channel in line.subscriptions:
        raise RequestError(code=codes.ALREADY_SUBSCRIBED)
    most = line.shared.limits.max_session_channels
    if len(line.subscriptions) >= most:
        raise RequestError(f"a session has at most {most} channels", code=codes.LIMIT_EXCEEDED)
    check_room(line)
    subscription = Subscription(line, channel, line.info, is_server_side=False)
    line.subscriptions[channel] = subscription
    line.begin()
    _Subscribing(line, command_id, request, subscription).begin()


class _Subscribing:
    """One subscribe command under way."""

    __slots__ = ("_id", "_line", "_request", "_subscription", "_token", "_wants_presence")

    def __init__(
        self, line: Line, command_id: int, request: SubscribeRequest, subscription: Subscription
    ) -> None:
        self._line = line
        self._id = command_id
        self._request = request
        self._subscription = subscription
        self._token: SubscriptionToken | None = None
        self._wants_presence = request.join_leave

    def begin(self) -> None:
        """Find out whether it is allowed."""
        line, request = self._line, self._request
        authority = line.shared.authority
        if request.token:
            authority.judge_subscription(
                line.identity, request.channel, line.client, request.token, self._token_judged
            )
        else:
            self._subscription.is_ruled = True
            authority.authorize(line.identity, Action.READ, (request.channel,), self._judged)

    def _token_judged(self, found: SubscriptionToken | EverywireError) -> None:
        if isinstance(found, SubscriptionToken):
            self._token = found
            self._judged(None)
        elif isinstance(found, InvalidToken):
            self._judged(EverywireError(found.sentence, code=codes.INVALID_TOKEN))
        else:
            self._judged(found)

    def _judged(self, error: EverywireError | None) -> None:
        line = self._line
        if line.is_ended:
            return
        if error is not None:
            self._fail(refused(error))
        elif line.shared.hooks.subscribe is not None:
            line.shared.tasks.start(self._ask(), "the subscribe hook")
        else:
            self._decided(None)

    async def _ask(self) -> None:
        line, request = self._line, self._request
        hook = line.shared.hooks.subscribe
        assert hook is not None
        data = field_bytes(request.data)
        timeout_s = line.shared.limits.hook_timeout_s
        found = await asked("the subscribe hook", hook(line, request.channel, data), timeout_s)
        if line.is_ended:
            return
        if isinstance(found, EverywireError):
            self._fail(found)
        else:
            self._decided(found)

    def _decided(self, decision: SubscribeDecision | None) -> None:
        line, subscription = self._line, self._subscription
        merged = _merge(decision or _NOTHING, self._token)
        give_terms(line, subscription, merged, can_refresh=self._token is not None)
        if merged.join_leave is not None:
            self._wants_presence = merged.join_leave
            self._prepare(merged)
        elif self._wants_presence:
            # Joins tell who is there: that is for those who may see it.
            def judged(error: EverywireError | None) -> None:
                self._wants_presence = error is None
                if not line.is_ended:
                    self._prepare(merged)

            line.shared.authority.authorize(
                line.identity, Action.PRESENCE, (subscription.channel,), judged
            )
        else:
            self._prepare(merged)

    def _prepare(self, decision: SubscribeDecision) -> None:
        request = self._request
        since = Place(request.epoch, request.offset) if request.recover else None
        Preparation(
            self._line,
            self._subscription,
            decision,
            self._prepared,
            since=since,
            must_recover=bool(request.flag & _MUST_RECOVER),
        ).begin()

    def _prepared(self, result: SubscribeResult | EverywireError) -> None:
        line, subscription = self._line, self._subscription
        if subscription.refusal is not None:
            result = subscription.refusal
        if isinstance(result, EverywireError):
            self._fail(result)
            return
        subscription.is_open = True
        is_news = not result.recovered or bool(result.publications)
        line.reply_and_open(Reply(id=self._id, subscribe=result), subscription, is_news=is_news)
        joined(line, subscription, self._wants_presence)
        line.finish()
        _settle(line, subscription)

    def _fail(self, error: EverywireError) -> None:
        line = self._line
        line.drop(self._subscription)
        line.fail(self._id, error)
        line.finish()
        _settle(line, self._subscription)


def _merge(decision: SubscribeDecision, token: SubscriptionToken | None) -> SubscribeDecision:
    """Join what the application says with what a token says; the application has the last word."""
    if token is None:
        return decision
    times_s = [one for one in (decision.expires_s, token.expires_s) if one is not None]
    return SubscribeDecision(
        info=decision.info if decision.info is not None else token.info,
        data=decision.data if decision.data is not None else token.data,
        expires_s=min(times_s, default=None),
        snapshot=decision.snapshot,
        join_leave=decision.join_leave if decision.join_leave is not None else token.join_leave,
    )


def give_terms(
    line: Line, subscription: Subscription, decision: SubscribeDecision, *, can_refresh: bool = False
) -> None:
    """Let a subscription be what was decided: what others see, and until when it is good."""
    info = line.info
    if decision.info is not None:
        chan_info = field(decision.info, False)
        info = ClientInfo(
            user=info.user, client=info.client, conn_info=info.conn_info, chan_info=chan_info
        )
    subscription.info = info
    subscription.expires_s = decision.expires_s
    subscription.can_refresh = can_refresh and decision.expires_s is not None


def joined(line: Line, subscription: Subscription, hears_presence: bool) -> None:
    """Take the place in the channel that the client was told of."""
    if line.subscriptions.get(subscription.channel) is not subscription:
        return  # ended within the call that told of it
    shared, channel = line.shared, subscription.channel
    shared.counters.subscribed += 1
    if line.transport == POLL:
        shared.presence.touch(channel, line.client, subscription.info, line.wait_s)
    else:
        shared.presence.enter(channel, line.client, subscription.info)
    if hears_presence:
        subscription.is_listening = True
        shared.presence.listen(channel, subscription)
    if subscription.expires_s is not None:
        plan_expiry(line)


def _settle(line: Line, subscription: Subscription) -> None:
    """Begin the commands that waited for a subscription to be answered."""
    waiting, subscription.waiting = subscription.waiting, None
    for command in waiting or ():
        if line.is_ended:
            return
        line.handle(command)
        line.finish()


def unsubscribe(line: Line, command_id: int, request: Target) -> None:
    """End a subscription as the client wishes. That always succeeds."""
    check_channel(request.channel)
    subscription = line.subscriptions.get(request.channel)
    if subscription is not None:
        line.drop(subscription)
    elif line.transport == POLL:
        # The subscription was an earlier request's; its place in the channel is what is left of it.
        line.shared.presence.leave(request.channel, line.client)
    line.reply(Reply(id=command_id, unsubscribe=Empty()))
