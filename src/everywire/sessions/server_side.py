"""Subscriptions that the server begins or ends while a session is open: the client is told by a push."""

from __future__ import annotations

from everywire.access.hooks import SubscribeDecision
from everywire.codecs.centrifuge.messages import Push, SubscribePush, SubscribeResult
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.position import Place
from everywire.sessions.line import Line
from everywire.sessions.preparing import Preparation
from everywire.sessions.subscribing import give_terms, joined
from everywire.sessions.subscription import Subscription

__all__ = ["end_subscription", "subscribe_from_server"]


def subscribe_from_server(
    line: Line, channel: str, decision: SubscribeDecision, since: Place | None
) -> None:
    """Begin a subscription for a client: it is told by a push."""
    full = len(line.subscriptions) >= line.shared.limits.max_session_channels
    if channel in line.subscriptions or full:
        return
    subscription = Subscription(line, channel, line.info, is_server_side=True)
    line.subscriptions[channel] = subscription
    give_terms(line, subscription, decision)

    def prepared(result: SubscribeResult | EverywireError) -> None:
        if line.subscriptions.get(channel) is not subscription:
            return  # ended while it was being made
        if isinstance(result, EverywireError):
            line.drop(subscription)
            return
        subscription.is_open = True
        if result.publications:
            # They come as pushes, from where the client stands.
            subscription.place = Place(result.epoch, result.offset)
            line.delivered -= len(result.publications)
            line.shared.hub.counters.delivered -= len(result.publications)
        told = SubscribePush(
            recoverable=True,
            positioned=True,
            epoch=result.epoch,
            offset=result.offset,
            data=result.data,
        )
        line.push(Push(channel=channel, subscribe=told))
        if line.subscriptions.get(channel) is subscription:
            subscription.open(line.shared.hub)
            joined(line, subscription, bool(decision.join_leave))

    Preparation(line, subscription, decision, prepared, since=since).begin()


def end_subscription(line: Line, channel: str, code: Code) -> None:
    """End a subscription by order of the server. One that is being made is refused."""
    subscription = line.subscriptions.get(channel)
    if subscription is None:
        return
    if subscription.is_open:
        line.push_unsubscribe(subscription, code)
    elif subscription.is_server_side:
        line.drop(subscription)
    elif code.reconnect:
        subscription.refusal = EverywireError(code.sentence, code=codes.INTERNAL)  # a temporary one
    else:
        subscription.refusal = Forbidden("this subscription was ended by the server", channel=channel)
