"""The hub: who reads which channels in this process, and what they are told.

A transport makes a `Reader` with `Hub.reader`, opens it at a `Start`, and from then on
hears of it only through its `Subscriber`. Publishing is one call that ends in a
callback. Nothing is lost or doubled between reading the log and going live, because a
reader joins the live members only in the very call in which it stands at the head that
this hub heard of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from everywire.brokers.base import Appended, Broker, Head, Page
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.position import Place
from everywire.core.publication import RESET, Draft, Publication
from everywire.core.settings import SettingsTable
from everywire.core.wheel import Wheel, next_beat
from everywire.hub.catchup import CatchUp
from everywire.hub.channel import Channel
from everywire.hub.counters import Counters
from everywire.hub.fanout import Fanout
from everywire.hub.fetch import Fetched, fetch
from everywire.hub.following import Follower
from everywire.hub.group import Group
from everywire.hub.interfaces import Cancellable, Encoder, Framing, Scheduler, Subscriber
from everywire.hub.marks import Marks
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST, PageReader, Start, place_at

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
        self.on_read: Callable[[str, Place | None], None] | None = None
        """Called before a channel is read, by a reader or for a page, with the place that the reader comes
        from, if it comes from one. It raises nothing."""
        self.marks = Marks()
        """Who is to hear of publications that name them, before they are written."""
        self._budget = budget or Budget(self.limits.log_budget_bytes)
        self._scheduler = scheduler
        self._channels: dict[str, Channel] = {}
        self._groups: dict[tuple[object, ...], Group] = {}
        self._listeners: dict[str, list[Group]] = {}
        self._held: dict[str, int] = {}
        self._stalled: dict[Reader, float] = {}
        self._unfinished = 0
        self._broadcasts: dict[str, list[Callable[[bytes, str], None]]] = {}
        self._asks: dict[str, Callable[[bytes, str], Awaitable[bytes]]] = {}
        self._timers: list[Cancellable | None] = [None, None]
        self._pages = PageReader(broker.log, self._channels)
        self._catch_up = CatchUp(scheduler, self._pages, self.counters, self.queue, self._compare)
        self._fanout = Fanout(
            scheduler, self.limits.slice_s, self._groups_of, self._catch_up.step, self.counters
        )
        self._follower = Follower(
            broker.log,
            self._pages,
            self._channels,
            self._groups_of,
            self._fanout.published,
            scheduler,
            self.limits,
            self._budget,
            self.marks,
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
        # First, so that a deadline whose callback raises does not stop all others for good.
        now_s = self._scheduler.time()
        pause_s = next_beat(now_s, _WHEEL_S) - now_s
        self._timers[0] = self._scheduler.call_later(pause_s, self._turn_wheel)
        self.deadlines.advance(now_s)

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
            # One that is ended may take others of its connection with it.
            if now_s - since_s > self.limits.stall_timeout_s and not reader.is_closed:
                self._end(reader, codes.STALE)
        self._catch_up.forget()
        self.broker.sweep()
        if not self.broker.log.is_local and self._channels:
            self.broker.log.heads(list(self._channels), self._follower.compare_all)

    def _beat_group(self, group: Group, now_s: float) -> None:
        always = group.encoder.beats_always
        for cohort in group.cohorts:
            since_s = cohort.beaten_s if always else max(cohort.wrote_s, cohort.beaten_s)
            if now_s - since_s >= group.heartbeat_s and cohort.members:
                self._fanout.beat(cohort)

    def time(self) -> float:
        """Return the monotonic time that `deadlines` goes by, in seconds."""
        return self._scheduler.time()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call back in the next turn of the event loop."""
        self._scheduler.call_soon(callback)

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
        if reader.is_closed:
            return
        group = reader.group
        if self.on_read is not None:
            self._tell_read([channel.name for channel in group.channels], start)
        for channel in group.channels:
            if not channel.is_known:
                channel.waiting.append(partial(self._open_again, reader, start))
                return
        heads = group.heads()
        if start is LATEST or group.stands_at(start.position, heads):
            reader.stand_at(heads, group.epochs)
            reader.subscriber.opened(group.position(heads), ())
            if not reader.is_closed and not reader.is_stalled:
                reader.join(heads)
            return
        names = [channel.name for channel in group.channels]
        self.broker.log.heads(names, partial(self._begin, reader, start))

    def _open_again(self, reader: Reader, start: Start, error: EverywireError | None) -> None:
        if error is None:
            self.open(reader, start)
        elif not reader.is_closed:
            self._refuse(reader, error)

    def _refuse(self, reader: Reader, error: EverywireError) -> None:
        """End a reader that cannot begin: one answer says why, a connection may come back later."""
        self._end(reader, error.code if reader.group.encoder.once else codes.TRY_AGAIN_LATER)

    def _end(self, reader: Reader, code: Code) -> None:
        self.counters.readers_ended += 1
        subscriber = reader.subscriber
        reader.close()
        subscriber.ended(code, None)

    def _begin(self, reader: Reader, start: Start, heads: Mapping[str, Head] | EverywireError) -> None:
        if reader.is_closed:
            return
        if isinstance(heads, EverywireError):
            self._refuse(reader, heads)
            return
        group = reader.group
        for channel in group.channels:
            head = heads[channel.name]
            if head.epoch != channel.epoch:
                # One of the two is of the past; once it is known which, this begins again.
                channel.waiting.append(partial(self._open_again, reader, start))
                self._follower.compare(channel, head)
                return
            self._follower.compare(channel, head)
        begins = [place_at(start, channel.name, heads[channel.name]) for channel in group.channels]
        offsets = tuple([place.offset for place, _ in begins])
        epochs = tuple([place.epoch for place, _ in begins])
        reader.stand_at(offsets, epochs)
        new = [ch.name for (_, is_new), ch in zip(begins, group.channels, strict=True) if is_new]
        reader.subscriber.opened(group.position(offsets, epochs), new)
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
        if self.on_read is not None:
            self._tell_read(names, start)

        def count_and_tell(fetched: Fetched | EverywireError) -> None:
            if isinstance(fetched, Fetched):
                gaps = [here.gap for here in fetched.slices if here.gap]
                self.counters.gaps_told += len(gaps)
                self.counters.missed += sum(gap.missed for gap in gaps)
                self.counters.resets_told += sum(gap is RESET for gap in gaps)
                self.counters.delivered += sum(len(here.publications) for here in fetched.slices)
            done(fetched)

        fetch(self.broker.log, self._pages, names, start, count, limits.max_page_bytes, count_and_tell)

    def _tell_read(self, channels: Sequence[str], start: Start) -> None:
        assert self.on_read is not None
        for channel in channels:
            self.on_read(channel, None if start.position is None else start.position.place(channel))

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read what one checked channel keeps after an offset, as `everywire.brokers.base.Log.read` does:
        from this process's tail where it reaches, and once for all who ask for the same."""
        self._pages.read(channel, after, max_publications, max_bytes, done)

    def hold(self, channel: str, known: Callable[[EverywireError | None], None] | None = None) -> None:
        """Follow a checked channel until `release`, as if it had a reader. ``known`` is called once, when
        `place` can say where it stands, or with the error because of which nobody knows yet."""
        self._held[channel] = self._held.get(channel, 0) + 1
        followed = self._channels.get(channel) or self._make_channel(channel)
        if known is None:
            return
        if followed.is_known:
            known(None)
        else:
            followed.waiting.append(known)

    def release(self, channel: str) -> None:
        """Follow a channel no longer for the sake of one `hold`."""
        self._held[channel] -= 1
        if not self._held[channel]:
            del self._held[channel]
            self._let_go(self._channels[channel])

    def place(self, channel: str, since: Place | None = None) -> Place | None:
        """Return where a followed channel stands, as far as this node has heard; None when it does not know.

        With ``since``, return that place moved over offsets that are never used: nothing was missed there.
        """
        found = self._channels.get(channel)
        if found is None or not found.is_known:
            return None if since is None else since
        if since is None:
            return Place(found.epoch, found.head)
        return Place(since.epoch, found.settled(since.offset)) if since.epoch == found.epoch else since

    def subscribers(self, channel: str) -> int:
        """Return how many readers of this process a channel has."""
        found = self._channels.get(channel)
        return 0 if found is None else found.readers

    def channels_read(self) -> Mapping[str, int]:
        """Return how many readers of this process each channel has that has any."""
        return {name: channel.readers for name, channel in self._channels.items() if channel.readers}

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
        self._follower.published(channel, epoch, publications, previous)

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Take the hint that a watched channel stands further on."""
        self._follower.advanced(channel, epoch, last)

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Take a control message; a topic that nobody here knows is of another version, and ignored."""
        for callback in self._broadcasts.get(topic, ()):
            callback(payload, node)

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Answer a control message; raise an error with code 104 for a topic that nobody here knows."""
        answer = self._asks.get(topic)
        if answer is None:
            raise EverywireError(f"no answer to {topic!r} is known", code=codes.METHOD_NOT_FOUND)
        return await answer(payload, node)

    def on_broadcast(self, topic: str, callback: Callable[[bytes, str], None]) -> None:
        """Call back with the payload and the sender's node for every control message of a topic. The
        callback judges the payload by itself, and raises nothing."""
        self._broadcasts.setdefault(topic, []).append(callback)

    def on_ask(self, topic: str, answer: Callable[[bytes, str], Awaitable[bytes]]) -> None:
        """Let a coroutine function answer the control messages of a topic to this node."""
        if topic in self._asks:
            raise ValueError(f"{topic!r} is answered already")
        self._asks[topic] = answer

    def _compare(self, channel: Channel, head: Head) -> None:
        self._follower.compare(channel, head)

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
        self._follower.begin(channel)
        return channel

    def _drop_group(self, group: Group) -> None:
        self._groups.pop(group.key, None)  # type: ignore[call-overload]
        for channel in group.channels:
            listeners = self._listeners[channel.name]
            listeners.remove(group)
            if not listeners:
                del self._listeners[channel.name]
                self._let_go(channel)

    def _let_go(self, channel: Channel) -> None:
        """Follow a channel no longer that nobody reads and nobody holds."""
        if channel.name not in self._listeners and channel.name not in self._held:
            del self._channels[channel.name]
            self._follower.end(channel)
