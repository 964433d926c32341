"""The messages of a channel in JetStream: what each says, and what of a channel is still kept.

A message carries one or several records that were waiting together, the keys they were published under, and
the whole state of the channel after it. So the newest message alone tells where a channel stands, and an
append and its keys are one atomic step. A message without records changes only the state (a trim, a keeping,
a forgetting). Messages of a channel form a chain: each names the stream sequence of the one before it.

Form: MessagePack arrays; readers take longer ones of later versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from everywire.brokers.base import Head
from everywire.brokers.record import unpack
from everywire.core.errors import BrokerError
from everywire.core.position import MAX_OFFSET
from everywire.core.publication import Publication
from everywire.core.settings import Window

__all__ = ["Kept", "Key", "Large", "Message", "State", "floor_of", "head_of", "visible", "window_of"]

_VERSION: Final = 1


class Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A window of a channel's own, and until when it counts."""

    max_publications: int
    max_bytes: int
    max_age_ms: int
    until_ms: int


class State(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A channel after one of its messages."""

    epoch: str
    """The epoch as the writer knew it."""
    last: int
    """The newest offset ever given."""
    first: int
    """Nothing below this is kept."""
    first_seq: int
    """No message below this stream sequence holds what is kept."""
    began: int
    """The offset before the first since the channel was made, or begun anew."""
    began_ms: int = 0
    """When the first record since then was published; 0 when there is none."""
    last_ms: int = 0
    """When the newest record was published."""
    cost_bytes: int = 0
    """What all records since it began count against the window."""
    keys_from: int = 0
    """No message below this stream sequence holds a key that counts, but for what was set aside."""
    keys_until_ms: int = 0
    """Until when the newest key counts."""
    kept: Kept | None = None
    is_gone: bool = False
    """Whether the channel was forgotten with this message."""


class Large(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record too large for a hint: it is stored beside the log, under a stream sequence of its own."""

    seqs: tuple[int, ...]
    """Of its pieces, in order: the engine takes no message above its ``max_payload``."""
    cost_bytes: int
    time_ms: int


class Key(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A key that a record was published under, as a digest; it counts until a time."""

    offset: int
    digest: bytes
    fingerprint: bytes
    until_ms: int


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message of a channel."""

    version: int
    writer: str
    """Who wrote it: one life of one node."""
    number: int
    """The writer's number of it, by which the writer knows it again."""
    previous_seq: int
    """The stream sequence of the message before it; 0 when there was none."""
    is_made: bool
    """Whether there was no such channel before it."""
    state: State
    records: tuple[bytes | Large, ...] = ()
    keys: tuple[Key, ...] = ()

    @property
    def before(self) -> int:
        """The offset before the first record."""
        return self.state.last - len(self.records)

    @property
    def is_small(self) -> bool:
        """Whether it carries all its records itself."""
        return all(type(record) is bytes for record in self.records)

    def publications(self) -> list[Publication]:
        """Return what it carries; only when it `is_small`."""
        before = self.before
        return [
            unpack(before + index, record)
            for index, record in enumerate(self.records, 1)
            if isinstance(record, bytes)
        ]

    def encode(self) -> bytes:
        """Return the message's bytes."""
        return _encoder.encode(self)

    @classmethod
    def make(
        cls,
        identity: tuple[str, int],
        previous_seq: int,
        state: State,
        records: tuple[bytes | Large, ...] = (),
        keys: tuple[Key, ...] = (),
        *,
        is_made: bool = False,
    ) -> Message:
        """Make a message of this version."""
        return cls(_VERSION, *identity, previous_seq, is_made, state, records, keys)

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Read a message; `BrokerError` when it is none."""
        try:
            message = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BrokerError(f"the stream holds what is no message of a channel: {error}") from None
        if not len(message.records) <= message.state.last <= MAX_OFFSET:
            raise BrokerError("the stream holds what is no message of a channel: offsets out of range")
        return message


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


def window_of(state: State, settings: Window, now_ms: int) -> Window:
    """Return the window that counts: the channel's own while it is kept, else that of the settings."""
    kept = state.kept
    if kept is None or kept.until_ms <= now_ms:
        return settings
    return Window(kept.max_publications, kept.max_bytes, kept.max_age_ms / 1000)


def floor_of(state: State, settings: Window, now_ms: int) -> int:
    """Return an offset below which nothing is kept, as far as the state alone tells: exact but for age and
    bytes, which only the records tell."""
    window = window_of(state, settings, now_ms)
    is_over = state.kept is not None and state.kept.until_ms <= now_ms
    if is_over or state.last_ms < now_ms - int(window.max_age_s * 1000):
        return state.last + 1
    return max(state.first, state.last - window.max_publications + 1)


def is_whole(state: State, settings: Window, now_ms: int) -> bool:
    """Say whether everything since the channel began is kept; exact."""
    if floor_of(state, settings, now_ms) != state.began + 1:
        return state.last == state.began and state.first == state.began + 1
    window = window_of(state, settings, now_ms)
    fits = state.cost_bytes <= window.max_bytes or state.last == state.began + 1
    return fits and (not state.began_ms or state.began_ms >= now_ms - int(window.max_age_s * 1000))


def head_of(epoch: str, state: State, settings: Window, now_ms: int, floor: int = 0) -> Head:
    """Return where a channel stands; nothing below ``floor`` is kept either."""
    first = max(floor_of(state, settings, now_ms), min(floor, state.last + 1))
    whole = first == state.began + 1 and is_whole(state, settings, now_ms)
    return Head(epoch, first, state.last, is_whole=whole)


def visible(
    message: Message, newest: State, settings: Window, now_ms: int
) -> Iterator[tuple[int, bytes | Large]]:
    """Yield the offsets and records of a message that are kept, by the newest state of its channel."""
    floor = floor_of(newest, settings, now_ms)
    window = window_of(newest, settings, now_ms)
    since_ms = now_ms - int(window.max_age_s * 1000)
    records = message.records
    costs, times = _measure(message)
    began_anew = message.state.began != newest.began
    remaining = newest.cost_bytes - message.state.cost_bytes + sum(costs)
    for index, record in enumerate(records):
        offset = message.before + index + 1
        fits = began_anew or remaining <= window.max_bytes or offset == newest.last
        remaining -= costs[index]
        if offset >= floor and fits and times[index] >= since_ms:
            yield offset, record


def _measure(message: Message) -> tuple[list[int], list[int]]:
    """Return the costs and times of a message's records."""
    costs, times = [], []
    for record in message.records:
        if isinstance(record, Large):
            costs.append(record.cost_bytes)
            times.append(record.time_ms)
        else:
            publication = unpack(0, record)
            costs.append(publication.cost_bytes)
            times.append(publication.time_ms)
    return costs, times
