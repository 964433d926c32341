"""Leases and the store in JetStream: one stream, a subject for each value, the newest message is the value.

A value carries until when it counts, in our own time; what has run out is dropped by whoever walks past. Keys
and names of any form are digests in subjects. What must happen once is decided by compare and set: `put_once`
expects no message, or one that has run out, and `take` a message that it replaces by an empty one. The stream
refuses more subjects than `max_stored_keys` and `max_leases` together, and lets those there be renewed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from everywire.brokers.base import Lease
from everywire.brokers.chore import Chore
from everywire.brokers.nats.address import Names, token
from everywire.brokers.nats.link import Link
from everywire.brokers.nats.streams import Conflict, Stored, Streams
from everywire.core.errors import BrokerBusy, BrokerError
from everywire.core.limits import Limits

__all__ = ["NatsLeases", "NatsStore", "Values"]

_CONCURRENT: Final = 200
_PORTION: Final = 500
_ATTEMPTS: Final = 50
_STROLL_S: Final = 5.0
_log: Final = logging.getLogger("everywire.brokers")
_T = TypeVar("_T")


class _Value(msgspec.Struct, array_like=True, frozen=True, gc=False):
    name: str
    """The key, or the member's name, of which the subject has only a digest."""
    until_ms: int
    data: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Value)


class Values:
    """The stream of values, for both."""

    def __init__(
        self, link: Link, streams: Streams, names: Names, limits: Limits, clock_ms: Callable[[], int]
    ) -> None:
        self.streams = streams
        self.stream = names.values_stream
        self.prefix = f"{names.prefix}.v"
        self._link = link
        self._limits = limits
        self._clock_ms = clock_ms
        self._chore = Chore(self._sweep, "sweeping values at NATS")
        self._strolled_s = 0.0
        self._stroll_at = 1
        self._emptied: dict[str, int] = {}

    async def in_time(self, doing: Coroutine[Any, Any, _T]) -> _T:
        """Do something when the link works; `BrokerError` when it is not done in time."""
        timeout_s = self._limits.broker_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._link.ready(timeout_s)
                return await doing
        except TimeoutError:
            raise BrokerError("the broker did not answer in time") from None
        finally:
            doing.close()

    def encode(self, name: str, data: bytes, ttl_s: float) -> bytes:
        """Return a message with a value."""
        return _encoder.encode(_Value(name, self._clock_ms() + int(ttl_s * 1000), data))

    def decode(self, stored: Stored) -> _Value | None:
        """Return the value in a message, unless it is empty, has run out, or is none of ours: that counts as
        what has run out, and goes as soon."""
        if not stored.data:
            return None
        try:
            value = _decoder.decode(stored.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _log.warning("the store holds what is no value: %s", error)
            return None
        return value if value.until_ms > self._clock_ms() else None

    async def put(self, subject: str, data: bytes) -> None:
        """Keep a value, whatever there was."""
        await self.streams.append(subject, data)
        self._emptied.pop(subject, None)

    async def empty(self, subject: str, expected_seq: int | None = None) -> None:
        """Put an empty message in a value's place; it is dropped soon."""
        self._emptied[subject] = await self.streams.append(subject, b"", expected_seq)

    async def newest(self, subject: str) -> Stored | None:
        """Return the newest message of a value."""
        return await self.streams.last(self.stream, subject, is_newest=True)

    # -- what has run out ----------------------------------------------------------

    def sweep(self) -> None:
        """Begin to drop a part of what has run out, unless that is under way."""
        if self._link.is_up:
            self._chore.begin()

    async def close(self) -> None:
        """Do no more."""
        await self._chore.close()

    async def _sweep(self) -> None:
        emptied, self._emptied = self._emptied, {}
        await self._drop(list(emptied.items()))
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._strolled_s + _STROLL_S:
            self._strolled_s = now_s
            await self._stroll()

    async def _drop(self, what: Sequence[tuple[str, int]]) -> None:
        """Drop messages, each with its sequence: a newer one stays."""
        for at in range(0, len(what), _CONCURRENT):
            await asyncio.gather(
                *[
                    self.streams.purge(self.stream, subject, seq + 1)
                    for subject, seq in what[at : at + _CONCURRENT]
                ]
            )

    async def _stroll(self) -> None:
        """Look at the next part of the stream; those that last are passed over until it begins again."""
        found = await self.streams.page(self.stream, f"{self.prefix}.>", self._stroll_at, _PORTION)
        await self._drop([(stored.subject, stored.seq) for stored in found if self.decode(stored) is None])
        self._stroll_at = found[-1].seq + 1 if len(found) >= _PORTION else 1


class NatsStore:
    """Small values with a time to live; see `everywire.brokers.base.Store`."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def _subject(self, key: str) -> str:
        return f"{self._values.prefix}.s.{token(key)}"

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value; `BrokerBusy` when there are too many."""
        values = self._values
        await values.in_time(values.put(self._subject(key), values.encode(key, value, ttl_s)))

    async def put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """Keep a value unless there is one, which is returned."""
        return await self._values.in_time(self._put_once(key, value, ttl_s))

    async def _put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        values, subject = self._values, self._subject(key)
        for _ in range(_ATTEMPTS):
            stored = await values.newest(subject)
            found = None if stored is None else values.decode(stored)
            if found is not None:
                return found.data
            data = values.encode(key, value, ttl_s)
            try:
                await values.streams.append(subject, data, 0 if stored is None else stored.seq)
                return None
            except Conflict:
                continue
        raise BrokerError("too many put a value at the same time")

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None."""
        stored = await self._values.in_time(self._values.newest(self._subject(key)))
        found = None if stored is None else self._values.decode(stored)
        return None if found is None else found.data

    async def take(self, key: str) -> bytes | None:
        """Return the value and forget it; of several takers one gets it."""
        return await self._values.in_time(self._take(key))

    async def _take(self, key: str) -> bytes | None:
        values, subject = self._values, self._subject(key)
        for _ in range(_ATTEMPTS):
            stored = await values.newest(subject)
            found = None if stored is None else values.decode(stored)
            if stored is None or found is None:
                return None
            try:
                await values.empty(subject, stored.seq)
                return found.data
            except Conflict:
                continue
        raise BrokerError("too many write a value at the same time")


class NatsLeases:
    """Memberships that run out; see `everywire.brokers.base.Leases`."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def _subject(self, group: str, member: str) -> str:
        return f"{self._values.prefix}.l.{token(group)}.{token(member)}"

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Make or renew a membership; `BrokerBusy` when there are too many."""
        await self.put_many([Lease(group, member, value, ttl_s)])

    async def drop(self, group: str, member: str) -> None:
        """End a membership now."""
        await self.drop_many([(group, member)])

    async def put_many(self, leases: Sequence[Lease]) -> None:
        """Make or renew what there is room for; `BrokerBusy` when there was not for all."""
        values = self._values
        await values.in_time(
            self._all(
                [
                    values.put(
                        self._subject(lease.group, lease.member),
                        values.encode(lease.member, lease.value, lease.ttl_s),
                    )
                    for lease in leases
                ]
            )
        )

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        """End memberships now."""
        values = self._values
        await values.in_time(self._all([self._drop(group, member) for group, member in members]))

    async def _drop(self, group: str, member: str) -> None:
        subject = self._subject(group, member)
        stored = await self._values.newest(subject)
        if stored is not None and stored.data:
            await self._values.empty(subject)

    async def _all(self, doing: Sequence[Coroutine[Any, Any, None]]) -> None:
        refused: BrokerError | None = None
        for at in range(0, len(doing), _CONCURRENT):
            results = await asyncio.gather(*doing[at : at + _CONCURRENT], return_exceptions=True)
            for result in results:
                if isinstance(result, BrokerBusy):
                    refused = refused or result
                elif isinstance(result, BaseException):
                    raise result
        if refused is not None:
            raise refused

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Return the members whose lease has not run out."""
        return await self._values.in_time(self._members(group))

    async def _members(self, group: str) -> Mapping[str, bytes]:
        values = self._values
        subject = f"{values.prefix}.l.{token(group)}.*"
        found: dict[str, bytes] = {}
        seq = 1
        while True:
            portion = await values.streams.page(values.stream, subject, seq, _PORTION)
            for stored in portion:
                value = values.decode(stored)
                if value is not None:
                    found[value.name] = value.data
            if len(portion) < _PORTION:
                return found
            seq = portion[-1].seq + 1
