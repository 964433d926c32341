"""The store's epoch and the highest offset it forgot, and how it is noticed that a store lost data.

Both stand in one message, changed by compare and set. Each node remembers, of every stream, the highest
sequence it saw and who wrote that message. After each connect it looks: a stream that is missing, was made
anew, stands lower, or has another message there has lost data (its directory is gone, or is an old copy), and
the store gets a new random epoch; who loses the race for it takes the winner's. What no node that is
connected remembers cannot be noticed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from everywire.brokers.nats.address import Names
from everywire.brokers.nats.link import NotThere
from everywire.brokers.nats.message import Message
from everywire.brokers.nats.streams import Conflict, Info, Streams
from everywire.core.errors import BrokerError
from everywire.core.position import MAX_OFFSET

__all__ = ["Epochs", "Meta"]

_ATTEMPTS: Final = 50
_LOOKS: Final = 10
_LOOK_S: Final = 0.3
_EPOCH: Final = re.compile(r"[A-Za-z0-9_\-]{1,32}\Z")
_log: Final = logging.getLogger("everywire.brokers")


class Meta(msgspec.Struct, array_like=True, frozen=True):
    """What the store says of itself."""

    epoch: str
    forgotten: int


class _Tide(NamedTuple):
    seq: int
    writer: str
    number: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Meta)


class Epochs:
    """What one node knows of the store as a whole; ``changed`` is called when it has another epoch."""

    def __init__(
        self, streams: Streams, names: Names, configs: dict[str, tuple[str, dict[str, object]]]
    ) -> None:
        self.epoch = ""
        self.made = 0
        """New epochs that this node gave the store, its first one included."""
        self.renewed = 0
        """Those because it lost data."""
        self.changed: Callable[[], None] = lambda: None
        self.channels = 0
        """Channels in the store when it was looked at last, those just forgotten included."""
        self._streams = streams
        self._names = names
        self._configs = configs
        self._created: dict[str, str] = {}
        self._tides: dict[str, _Tide] = {}

    def saw(self, stream: str, seq: int, message: Message) -> None:
        """Remember the newest message of a stream."""
        tide = self._tides.get(stream)
        if tide is None or seq > tide.seq:
            self._tides[stream] = _Tide(seq, message.writer, message.number)

    async def check(self) -> None:
        """Make the streams that are missing, and find out whether the store lost data."""
        # What is heard of from now on may be newer than what the engine says of its streams.
        epoch, tides = self.epoch, dict(self._tides)
        looked = await asyncio.gather(*[self._look(stream) for stream in self._configs])
        infos = {stream: info for stream, (info, _) in zip(self._configs, looked, strict=True)}
        self.channels = sum(info.subjects for stream, info in infos.items() if "_log_" in stream)
        is_new = any(is_made for _, is_made in looked)
        meta, seq = await self._get()
        has_lost = (is_new and bool(self._created)) or await self._has_lost(infos, tides)
        for _ in range(0 if self._streams.is_single or is_new else _LOOKS):
            if not has_lost:
                break
            # A new leader answers before it has done all that was agreed on.
            await asyncio.sleep(_LOOK_S)
            names = list(self._configs)
            infos = dict(zip(names, await asyncio.gather(*map(self._streams.info, names)), strict=True))
            has_lost = await self._has_lost(infos, tides)
        # Another node may have given it its new epoch meanwhile, and this one may have been told.
        if meta is None or (has_lost and meta.epoch == epoch):
            if epoch:
                _log.error("the store of NATS lost data; it gets a new epoch, and readers are told")
            await self._renew(meta, seq)
        else:
            self._adopt(meta.epoch)
        self._created = {stream: info.created for stream, info in infos.items()}

    async def _look(self, stream: str) -> tuple[Info, bool]:
        try:
            return await self._streams.info(stream), False
        except NotThere:
            subject, config = self._configs[stream]
            await self._streams.make(stream, subject, config)
            return await self._streams.info(stream), True

    async def _has_lost(self, infos: dict[str, Info], tides: dict[str, _Tide]) -> bool:
        for stream, info in infos.items():
            tide = tides.get(stream)
            if self._created.get(stream, info.created) != info.created or (
                tide is not None and info.last_seq < tide.seq
            ):
                return True
        found = await asyncio.gather(*[self._streams.at(stream, tide.seq) for stream, tide in tides.items()])
        for stored, tide in zip(found, tides.values(), strict=True):
            if stored is not None:
                message = Message.decode(stored.data)
                if (message.writer, message.number) != (tide.writer, tide.number):
                    return True
        return False

    async def _get(self) -> tuple[Meta | None, int]:
        names = self._names
        stored = await self._streams.last(names.meta_stream, names.meta_subject, is_newest=True)
        if stored is None:
            return None, 0
        try:
            meta = _decoder.decode(stored.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BrokerError(f"the store's epoch cannot be read: {error}") from None
        if _EPOCH.match(meta.epoch) is None or not 0 <= meta.forgotten <= MAX_OFFSET:
            raise BrokerError("the store's epoch cannot be read: it is none of ours")
        return meta, stored.seq

    async def _renew(self, meta: Meta | None, seq: int) -> None:
        new = Meta(secrets.token_urlsafe(6), 0 if meta is None else meta.forgotten)
        try:
            await self._streams.append(self._names.meta_subject, _encoder.encode(new), seq)
            self.made += 1
            self.renewed += bool(self.epoch)
        except Conflict:
            found, _ = await self._get()
            if found is None:
                raise BrokerError("the store's epoch is gone as soon as it is made") from None
            new = found
        self._adopt(new.epoch)

    def _adopt(self, epoch: str) -> None:
        if epoch == self.epoch:
            return
        is_first = not self.epoch
        self.epoch = epoch
        if not is_first:
            # What was remembered of the store before says nothing of this one.
            self._tides.clear()
            self._created.clear()
            self.changed()

    async def refresh(self) -> None:
        """Take over the epoch that the store has now."""
        await self.forgotten()

    async def forgotten(self) -> int:
        """Return the highest offset that the store forgot, as it is now."""
        meta, _ = await self._get()
        if meta is None:
            raise NotThere("the store's epoch is gone")
        self._adopt(meta.epoch)
        return meta.forgotten

    async def forget(self, offset: int) -> None:
        """Let the store know that a channel is forgotten which stood at an offset."""
        for _ in range(_ATTEMPTS):
            meta, seq = await self._get()
            if meta is None:
                raise NotThere("the store's epoch is gone")
            if meta.forgotten >= offset:
                return
            try:
                new = _encoder.encode(Meta(meta.epoch, offset))
                await self._streams.append(self._names.meta_subject, new, seq)
                return
            except Conflict:
                continue
        raise BrokerError("too many nodes forget channels at the same time")
