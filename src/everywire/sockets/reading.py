"""A socket's rooms, read by one reader of the hub: what comes there is written in each room's order, once.

A reader's channels are fixed, so a socket that joins or leaves gets another reader, at the places where the
one before it stood. Sockets in the same rooms share an encoder, and with it everything (`EventEncoder`). A
socket reads by itself (`OwnEncoder`) only while something is for it that is not for the others: it is
behind, and has joined, left or moved since; it left a room whose last events it has not been given; a
publication that it cannot just pass over skips it. As soon as it stands at the head it joins the crowd
again.

Nothing here is called per publication and socket: the hub writes to the link itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.position import Place, Position, encode_position, name_hash
from everywire.core.publication import Gap, Publication
from everywire.hub.hub import Hub
from everywire.hub.reader import Reader
from everywire.hub.recovery import Start
from everywire.sockets.event_encoder import EventEncoder, OwnEncoder, encoder_for
from everywire.sockets.happenings import Form
from everywire.sockets.link import Link
from everywire.sockets.marks import SKIP, earlier_copies
from everywire.sockets.staying import Joined, Left, Staying
from everywire.sockets.stays import Stay, includes

__all__ = ["Reading"]

_AGAIN_S: Final = 1.0
"""Until reading is tried again that the log could not serve."""
_RELAX_S: Final = 0.05
"""Between two looks whether a socket that reads by itself stands at the head."""
_NOWHERE: Final = "?"
"""The epoch of a place that no store ever gave; see `everywire.hub.recovery`."""


def _tell_nobody(_: Place | EverywireError) -> None:
    """Nobody waits to have joined."""


def _told_nobody() -> None:
    """Nobody waits to have left."""


class Reading:
    """The rooms of one socket; the subscriber of its readers. All calls from the event loop.

    Nothing is written before `begin`. ``digest`` is what stands for the socket in publications that skip it
    (`everywire.sockets.marks.digest_of`). ``ended`` is called when the hub ended the reading: too slow, or
    nothing taken for too long; the gap is what would have been missed.
    """

    __slots__ = (
        "_at",
        "_delivered",
        "_digest",
        "_ended",
        "_form",
        "_has_begun",
        "_has_offsets",
        "_hub",
        "_is_closed",
        "_is_due",
        "_is_relaxing",
        "_link",
        "_names",
        "_namespace",
        "_reader",
        "_staying",
        "is_alone",
    )

    def __init__(
        self,
        hub: Hub,
        link: Link,
        namespace: str,
        digest: str,
        *,
        has_offsets: bool = True,
        form: Form = Form.JSON,
        ended: Callable[[Code, Gap | None], None],
    ) -> None:
        self._hub = hub
        self._link = link
        self._namespace = namespace
        self._digest = digest
        self._has_offsets = has_offsets
        self._form = form
        self._ended = ended
        self._staying = Staying(hub, self)
        self._at: dict[str, Place] = {}
        """Where reading stands; what the reader has is newer."""
        self._reader: Reader | None = None
        self._names: tuple[str, ...] = ()
        self.is_alone = True
        """Whether the reader is, or will be, this socket's alone."""
        self._has_begun = self._is_closed = False
        self._is_due = self._is_relaxing = False
        self._delivered = 0
        hub.marks.listen(SKIP, digest, self._skipped)

    # -- what the socket does -----------------------------------------------------------------

    def resume(self, stays: Mapping[str, Sequence[Stay]], places: Mapping[str, Place]) -> None:
        """Go on, once begun, where another reading has ended; before any join."""
        self._staying.restore(stays)
        self._at.update(places)

    def begin(self) -> None:
        """Write from now on what has come, and what comes."""
        self._has_begun = True
        self._switch()

    def join(self, channel: str, place: Place | None = None, done: Joined = _tell_nobody) -> None:
        """Enter the room of a checked channel.

        What was published before stays unread; with a place, what follows it is read. ``done`` is called
        once, with the place, as soon as it is fixed (within the call, where the log is in this process), or
        with the error because of which the room was not entered; not after `close`.
        """
        if not self._is_closed:
            self._staying.join(channel, place, done)

    def leave(self, channel: str, *, at_once: bool = False, done: Left = _told_nobody) -> None:
        """Leave a room: what was published there until now is still written; with ``at_once`` nothing is.

        ``done`` is called as soon as it is fixed what that is (within the call, where the log is in this
        process), at once if the socket is not in the room; not after `close`.
        """
        if not self._is_closed:
            if at_once and self._is_due:
                # What came in this turn may have been passed over elsewhere, since it is read in this room.
                self._switch()
            self._staying.leave(channel, at_once, done)

    def is_in(self, channel: str) -> bool:
        """Say whether the socket is in a room, or about to be."""
        return self._staying.is_in(channel)

    @property
    def channels(self) -> list[str]:
        """The channels of the rooms that the socket is in."""
        return [name for name, found in self._staying.stays.items() if found[-1].until is None]

    def stays(self) -> dict[str, list[Stay]]:
        """Return since when the socket is in each room, and what it left so lately that it still matters."""
        self._remember()
        return self._staying.snapshot()

    def places(self) -> dict[str, Place]:
        """Return up to where everything was written, in each channel that is read."""
        self._remember()
        return {name: self._at[name] for name in self._names}

    def position(self) -> str:
        """Return up to where everything was written, as a position; empty when nothing is read."""
        reader = self._reader
        if reader is not None and reader.cohort is not None:
            return reader.group.position(reader.cohort.offsets)
        places = self.places()
        return encode_position(places.items()) if places else ""

    def close(self) -> int:
        """Read no more; return how many publications were written, or passed over."""
        if not self._is_closed:
            self._is_closed = True
            self._suspend()
            self._hub.marks.ignore(SKIP, self._digest, self._skipped)
            self._staying.close()
        return self._delivered

    # -- what the link tells -------------------------------------------------------------------

    def stalled(self) -> None:
        """Hear that the link takes no more."""
        if self._reader is not None:
            self._reader.stalled()

    def writable(self) -> None:
        """Hear that the link takes more."""
        if self._reader is not None:
            self._reader.writable()
            if self.is_alone:
                self._relax_soon()

    def moved(self) -> None:
        """Hear that something else carries the link now."""
        if self._reader is not None:
            self._suspend()
            self._switch()

    # -- what the hub tells (Subscriber) -------------------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write as far as it goes: the link's own."""
        return self._link.send

    def write(self, framed: Any, /) -> None:
        """Write what `send` did not take, or what the log has for a reader that was behind."""
        self._link.write(framed)
        if self.is_alone:
            self._relax_soon()

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Hear where reading begins; the socket knows."""

    def beat(self) -> None:
        """Do nothing: the link has its own signs of life."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Hear that the hub ended the reader."""
        self._suspend()
        if code is codes.TRY_AGAIN_LATER:
            self._hub.deadlines.arm(self, self._hub.time() + _AGAIN_S, Reading.try_again)
        else:
            self._ended(code, gap)

    def try_again(self) -> None:
        """Read what the log could not serve a while ago."""
        self._is_relaxing = False
        if self._reader is None:
            self._switch()

    # -- what the rooms tell (Home) ---------------------------------------------------------------

    @property
    def is_in_crowd(self) -> bool:
        """Whether the socket reads with the others in the same rooms."""
        return self._reader is not None and not self.is_alone

    def stop(self, channel: str) -> Place | None:
        """Read no further for now; return where reading stands in a channel."""
        self._suspend()
        return self._at.get(channel)

    def entered(self, channel: str, place: Place) -> None:
        """Hear where a stay begins: what is left of one before it is read first."""
        if channel in self._names:
            self._suspend()
        at = self._at.get(channel)
        if at is None or at.epoch != place.epoch or at.offset > place.offset:
            self._at[channel] = place

    def changed(self) -> None:
        """Read other channels, once for all changes of this turn."""
        if not self._is_due and self._has_begun:
            self._is_due = True
            self._hub.call_soon(self._switch)

    def copied(self, channel: str, publication: Publication | None) -> None:
        """Hear of a copy of an event that has an earlier one where this socket came or left."""
        reader = self._reader
        if reader is None or self.is_alone or channel not in self._names:
            return
        if publication is None:
            self._part()
            return
        copies = earlier_copies(publication)
        crowd_has = any(name in self._names for name, _ in copies)
        socket_has = any(includes(self._staying.stays, name, offset) for name, offset in copies)
        if crowd_has == socket_has or (socket_has and reader.pass_over(channel, publication.offset)):
            return
        self._part()

    # -- from one reader to the next --------------------------------------------------------------

    def _suspend(self) -> None:
        """Stop where the reader stands."""
        reader = self._reader
        if reader is not None:
            self._remember()
            self._delivered += reader.delivered
            self._reader = None
            reader.close()

    def _remember(self) -> None:
        """Note where the reader stands, and which of its channels have begun anew."""
        reader = self._reader
        if reader is None:
            return
        if reader.cohort is not None:
            offsets, epochs = reader.cohort.offsets, reader.group.epochs
        else:
            offsets, epochs = reader.offsets, reader.epochs
        stays = self._staying.stays
        # It has no offsets before it knows where the logs stand.
        for name, offset, epoch in zip(self._names, offsets, epochs, strict=False):
            self._at[name] = Place(epoch, offset)
            if stays[name][-1].epoch != epoch and epoch != _NOWHERE:
                self._staying.begin_anew(name, epoch)

    def _targets(self) -> tuple[str, ...]:
        """Return the channels to be read: those of the rooms, and those left that have more to tell."""
        stays = self._staying.stays
        return tuple(sorted([name for name, found in stays.items() if self._is_target(name, found[-1])]))

    def _is_target(self, channel: str, stay: Stay) -> bool:
        if stay.until is None:
            return True
        at = self._at.get(channel)
        return at is not None and at.epoch == stay.epoch and at.offset < stay.until

    def _must_be_alone(self, names: Iterable[str]) -> bool:
        """Say whether what comes next may be for this socket and not for the others in these rooms."""
        for name in names:
            at, head = self._at[name], self._hub.place(name)
            if head is None or self._hub.place(name, at) != head or self._staying.current(name) is None:
                return True
        return False

    def _switch(self) -> None:
        """Read what is to be read now, from where reading stands."""
        self._is_due = False
        if self._is_closed or not self._has_begun:
            return
        self._remember()
        names = self._targets()
        is_alone = self._must_be_alone(names)
        if self._reader is None or names != self._names or is_alone or self.is_alone:
            self._suspend()
            for name in [name for name in self._at if name not in names]:
                del self._at[name]
            self._names = names
            self.is_alone = is_alone
            if names:
                self._open()
        self._staying.let_go()

    def _open(self) -> None:
        hub, names = self._hub, self._names
        encoder = self._own_encoder() if self.is_alone else self._shared_encoder()
        self._reader = reader = hub.reader(names, encoder, self._link.framing, self)
        if self._link.is_stalled:
            reader.stalled()
        hub.open(reader, Start(Position({name_hash(name): self._at[name] for name in names})))
        if self.is_alone:
            self._relax_soon()

    def _own_encoder(self) -> EventEncoder:
        return OwnEncoder(
            self._namespace,
            self._staying.snapshot(),
            self._digest,
            has_offsets=self._has_offsets,
            form=self._form,
        )

    def _shared_encoder(self) -> EventEncoder:
        return encoder_for(self._namespace, self._names, has_offsets=self._has_offsets, form=self._form)

    # -- apart from the crowd, and back --------------------------------------------------------------

    def _skipped(self, channel: str, publication: Publication | None) -> None:
        """Hear of a publication that is for all but this socket, or of some that may be."""
        reader = self._reader
        if reader is None or self.is_alone or channel not in self._names:
            return
        if publication is None or not reader.pass_over(channel, publication.offset):
            self._part()

    def _part(self) -> None:
        """Stop before the crowd is written to, and go on alone in the next turn."""
        self._suspend()
        self.changed()

    def _relax_soon(self) -> None:
        if not self._is_relaxing:
            self._is_relaxing = True
            self._hub.call_soon(self.relax)

    def relax(self) -> None:
        """Join the crowd again, and read no more what was left, when it is time."""
        self._is_relaxing = False
        reader = self._reader
        if self._is_closed or not self.is_alone or reader is None:
            return
        self._remember()
        if self._targets() != self._names or not self._must_be_alone(self._names):
            self._switch()
        elif not reader.is_stalled:
            self._is_relaxing = True
            self._hub.deadlines.arm(self, self._hub.time() + _RELAX_S, Reading.relax)
