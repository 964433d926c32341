"""Connection state recovery: a client that was cut off comes back as who it was, and gets what it missed.

When a socket's connection is lost, what it was is kept for a while under a secret that its client got with
its id (the ``pid``): id, user, rooms, and the application's data. The events are not: they are in the logs
of the rooms' channels, and the client brings the position after the last event that it got. Protocol 5 of
Socket.IO, "connection state recovery"; the reference implementation keeps packets in memory, by time alone.

A client is recovered when all of this holds, and is a new one else, which it is told by other ids:

* the secret is known here, and comes for the first time since the connection was lost; if the socket is
  still alive, its old connection is ended;
* it comes in time, to the same namespace, as the same user;
* every channel still keeps all that followed the client's position, or its joining where it got nothing yet
  (a position that nobody can read counts as none): logs are bounded by count, bytes and age, on every
  broker;
* who it is now may still read the rooms that it was in by the rules.

Where the log is in this process, what is kept is, too, and the channels are held meanwhile, so that a log
which begins only after the cut is known to be whole. Else it is in the broker's store, from the beginning
and renewed while the socket lives: a client of a killed node finds on another one what its socket was when
last put there. A node that is alive gives its socket up when it is asked.

Refused: nothing. What is damaged, too large or too much is not kept, and the client is new when it returns.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

import msgspec

from everywire.access.identity import Action, Identity
from everywire.brokers.base import Head
from everywire.core.errors import BadPosition, EverywireError
from everywire.core.position import MAX_POSITION_CHARACTERS, Place, Position
from everywire.core.wheel import Slot
from everywire.hub.called import called
from everywire.sessions.preparing import is_recoverable
from everywire.sessions.shared import Shared
from everywire.sockets.stays import Stay

__all__ = ["Alive", "Kept", "Recovered", "Recovery", "begins"]

_log: Final = logging.getLogger("everywire.sockets")

_PID_BYTES: Final = 18
_MAX_PID_CHARACTERS: Final = 64
_GRACE_S: Final = 30.0
"""How long channels are followed for a client that has come back and is being connected."""
_TOPIC: Final = "socketio.release"
_KEY: Final = "socketio:"


class Kept(msgspec.Struct, frozen=True):
    """What a socket was."""

    sid: str
    namespace: str
    user: str
    rooms: dict[str, list[Stay]]
    """Since when it was in which rooms, by channel (`everywire.sockets.reading.Reading.stays`)."""
    ruled: list[str] = []
    """Those of them that the rules allowed, which are asked again."""
    data: msgspec.Raw = msgspec.Raw(b"null")
    """What the application keeps with the socket, as JSON."""


class Recovered(NamedTuple):
    """A socket that goes on: what it was, and where reading begins in its channels."""

    kept: Kept
    places: Mapping[str, Place]


class Alive(Protocol):
    """A socket that has not lost its connection, as far as anybody knows."""

    def release(self) -> Kept:
        """End, without telling `Recovery`, because the client is back; return what is to be kept."""


class _Stored(msgspec.Struct):
    """What stands in the broker's store."""

    kept: Kept
    node: str
    is_alive: bool


class _Parked(NamedTuple):
    """What is kept in this process."""

    kept: Kept
    held: Sequence[str]
    slot: Slot


class Recovery:
    """The sockets of one mount on this node that may come back, and those that have not gone.

    ``window_s`` is how long a client may stay away; ``mount`` tells several mounts apart on all nodes.
    """

    __slots__ = (
        "_alive",
        "_hub",
        "_limits",
        "_parked",
        "_renewed",
        "_shared",
        "_topic",
        "_writing",
        "recovered",
        "unrecovered",
        "window_s",
    )

    def __init__(self, shared: Shared, window_s: float, *, mount: str = "") -> None:
        self.window_s = window_s
        self.recovered = 0
        """Clients that came back as who they were."""
        self.unrecovered = 0
        """Clients that tried to, and had to begin anew."""
        self._shared = shared
        self._hub = shared.hub
        self._limits = shared.limits
        self._topic = _TOPIC + mount
        self._alive: dict[str, Alive] = {}
        self._parked: OrderedDict[str, _Parked] = OrderedDict()
        self._renewed: dict[str, float] = {}
        self._writing: dict[str, _Writing] = {}
        if not self._is_local:
            shared.hub.on_ask(self._topic, self._asked_to_release)

    @property
    def _is_local(self) -> bool:
        return self._hub.broker.log.is_local

    @staticmethod
    def make_pid() -> str:
        """Return a new secret to recover by."""
        return secrets.token_urlsafe(_PID_BYTES)

    def statistics(self) -> dict[str, int]:
        """Return what there is on this node at this moment, and what was counted."""
        return {"parked": len(self._parked), "recovered": self.recovered, "unrecovered": self.unrecovered}

    # -- a socket's life ------------------------------------------------------------------------

    def began(self, pid: str, alive: Alive) -> None:
        """Note that a socket lives whose client was told this secret."""
        self._alive[_digest(pid)] = alive

    def renew(self, pid: str, kept: Callable[[], Kept], *, has_changed: bool = False) -> None:
        """Keep what a living socket is, in case its node is killed; nothing is done where nobody else would
        know of it.

        To be called when it has changed (rooms, data), and at heartbeats: it is written at most twice in a
        window then, and lasts for two.
        """
        if self._is_local:
            return
        digest, now_s = _digest(pid), self._hub.time()
        if has_changed or now_s - self._renewed.get(digest, -self.window_s) >= self.window_s / 2:
            self._renewed[digest] = now_s
            self._write(digest, kept(), is_alive=True, ttl_s=2 * self.window_s)

    def lost(self, pid: str, kept: Kept) -> None:
        """Keep what a socket was that has lost its connection. Before its reading is closed, so that its
        channels are followed all the time."""
        digest = _digest(pid)
        self._alive.pop(digest, None)
        self._renewed.pop(digest, None)
        if not self._is_local:
            self._write(digest, kept, is_alive=False, ttl_s=self.window_s)
        elif len(kept.data) <= self._limits.max_recovery_state_bytes:
            while len(self._parked) >= self._limits.max_recoverable_sockets:
                self._unpark(next(iter(self._parked)))
            held = self._hold(kept)
            slot = self._hub.deadlines.arm((self, digest), self._hub.time() + self.window_s, _run_out)
            self._parked[digest] = _Parked(kept, held, slot)

    def ended(self, pid: str) -> None:
        """Forget a socket that ended for good: its client or the server said so."""
        digest = _digest(pid)
        self._alive.pop(digest, None)
        if not self._is_local:
            self._renewed.pop(digest, None)
            self._write(digest, None)

    def close(self) -> None:
        """Let go of what is held in this process."""
        for digest in list(self._parked):
            self._unpark(digest)

    def run_out(self, digest: str) -> None:
        """Forget a socket whose client did not come back in time."""
        self._unpark(digest)

    def _unpark(self, digest: str) -> Kept | None:
        parked = self._parked.pop(digest, None)
        if parked is None:
            return None
        self._hub.deadlines.disarm((self, digest), parked.slot)
        self._release(parked.held)
        return parked.kept

    # -- holding channels --------------------------------------------------------------------------

    def _hold(self, kept: Kept) -> list[str]:
        held = list(kept.rooms)
        for channel in held:
            self._hub.hold(channel)
        return held

    def _release(self, held: Sequence[str]) -> None:
        for channel in held:
            self._hub.release(channel)

    def let_go(self, held: Sequence[str]) -> None:
        """Hold channels no longer that somebody else reads by now."""
        self._release(held)

    # -- the broker's store ---------------------------------------------------------------------------

    def _write(self, digest: str, kept: Kept | None, *, is_alive: bool = False, ttl_s: float = 0.0) -> None:
        """Put or take away what is stored, after what is being written already."""
        value = b""
        if kept is not None:
            value = msgspec.json.encode(_Stored(kept, self._hub.broker.node, is_alive))
            if len(value) > self._limits.max_recovery_state_bytes:
                kept, value = None, b""
        writing = self._writing.get(digest)
        if writing is None:
            writing = self._writing[digest] = _Writing()
        writing.next = (value, ttl_s)
        if writing.task is None:
            writing.task = self._shared.tasks.start(self._write_all(digest, writing), "a socket's state")

    async def _write_all(self, digest: str, writing: _Writing) -> None:
        store = self._hub.broker.store
        try:
            while writing.next is not None:
                (value, ttl_s), writing.next = writing.next, None
                if value:
                    await store.put(_KEY + digest, value, ttl_s)
                else:
                    await store.take(_KEY + digest)
        except EverywireError as error:
            _log.warning("the state of a socket was not kept: %s", error)
        finally:
            self._writing.pop(digest, None)

    async def _written(self, digest: str) -> None:
        """Wait until nothing is being written."""
        writing = self._writing.get(digest)
        if writing is not None and writing.task is not None:
            await asyncio.wait([writing.task])

    async def _asked_to_release(self, payload: bytes, node: str) -> bytes:
        """Give up a socket whose client is on another node now."""
        digest = payload.decode("ascii", "replace")
        alive = self._alive.pop(digest, None)
        if alive is not None:
            kept = alive.release()
            self._renewed.pop(digest, None)
            self._write(digest, None)
            await self._written(digest)
            return msgspec.json.encode(kept)
        # It was lost a moment ago, and the other node found what was stored before that.
        await self._written(digest)
        found = _decoded(await self._hub.broker.store.take(_KEY + digest))
        return b"" if found is None else msgspec.json.encode(found.kept)

    # -- coming back -------------------------------------------------------------------------------

    async def recover(
        self, pid: object, offset: object, namespace: str, identity: Identity
    ) -> Recovered | None:
        """Return what the client goes on as that brings this secret and this position, or None when it is a
        new one. The same secret is good again: call `began` with it.

        Channels stay followed for `_GRACE_S`; let the reading begin within that time. Raises nothing.
        """
        if not isinstance(pid, str) or not 0 < len(pid) <= _MAX_PID_CHARACTERS:
            return None
        found = None
        try:
            kept = await self._take(_digest(pid))
            if kept is not None and kept.namespace == namespace and kept.user == identity.user:
                found = await self._begin(kept, offset, identity)
        except EverywireError as error:
            _log.info("a client's state was not recovered: %s", error)
        if found is None:
            self.unrecovered += 1
        else:
            self.recovered += 1
        return found

    async def _take(self, digest: str) -> Kept | None:
        alive = self._alive.pop(digest, None)
        if alive is not None:
            kept = alive.release()
            self._hold_for_now(kept)
            if not self._is_local:
                self._renewed.pop(digest, None)
                self._write(digest, None)
                await self._written(digest)
            return kept
        if self._is_local:
            parked = self._parked.get(digest)
            if parked is not None:
                self._hold_for_now(parked.kept)
            return self._unpark(digest)
        await self._written(digest)
        broker = self._hub.broker
        found = _decoded(await broker.store.take(_KEY + digest))
        if found is None:
            return None
        if found.is_alive and found.node != broker.node:
            timeout_s = self._limits.node_answer_timeout_s
            try:
                answer = await broker.control.ask(found.node, self._topic, digest.encode(), timeout_s)
                if answer:
                    return msgspec.json.decode(answer, type=Kept)
            except (EverywireError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass  # it was killed, and this is what it was when last heard of
        return found.kept

    def _hold_for_now(self, kept: Kept) -> None:
        """Follow the channels until the client reads them again."""
        held = self._hold(kept)
        self._hub.deadlines.arm(_Holding(self, held), self._hub.time() + _GRACE_S, _let_go)

    async def _begin(self, kept: Kept, offset: object, identity: Identity) -> Recovered | None:
        """Find out where reading goes on; None when something is gone, or closed to the client now."""
        begun = begins(kept.rooms, offset)
        if begun is None:
            return None
        rooms, places = begun
        heads: Mapping[str, Head] = await called(
            lambda done: self._hub.broker.log.heads(tuple(places), done)
        )
        for channel, place in places.items():
            here = self._place(channel, place, heads[channel])
            if here is None:
                return None
            places[channel] = here
        ruled = [channel for channel in kept.ruled if channel in places]
        if ruled:
            authority = self._shared.authority
            await called(lambda done: authority.authorize(identity, Action.READ, ruled, done))
        return Recovered(msgspec.structs.replace(kept, rooms=rooms), places)

    def _place(self, channel: str, place: Place, head: Head) -> Place | None:
        """Return where reading begins in a channel, if everything after the place is kept."""
        if place.epoch == head.epoch and not head.exists and self._is_local:
            return Place(head.epoch, head.last)  # it was followed all the time, and nothing ever came
        here = self._hub.place(channel, place)
        return here if here is not None and is_recoverable(here, head) else None


def begins(
    rooms: Mapping[str, Sequence[Stay]], offset: object
) -> tuple[dict[str, list[Stay]], dict[str, Place]] | None:
    """Return the stays that still matter, and after which place each of their channels is read; None when the
    client cannot have been told what began there."""
    position: Position | None = None
    if isinstance(offset, str):
        if len(offset) > MAX_POSITION_CHARACTERS:
            return None
        try:
            position = Position.decode(offset)
        except BadPosition:
            position = None
    stays: dict[str, list[Stay]] = {}
    places: dict[str, Place] = {}
    for channel, found in rooms.items():
        last, told = found[-1], None if position is None else position.place(channel)
        # Of a log that was there before nothing can be had any more.
        of_this_log = [stay for stay in found if stay.epoch == last.epoch]
        if position is not None and told is None:
            # Nothing was told since the client is in the room; what it left by then was told whole.
            of_this_log = [last]
        if told is not None and told.epoch != last.epoch:
            return None
        stays[channel] = of_this_log
        after = max(of_this_log[0].since, 0 if told is None else told.offset)
        if last.until is None or (after < last.until and (told is not None or position is None)):
            places[channel] = Place(last.epoch, after)
    return stays, places


class _Writing:
    """What is being written about one socket, and what is to be written after that."""

    __slots__ = ("next", "task")

    def __init__(self) -> None:
        self.next: tuple[bytes, float] | None = None
        self.task: asyncio.Task[None] | None = None


class _Holding:
    """Channels held for a client that has come back."""

    __slots__ = ("held", "recovery")

    def __init__(self, recovery: Recovery, held: Sequence[str]) -> None:
        self.recovery = recovery
        self.held = held


def _digest(pid: str) -> str:
    """Return what stands for a secret in keys and orders."""
    return blake2b(pid.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _decoded(value: bytes | None) -> _Stored | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=_Stored)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # of another version


def _run_out(owner: tuple[Recovery, str]) -> None:
    recovery, digest = owner
    recovery.run_out(digest)


def _let_go(owner: _Holding) -> None:
    owner.recovery.let_go(owner.held)
