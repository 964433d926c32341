"""Revocations: users who are shut out, and tokens that count no more.

They are kept in the broker's store until they run out, and told to every node at once by a broadcast on
`TOPIC`, which every node hands to `Revocations.heard`. Each process remembers what it heard, bounded, so
that identities in its memory are checked within the call (`is_revoked`); a node that was not there when
it was told reads the store when it judges a credential (`load`). So a revocation counts at once where the
broadcast arrives, and after `Limits.judgement_ttl_s` at the latest where it was lost.

A revocation takes force in this process first, then in the store, then elsewhere: when the store fails,
its error is the caller's, who tries again. API keys are not revoked here: they are settings.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from time import time
from typing import Final, NamedTuple, TypeAlias

import msgspec

from everywire.access.identity import Identity
from everywire.brokers.base import Broker
from everywire.core.errors import BadRequest, Forbidden
from everywire.core.limits import Limits

__all__ = ["TOPIC", "Revocation", "Revocations", "shut_out"]

TOPIC: Final = "revocations"

_log = logging.getLogger("everywire.access")

_BY_TOKEN: Final = frozenset({"token", "cookie", "ticket"})
"""Kinds of identities that come from a token, or may."""
_READS: Final = 3
"""How often the store is read anew when something was told meanwhile."""


class Revocation(NamedTuple):
    """What was revoked, or allowed again."""

    kind: str
    """``user`` (blocked), ``token`` (one, by its ``jti``) or ``tokens`` (of a user, by their ``iat``)."""
    subject: str
    """The user id or the token's id."""
    until_s: float
    """When it ends (UNIX time); 0 takes it back."""
    issued_before_s: float = 0.0
    """``tokens``: those issued before this (UNIX time), and those that do not say when, are revoked."""


_Key: TypeAlias = tuple[str, str]

_decode = msgspec.json.Decoder(Revocation).decode
_KINDS: Final = frozenset({"user", "token", "tokens"})


class Revocations:
    """What is revoked, as far as this process knows, and the way to the store.

    Args:
        broker: its store keeps them, its control tells them; `heard` must be called with what comes.
        clock: UNIX time in seconds.
        is_alone: whether this process is the only one over a store that does not outlive it; then the
            store need not be asked what others may have written.
    """

    def __init__(
        self,
        broker: Broker,
        limits: Limits | None = None,
        clock: Callable[[], float] = time,
        *,
        is_alone: bool = False,
    ) -> None:
        self._broker = broker
        self._is_alone = is_alone
        self._limits = limits or Limits()
        self._clock = clock
        self._known: dict[_Key, Revocation] = {}
        self._listeners: list[Callable[[Revocation], None]] = []
        self._told = 0
        self._storing: Counter[_Key] = Counter()
        self._has_forgotten = False

    # -- to revoke ------------------------------------------------------------

    async def block_user(self, user: str, until_s: float | None = None) -> None:
        """Shut a user out until a time (UNIX), or for good: code 103 wherever they come."""
        await self._revoke(Revocation("user", user, self._end(until_s)))

    async def unblock_user(self, user: str) -> None:
        """Let a user in again. Tokens that were revoked stay so."""
        revocation = Revocation("user", user, 0)
        self._take(revocation)
        await self._broker.store.take(_store_key("user", user))
        await self._broker.control.broadcast(TOPIC, msgspec.json.encode(revocation))

    async def revoke_token(self, token_id: str, until_s: float | None = None) -> None:
        """Let the token with this ``jti`` count no more; until it runs out (UNIX time), or for good."""
        if not token_id:
            raise BadRequest("a token is revoked by its id (jti), which must not be empty")
        await self._revoke(Revocation("token", token_id, self._end(until_s)))

    async def invalidate_user_tokens(
        self, user: str, issued_before_s: float | None = None, until_s: float | None = None
    ) -> None:
        """Let a user's tokens that were issued before a time (by default now) count no more.

        Those that do not say when they were issued (``iat``) are invalid, too. Until ``until_s`` (UNIX
        time), when the last of them has run out by itself; by default for good.
        """
        before_s = self._clock() if issued_before_s is None else issued_before_s
        known = self._find("tokens", user)
        if known is not None:
            before_s = max(before_s, known.issued_before_s)  # an earlier date takes nothing back
        await self._revoke(Revocation("tokens", user, self._end(until_s), before_s))

    def _end(self, until_s: float | None) -> float:
        longest_s = self._clock() + self._limits.max_revocation_s
        return longest_s if until_s is None else min(until_s, longest_s)

    async def _revoke(self, revocation: Revocation) -> None:
        ttl_s = revocation.until_s - self._clock()
        if ttl_s <= 0:
            return
        key = (revocation.kind, revocation.subject)
        payload = msgspec.json.encode(revocation)
        self._storing[key] += 1
        try:
            self._take(revocation)
            await self._broker.store.put(_store_key(*key), payload, ttl_s)
        finally:
            self._storing[key] -= 1
            self._storing += Counter()  # drops what is zero
        await self._broker.control.broadcast(TOPIC, payload)

    # -- to hear --------------------------------------------------------------

    def listen(self, listener: Callable[[Revocation], None]) -> None:
        """Call back at every revocation that this process hears of, its own included, once it is in force.

        The same one may be told twice.
        """
        self._listeners.append(listener)

    def heard(self, payload: bytes, node: str) -> None:
        """Take what a node broadcasts on `TOPIC`."""
        try:
            revocation = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            revocation = None
        if revocation is None or revocation.kind not in _KINDS:
            _log.warning("node %r broadcast something that is no revocation", node)
            return
        self._take(revocation)

    def _take(self, revocation: Revocation) -> None:
        self._told += 1
        self._remember(revocation)
        for listener in self._listeners:
            listener(revocation)

    def _remember(self, revocation: Revocation) -> None:
        key = (revocation.kind, revocation.subject)
        # The youngest stands last: when there are too many, the oldest go, which the store still knows.
        self._known.pop(key, None)
        if revocation.until_s <= self._clock():
            return
        if len(self._known) >= self._limits.max_revocations:
            self._make_room()
        self._known[key] = revocation

    def _make_room(self) -> None:
        now_s = self._clock()
        for key in [key for key, found in self._known.items() if found.until_s <= now_s]:
            del self._known[key]
        # A tenth at a time, so that a full memory is not searched through for every newcomer.
        too_many = len(self._known) - self._limits.max_revocations * 9 // 10
        if too_many > 0:
            self._has_forgotten = True
            for key in list(self._known)[:too_many]:
                del self._known[key]

    # -- to check -------------------------------------------------------------

    def is_revoked(self, identity: Identity) -> bool:
        """Whether this process knows that an identity is revoked; cheap."""
        if not self._known or identity.kind == "key":
            return False
        user = identity.user
        if user and self._find("user", user) is not None:
            return True
        return self.is_token_revoked(
            user, identity.token_id, identity.issued_s, is_token=identity.kind in _BY_TOKEN
        )

    def is_token_revoked(
        self, user: str, token_id: str, issued_s: float | None, *, is_token: bool = True
    ) -> bool:
        """Whether this process knows that a token is revoked, the user being no matter.

        ``is_token`` false: something else than a token, which need not say when it was issued.
        """
        if token_id and self._find("token", token_id) is not None:
            return True
        if not user or (issued_s is None and not is_token):
            return False
        found = self._find("tokens", user)
        return found is not None and (issued_s is None or issued_s < found.issued_before_s)

    def _find(self, kind: str, subject: str) -> Revocation | None:
        found = self._known.get((kind, subject))
        if found is not None and found.until_s <= self._clock():
            del self._known[kind, subject]
            return None
        return found

    def must_load(self, identity: Identity) -> bool:
        """Whether the store may know of revocations of an identity that this process does not."""
        if self._is_alone and not self._has_forgotten:
            return False
        return identity.kind != "key" and bool(identity.user or identity.token_id)

    async def load(self, identity: Identity) -> None:
        """Learn from the store what is revoked of an identity; raises `BrokerError`."""
        keys: list[_Key] = []
        if identity.user:
            keys += [("user", identity.user), ("tokens", identity.user)]
        if identity.token_id:
            keys.append(("token", identity.token_id))
        for _ in range(_READS):
            told = self._told
            values = await asyncio.gather(*(self._broker.store.get(_store_key(*key)) for key in keys))
            if told == self._told:
                break  # else what was read may be older than what was told meanwhile
        for key, value in zip(keys, values, strict=True):
            if value is None:
                # Taken back while this node did not hear it; but not what is only on its way to the store.
                if told == self._told and key not in self._storing:
                    self._known.pop(key, None)
                continue
            try:
                self._remember(_decode(value))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                _log.error("the store holds something that is no revocation: %s", error)


def shut_out() -> Forbidden:
    """Make the error for who was revoked: 103."""
    return Forbidden("this user, or this credential, is shut out")


def _store_key(kind: str, subject: str) -> str:
    # A digest: ids may hold anything, and the keys of some stores may not.
    return f"revoked:{kind}:{blake2b(subject.encode(), digest_size=16).hexdigest()}"
