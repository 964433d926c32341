"""What the readers of a socket's rooms write: events, one for each publication that is for them.

`EventEncoder` is one object for all sockets in the same rooms, so that a publication is encoded and framed
once for all of them. It passes over what is not for anybody in these rooms: the second copy of an event for
several rooms, and what excepts one of them. `OwnEncoder` is for one socket alone, for as long as that is not
enough: it knows since when the socket is in each room, and what names the socket to be skipped.

With offsets every event carries the position after it as one more argument, the last, by which a client that
was cut off recovers. A gap is the event ``everywire:gap`` with ``{"channel", "room", "from", "to",
"reason"}``, so that nothing is missed in silence.

Encoders are the hub's: they raise nothing, and may return nothing, which is then not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.json_text import dump
from everywire.codecs.socketio import msgpack_form
from everywire.codecs.socketio.packet import PacketType, SocketPacket, event_wires
from everywire.core.publication import RESET, Gap, Publication
from everywire.hub.interfaces import Item
from everywire.sockets.happenings import Form, wires_of
from everywire.sockets.marks import EARLIER, EXCEPT, SKIP, earlier_copies
from everywire.sockets.rooms import room_of
from everywire.sockets.stays import Stays, includes, overlaps

__all__ = ["GAP_EVENT", "EventEncoder", "OwnEncoder", "encoder_for"]

GAP_EVENT: Final = "everywire:gap"


class EventEncoder:
    """The events of some channels, for every socket of a namespace that reads just these."""

    __slots__ = ("__weakref__", "_channels", "_form", "_namespace", "wants_positions")

    once = False
    tells_gaps = True
    beats_always = False

    def __init__(
        self, namespace: str, channels: Sequence[str], *, has_offsets: bool, form: Form = Form.JSON
    ) -> None:
        self._namespace = namespace
        self._channels = frozenset(channels)
        self._form = form
        self.wants_positions = has_offsets

    def encode(self, items: Sequence[Item], position: str) -> list[Wire]:
        """Return the packets of what is for these readers."""
        wires: list[Wire] = []
        for channel, content, after in items:
            offset = b'"%b"' % after.encode("ascii") if self.wants_positions else None
            if isinstance(content, Gap):
                if self._tells(channel, content):
                    wires += self._gap(channel, content, offset)
            elif self._is_for_them(channel, content):
                wires += wires_of(content, self._namespace, offset=offset, form=self._form)
        return wires

    def _is_for_them(self, channel: str, publication: Publication) -> bool:
        tags = publication.tags
        if not tags:
            return True
        here = self._channels
        if EARLIER in tags and any(name in here for name, _ in earlier_copies(publication)):
            return False
        return EXCEPT not in tags or here.isdisjoint(tags[EXCEPT].split(","))

    def _tells(self, channel: str, gap: Gap) -> bool:
        return True

    def _gap(self, channel: str, gap: Gap, offset: bytes | None) -> list[Wire]:
        found = room_of(channel)
        told: dict[str, Any] = {
            "channel": channel,
            "room": None if found is None else found[1],
            "from": gap.first,
            "to": gap.last,
            "reason": gap.reason,
        }
        if self._form is Form.JSON:
            return event_wires(self._namespace, GAP_EVENT, [dump(told)], extra=offset)
        data = [GAP_EVENT, told] + ([] if offset is None else [offset[1:-1].decode("ascii")])
        return msgpack_form.encode(SocketPacket(PacketType.EVENT, self._namespace, data))


class OwnEncoder(EventEncoder):
    """The events of one socket's channels, with regard to when it came and left, and to its name."""

    __slots__ = ("_begun_anew", "_digest", "_joined", "_stays")

    def __init__(
        self,
        namespace: str,
        stays: Stays,
        digest: str,
        *,
        has_offsets: bool,
        form: Form = Form.JSON,
    ) -> None:
        super().__init__(namespace, tuple(stays), has_offsets=has_offsets, form=form)
        self._stays = stays
        self._digest = digest
        self._joined = frozenset(name for name, found in stays.items() if found and found[-1].until is None)
        self._begun_anew: set[str] = set()
        """Channels whose log was told to be another one: offsets of before mean nothing there."""

    def _has(self, channel: str, offset: int) -> bool:
        if channel in self._begun_anew:
            return channel in self._joined
        return includes(self._stays, channel, offset)

    def _is_for_them(self, channel: str, publication: Publication) -> bool:
        if not self._has(channel, publication.offset):
            return False
        tags = publication.tags
        if not tags:
            return True
        if EARLIER in tags and any(self._has(*copy) for copy in earlier_copies(publication)):
            return False
        if EXCEPT in tags and not self._joined.isdisjoint(tags[EXCEPT].split(",")):
            return False
        return SKIP not in tags or self._digest not in tags[SKIP].split(",")

    def _tells(self, channel: str, gap: Gap) -> bool:
        if gap is RESET:
            self._begun_anew.add(channel)
            return channel in self._joined
        if channel in self._begun_anew:
            return channel in self._joined
        return overlaps(self._stays, channel, gap)


_shared: WeakValueDictionary[tuple[str, tuple[str, ...], bool, Form], EventEncoder] = WeakValueDictionary()


def encoder_for(
    namespace: str, channels: tuple[str, ...], *, has_offsets: bool, form: Form = Form.JSON
) -> EventEncoder:
    """Return the encoder of all sockets that read these channels, sorted; one object while anybody has it."""
    key = (namespace, channels, has_offsets, form)
    encoder = _shared.get(key)
    if encoder is None:
        encoder = _shared[key] = EventEncoder(namespace, channels, has_offsets=has_offsets, form=form)
    return encoder
