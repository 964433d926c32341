"""What an application does to its users and channels, on every node and every transport.

`Reaching` is a base of `everywire.application.Everywire`.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Identity
from everywire.brokers.base import Page
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError
from everywire.core.names import check_name
from everywire.core.position import Place, encode_position
from everywire.core.publication import Publication
from everywire.handlers.payloads import encode
from everywire.handlers.refused import code_of
from everywire.handlers.session import Reachable
from everywire.hub.called import called
from everywire.sessions.presence import Members
from everywire.sessions.registry import Visitor
from everywire.sessions.shared import Shared

__all__ = ["History", "Kept", "Reaching"]

_log = logging.getLogger("everywire.handlers")

_MESSAGES: Final = "application.messages"


class Kept(NamedTuple):
    """One publication that a channel keeps, with its data as a value (bytes where it is no JSON)."""

    offset: int
    data: Any
    event: str | None
    tags: dict[str, str]
    time_s: float
    """When it was published (UNIX time)."""


class History(NamedTuple):
    """What a channel keeps, and where it stands."""

    publications: Sequence[Kept]
    position: str
    """The position behind the last of them."""
    epoch: str
    offset: int
    """Where the channel stands, which may be further on."""


class _Letter(msgspec.Struct, frozen=True):
    """A message to a user's sessions, between nodes."""

    user: str
    client: str
    data: msgspec.Raw


class Reaching(ABC):
    """What is done to users and channels."""

    @property
    @abstractmethod
    def shared(self) -> Shared:
        """The parts of the running server."""

    def _listen(self, shared: Shared) -> None:
        """Hear the messages of other nodes; once, after the start."""
        shared.hub.on_broadcast(_MESSAGES, partial(_deliver, shared))

    # -- users ----------------------------------------------------------------------

    async def send(self, user: str, data: Any, *, client: str = "") -> None:
        """Send a message to all sessions of a user, or to one of them, on every node.

        Readers of plain transports have no way to hear it. Sessions that are not there miss it: what must
        arrive is published to a channel. Raises `BrokerError` when other nodes could not be told.
        """
        if not user and not client:
            raise BadRequest("name a user, or a client")
        letter = _Letter(user, client, msgspec.Raw(encode(data)))
        await self.shared.hub.broker.control.broadcast(_MESSAGES, msgspec.json.encode(letter))

    async def disconnect(
        self, user: str, *, client: str = "", code: Code | int = codes.DISCONNECTED, reason: str = ""
    ) -> None:
        """End all connections of a user, or one of them, on every node; polls in flight, too.

        They may come back if the code lets them (3000 to 3499, 4000 to 4499) and if they are let in: see
        `block`.
        """
        await self.shared.registry.disconnect(user, client=client, code=code_of(code, reason), reason=reason)

    async def subscribe(self, user: str, channel: str, *, client: str = "", data: Any = None) -> None:
        """Subscribe a user's sessions to a channel, on every node; the rules are not asked."""
        decision = SubscribeDecision(data=None if data is None else encode(data))
        await self.shared.registry.subscribe(user, check_name(channel), decision, client=client)

    async def unsubscribe(self, user: str, channel: str, *, client: str = "") -> None:
        """End a user's subscriptions to a channel, and plain reading of it, on every node.

        Who may read it may subscribe again: change what your rules say first.
        """
        await self.shared.registry.unsubscribe(user, check_name(channel), client=client)

    async def block(self, user: str, for_s: float | None = None, *, reason: str = "") -> None:
        """Shut a user out, for so many seconds or for good, and end all its connections."""
        until_s = None if for_s is None else time.time() + for_s
        shared = self.shared
        if shared.authority.revocations is None:
            raise EverywireError("nobody can be blocked here", code=codes.NOT_AVAILABLE)
        await shared.authority.revocations.block_user(user, until_s)
        await shared.registry.disconnect(user, code=codes.REFUSED, reason=reason)

    async def unblock(self, user: str) -> None:
        """Let a user in again."""
        revocations = self.shared.authority.revocations
        if revocations is not None:
            await revocations.unblock_user(user)

    async def ticket(self, identity: Identity | str, *, origin: str = "") -> str:
        """Return a ticket: a credential that is good once, for some seconds, from pages of an origin.

        A text is the id of a user. Give it to a page of yours that opens a ``WebSocket`` or an
        ``EventSource`` with ``?ticket=``; browsers send the page's origin with those.
        """
        tickets = self.shared.authority.tickets
        if tickets is None:
            raise EverywireError("there are no tickets here", code=codes.NOT_AVAILABLE)
        if isinstance(identity, str):
            identity = Identity(user=identity, kind="hook")
        return await tickets.issue(identity, origin)

    # -- channels ---------------------------------------------------------------------

    async def presence(self, channel: str, limit: int | None = None) -> Members:
        """Return who is in a channel, on all nodes, by client id."""
        return await self.shared.presence.members(check_name(channel), limit)

    async def history(
        self, channel: str, *, limit: int | None = None, since: Place | None = None, reverse: bool = False
    ) -> History:
        """Return what a channel keeps, after a place or all of it, within the bounds of one page.

        ``reverse`` gives the newest first. Raises an error with code 112 when what follows ``since`` is
        gone, or of another epoch.
        """
        hub = self.shared.hub
        most = self.shared.limits.max_page_publications
        count = most if limit is None else max(min(limit, most), 0)
        heads = await called(partial(hub.broker.log.heads, (check_name(channel),)))
        head = heads[channel]
        after = head.first - 1
        if since is not None:
            if since.epoch != head.epoch or since.offset < after or since.offset > head.last:
                raise EverywireError(code=codes.UNRECOVERABLE)
            after = since.offset
        if reverse:
            after = max(after, head.last - count)
        found: Sequence[Publication] = ()
        if count:
            read = partial(hub.broker.log.read, channel, after, count, self.shared.limits.max_page_bytes)
            page: Page = await called(read)
            found = page.publications
        end = found[-1].offset if found else after
        kept = [_kept(one) for one in found]
        position = encode_position([(channel, Place(head.epoch, end))])
        return History(kept[::-1] if reverse else kept, position, head.epoch, head.last)


def _kept(publication: Publication) -> Kept:
    data = msgspec.json.decode(publication.data) if publication.is_json else publication.data
    return Kept(
        publication.offset, data, publication.event, dict(publication.tags or {}), publication.time_ms / 1000
    )


def _deliver(shared: Shared, payload: bytes, node: str) -> None:
    """Hand a message to the sessions of this node that it is for."""
    try:
        letter = msgspec.json.decode(payload, type=_Letter)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("a message from node %s cannot be read: %s", node, error)
        return
    registry = shared.registry
    if letter.client:
        resident = registry.by_client(letter.client)
        found: Sequence[Visitor] = () if resident is None else (resident,)
    else:
        found = registry.of_user(letter.user)
    for visitor in found:
        if isinstance(visitor, Reachable) and (not letter.user or visitor.identity.user == letter.user):
            visitor.message(bytes(letter.data))
