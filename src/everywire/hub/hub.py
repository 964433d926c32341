"""The hub: who reads which channels in this process, and what they are told.

A transport makes a `Reader` with `Hub.reader`, opens it at a `Start`, and from then on
hears of it only through its `Subscriber`. Publishing is one call that ends in a
callback. Nothing is lost or doubled between reading the log and going live, because a
reader joins the live members only in the very call in which it stands at the head that
this hub heard of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from everywire.brokers.base import Appended, Broker, Head, Page
from everywire.core import codes
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.publication import RESET, Draft, Publication
from everywire.core.settings import SettingsTable
from everywire.core.wheel import Wheel
from everywire.hub.catchup import CatchUp
from everywire.hub.channel import Channel
from everywire.hub.counters import Counters
from everywire.hub.fanout import Fanout
from everywire.hub.fetch import Fetched, fetch
from everywire.hub.group import Batch, Group, Untold
from everywire.hub.interfaces import Cancellable, Encoder, Framing, Scheduler, Subscriber
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST, PageReader, Start, begin_at

__all__ = ["Hub"]

_TICK_S: Final = 1.0
_WHEEL_S: Final = 0.05


class Hub:
    """The readers of one process, over one broker. All calls from one event loop."""

    def __init__(
        self,
        broker: Broker,
        scheduler: Scheduler,
        *,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.broker = broker
        self.limits = limits or Limits()
        self.settings = settings or SettingsTable()
        self.counters = Counters()
        self.deadlines = Wheel(_WHEEL_S, scheduler.time())
        """Deadlines of waiting readers, to a twentieth of a second."""
        self._budget = budget or Budget(self.limits.log_budget_bytes)
        self._scheduler = scheduler
        self._channels: dict[str, Channel] = {}
        self._groups: dict[tuple[object, ...], Group] = {}
        self._listeners: dict[str, list[Group]] = {}
        self._stalled: dict[Reader, float] = {}
        self._unfinished = 0
        self._timers: list[Cancellable | None] = [None, None]
        self._pages = PageReader(broker.log, self._channels)
        self._catch_up = CatchUp(scheduler, self._pages, self.counters, self.queue, self._log_is_ahead)
        self._fanout = Fanout(
            scheduler, self.limits.slice_s, self._groups_of, self._catch_up.step, self.counters
        )

    # -- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Start the broker and the clockwork."""
        await self.broker.start(self)
        self._tick()
        self._turn_wheel()

    async def close(self) -> None:
        """Stop the clockwork and the broker. Readers are ended by whoever owns their connections."""
        for timer in self._timers:
            if timer is not None:
                timer.cancel()
        await self.broker.close()

    def _turn_wheel(self) -> None:
        self.deadlines.advance(self._scheduler.time())
        self._timers[0] = self._scheduler.call_later(_WHEEL_S, self._turn_wheel)

    def _tick(self) -> None:
        """Do once a second what must be done now and then."""
        self._timers[1] = self._scheduler.call_later(_TICK_S, self._tick)
        now_s = self._scheduler.time()
        for group in list(self._groups.values()):
            if not group.readers:
                self._drop_group(group)
            elif not group.encoder.once:
                self._beat_group(group, now_s)
        for reader, since_s in list(self._stalled.items()):
            if now_s - since_s > self.limits.stall_timeout_s:
                self.counters.readers_ended += 1
                subscriber = reader.subscriber
                reader.close()
                subscriber.ended(codes.STALE, None)
        self._catch_up.forget()
        self.broker.sweep()
        if not self.broker.log.is_local and self._channels:
            self.broker.log.heads(list(self._channels), self._compare_heads)

    def _beat_group(self, group: Group, now_s: float) -> None:
        always = group.encoder.beats_always
        for cohort in group.cohorts:
            since_s = cohort.beaten_s if always else max(cohort.wrote_s, cohort.beaten_s)
            if now_s - since_s >= group.heartbeat_s:
                self._fanout.beat(cohort)

    def time(self) -> float:
        """Return the monotonic time that `deadlines` goes by, in seconds."""
        return self._scheduler.time()

    # -- reading ----------------------------------------------------------------

    def reader(
        self,
        channels: tuple[str, ...],
        encoder: Encoder,
        framing: Framing,
        subscriber: Subscriber,
        *,
        max_publications: int | None = None,
    ) -> Reader:
        """Make a reader of checked channel names, sorted and without repetition: the same names are
        the same group. It reads nothing until `open`."""
        most = self.limits.max_page_publications
        count = most if max_publications is None else min(max_publications, most)
        key = (channels, encoder, framing, count)
        group = self._groups.get(key)
        if group is None:
            group = self._make_group(key, channels, encoder, framing, count)
        group.readers += 1
        for channel in group.channels:
            channel.readers += 1
        self.counters.readers_opened += 1
        return Reader(self, group, subscriber)

    def open(self, reader: Reader, start: Start) -> None:
        """Let a reader begin: `Subscriber.opened`, what it missed, then what comes."""
        group = reader.group
        for channel in group.channels:
            if not channel.is_known:
                channel.waiting.append(partial(self.open, reader, start))
                return
        if reader.is_closed:
            return
        heads = group.heads()
        if start is LATEST or group.stands_at(start.position, heads):
            reader.offsets = heads
            reader.epochs = group.epochs()
            reader.subscriber.opened(group.position(heads), ())
            if not reader.is_closed:
                reader.join(heads)
            return
        names = [channel.name for channel in group.channels]
        self.broker.log.heads(names, partial(self._begin, reader, start))

    def _begin(self, reader: Reader, start: Start, heads: Mapping[str, Head] | EverywireError) -> None:
        if reader.is_closed:
            return
        if isinstance(heads, EverywireError):
            subscriber = reader.subscriber
            reader.close()
            subscriber.ended(heads.code, None)
            return
        group = reader.group
        for channel in group.channels:
            self._note_head(channel, heads[channel.name])
            if channel.is_repairing:
                # The log is ahead of what this node heard; begin when it has caught up.
                channel.waiting.append(partial(self.open, reader, start))
                return
        begins = [begin_at(start, channel.name, heads[channel.name]) for channel in group.channels]
        offsets = tuple([begin.offset for begin in begins])
        reader.untold = [
            Untold(index, begin.gap, begin.place) for index, begin in enumerate(begins) if begin.gap
        ]
        reader.offsets = offsets
        reader.epochs = group.epochs()
        self.counters.resets_told += sum(row.gap is RESET for row in reader.untold)
        position = Batch(group, list(offsets), reader.untold).position()
        new = [ch.name for begin, ch in zip(begins, group.channels, strict=True) if begin.is_new]
        reader.subscriber.opened(position, new)
        self._catch_up.step(reader)

    def fetch(
        self,
        channels: Sequence[str],
        start: Start,
        max_publications: int,
        done: Callable[[Fetched | EverywireError], None],
    ) -> None:
        """Read one page of checked channel names; no reader is made."""
        limits = self.limits
        count = min(max_publications, limits.max_page_publications)
        names = sorted(set(channels))

        def count_and_tell(fetched: Fetched | EverywireError) -> None:
            if isinstance(fetched, Fetched):
                gaps = [here.gap for here in fetched.slices if here.gap]
                self.counters.gaps_told += len(gaps)
                self.counters.missed += sum(gap.missed for gap in gaps)
                self.counters.resets_told += sum(gap is RESET for gap in gaps)
                self.counters.delivered += sum(len(here.publications) for here in fetched.slices)
            done(fetched)

        fetch(self.broker.log, self._pages, names, start, count, limits.max_page_bytes, count_and_tell)

    def subscribers(self, channel: str) -> int:
        """Return how many readers of this process a channel has."""
        found = self._channels.get(channel)
        return 0 if found is None else found.readers

    def statistics(self) -> Mapping[str, int]:
        """Return what there is at this moment."""
        return {
            "channels_read": len(self._channels),
            "groups": len(self._groups),
            "readers": sum(group.readers for group in self._groups.values()),
            "readers_stalled": len(self._stalled),
            "appends_unfinished": self._unfinished,
            "log_bytes": self._budget.used_bytes,
            "log_trimmed": self._budget.trimmed,
        }

    # -- publishing -------------------------------------------------------------

    def publish(self, draft: Draft, done: Callable[[Appended | EverywireError], None]) -> bool:
        """Append a checked draft; call back with where it stands.

        Returns False when too many appends are unfinished: then pause the publisher's input
        until one of its appends completed.
        """
        if self._unfinished >= 2 * self.limits.max_unfinished_appends:
            self.counters.appends_failed += 1
            done(BrokerBusy())
            return False
        self._unfinished += 1

        def appended(results: Sequence[Appended | EverywireError]) -> None:
            self._unfinished -= 1
            result = results[0]
            if isinstance(result, EverywireError):
                self.counters.appends_failed += 1
            elif result.replayed:
                self.counters.replayed += 1
            else:
                self.counters.publications += 1
            done(result)

        self.broker.log.append((draft,), appended)
        return self._unfinished < self.limits.max_unfinished_appends

    # -- what the broker tells (Sink) ---------------------------------------------

    def published(self, channel: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Take publications of a watched channel and have them written."""
        found = self._channels.get(channel)
        if found is None or not found.is_known:
            return
        if epoch != found.epoch:
            self._log_is_ahead(found, epoch, publications[-1].offset)
            return
        if previous != found.head:
            if previous or found.exists:
                if publications[-1].offset > found.head:
                    self._log_is_ahead(found, epoch, publications[-1].offset)
                return
            self._made(found, publications[0].offset - 1)
        found.exists = True
        found.extend(publications)
        if found.fresh_bytes > self.limits.max_fresh_bytes:
            # The fan-out cannot follow; who has not been given these yet re-reads the log.
            found.drop_fresh(publications[0].offset - 1)
        self._fanout.published(found)

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Take the hint that a watched channel stands further on."""
        found = self._channels.get(channel)
        if found is not None and found.is_known and (epoch != found.epoch or last > found.head):
            self._log_is_ahead(found, epoch, last)

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Take a control message; none is known yet."""

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Answer a control message; none is known yet."""
        raise EverywireError(f"no answer to {topic!r} is known", code=codes.METHOD_NOT_FOUND)

    def _made(self, channel: Channel, before: int) -> None:
        """Move everyone who waits for a channel's first publication to just before it."""
        for group in self._groups_of(channel.name):
            index = group.channels.index(channel)
            for cohort in group.cohorts:
                if cohort.offsets[index] == channel.head:
                    cohort.offsets = (*cohort.offsets[:index], before, *cohort.offsets[index + 1 :])
        channel.head = before

    def _compare_heads(self, heads: Mapping[str, Head] | EverywireError) -> None:
        if not isinstance(heads, EverywireError):
            for name, head in heads.items():
                if name in self._channels:
                    self._note_head(self._channels[name], head)

    def _note_head(self, channel: Channel, head: Head) -> None:
        """Compare where the log stands with what this node heard of."""
        if not channel.is_known or channel.is_repairing:
            return
        if head.epoch == channel.epoch and not head.exists:
            # Nothing was published yet. Where the first one will stand moves up when the store
            # forgets other channels; who waits for it misses nothing.
            if not channel.exists:
                self._made(channel, head.last)
        elif head.epoch != channel.epoch or head.last > channel.head:
            self._log_is_ahead(channel, head.epoch, head.last)

    def _log_is_ahead(self, channel: Channel, epoch: str, last: int) -> None:
        """Read what this node did not hear of, once for everyone on the channel."""
        if channel.is_repairing:
            return
        channel.is_repairing = True
        if epoch != channel.epoch:
            self.broker.log.heads((channel.name,), partial(self._stand_anew, channel))
            return
        limits = self.limits
        # Past the tail, which knows no more than this node heard.
        self.broker.log.read(
            channel.name,
            channel.head,
            limits.max_page_publications,
            limits.max_page_bytes,
            partial(self._repair, channel),
        )

    def _repair(self, channel: Channel, page: Page | EverywireError) -> None:
        channel.is_repairing = False
        if not self._is_here(channel):
            return
        if isinstance(page, EverywireError):
            self._scheduler.call_later(_TICK_S, partial(self._go_on, channel))
            return
        head = page.head
        if head.epoch != channel.epoch:
            self._log_is_ahead(channel, head.epoch, head.last)
            return
        news = [found for found in page.publications if found.offset > channel.head]
        if news and news[0].offset == channel.head + 1:
            channel.exists = True
            channel.extend(news)
            self._fanout.published(channel)
            if channel.head < head.last:
                self._log_is_ahead(channel, head.epoch, head.last)
            else:
                self._go_on(channel)
        elif head.last > channel.head:
            self._stand_anew(channel, {channel.name: head})
        else:
            self._go_on(channel)

    def _go_on(self, channel: Channel) -> None:
        """Let those begin who waited for what the log says."""
        waiting, channel.waiting = channel.waiting, []
        for go_on in waiting:
            go_on()

    def _is_here(self, channel: Channel) -> bool:
        """Say whether a channel still has readers, or had some a moment ago."""
        return self._channels.get(channel.name) is channel

    def _stand_anew(self, channel: Channel, heads: Mapping[str, Head] | EverywireError) -> None:
        """Send all live readers back to the log: it was trimmed past them, or has another epoch."""
        channel.is_repairing = False
        if not self._is_here(channel):
            return
        if isinstance(heads, EverywireError):
            self._scheduler.call_later(_TICK_S, partial(self._go_on, channel))
            return
        head = heads[channel.name]
        for group in self._groups_of(channel.name):
            for cohort in tuple(group.cohorts):
                cohort.dissolve()
            group.forget_positions()
        channel.stand_at(head.epoch, head.last, head.exists)
        if not self.broker.log.is_local:
            channel.keep_tail(self._budget)
        self._go_on(channel)

    # -- what readers tell (Home) --------------------------------------------------

    def queue(self, reader: Reader) -> None:
        """Let a reader that is behind catch up when its turn comes."""
        self._fanout.queue(reader)

    def note_stalled(self, reader: Reader) -> None:
        """Count a stall and start its deadline."""
        self.counters.stalls += 1
        self._stalled[reader] = self._scheduler.time()

    def note_writable(self, reader: Reader) -> None:
        """Stop the deadline."""
        self._stalled.pop(reader, None)

    def note_closed(self, reader: Reader) -> None:
        """Count a reader out."""
        group = reader.group
        group.readers -= 1
        for channel in group.channels:
            channel.readers -= 1

    # -- groups and channels ---------------------------------------------------------

    def _groups_of(self, name: str) -> Sequence[Group]:
        return self._listeners.get(name, ())

    def _make_group(
        self, key: tuple[object, ...], names: Sequence[str], encoder: Encoder, framing: Framing, count: int
    ) -> Group:
        limits = self.limits
        max_bytes = limits.max_page_bytes if encoder.once else limits.max_write_bytes
        channels = [self._channels.get(name) or self._make_channel(name) for name in names]
        group = Group(
            key,
            channels,
            encoder,
            framing,
            clock=self._scheduler.time,
            max_bytes=max_bytes,
            max_publications=count,
        )
        self._groups[key] = group
        for name in names:
            self._listeners.setdefault(name, []).append(group)
        return group

    def _make_channel(self, name: str) -> Channel:
        channel = self._channels[name] = Channel(name, self.settings.of(name))
        self.broker.log.watch(name)
        self.broker.log.heads((name,), partial(self._know, channel))
        return channel

    def _know(self, channel: Channel, heads: Mapping[str, Head] | EverywireError) -> None:
        if not self._is_here(channel):
            return
        if isinstance(heads, EverywireError):
            again = partial(self.broker.log.heads, (channel.name,), partial(self._know, channel))
            self._scheduler.call_later(_TICK_S, again)
            return
        head = heads[channel.name]
        channel.stand_at(head.epoch, head.last, head.exists)
        if not self.broker.log.is_local:
            channel.keep_tail(self._budget)
        channel.is_known = True
        self._go_on(channel)

    def _drop_group(self, group: Group) -> None:
        self._groups.pop(group.key, None)  # type: ignore[call-overload]
        for channel in group.channels:
            listeners = self._listeners[channel.name]
            listeners.remove(group)
            if not listeners:
                del self._listeners[channel.name]
                del self._channels[channel.name]
                if channel.tail is not None:
                    self._budget.forget(channel.tail)
                self.broker.log.unwatch(channel.name)
