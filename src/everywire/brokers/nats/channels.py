"""What one node knows of the channels in JetStream: where each stands, its keys, who waits to append.

It is only a memory: any of it may be dropped and read again, and all of it is checked by compare and set when
something is appended.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple

from everywire.brokers.base import Appended
from everywire.brokers.nats.address import Names
from everywire.brokers.nats.message import Key, Message, State
from everywire.core.errors import EverywireError
from everywire.core.publication import Draft
from everywire.core.settings import SettingsTable, Window

__all__ = ["Channel", "Channels", "Keys", "Mark", "Pending", "digest"]

_MAX_MARKS: Final = 512
_MAX_KNOWN: Final = 20_000


class Mark(NamedTuple):
    """Where in the stream a message of a channel is."""

    seq: int
    before: int
    """The offset before its first record."""
    large: tuple[int, ...]
    """The sequences of its large records."""


class Pending:
    """A draft that waits to be appended, and the place of its result."""

    __slots__ = ("call", "deadline_s", "draft", "index", "large", "record", "time_ms")

    def __init__(self, call: Call, index: int, draft: Draft, deadline_s: float) -> None:
        self.call = call
        self.index = index
        self.draft = draft
        self.deadline_s = deadline_s
        self.record = b""
        self.time_ms = 0
        self.large: tuple[int, ...] = ()
        """The sequences under which it is stored, when it is large and stored already."""


class Call:
    """One call of append: its results, as they come."""

    __slots__ = ("_done", "_missing", "_results")

    def __init__(self, count: int, done: Callable[[list[Appended | EverywireError]], None]) -> None:
        self._results: list[Appended | EverywireError | None] = [None] * count
        self._missing = count
        self._done = done

    def put(self, index: int, result: Appended | EverywireError) -> None:
        """Take a result; the last one completes the call."""
        self._results[index] = result
        self._missing -= 1
        if not self._missing:
            self._done([result for result in self._results if result is not None])


class Channel:
    """What is known of one channel."""

    __slots__ = (
        "contended_s",
        "floor",
        "has_room",
        "is_followed",
        "is_mine",
        "keys_seq",
        "lock",
        "marks",
        "name",
        "purged_seq",
        "queue",
        "seq",
        "state",
        "stream",
        "subject",
        "task",
        "told",
        "verified_s",
        "watched",
        "window",
    )

    def __init__(self, name: str, names: Names, window: Window) -> None:
        self.name = name
        self.stream = names.log_stream(names.shard(name))
        self.subject = names.log_subject(name)
        self.window = window
        """By the settings."""
        self.watched = 0
        self.contended_s = float("-inf")
        """When this node lost a race for it last, by the loop's clock."""
        self.is_followed = False
        """Whether its hints are heard because other nodes write to it, too."""
        self.has_room = False
        """Whether room is held for it in the store until it is made."""
        self.queue: deque[Pending] = deque()
        self.task: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()
        """Held by whoever writes on this node."""
        self.forget_all()

    def forget_all(self) -> None:
        """Know nothing any more."""
        self.seq = -1
        """The newest message known; 0 when there is none, -1 when that is not known."""
        self.state: State | None = None
        """The state after that message."""
        self.is_mine = False
        """Whether this node wrote it."""
        self.keys_seq = -1
        """Up to which message all keys that count are known; -1 when they are not."""
        self.marks: deque[Mark] = deque(maxlen=_MAX_MARKS)
        """The newest messages, without holes among them."""
        self.floor = 0
        """Nothing below this offset is kept, as was found out by reading."""
        self.told = 0
        """The offset that the sink was told last."""
        self.verified_s = 0.0
        """When it was known last that nothing is newer, by the loop's clock."""
        self.purged_seq = 0
        """Messages below this were purged, as far as is known."""

    @property
    def exists(self) -> bool:
        """Whether there is such a channel, as far as is known."""
        return self.state is not None and not self.state.is_gone

    @property
    def is_idle(self) -> bool:
        """Whether nobody here needs it."""
        is_used = self.watched or self.is_followed or self.queue or self.task is not None
        return not is_used and not self.lock.locked()

    def learn(self, seq: int, message: Message, is_mine: bool) -> bool:
        """Take a message over if it is newer; return whether it follows the one that was known."""
        if seq <= self.seq:
            return False
        follows = message.previous_seq == self.seq
        if not follows or message.is_made:
            self.marks.clear()
        if message.is_made:
            self.floor = 0
        if not follows:
            self.keys_seq = -1
        elif self.keys_seq == self.seq:
            self.keys_seq = seq
        large = tuple(
            piece for record in message.records if not isinstance(record, bytes) for piece in record.seqs
        )
        self.marks.append(Mark(seq, message.before, large))
        self.seq, self.state, self.is_mine = seq, message.state, is_mine
        return follows

    def is_absent(self) -> None:
        """Take over that there is no message."""
        told = self.told
        self.forget_all()
        self.seq, self.told = 0, told


class Channels:
    """The channels that one node knows; those used last are at the end."""

    def __init__(self, names: Names, settings: SettingsTable) -> None:
        self._names = names
        self._settings = settings
        self._known: OrderedDict[str, Channel] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._known.values())

    def get(self, name: str) -> Channel | None:
        """Return a channel if it is known."""
        return self._known.get(name)

    def of(self, name: str, *, is_use: bool = False) -> Channel:
        """Return a channel, known from now on; ``is_use`` says that it is appended to."""
        channel = self._known.get(name)
        if channel is None:
            channel = self._known[name] = Channel(name, self._names, self._settings.of(name).window)
            self._make_room()
        elif is_use:
            self._known.move_to_end(name)
        return channel

    def _make_room(self) -> None:
        if len(self._known) <= _MAX_KNOWN:
            return
        for name in list(islice(self._known, 100)):
            if self._known[name].is_idle:
                del self._known[name]
            else:
                self._known.move_to_end(name)

    def forget_all(self) -> None:
        """Know nothing of any channel: the store is another one."""
        for channel in self._known.values():
            channel.forget_all()


def digest(key: str) -> bytes:
    """Return what stands for a key in messages."""
    return blake2b(key.encode(), digest_size=16).digest()


class Keys:
    """The keys that count, of all channels; beyond the bound the oldest give way."""

    def __init__(self, max_keys: int) -> None:
        self._max = max_keys
        self._keys: dict[str, dict[bytes, Key]] = {}
        self._order: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        """Until when each counts; those that came last are at the end."""

    def __len__(self) -> int:
        return len(self._order)

    def add(self, channel: str, key: Key, now_ms: int) -> None:
        """Remember a key."""
        there = self._keys.get(channel, {}).get(key.digest)
        if there is not None and there.until_ms >= key.until_ms:
            return
        self._keys.setdefault(channel, {})[key.digest] = key
        order = self._order
        order[channel, key.digest] = key.until_ms
        order.move_to_end((channel, key.digest))
        while order and (len(order) > self._max or next(iter(order.values())) <= now_ms):
            (name, oldest), _ = order.popitem(last=False)
            del self._keys[name][oldest]
            if not self._keys[name]:
                del self._keys[name]

    def find(self, channel: str, key: str, now_ms: int) -> Key | None:
        """Return what is known of a key that counts."""
        found = self._keys.get(channel, {}).get(digest(key))
        return found if found is not None and found.until_ms > now_ms else None

    def of(self, channel: str, before_offset: int, now_ms: int) -> list[Key]:
        """Return the keys of a channel that count and belong to offsets below one."""
        keys = self._keys.get(channel, {}).values()
        return [key for key in keys if key.offset < before_offset and key.until_ms > now_ms]

    def clear(self) -> None:
        """Forget all keys: the store is another one."""
        self._keys.clear()
        self._order.clear()
