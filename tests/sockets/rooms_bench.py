"""Sockets on a bench: rooms, links that take as much as a test lets them, and an account of what is whose.

Every append is written down with its place, and so is every stay of a socket in a room. From the two it
follows what each client must have been told, exactly once, and in which order: `Bench.check`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple, cast

from everywire.brokers.base import Appended, Head
from everywire.brokers.memory import MemoryBroker
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.core.publication import Draft, Gap
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.hub.hub import Hub
from everywire.sessions.preparing import is_recoverable
from everywire.sockets.broadcast import publish_event
from everywire.sockets.event_encoder import GAP_EVENT
from everywire.sockets.link import Link, Packets
from everywire.sockets.marks import digest_of
from everywire.sockets.reading import Reading
from everywire.sockets.recovery import begins
from everywire.sockets.stays import Stay
from everywire.testing.clock import ManualScheduler, finish
from everywire.testing.delayed_broker import DelayedBroker, Faults

NAMESPACE = "/"


class Framed:
    """What a socket takes: packets as so many bytes, or what is left of them."""

    def __init__(self, packets: Packets, size: int, *, is_rest: bool = False) -> None:
        self.packets = packets
        self.size = size
        self.is_rest = is_rest

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rest: slice) -> Framed:
        return Framed(self.packets, self.size - rest.start, is_rest=True)


class BenchFraming:
    """Frames packets; ``framed`` counts."""

    def __init__(self) -> None:
        self.framed = 0

    def frame(self, packets: Packets) -> Framed:
        assert packets, "nothing to frame"
        self.framed += 1
        return Framed(packets, sum(len(data) for _, data in packets))


FRAMINGS = {"polling": BenchFraming(), "websocket": BenchFraming()}


class BenchLink:
    """A link whose client takes what the test lets it; what was taken has arrived."""

    def __init__(self, arrive: Callable[[Packets], None]) -> None:
        self._arrive = arrive
        self.transport = "websocket"
        self.room: int | None = None
        """Bytes that it still takes; None takes all."""
        self.is_stalled = False
        self.reading: Reading
        self.writes = 0

    @property
    def framing(self) -> BenchFraming:
        return FRAMINGS[self.transport]

    @property
    def send(self) -> Callable[[Framed], int]:
        return self._send_poll if self.transport == "polling" else self._send

    def _send_poll(self, framed: Framed) -> int:
        assert not self.is_stalled, "written to while stalled"
        raise BlockingIOError

    def _send(self, framed: Framed) -> int:
        assert not self.is_stalled, "written to while stalled"
        if self.room is None or self.room >= framed.size:
            self._take(framed)
            return framed.size
        if not self.room:
            raise BlockingIOError
        self._arrive(framed.packets)
        return self.room

    def write(self, framed: Framed) -> None:
        assert not self.is_stalled, "written to while stalled"
        if not framed.is_rest:
            self._take(framed)
        if self.transport == "polling" or framed.is_rest or (self.room is not None and self.room <= 0):
            self.is_stalled = True
            self.reading.stalled()

    def _take(self, framed: Framed) -> None:
        self.writes += 1
        self._arrive(framed.packets)
        if self.room is not None:
            self.room -= framed.size

    def drain(self, room: int | None = None) -> None:
        """Take all that hangs on it; a poll comes."""
        self.room = room
        if self.is_stalled:
            self.is_stalled = False
            self.reading.writable()

    def move(self) -> None:
        """Let another transport carry it, as an upgrade does."""
        self.transport = "websocket" if self.transport == "polling" else "polling"
        self.is_stalled = self.transport == "polling"
        self.reading.moved()


class Told(NamedTuple):
    """One event as the client got it."""

    number: int | None
    gap: dict[str, Any] | None
    offset: str | None


class Client:
    """One client and its socket."""

    def __init__(self, bench: Bench, sid: str) -> None:
        self.bench = bench
        self.sid = sid
        self.told: list[Told] = []
        self.history: dict[str, list[list[Any]]] = {}
        """Stays in each channel: since, until."""
        self.pending: dict[str, int] = {}
        """Rooms that are being joined, and where they stood when it was asked for."""
        self.end: Code | None = None
        self.over_at_cut: dict[str, list[list[Any]]] = {}
        self.forced: set[str] = set()
        """Rooms left at once, some time."""
        self.connect()

    def connect(self) -> None:
        self.link = BenchLink(self._arrive)
        self.reading = self.link.reading = Reading(
            self.bench.hub,
            cast("Link", self.link),
            NAMESPACE,
            digest_of(self.sid),
            has_offsets=self.bench.has_offsets,
            ended=self._ended,
        )

    def _ended(self, code: Code, gap: Gap | None) -> None:
        self.end = code

    def _arrive(self, packets: Packets) -> None:
        for is_binary, data in packets:
            assert not is_binary
            assert data.startswith(b"42[")
            name, value, *rest = json.loads(data[2:])
            offset = rest[0] if rest else None
            if name == GAP_EVENT:
                self.told.append(Told(None, value, offset))
            else:
                assert name == "m"
                self.told.append(Told(value, None, offset))

    # -- what it does ---------------------------------------------------------------

    def join(self, room: str) -> None:
        if self.reading.is_in(room) and room not in self.pending:
            return
        before = self.bench.head(room).last
        self.pending[room] = before
        reading = self.reading

        def done(place: Place | EverywireError) -> None:
            if self.pending.pop(room, None) is None or isinstance(place, EverywireError):
                return
            stays = reading.stays()[room]
            if len(self.history.get(room, ())) and self.history[room][-1][1] is None:
                return  # it was leaving, and stays
            assert stays[-1].until is None
            assert before <= place.offset <= self.bench.head(room).last
            self.history.setdefault(room, []).append([place.offset, None])

        self.reading.join(room, None, done)

    def leave(self, room: str, *, at_once: bool = False) -> None:
        if not self.reading.is_in(room):
            return
        before = self.bench.head(room).last
        self.pending.pop(room, None)
        reading = self.reading
        if at_once:
            self.forced.add(room)

        def done() -> None:
            stays = reading.stays().get(room)
            if not stays or room not in self.history or self.history[room][-1][1] is not None:
                return
            until = stays[-1].until
            if until is None:
                return  # it joined again before it had left
            if not at_once and room not in self.forced:
                assert until >= before, "something published before is not for it any more"
            self.history[room][-1][1] = until

        self.reading.leave(room, at_once=at_once, done=done)

    def cut(self, lost: int) -> str | None:
        """Lose the connection, and the last so many events; come back. Return why it was not recovered."""
        rooms = self.reading.stays()
        self.reading.close()
        self.pending.clear()
        if lost:
            del self.told[-lost:]
        offset = next((one.offset for one in reversed(self.told) if one.offset is not None), None)
        self.over_at_cut = {
            name: [stay for stay in found if stay[1] is not None] for name, found in self.history.items()
        }
        self.connect()
        begun = begins(rooms, offset)
        if begun is None:
            return "another epoch"
        stays, places = begun
        for channel, place in places.items():
            here = self.bench.hub.place(channel, place)
            if here is None or not is_recoverable(here, self.bench.head(channel)):
                return "trimmed"
        self.reading.resume(stays, places)
        self.reading.begin()
        return None

    def close(self) -> None:
        self.reading.close()
        self.bench.clients.remove(self)

    # -- what it must have been told --------------------------------------------------

    def is_for(self, channel: str, offset: int) -> bool:
        return any(
            since is not None and since < offset and (until is None or offset <= until)
            for since, until in self.history.get(channel, ())
        )

    def check(self) -> None:
        numbers = [one.number for one in self.told if one.number is not None]
        assert len(numbers) == len(set(numbers)), f"{self.sid} was told something twice: {numbers}"
        through: dict[str, list[int]] = {}
        got = {number: index for index, number in enumerate(numbers)}
        for number, message in self.bench.messages.items():
            mine = [copy for copy in message.copies if self.is_for(*copy)]
            is_told = number in got
            if self.sid in message.skip or not mine:
                assert not is_told, f"{self.sid} was told {number} ({message}), which is not for it"
                continue
            if is_told:
                channel, _ = mine[0]
                through.setdefault(channel, []).append(number)
            verdict = message.excepted(self)
            if verdict is not None:
                assert verdict or not is_told, f"{self.sid} is excepted from {number}"
            elif not is_told:
                assert self.may_miss(mine), (
                    f"{self.sid} was not told {number} ({message}); {self.history}, {self.told}"
                )
        for channel, found in through.items():
            offsets = {n: dict(self.bench.messages[n].copies)[channel] for n in found}
            in_order = sorted(found, key=lambda n: got[n])
            assert [offsets[n] for n in in_order] == sorted(offsets.values()), f"{channel} out of order"

    def may_miss(self, mine: Sequence[tuple[str, int]]) -> bool:
        """Whether it was told of the loss, or left the room before it was cut off."""
        for channel, offset in mine:
            for one in self.told:
                gap = one.gap
                if gap is not None and gap["channel"] == channel and gap["from"] <= offset <= gap["to"]:
                    return True
        return all(
            any(since < offset <= until for since, until in self.over_at_cut.get(channel, ()))
            for channel, offset in mine
        )


class Message:
    """One event as it was published."""

    def __init__(self, to: Sequence[str], except_: Sequence[str], skip: Sequence[str]) -> None:
        self.to = tuple(to)
        self.except_ = tuple(except_)
        self.skip = tuple(skip)
        self.copies: list[tuple[str, int]] = []
        self.inside: dict[str, list[tuple[Client, int | None]]] = {}
        """Who was in the excepted rooms when it was published, and since when."""

    def excepted(self, client: Client) -> bool | None:
        """Say whether the client may be told although rooms are excepted; None when none concerns it."""
        if not any(client.history.get(room) or room in client.pending for room in self.except_):
            return None
        for room in self.except_:
            stays = client.history.get(room)
            if stays and stays[-1][1] is None and (client, stays[-1][0]) in self.inside.get(room, ()):
                return False
        return True

    def __repr__(self) -> str:
        return f"to {self.to}, except {self.except_}, skip {self.skip}, at {self.copies}"


class Bench:
    """A hub, its broker, its clock, and clients."""

    def __init__(
        self,
        *,
        delayed: Faults | None = None,
        seed: int = 0,
        window: Window | None = None,
        limits: Limits | None = None,
        has_offsets: bool = True,
    ) -> None:
        self.clock = ManualScheduler()
        self.random = Random(seed)
        self.has_offsets = has_offsets
        self.limits = limits or Limits(max_idempotency_keys=10)
        table = SettingsTable((), ChannelSettings(window or Window(max_age_s=1e6)))
        self.delayed: DelayedBroker | None = None
        if delayed is None:
            broker: Any = MemoryBroker(self.limits, table, clock_ms=self.clock.unix_ms)
            self.far = broker.log
        else:
            broker = self.delayed = DelayedBroker(
                self.clock,
                seed=seed,
                faults=delayed,
                limits=self.limits,
                settings=table,
                store_clock_ms=self.clock.unix_ms,
            )
            self.far = broker.log.far.log
        self.hub = Hub(broker, self.clock, limits=self.limits, settings=table)
        self.messages: dict[int, Message] = {}
        self.clients: list[Client] = []
        self.names = 0
        append = self.far.append

        def recorded(drafts: Sequence[Draft], done: Callable[[Any], None]) -> None:
            def note(results: Sequence[Appended | EverywireError]) -> None:
                for draft, result in zip(drafts, results, strict=True):
                    assert isinstance(result, Appended)
                    self.messages[json.loads(draft.data)].copies.append((draft.channel, result.offset))
                done(results)

            append(drafts, note)

        self.far.append = recorded
        finish(self.hub.start())

    def head(self, channel: str) -> Head:
        """Ask the store, at once."""
        found: list[Any] = []
        self.far.heads([channel], found.append)
        head: Head = found[0][channel]
        return head

    def client(self, *rooms: str, begins: bool = True) -> Client:
        self.names += 1
        client = Client(self, f"s{self.names}")
        self.clients.append(client)
        for room in rooms:
            client.join(room)
        if begins:
            client.reading.begin()
        return client

    def emit(self, *to: str, except_: Sequence[str] = (), skip: Sequence[str] = ()) -> int:
        number = len(self.messages) + 1
        message = self.messages[number] = Message(to, except_, skip)
        for room in except_:
            for client in self.clients:
                stays = client.history.get(room)
                if stays and stays[-1][1] is None and client.reading.is_in(room):
                    message.inside.setdefault(room, []).append((client, stays[-1][0]))
        publish_event(self.hub, to, "m", [number], lambda _: None, except_=except_, skip=skip)
        return number

    def settle(self) -> None:
        """Let everything come to rest: clients take all there is, and what is under way arrives."""
        if self.delayed is not None:
            self.delayed.log.faults = Faults()
        for _ in range(6):
            for _ in range(40):
                for client in self.clients:
                    client.link.drain()
                self.clock.advance(0.1)

    def check(self) -> None:
        """Check what every client was told, and that all are in the crowd again."""
        for client in self.clients:
            client.check()
            assert client.end is None
            if client.reading.channels and client.link.transport != "polling":
                assert client.reading.is_in_crowd, "it reads by itself although it stands at the head"

    def check_empty(self) -> None:
        """After everyone has gone nothing is kept."""
        for client in list(self.clients):
            client.close()
        self.clock.advance(15.0)
        hub = self.hub
        assert hub.statistics()["readers"] == hub.statistics()["channels_read"] == 0
        assert not hub.marks._listeners
        assert not hub.marks._tags
        assert not hub._held
        assert not hub._channels


def last_stay(stays: dict[str, list[Stay]], channel: str) -> Stay:
    return stays[channel][-1]
