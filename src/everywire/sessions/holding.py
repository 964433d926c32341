"""The subscriptions that a session holds: what they ask of it, and how they end.

Joins and leaves go out one by one while the client reads. While it does not they may take half of what waits
(`Limits.max_session_queue_bytes`); what does not fit is counted, and told as one change when it reads again.
"""

from __future__ import annotations

from everywire.codecs.centrifuge.messages import Empty, Push, Unsubscribe
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.publication import Gap
from everywire.sessions.carrier import Carrier
from everywire.sessions.outlet import Outlet
from everywire.sessions.pushes import framed_presence
from everywire.sessions.shared import Shared
from everywire.sessions.subscription import Subscription

__all__ = ["Holder"]


class Holder(Outlet):
    """The subscriptions of one session."""

    __slots__ = ("client", "delivered")

    client: str
    """The client id, a UUID; empty before it is connected."""

    def __init__(self, shared: Shared, carrier: Carrier) -> None:
        super().__init__(shared, carrier)
        self.client = ""
        self.delivered = 0
        """Publications written to subscriptions that ended, and those in replies."""

    def note_news(self) -> None:
        """Hear that the client is about to be told something."""
        self.has_news = True

    def lost(self, subscription: Subscription, code: Code, gap: Gap | None) -> None:
        """Tell the client that a subscription has come to an end that nobody wished."""
        if self.is_ended:
            return
        if code in (codes.STALE, codes.SLOW):
            # The peer may only sleep: it may come back.
            self.end(codes.SLOW)
        elif subscription.is_server_side:
            self.end(codes.INSUFFICIENT_STATE if gap is not None else codes.SERVER_ERROR)
        else:
            self.push_unsubscribe(subscription, codes.SUBSCRIPTION_GAP)

    def push_unsubscribe(self, subscription: Subscription, code: Code) -> None:
        """End an open subscription, and tell the client."""
        self.drop(subscription)
        told = Unsubscribe(code=code.number, reason=code.sentence)
        self.push(Push(channel=subscription.channel, unsubscribe=told))

    def drop(self, subscription: Subscription) -> None:
        """End a subscription without a word. The place is free for another one of the channel."""
        if self.subscriptions.get(subscription.channel) is subscription:
            del self.subscriptions[subscription.channel]
        self.close(subscription)
        if subscription.is_open:
            self.shared.presence.leave(subscription.channel, self.client)

    def drop_all(self) -> None:
        """End all subscriptions without a word."""
        for subscription in tuple(self.subscriptions.values()):
            self.drop(subscription)

    def close(self, subscription: Subscription) -> None:
        """Read no more for a subscription; its place in the channel is somebody else's to give up."""
        self.delivered += subscription.close()
        if subscription.is_listening:
            subscription.is_listening = False
            self.shared.presence.unlisten(subscription.channel, subscription)

    def tell_presence(self, subscription: Subscription, push: Push) -> None:
        """Push a join or a leave. While the client does not read, they may take half of what waits; what
        does not fit is told as one change."""
        if self.is_ended or not subscription.is_open:
            return
        if self.is_stalled and self.queued_bytes > self.shared.limits.max_session_queue_bytes // 2:
            subscription.is_unsaid = True
            self.shared.counters.presence_dropped += 1
            return
        self.has_news = True
        carrier = self.carrier
        self.write_push(framed_presence(carrier.dialect, carrier.framing, push))

    def presence_changed(self, subscription: Subscription) -> None:
        """Have the client read again who is in the channel."""
        if self.is_ended or not subscription.is_open:
            return
        if self.is_stalled:
            subscription.is_unsaid = True
        else:
            # An extension of ours, which other clients ignore: to have all of a crowd subscribe again
            # whenever somebody comes or goes would do more harm than an old list.
            self.push(Push(channel=subscription.channel, presence_changed=Empty()))

    def say_unsaid(self) -> None:
        """Tell what could not be told of presence while the client did not read: it subscribes again, and
        reads the list; where the server subscribed it, it can only be told."""
        for subscription in [one for one in self.subscriptions.values() if one.is_unsaid]:
            subscription.is_unsaid = False
            if subscription.is_server_side:
                self.presence_changed(subscription)
            elif not self.is_ended:
                self.push_unsubscribe(subscription, codes.SUBSCRIPTION_GAP)

