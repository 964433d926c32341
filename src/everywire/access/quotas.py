"""Quotas: how many connections an address and a user may have, and how fast clients may publish.

Connections are counted, publications have token buckets: per connection, per user, per address and per
channel, each on this node. Whoever is too fast is told so (`TooManyRequests`, with the time to wait) before
anything is closed. Operators and development mode have no quota, and a limit of 0 is none.

An IPv6 address counts by its network of 64 bits, since whoever has one address of it has all of them.
Addresses of this machine are not counted: they stand for a proxy that is not trusted, and so for everybody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Final

from everywire.access.hooks import Caller
from everywire.access.identity import Identity
from everywire.core.buckets import Buckets
from everywire.core.errors import LimitExceeded, TooManyRequests
from everywire.core.limits import Limits

__all__ = ["FREE", "Admission", "Quotas", "counted"]

_NETWORK_BITS: Final = 64
_POST: Final = "publish"
"""The transport of callers who are no connection: each POST is one of its own."""
_POLL: Final = "poll"
"""The transport of sessions that are made anew for each request, with the client id of the last."""


class Admission:
    """A connection's place; given back once."""

    __slots__ = ("_address", "_quotas", "_user")

    def __init__(self, quotas: Quotas | None, address: str, user: str) -> None:
        self._quotas = quotas
        self._address = address
        self._user = user

    def release(self) -> None:
        """Give the place back; a second time does nothing."""
        quotas, self._quotas = self._quotas, None
        if quotas is not None:
            quotas.give_back(self._address, self._user)


FREE: Final = Admission(None, "", "")
"""The place of someone who is not counted."""


class Quotas:
    """The bounds of one server on what its clients may use; ``clock`` gives monotonic seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float], *, is_dev: bool = False) -> None:
        self._limits = limits
        self._clock = clock
        self._is_dev = is_dev
        self._of_address: dict[str, int] = {}
        self._of_user: dict[str, int] = {}
        keys = limits.max_quota_keys
        ttl_s, per_address, per_user = (
            limits.presence_ttl_s, limits.max_connections_per_address, limits.max_connections_per_user
        )  # fmt: skip
        self._pollers_of_address = Buckets(per_address / ttl_s, per_address, keys)
        self._pollers_of_user = Buckets(per_user / ttl_s, per_user, keys)
        self._connections = Buckets(
            limits.publish_rate_per_connection, limits.publish_burst_per_connection, keys
        )
        self._users = Buckets(limits.publish_rate_per_user, limits.publish_burst_per_user, keys)
        self._addresses = Buckets(limits.publish_rate_per_address, limits.publish_burst_per_address, keys)
        self._channels = Buckets(limits.publish_rate_per_channel, limits.publish_burst_per_channel, keys)
        self._refusals: dict[Hashable, int] = {}
        self.refused_connections = 0
        self.refused_publications = 0

    # -- connections ------------------------------------------------------------

    def admit(self, identity: Identity, peer: str) -> Admission:
        """Take a place for a long-lived connection; raise `LimitExceeded` when there is none."""
        if self._is_dev or identity.may_all:
            return FREE
        limits = self._limits
        address = counted(peer) if limits.max_connections_per_address else ""
        user = identity.user if limits.max_connections_per_user else ""
        if not address and not user:
            return FREE
        if address and self._of_address.get(address, 0) >= limits.max_connections_per_address:
            self.refused_connections += 1
            raise LimitExceeded("there are too many connections from this address")
        if user and self._of_user.get(user, 0) >= limits.max_connections_per_user:
            self.refused_connections += 1
            raise LimitExceeded("this user has too many connections")
        if address:
            self._of_address[address] = self._of_address.get(address, 0) + 1
        if user:
            self._of_user[user] = self._of_user.get(user, 0) + 1
        return Admission(self, address, user)

    def admit_poller(self, identity: Identity, peer: str) -> None:
        """Count a client that begins to poll; raise `LimitExceeded` when there are too many new ones.

        It holds no connection between two requests, but for some time it is a member of its channels, as one
        that is connected: so in that time as many may begin as may be connected.
        """
        if self._is_dev or identity.may_all:
            return
        now_s = self._clock()
        pollers = (
            (self._pollers_of_address, counted(peer), "too many clients of this address begin to poll"),
            (self._pollers_of_user, identity.user, "too many clients of this user begin to poll"),
        )
        for buckets, key, sentence in pollers:
            if key and buckets.wait_s(key, now_s):
                self.refused_connections += 1
                raise LimitExceeded(sentence)
        for buckets, key, _ in pollers:
            if key:
                buckets.take(key, now_s)

    def give_back(self, address: str, user: str) -> None:
        """Count a connection out (`Admission.release`)."""
        for table, key in ((self._of_address, address), (self._of_user, user)):
            if key:
                left = table[key] - 1
                if left:
                    table[key] = left
                else:
                    del table[key]

    # -- publications -------------------------------------------------------------

    def check_publish(self, caller: Caller, channel: str) -> None:
        """Count a publication; raise `TooManyRequests` when its connection, user, address or channel is too
        fast."""
        identity = caller.identity
        if self._is_dev or identity.may_all:
            return
        now_s = self._clock()
        connection = _connection_of(caller)
        rates = (
            (self._connections, connection, "this connection publishes"),
            (self._users, identity.user, "this user publishes"),
            (self._addresses, counted(caller.peer), "this address publishes"),
            (self._channels, channel, "this channel is published to"),
        )
        longest_s, too_fast = 0.0, ""
        for buckets, key, whose in rates:
            if key:
                wait_s = buckets.wait_s(key, now_s)
                if wait_s > longest_s:
                    longest_s, too_fast = wait_s, whose
        if too_fast:
            raise self._refusal(connection, too_fast, longest_s)
        # Only what is let through counts: who is refused for the channel keeps their own tokens.
        for buckets, key, _ in rates:
            if key:
                buckets.take(key, now_s)
        if self._refusals:
            self._refusals.pop(connection, None)

    def _refusal(self, connection: Hashable, whose: str, wait_s: float) -> TooManyRequests:
        self.refused_publications += 1
        most = self._limits.max_refusals
        is_sustained = False
        if connection:
            refusals = self._refusals.pop(connection, 0) + 1
            if len(self._refusals) >= self._limits.max_quota_keys:
                del self._refusals[next(iter(self._refusals))]
            self._refusals[connection] = refusals
            is_sustained = 0 < most <= refusals
        return TooManyRequests(f"{whose} too fast; slow down", wait_s, is_sustained=is_sustained)

    def forget(self, caller: Caller) -> None:
        """Hear that a connection ended. One that polls goes on with the next request."""
        if caller.transport == _POLL:
            return
        connection = _connection_of(caller)
        self._refusals.pop(connection, None)
        self._connections.forget(connection)  # its id will be nobody's, its number anybody's


def _connection_of(caller: Caller) -> Hashable:
    """Return what a caller's connection is counted by; nothing where it is not."""
    if caller.client:
        return caller.client
    if caller.transport != _POST:
        return id(caller)  # a plain socket; it is forgotten at its end
    address, user = counted(caller.peer), caller.identity.user
    return (address, user) if address or user else ""


@lru_cache(maxsize=4096)
def counted(peer: str) -> str:
    """Return what an address is counted by; nothing for one of this machine, or no address at all."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif not address.is_loopback:
            return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))
    return "" if address.is_loopback else str(address)
