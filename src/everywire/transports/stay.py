"""What a reader that showed a credential holds while it reads: its places in the registry and in presence.

Nobody's readers have none of it, and pay nothing. A credential may name no user: then its reader is a
visitor, so that it can be revoked, and no member. Streams and sockets are members of their channels from
their beginning to their end, each by itself. Who polls is one member for each user and credential: every poll
is a sign of life, and the lease outlives it, so that nobody comes and goes between two of them.

A credential may run out while its reader reads: its `Stay` says when to tell it, and when to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import inf
from typing import Final
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from msgspec import UNSET, Raw

from everywire.access.identity import Identity
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.publication import Draft
from everywire.sessions.commands import info_text
from everywire.sessions.registry import Visitor
from everywire.sessions.shared import Shared

__all__ = ["Stay", "end_of_reading", "show_life", "signed"]

_FIRST_UNSUBSCRIBE: Final = 2000
_FIRST_RESUBSCRIBE: Final = 2500
_FIRST_DISCONNECT: Final = 3000


def show_life(shared: Shared, identity: Identity, channels: Sequence[str], wait_s: float = 0.0) -> None:
    """Let a user who polls be present in the channels, until some time after the poll."""
    info = _polling(identity)
    member = info.client
    for channel in channels:
        here = _info(identity, member, channel) if channel in identity.terms else info
        shared.presence.touch(channel, member, here, wait_s)


def signed(draft: Draft, identity: Identity, stay: Stay | None = None) -> Draft:
    """Return a draft that says who publishes it, if that is a user; operators sign nothing."""
    if not identity.user or identity.may_all:
        return draft
    member = "" if stay is None else stay.member
    return draft._replace(info=info_text(_info(identity, member, draft.channel)))


def end_of_reading(channel: str, code: Code) -> tuple[Code, str]:
    """Return the code and the reason that end a plain reader whose subscription to a channel was ended.

    It reads all of its channels or none, and a wire cannot tell the protocol's 2000 to 2999 as its end: a
    WebSocket may not close with them.
    """
    if _FIRST_RESUBSCRIBE <= code.number < _FIRST_DISCONNECT:
        return codes.FORCE_RECONNECT, f"connect again: {code.sentence} ({channel})"
    if _FIRST_UNSUBSCRIBE <= code.number < _FIRST_RESUBSCRIBE:
        return codes.DISCONNECTED, f"{code.sentence} ({channel})"
    return code, code.sentence


class Stay:
    """One stream or socket of somebody."""

    __slots__ = ("_channels", "_shared", "_visitor", "ends_s", "member", "warns_s")

    def __init__(self, shared: Shared, visitor: Visitor, channels: Sequence[str]) -> None:
        """Enter."""
        self._shared = shared
        self._visitor = visitor
        identity = visitor.identity
        self._channels = channels if identity.user else ()
        self.member = str(uuid4()) if identity.user else ""
        """The client id by which others see it."""
        self.ends_s: float | None = None
        """When the credential runs out, on the hub's clock."""
        self.warns_s: float | None = None
        """When to tell that it will; None when there is no need, or it was told."""
        if identity.expires_s is not None:
            self.ends_s = shared.hub.time() + identity.expires_s - shared.unix_s()
            self.warns_s = self.ends_s - shared.limits.expiry_notice_s
        shared.registry.enter(visitor)
        for channel in self._channels:
            shared.presence.enter(channel, self.member, _info(identity, self.member, channel))

    def next_s(self, latest_s: float = inf) -> float:
        """Return when something is to be done, on the hub's clock, infinity for never.

        ``latest_s`` is when reading ends anyway.
        """
        if self.ends_s is None or latest_s <= self.ends_s:
            return latest_s
        return self.ends_s if self.warns_s is None else self.warns_s

    def warning_s(self) -> int | None:
        """Return in how many seconds the credential runs out if that is to be told now, once; else None."""
        now_s = self._shared.hub.time()
        if self.ends_s is None or self.warns_s is None or now_s < self.warns_s or now_s >= self.ends_s:
            return None
        self.warns_s = None
        return max(1, round(self.ends_s - now_s))

    def end(self) -> None:
        """Leave; once."""
        self._shared.registry.leave(self._visitor)
        for channel in self._channels:
            self._shared.presence.leave(channel, self.member)


def _polling(identity: Identity) -> ClientInfo:
    """Return whoever polls with a credential as a member: the same on every node.

    The member id tells nothing of the credential. A key may be one that can be guessed, so its digest is
    not part of it.
    """
    info = _known.get(identity)
    if info is None:
        digest = blake2b(identity.user.encode("utf-8", "surrogatepass"), digest_size=16, person=b"member")
        digest.update(b"\0key" if identity.kind == "key" else b"\0" + identity.credential)
        info = _known[identity] = _info(identity, str(UUID(bytes=digest.digest())), "")
    return info


_known: Final[WeakKeyDictionary[Identity, ClientInfo]] = WeakKeyDictionary()
"""So that it is worked out once for each proof, not for each poll."""


def _info(identity: Identity, member: str, channel: str) -> ClientInfo:
    terms = identity.terms.get(channel)
    return ClientInfo(
        user=identity.user,
        client=member,
        conn_info=UNSET if identity.info is None else Raw(identity.info),
        chan_info=UNSET if terms is None or terms.info is None else Raw(terms.info),
    )
