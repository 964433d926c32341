"""A socket's rooms: how it joins and leaves them, and since when it is where.

*Joining* fixes a place: what is published after it reaches the socket, however late its client reads.
*Leaving* fixes one, too: what was published before it still reaches the socket, as if it had been sent at
once. In a log elsewhere both places are the log's own, and are asked for: what was published anywhere before
the socket left is for it.

An event for several rooms stands in each, and names its earlier copies (`everywire.sockets.marks`). Who
joined or left between two of them listens for such events for a while, because it is told something else
than others in the same rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from everywire.brokers.base import Head
from everywire.core.errors import EverywireError, RequestError
from everywire.core.position import Place
from everywire.core.publication import Publication
from everywire.core.wheel import Slot
from everywire.hub.hub import Hub
from everywire.sockets.marks import EARLIER, earlier_copies
from everywire.sockets.rooms import is_everyone
from everywire.sockets.stays import Stay

__all__ = ["Home", "Joined", "Left", "Staying"]

_SETTLE_S: Final = 10.0
"""How long after joining or leaving a copy may come that names an earlier one from before: they are appended
one right after the other."""

Joined = Callable[[Place | EverywireError], None]
Left = Callable[[], None]


class Home(Protocol):
    """What a socket's rooms ask of its reading."""

    @property
    def is_in_crowd(self) -> bool:
        """Whether the socket reads with the others in the same rooms, and its past does not matter."""

    def stop(self, channel: str) -> Place | None:
        """Read no further until `changed` is answered; return where reading stands in a channel."""

    def entered(self, channel: str, place: Place) -> None:
        """Hear where a new stay begins."""

    def changed(self) -> None:
        """Hear that other channels are to be read now."""

    def copied(self, channel: str, publication: Publication | None) -> None:
        """Hear of an event that has an earlier copy where the socket came or left a short time ago."""


class Staying:
    """The rooms of one socket, present and just past."""

    __slots__ = (
        "_holds",
        "_home",
        "_hub",
        "_is_closed",
        "_joining",
        "_leaving",
        "_named",
        "_recent",
        "stays",
    )

    def __init__(self, hub: Hub, home: Home) -> None:
        self._hub = hub
        self._home = home
        self.stays: dict[str, list[Stay]] = {}
        """By channel; those that are over stay for a while."""
        self._joining: dict[str, list[Joined]] = {}
        self._named: dict[str, int | None] = {}
        """Channels of which the log was asked where they stand, and the newest offset of each that a copy
        elsewhere named meanwhile; None when there may have been one that this node did not hear of."""
        self._leaving: dict[str, list[Left]] = {}
        self._holds: dict[str, None] = {}
        """Channels that are followed although nothing reads them for this socket yet."""
        self._recent: dict[str, Slot] = {}
        """Channels that were joined or left a short time ago."""
        self._is_closed = False

    def current(self, channel: str) -> Stay | None:
        """Return the stay that lasts, if the socket is in the room."""
        found = self.stays.get(channel)
        return found[-1] if found and found[-1].until is None else None

    def is_in(self, channel: str) -> bool:
        """Say whether the socket is in a room, or about to be."""
        return self.current(channel) is not None or channel in self._joining

    def snapshot(self) -> dict[str, list[Stay]]:
        """Return a copy of the stays."""
        return {name: list(found) for name, found in self.stays.items()}

    def restore(self, stays: Mapping[str, Sequence[Stay]]) -> None:
        """Take over the stays of a socket that went."""
        for channel, found in stays.items():
            self.stays[channel] = list(found)
            self._note_change(channel)

    def begin_anew(self, channel: str, epoch: str) -> None:
        """Hear that a channel's log is another one now: all that comes there is for who is in the room."""
        lasts = self.current(channel) is not None
        self.stays[channel] = [Stay(epoch, 0, None if lasts else 0)]

    def close(self) -> None:
        """Call nobody back any more."""
        self._is_closed = True
        for channel, slot in self._recent.items():
            self._hub.deadlines.disarm((self, channel), slot)
            self._hub.marks.ignore(EARLIER, channel, self._home.copied)
        self._recent.clear()
        for channel in tuple(self._named):
            self._stop_listening(channel)
        self._joining.clear()
        self._leaving.clear()
        self.let_go()

    def let_go(self) -> None:
        """Hold no more channels than those that are being joined: the others are read now."""
        for channel in [name for name in self._holds if name not in self._joining]:
            del self._holds[channel]
            self._hub.release(channel)

    # -- joining ------------------------------------------------------------------------------

    def join(self, channel: str, place: Place | None, done: Joined) -> None:
        """Enter a room, after a place or at the head; see `everywire.sockets.reading.Reading.join`."""
        stay = self.current(channel)
        if stay is not None:
            for left in self._leaving.pop(channel, ()):
                left()
            done(Place(stay.epoch, stay.since))
        elif channel in self._joining:
            self._joining[channel].append(done)
        else:
            self._joining[channel] = asked = [done]
            if self._hub.on_read is not None and place is None:
                self._hub.on_read(channel, None)
            self._hub.hold(channel, partial(self._followed, channel, asked, place))

    def _is_joining(self, channel: str, asked: list[Joined]) -> bool:
        """Say whether an answer still matters: the room may have been left, and even entered anew."""
        return not self._is_closed and self._joining.get(channel) is asked

    def _followed(
        self, channel: str, asked: list[Joined], place: Place | None, error: EverywireError | None
    ) -> None:
        """Go on: this node follows the channel, so that nothing falls between."""
        is_joining = self._is_joining(channel, asked)
        if not is_joining or channel in self._holds:
            self._hub.release(channel)
        if not is_joining:
            return
        self._holds[channel] = None
        if error is not None:
            self._enter(channel, error)
        elif place is not None:
            self._enter(channel, place)
        elif self._hub.broker.log.is_local:
            here = self._hub.place(channel)
            assert here is not None
            self._enter(channel, here)
        else:
            self._ask_place(channel, asked)

    def _ask_place(self, channel: str, asked: list[Joined]) -> None:
        if channel not in self._named:
            self._named[channel] = 0
            self._hub.marks.listen(EARLIER, channel, self._copied)
        self._hub.broker.log.heads((channel,), partial(self._placed, channel, asked))

    def _copied(self, _: str, publication: Publication | None) -> None:
        """Hear of events with a copy where the socket is about to be: it is told of them elsewhere, and
        comes after them."""
        if publication is None:
            self._named = dict.fromkeys(self._named)
            return
        for name, offset in earlier_copies(publication):
            known = self._named.get(name)
            if known is not None:
                self._named[name] = max(known, offset)

    def _stop_listening(self, channel: str) -> int | None:
        self._hub.marks.ignore(EARLIER, channel, self._copied)
        return self._named.pop(channel)

    def _placed(
        self, channel: str, asked: list[Joined], heads: Mapping[str, Head] | EverywireError
    ) -> None:
        if not self._is_joining(channel, asked):
            if channel in self._named and channel not in self._joining:
                self._stop_listening(channel)
            return
        named = self._stop_listening(channel)
        if isinstance(heads, EverywireError):
            self._enter(channel, heads)
        elif named is None:
            self._ask_place(channel, asked)
        else:
            head, here = heads[channel], self._hub.place(channel)
            is_same = here is not None and here.epoch == head.epoch
            self._enter(channel, Place(head.epoch, max(head.last, named) if is_same else head.last))

    def _enter(self, channel: str, place: Place | EverywireError) -> None:
        callbacks = self._joining.pop(channel)
        if isinstance(place, Place):
            self._home.entered(channel, place)
            self.stays.setdefault(channel, []).append(Stay(place.epoch, place.offset))
            self._note_change(channel)
            self._home.changed()
        else:
            self.let_go()
        for done in callbacks:
            done(place)

    # -- leaving --------------------------------------------------------------------------------

    def leave(self, channel: str, at_once: bool, done: Left) -> None:
        """Leave a room, after what is there now or at once; ``done`` is called when it has been left, which
        is not when everything was read."""
        for joined in self._joining.pop(channel, ()):
            joined(RequestError("the room was left before it was entered", channel=channel))
        if self.current(channel) is None:
            done()
        elif at_once:
            self._part(channel, None, [*self._leaving.pop(channel, ()), done])
        elif channel in self._leaving:
            self._leaving[channel].append(done)
        else:
            self._leaving[channel] = [done]
            self._hub.broker.log.heads((channel,), partial(self._head_known, channel))

    def _head_known(self, channel: str, heads: Mapping[str, Head] | EverywireError) -> None:
        """Go on: everything up to this head is still for the socket."""
        callbacks = self._leaving.pop(channel, None)
        if self._is_closed or callbacks is None:
            return
        if isinstance(heads, EverywireError):
            until = self._hub.place(channel)
        else:
            until = Place(heads[channel].epoch, heads[channel].last)
        self._part(channel, until, callbacks)

    def _part(self, channel: str, until: Place | None, callbacks: Iterable[Left]) -> None:
        """End a stay where it is, or after what is still to be read."""
        at = self._home.stop(channel)
        stay = self.current(channel)
        if stay is not None:
            last = stay.since
            for place in (at, until):
                if place is not None and place.epoch == stay.epoch:
                    last = max(last, place.offset)
            self.stays[channel][-1] = stay._replace(until=last)
            self._note_change(channel)
        self._home.changed()
        for done in callbacks:
            done()

    # -- what is over -----------------------------------------------------------------------------

    def _note_change(self, channel: str) -> None:
        """Listen for a while for events of which the channel has an earlier copy."""
        if is_everyone(channel):
            return
        slot = self._recent.get(channel)
        if slot is None:
            self._hub.marks.listen(EARLIER, channel, self._home.copied)
        else:
            self._hub.deadlines.disarm((self, channel), slot)
        self._arm(channel)

    def _arm(self, channel: str) -> None:
        deadlines = self._hub.deadlines
        self._recent[channel] = deadlines.arm((self, channel), self._hub.time() + _SETTLE_S, _settle)

    def settle(self, channel: str) -> None:
        """Forget what was left so long ago that nothing refers to it any more."""
        if not self._home.is_in_crowd:
            self._arm(channel)
            return
        del self._recent[channel]
        self._hub.marks.ignore(EARLIER, channel, self._home.copied)
        kept = [stay for stay in self.stays.get(channel, ()) if stay.until is None]
        if kept:
            self.stays[channel] = kept
        else:
            self.stays.pop(channel, None)


def _settle(owner: tuple[Staying, str]) -> None:
    staying, channel = owner
    staying.settle(channel)
