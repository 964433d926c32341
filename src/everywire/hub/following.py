"""How the channels of this node keep up with their logs.

What a broker tells is only a hint: it may be late, doubled, out of order, or lost. A hint that
follows what was heard before is taken as it is; one that leaves a hole makes the log be read,
once for everyone on the channel; and about once a second the heads of all channels are
compared, so that even a lost last hint only delays. When the log has another epoch, or was
trimmed past this node, all live readers are sent back to it and find out what they missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from everywire.brokers.base import Head, Log, Page
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.publication import Publication
from everywire.hub.channel import Channel
from everywire.hub.group import Group
from everywire.hub.interfaces import Scheduler
from everywire.hub.marks import Marks
from everywire.hub.recovery import PageReader

__all__ = ["Follower"]

_RETRY_S: Final = 1.0


class Follower:
    """Keeps what the hub knows of its channels equal to their logs."""

    __slots__ = (
        "_budget",
        "_channels",
        "_fresh",
        "_groups",
        "_limits",
        "_log",
        "_marks",
        "_pages",
        "_scheduler",
    )

    def __init__(
        self,
        log: Log,
        pages: PageReader,
        channels: Mapping[str, Channel],
        groups: Callable[[str], Sequence[Group]],
        fresh: Callable[[Channel], None],
        scheduler: Scheduler,
        limits: Limits,
        budget: Budget,
        marks: Marks,
    ) -> None:
        self._log = log
        self._pages = pages
        self._channels = channels
        self._groups = groups
        self._fresh = fresh
        self._scheduler = scheduler
        self._limits = limits
        self._budget = budget
        self._marks = marks

    # -- beginning and ending -------------------------------------------------

    def begin(self, channel: Channel) -> None:
        """Follow a channel: hear its hints, and learn where its log stands."""
        self._log.watch(channel.name)
        self._ask(channel)

    def end(self, channel: Channel) -> None:
        """Follow a channel no longer; it was taken out of the hub's channels."""
        if channel.tail is not None:
            self._budget.forget(channel.tail)
        self._log.unwatch(channel.name)

    def _is_followed(self, channel: Channel) -> bool:
        """Say whether an answer still matters: the channel may have ended, and even begun anew."""
        return self._channels.get(channel.name) is channel

    def _ask(self, channel: Channel) -> None:
        if self._is_followed(channel):
            self._log.heads((channel.name,), partial(self._know, channel))

    def _know(self, channel: Channel, heads: Mapping[str, Head] | EverywireError) -> None:
        if not self._is_followed(channel):
            return
        if isinstance(heads, EverywireError):
            self._scheduler.call_later(_RETRY_S, partial(self._ask, channel))
            self._let_begin(channel, heads)
            return
        channel.is_known = True
        self._stand_at(channel, heads[channel.name])
        if channel.is_outdated:
            self.catch_up(channel, channel.epoch)
        self._let_begin(channel)

    def _let_begin(self, channel: Channel, error: EverywireError | None = None) -> None:
        waiting, channel.waiting = channel.waiting, []
        for go_on in waiting:
            go_on(error)

    # -- hints ----------------------------------------------------------------

    def published(self, name: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Take publications that follow what was heard; read the log when they leave a hole."""
        channel = self._channels.get(name)
        if channel is None:
            return
        if not channel.is_known or epoch != channel.epoch:
            self._cannot_follow(channel, epoch)
            return
        first = publications[0].offset
        if not previous and not channel.exists and first > channel.head:
            self._begin_after(channel, first - 1)
        elif previous != channel.head:
            if publications[-1].offset > channel.head:
                self.catch_up(channel, epoch)
            return
        self._take(channel, publications)

    def advanced(self, name: str, epoch: str, last: int) -> None:
        """Read the log when it is said to stand further on."""
        channel = self._channels.get(name)
        if channel is None:
            return
        if not channel.is_known or epoch != channel.epoch:
            self._cannot_follow(channel, epoch)
        elif last > channel.head:
            self.catch_up(channel, epoch)

    def compare(self, channel: Channel, head: Head) -> None:
        """Compare where the log is said to stand with what this node heard of."""
        if not channel.is_known or head.epoch != channel.epoch:
            self._cannot_follow(channel, head.epoch)
        elif head.last > channel.head:
            if head.exists or channel.exists:
                self.catch_up(channel, head.epoch)
            else:
                # Nothing was published yet. Where the first one will stand moves up when the store
                # forgets other channels; who waits for it misses nothing.
                self._begin_after(channel, head.last)

    def compare_all(self, heads: Mapping[str, Head] | EverywireError) -> None:
        """Compare where logs stand with what this node heard of; an error waits for the next time."""
        if not isinstance(heads, EverywireError):
            for name, head in heads.items():
                if name in self._channels:
                    self.compare(self._channels[name], head)

    def _cannot_follow(self, channel: Channel, epoch: str) -> None:
        if channel.is_known:
            self.catch_up(channel, epoch)
        else:
            channel.is_outdated = True

    def _take(self, channel: Channel, publications: Sequence[Publication]) -> None:
        channel.extend(publications)
        if channel.fresh_bytes > self._limits.max_fresh_bytes:
            # The fan-out cannot follow; who has not been given these yet re-reads the log.
            channel.drop_fresh(publications[0].offset - 1)
        for publication in publications:
            if publication.tags:
                self._marks.tell(channel.name, publication)
        self._fresh(channel)

    def _begin_after(self, channel: Channel, offset: int) -> None:
        """Move everyone who waits for a channel's first publication to just before it."""
        for group in self._groups(channel.name):
            index = group.channels.index(channel)
            for cohort in group.cohorts:
                if cohort.offsets[index] == channel.head:
                    cohort.offsets = (*cohort.offsets[:index], offset, *cohort.offsets[index + 1 :])
        channel.begin_after(offset)
        if channel.tail is not None:
            channel.keep_tail(self._budget)

    # -- reading what was not heard -----------------------------------------------

    def catch_up(self, channel: Channel, epoch: str) -> None:
        """Read what this node did not hear of, once for everyone on the channel."""
        if channel.is_repairing:
            channel.is_outdated = True
            return
        channel.is_repairing = True
        channel.is_outdated = False
        if epoch != channel.epoch:
            self._log.heads((channel.name,), partial(self._found_head, channel))
            return
        limits = self._limits
        self._pages.read_log(
            channel.name,
            channel.head,
            limits.max_page_publications,
            limits.max_page_bytes,
            partial(self._found, channel),
        )

    def _found(self, channel: Channel, page: Page | EverywireError) -> None:
        channel.is_repairing = False
        if not self._is_followed(channel):
            return
        if isinstance(page, EverywireError):
            # The next comparison of heads tries again.
            self._let_begin(channel, page)
            return
        head = page.head
        if head.epoch != channel.epoch:
            self.catch_up(channel, head.epoch)
            return
        news = [found for found in page.publications if found.offset > channel.head]
        if news and news[0].offset == channel.head + 1:
            self._take(channel, news)
            has_more = channel.head < head.last
        else:
            if head.last > channel.head:
                self._stand_at(channel, head)
            has_more = False
        self._go_on(channel, has_more)

    def _found_head(self, channel: Channel, heads: Mapping[str, Head] | EverywireError) -> None:
        channel.is_repairing = False
        if not self._is_followed(channel):
            return
        if isinstance(heads, EverywireError):
            self._let_begin(channel, heads)
            return
        head = heads[channel.name]
        if head.epoch != channel.epoch:
            self._stand_at(channel, head)
        self._go_on(channel, head.last > channel.head)

    def _go_on(self, channel: Channel, has_more: bool) -> None:
        # A hint that came during the read may be about what that read did not see.
        if has_more or channel.is_outdated:
            self.catch_up(channel, channel.epoch)
        self._let_begin(channel)

    def _stand_at(self, channel: Channel, head: Head) -> None:
        """Take over where the log stands, and send all live readers back to it."""
        had_readers = False
        for group in self._groups(channel.name):
            for cohort in group.cohorts:
                had_readers = True
                cohort.dissolve()
            group.cohorts.clear()
            group.forget_epochs()
        if had_readers:
            self._marks.tell_unheard(channel.name)
        channel.stand_at(head.epoch, head.last, head.exists)
        if not self._log.is_local:
            channel.keep_tail(self._budget)
