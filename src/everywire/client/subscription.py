"""One channel of a session: where it stands, and what its reader has not taken yet.

Publications come in order and once each, whatever happened to the connection meanwhile: a
subscription keeps the epoch and offset of the last one it queued, and asks from there. Nothing waits
without bound: when the queue is full the subscription leaves the channel, and comes back from its
position once the reader has caught up; the log keeps what is missed meanwhile, and what it no
longer has comes as `Missed`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from everywire.client.errors import ClientError, ConnectionLost, Refused
from everywire.client.items import Missed, Received, from_base64
from everywire.codecs.centrifuge.messages import (
    ClientInfo,
    Field,
    JoinLeave,
    Pub,
    SubscribeRequest,
    SubscribeResult,
)
from everywire.core.position import Place, encode_position

__all__ = ["Item", "Joined", "Left", "Owner", "Snapshot", "Subscription", "read_field", "read_publication"]

MAX_QUEUED: Final = 10_000
"""Items that wait for their reader; then the subscription leaves its channel until half of them are taken."""


class Joined(NamedTuple):
    """Someone came into the channel."""

    channel: str
    user: str
    client: str
    info: Any


class Left(NamedTuple):
    """Someone left the channel."""

    channel: str
    user: str
    client: str
    info: Any


class Snapshot(NamedTuple):
    """The channel's state, as of ``offset``; only what is newer follows."""

    channel: str
    offset: int
    data: Any


Item = Received | Missed | Joined | Left | Snapshot


class Owner(Protocol):
    """What a subscription asks of its client."""

    def subscribe(self, subscription: Subscription) -> None:
        """Subscribe on the server as soon as there is a connection."""

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Leave on the server."""


class _Binary(Struct, forbid_unknown_fields=True):
    """How the JSON form carries bytes."""

    data_base64: str
    content_type: str = ""


def read_field(field: Field) -> Any:
    """Decode a field of JSON; None when it is missing."""
    if isinstance(field, UnsetType):
        return None
    try:
        return msgspec.json.decode(field)
    except msgspec.MsgspecError as error:
        raise ConnectionLost(f"the server sent what is not JSON: {error}") from None


def read_publication(channel: str, epoch: str, publication: Pub) -> Received:
    """Read a publication as it came."""
    data = read_field(publication.data)
    content_type = None
    if isinstance(data, dict) and "data_base64" in data:
        try:
            binary = msgspec.convert(data, _Binary)
        except msgspec.ValidationError:
            pass  # someone published an object that merely looks like it
        else:
            data, content_type = from_base64(binary.data_base64), binary.content_type or None
    tags = dict(publication.tags)
    event = tags.pop("event", None)
    position = encode_position([(channel, Place(epoch, publication.offset))]) if epoch else None
    return Received(
        channel,
        publication.offset or None,
        data,
        event,
        tags or None,
        publication.time or None,
        position,
        content_type,
        None if publication.info is None else read_info(publication.info),
    )


def read_info(info: ClientInfo) -> dict[str, Any]:
    """Read who a client is."""
    told: dict[str, Any] = {"user": info.user, "client": info.client}
    for name in ("conn_info", "chan_info"):
        value = read_field(getattr(info, name))
        if value is not None:
            told[name] = value
    return told


class Subscription:
    """A channel to read: ``async for item in subscription``. Made by `Client.channel`."""

    def __init__(
        self,
        owner: Owner,
        channel: str,
        *,
        since: Place | None = None,
        join_leave: bool = False,
        get_token: Callable[[], Awaitable[str]] | None = None,
        data: Any = None,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self.channel = channel
        self.epoch = "" if since is None else since.epoch
        self.offset = 0 if since is None else since.offset
        self.is_subscribed = False
        self.is_wanted = False
        """Whether this subscription is to be there when there is a connection."""
        self.is_held_up = False
        """Whether it stays out of its channel because its reader is behind."""
        self.has_dropped = False
        """Whether something was dropped since, so that it must leave and come back from its position."""
        self.is_on_server = False
        """Whether the server was told last to subscribe."""
        self.is_adjusting = False
        """Whether the server is being told."""
        self.data: Any = None
        """What the application said at the last subscribe."""
        self.get_token = get_token
        self.token = ""
        """What `get_token` gave last, until the server says that it has expired."""
        self.refresh: asyncio.TimerHandle | None = None
        """When the token is to be replaced."""
        self._owner = owner
        self._knows_place = since is not None
        self._join_leave = join_leave
        self._data = data
        self._queue: deque[Item] = deque()
        self._max_queued = max_queued
        self._news = asyncio.Event()
        self._error: ClientError | None = None
        self._is_over = False
        self._has_begun = False
        """Whether the server said yes since `subscribe`."""

    @property
    def is_followed(self) -> bool:
        """Whether this subscription is to be there on the server."""
        return self.is_wanted and not self.is_held_up

    @property
    def wants_token(self) -> bool:
        """Whether `get_token` is to be asked before the server is."""
        return self.get_token is not None and not self.token

    # -- what its reader does ---------------------------------------------------

    async def __aenter__(self) -> Subscription:
        """Subscribe; return when the server has said yes."""
        await self.subscribe()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the channel."""
        await self.unsubscribe()

    async def subscribe(self) -> None:
        """Subscribe, and wait until the server has answered for the first time.

        Raises `CommandError` when it refuses, `Refused` when the subscription or the client ends meanwhile.
        """
        self._is_over = self._has_begun = False
        self._error = None
        self.is_wanted = True
        self._owner.subscribe(self)
        # Not `is_subscribed`: what came with the first answer may have filled the queue.
        while not self._has_begun:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise Refused("this subscription was ended")
            self._news.clear()
            await self._news.wait()

    async def unsubscribe(self) -> None:
        """Leave the channel; the position stays, and a later `subscribe` goes on from there."""
        self.is_wanted = False
        self.end(None)
        await self._owner.unsubscribe(self)

    def __aiter__(self) -> AsyncIterator[Item]:
        """Read items until the subscription ends."""
        return self

    async def __anext__(self) -> Item:
        """Return the next item; raise what ended the subscription, once all is read."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self.take_nowait()

    def take_nowait(self) -> Item:
        """Return the next item that is here already (`queued` says how many are); else IndexError."""
        item = self._queue.popleft()
        if self.is_held_up and len(self._queue) <= self._max_queued // 2:
            self.is_held_up = False
            self._owner.subscribe(self)
        return item

    # -- what its client tells -----------------------------------------------------

    def request(self) -> SubscribeRequest:
        """Return what is to be said to the server."""
        return SubscribeRequest(
            channel=self.channel,
            token=self.token,
            recover=self._knows_place,
            epoch=self.epoch,
            offset=self.offset,
            positioned=True,
            recoverable=True,
            join_leave=self._join_leave,
            data=UNSET if self._data is None else msgspec.Raw(msgspec.json.encode(self._data)),
        )

    def subscribed(self, result: SubscribeResult) -> None:
        """Take the server's yes, and what was missed."""
        is_trimmed = result.was_recovering and not result.recovered
        self.data = read_field(result.data) if not result.has_snapshot else None
        if is_trimmed:
            self._tell_gap(result)
        if not result.recovered:
            self.epoch, self.offset = result.epoch, result.offset
        self.has_dropped = False
        self.epoch = result.epoch or self.epoch
        self._knows_place = result.recoverable
        if result.has_snapshot:
            self._put(Snapshot(self.channel, result.offset, read_field(result.data)))
        self.is_subscribed = self._has_begun = True
        self._news.set()
        for publication in result.publications:
            self.published(publication)

    def _tell_gap(self, result: SubscribeResult) -> None:
        position = encode_position([(self.channel, Place(result.epoch, result.offset))])
        if result.epoch == self.epoch and result.offset >= self.offset:
            if result.offset > self.offset:
                self._put(Missed(self.channel, self.offset + 1, result.offset, "trimmed", position))
        else:
            self._put(Missed(self.channel, None, None, "reset", position))

    def published(self, publication: Pub) -> None:
        """Take a publication, unless it was taken before (two connections overlap while one moves)."""
        if not self.is_subscribed:
            return  # it is of a subscription that was left: what it missed comes with the next one
        if publication.offset:
            if publication.offset <= self.offset:
                return
            self.offset = publication.offset
        self._put(read_publication(self.channel, self.epoch, publication))

    def joined(self, event: JoinLeave) -> None:
        """Take a join."""
        info = event.info
        self._put(Joined(self.channel, info.user, info.client, read_field(info.conn_info)))

    def left(self, event: JoinLeave) -> None:
        """Take a leave."""
        info = event.info
        self._put(Left(self.channel, info.user, info.client, read_field(info.conn_info)))

    def stop_refreshing(self) -> None:
        """Let the token run out."""
        if self.refresh is not None:
            self.refresh.cancel()
            self.refresh = None

    def end(self, error: ClientError | None) -> None:
        """End: with an error, or because its reader wants no more."""
        self.stop_refreshing()
        self.is_subscribed = False
        self.is_held_up = False
        self._error = error
        self._is_over = error is None
        self.is_wanted = False
        self._news.set()

    def _put(self, item: Item) -> None:
        self._queue.append(item)
        self._news.set()
        if len(self._queue) >= self._max_queued and not self.is_held_up:
            self.is_held_up = self.has_dropped = True
            self.is_subscribed = False

    @property
    def queued(self) -> int:
        """How many items wait to be read."""
        return len(self._queue)
