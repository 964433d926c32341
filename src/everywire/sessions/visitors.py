"""Visitors: whoever is connected to this node, by user, client id and session id.

A visitor is a session, or a reader of a plain transport that showed a credential. A plain reader that is
nobody has nothing that it could be found by.

Session ids are secrets: they are kept and compared as digests, so that neither how long a look-up
takes nor what a dump shows gives one away.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Final, Generic, Protocol, TypeVar

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Identity
from everywire.core.codes import Code
from everywire.core.position import Place
from everywire.sessions.orders import Whose

__all__ = ["Directory", "Resident", "Visitor", "digest_of"]

_DIGEST_BYTES: Final = 16


class Visitor(Hashable, Protocol):
    """A connection or a request in flight, on any transport."""

    @property
    def identity(self) -> Identity:
        """Who it is; call `everywire.sessions.registry.Registry.moved` when it changes."""

    @property
    def client(self) -> str:
        """The client id; empty for plain transports."""

    @property
    def session_id(self) -> str:
        """The secret that commands by other requests come with; empty where there are none."""

    @property
    def channels(self) -> Iterable[str]:
        """The names of the channels it reads."""

    @property
    def transport(self) -> str:
        """The wire that carries it."""

    @property
    def peer(self) -> str:
        """The client's address."""

    def disconnect(self, code: Code, reason: str = "") -> None:
        """End it, telling why in the transport's own words."""

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End the reading of one channel, telling why; a plain reader ends as a whole."""


class Resident(Visitor, Protocol):
    """A session: a visitor that can also be given something. Whoever has a client id is one."""

    def receive_bytes(self, data: bytes) -> None:
        """Take commands that came by another request."""

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        """Begin a server-side subscription, after a place or at the head."""

    def refresh(self, expires_s: float | None) -> None:
        """Hear until when the connection is good now (UNIX time); None is for ever."""


_Key = TypeVar("_Key", bound=Hashable)
_Member = TypeVar("_Member", bound=Hashable)


class Index(Generic[_Key, _Member]):
    """Members by a key that several may share. One member under a key costs one dictionary entry."""

    __slots__ = ("_one", "_several")

    def __init__(self) -> None:
        self._one: dict[_Key, _Member] = {}
        self._several: dict[_Key, dict[_Member, None]] = {}

    def __len__(self) -> int:
        return len(self._one) + len(self._several)

    def add(self, key: _Key, member: _Member) -> None:
        """Find the member under the key from now on."""
        several = self._several.get(key)
        if several is not None:
            several[member] = None
        elif key in self._one and self._one[key] is not member:
            self._several[key] = {self._one.pop(key): None, member: None}
        else:
            self._one[key] = member

    def drop(self, key: _Key, member: _Member) -> None:
        """Find the member under the key no longer."""
        several = self._several.get(key)
        if several is None:
            if self._one.get(key) is member:
                del self._one[key]
            return
        several.pop(member, None)
        if len(several) == 1:
            del self._several[key]
            self._one[key] = next(iter(several))

    def of(self, key: _Key) -> tuple[_Member, ...]:
        """Return the members under the key, oldest first."""
        several = self._several.get(key)
        if several is not None:
            return tuple(several)
        one = self._one.get(key)
        return () if one is None else (one,)

    def all(self) -> list[_Member]:
        """Return all members."""
        return [*self._one.values(), *(member for several in self._several.values() for member in several)]


class Directory:
    """The visitors of one node."""

    __slots__ = ("bearers", "clients", "sessions", "users", "visitors")

    def __init__(self) -> None:
        self.visitors = 0
        """How many there are, nobodies included."""
        self.users: Index[str, Visitor] = Index()
        self.bearers: dict[Visitor, None] = {}
        """Plain readers by a token that names no user but can be revoked."""
        self.clients: Index[str, Resident] = Index()
        self.sessions: Index[bytes, Resident] = Index()

    def add(self, visitor: Visitor | Resident) -> None:
        """Let a visitor be found."""
        self.visitors += 1
        user = visitor.identity.user
        if user:
            self.users.add(user, visitor)
        elif visitor.identity.token_id and not visitor.client:
            self.bearers[visitor] = None
        if visitor.client:
            resident: Resident = visitor  # type: ignore[assignment]  # whoever has a client id is one
            self.clients.add(visitor.client, resident)
            if visitor.session_id:
                self.sessions.add(digest_of(visitor.session_id), resident)

    def drop(self, visitor: Visitor | Resident) -> None:
        """Let a visitor be found no longer."""
        self.visitors -= 1
        user = visitor.identity.user
        if user:
            self.users.drop(user, visitor)
        else:
            self.bearers.pop(visitor, None)
        if visitor.client:
            resident: Resident = visitor  # type: ignore[assignment]
            self.clients.drop(visitor.client, resident)
            if visitor.session_id:
                self.sessions.drop(digest_of(visitor.session_id), resident)

    def move(self, visitor: Visitor, old: Identity) -> None:
        """Let a visitor be found under the user that it is now."""
        if old.user != visitor.identity.user:
            if old.user:
                self.users.drop(old.user, visitor)
            if visitor.identity.user:
                self.users.add(visitor.identity.user, visitor)

    def find(self, whose: Whose) -> Sequence[Visitor]:
        """Return a user's visitors, or those of a client id or of a session if they are the user's."""
        if whose.session:
            found: Sequence[Visitor] = self.sessions.of(whose.session)
        elif whose.client:
            found = self.clients.of(whose.client)
        else:
            return self.users.of(whose.user)
        return [
            one
            for one in found
            if one.identity.user == whose.user and (not whose.client or one.client == whose.client)
        ]

    def find_residents(self, whose: Whose) -> Sequence[Resident]:
        """Return those of `find` that are sessions."""
        return [one for one in self.find(whose) if one.client]  # type: ignore[misc]

    def known(self) -> Sequence[Visitor]:
        """Return all visitors but those who are nobody on a plain transport."""
        nameless = (one for one in self.clients.all() if not one.identity.user)
        return [*self.users.all(), *nameless, *self.bearers]


def digest_of(session_id: str) -> bytes:
    """Return what stands for a session id in tables and on the way between nodes."""
    return blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
