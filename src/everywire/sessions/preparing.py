"""From a permission to a subscription: what was missed, the snapshot, and where reading begins.

The log is read from the client's position, and what is there goes into the reply, at most
`Limits.max_recovery_publications`; the reader then begins at the offset that the reply came to, so that
whatever is left follows as pushes. The client is told ``recovered`` only when nothing is missing. Without a
position, or when it is gone, reading begins at the head; the application's snapshot is made after that was
read, so that it holds at least what was published up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from everywire.access.hooks import SubscribeDecision
from everywire.brokers.base import Head, Page
from everywire.codecs.centrifuge.messages import SubscribeResult
from everywire.codecs.centrifuge.publication import as_pub
from everywire.core import codes
from everywire.core.errors import EverywireError, RequestError
from everywire.core.position import Place
from everywire.sessions.answers import field
from everywire.sessions.asking import asked
from everywire.sessions.expiry import ttl_of
from everywire.sessions.line import Line
from everywire.sessions.subscription import Subscription

__all__ = ["Preparation", "is_recoverable"]

Done = Callable[[SubscribeResult | EverywireError], None]


def is_recoverable(place: Place, head: Head) -> bool:
    """Say whether everything that followed a place is still kept. Without an epoch, any is meant, and offset
    0 is before the first publication that there ever was."""
    if place.epoch and place.epoch != head.epoch:
        return False
    if head.first - 1 <= place.offset <= head.last:
        return True
    return not place.offset and not place.epoch and head.is_whole


class Preparation:
    """One subscription before it is told to the client. ``done`` is called once, unless the session ends."""

    __slots__ = ("_decision", "_done", "_line", "_must_recover", "_since", "_subscription")

    def __init__(
        self,
        line: Line,
        subscription: Subscription,
        decision: SubscribeDecision,
        done: Done,
        *,
        since: Place | None = None,
        must_recover: bool = False,
    ) -> None:
        self._line = line
        self._subscription = subscription
        self._decision = decision
        self._done = done
        self._since = since
        self._must_recover = must_recover
        """Whether a position that is gone is an error (112)."""

    def begin(self) -> None:
        """Read the log."""
        hub, limits = self._line.shared.hub, self._line.shared.limits
        channel = self._subscription.channel
        if hub.on_read is not None:
            is_late = self._since is None or not self._since.epoch
            hub.on_read(channel, None if is_late else self._since)
        if self._since is None:
            hub.broker.log.heads((channel,), self._heads_known)
        else:
            count, size = limits.max_recovery_publications, limits.max_recovery_bytes
            hub.read(channel, max(self._since.offset, 0), count, size, self._page_read)

    def _heads_known(self, heads: Mapping[str, Head] | EverywireError) -> None:
        if isinstance(heads, EverywireError):
            self._finish(heads)
            return
        head = heads[self._subscription.channel]
        self._begin_at_head(head, SubscribeResult(offset=head.last, was_recovering=self._since is not None))

    def _page_read(self, page: Page | EverywireError) -> None:
        if isinstance(page, EverywireError):
            self._finish(page)
            return
        line, since, head = self._line, self._since, page.head
        assert since is not None
        if not is_recoverable(since, head):
            line.shared.counters.unrecovered += 1
            if self._must_recover:
                self._finish(RequestError("what follows this position is gone", code=codes.UNRECOVERABLE))
            else:
                self._begin_at_head(head, SubscribeResult(offset=head.last, was_recovering=True))
            return
        after = max(since.offset, head.first - 1)
        found = [one for one in page.publications if one.offset > after]
        line.shared.counters.recovered += 1
        line.shared.hub.counters.delivered += len(found)
        line.delivered += len(found)
        is_binary = line.carrier.dialect.is_binary
        self._subscription.place = Place(head.epoch, found[-1].offset if found else after)
        result = SubscribeResult(
            epoch=head.epoch,
            offset=after,
            was_recovering=True,
            recovered=True,
            publications=[as_pub(one, is_binary) for one in found],
        )
        self._tell(result)

    def _begin_at_head(self, head: Head, result: SubscribeResult) -> None:
        self._subscription.place = Place(head.epoch, head.last)
        result.epoch = head.epoch
        if self._decision.snapshot is None:
            self._tell(result)
        else:
            self._line.shared.tasks.start(self._take_snapshot(result), "a snapshot")

    async def _take_snapshot(self, result: SubscribeResult) -> None:
        line, channel = self._line, self._subscription.channel
        make = self._decision.snapshot
        assert make is not None
        found = await asked("a snapshot", make(line, channel), line.shared.limits.hook_timeout_s)
        if line.is_ended:
            return
        if isinstance(found, EverywireError):
            self._finish(found)
            return
        result.data = field(found, line.carrier.dialect.is_binary)
        result.has_snapshot = True
        self._tell(result)

    def _tell(self, result: SubscribeResult) -> None:
        """Add what is told of every subscription."""
        line, subscription, decision = self._line, self._subscription, self._decision
        result.recoverable = result.positioned = True
        if not result.has_snapshot:
            result.data = field(decision.data, line.carrier.dialect.is_binary)
        if subscription.can_refresh and subscription.expires_s is not None:
            result.expires = True
            result.ttl = ttl_of(line, subscription.expires_s)
        self._finish(result)

    def _finish(self, result: SubscribeResult | EverywireError) -> None:
        if not self._line.is_ended:
            self._done(result)
