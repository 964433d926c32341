"""What the parts of a NATS broker share, and how they learn where a channel stands."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from everywire.brokers.base import Sink
from everywire.brokers.nats.address import Names
from everywire.brokers.nats.channels import Channel, Channels, Keys
from everywire.brokers.nats.epochs import Epochs
from everywire.brokers.nats.link import Link
from everywire.brokers.nats.message import Large, Message
from everywire.brokers.nats.streams import Stored, Streams
from everywire.brokers.record import unpack
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.publication import Publication

__all__ = ["Counters", "Parts"]


@dataclass(slots=True)
class Counters:
    """What is counted since the start."""

    appends: int = 0
    batches: int = 0
    buffered: int = 0
    conflicts: int = 0
    errors: int = 0
    hints_sent: int = 0
    hints_received: int = 0
    hints_lost: int = 0
    channels_forgotten: int = 0
    purges: int = 0


@dataclass(slots=True)
class Parts:
    """The parts of one node's broker."""

    names: Names
    link: Link
    streams: Streams
    epochs: Epochs
    channels: Channels
    keys: Keys
    limits: Limits
    clock_ms: Callable[[], int]
    buffer: int = 0
    """How many publications may wait while the engine is away, instead of an error."""
    sink: Sink | None = None
    counters: Counters = field(default_factory=Counters)
    writer_name: str = field(default_factory=lambda: secrets.token_hex(6))
    """This life of this node, as its messages name it."""
    numbers: count[int] = field(default_factory=lambda: count(1))

    def learn(self, channel: Channel, stored: Stored) -> Message:
        """Take over what a message says; return it."""
        message = Message.decode(stored.data)
        self.take(channel, stored.seq, message)
        return message

    def take(self, channel: Channel, seq: int, message: Message) -> None:
        """Take over what a message says."""
        self.epochs.saw(channel.stream, seq, message)
        if message.keys:
            now_ms = self.clock_ms()
            for key in message.keys:
                self.keys.add(channel.name, key, now_ms)
        channel.learn(seq, message, message.writer == self.writer_name)

    async def newest(self, channel: Channel) -> None:
        """Learn where a channel stands now."""
        stored = await self.streams.last(channel.stream, channel.subject)
        if stored is None:
            channel.is_absent()
        elif stored.seq < channel.seq:
            # Another replica, which is late; or the store fell behind, which shows at the next connect.
            return
        else:
            self.learn(channel, stored)
        channel.verified_s = asyncio.get_running_loop().time()

    def tell(self, channel: Channel, message: Message, publications: Sequence[Publication] = ()) -> None:
        """Tell the sink of a message of a watched channel, unless it was told already."""
        state = message.state
        if self.sink is None or not channel.watched or not message.records or state.last <= channel.told:
            return
        channel.told = state.last
        epoch = self.epochs.epoch
        if not message.is_small and not publications:
            self.sink.advanced(channel.name, epoch, state.last)
            return
        previous = 0 if message.is_made else message.before
        self.sink.published(channel.name, epoch, publications or message.publications(), previous)

    async def fetch(self, offset: int, record: bytes | Large) -> Publication | None:
        """Return a publication by its record; None when it is gone meanwhile."""
        if isinstance(record, bytes):
            return unpack(offset, record)
        stream = self.names.large_stream
        pieces = await asyncio.gather(*[self.streams.at(stream, seq) for seq in record.seqs])
        if any(piece is None for piece in pieces):
            return None
        return unpack(offset, b"".join(piece.data for piece in pieces if piece is not None))

    async def messages(
        self, channel: Channel, after_seq: int, until_seq: int | None = None
    ) -> Sequence[tuple[int, Message]]:
        """Return the messages of a channel after one, oldest first, and learn them; all, or up to one."""
        found: list[tuple[int, Message]] = []
        while until_seq is None or after_seq < until_seq:
            # A few one by one: that is cheaper than a consumer.
            if len(found) < 3:
                one = await self.streams.next(channel.stream, channel.subject, after_seq + 1)
                portion: Sequence[Stored] = [] if one is None else [one]
            else:
                portion = await self.streams.page(channel.stream, channel.subject, after_seq + 1, 256)
            if not portion:
                return found
            for stored in portion:
                found.append((stored.seq, self.learn(channel, stored)))
                after_seq = stored.seq
            if len(found) > self.limits.max_idempotency_keys:
                raise BrokerError("a channel holds more messages than can be read")
        return found
