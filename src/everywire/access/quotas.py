"""Quotas: how many connections an address and a user may have, and how fast clients may publish.

Connections are counted, publications have token buckets: per connection, per user and per channel, each on
this node. Whoever is too fast is told so (`TooManyRequests`, with the time to wait) before anything is
closed. Operators and development mode have no quota.
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

__all__ = ["FREE", "Admission", "Quotas"]

_NETWORK_BITS: Final = 64
"""Of an IPv6 address: whoever has one has all the others of its network."""


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
        self._connections = Buckets(
            limits.publish_rate_per_connection, limits.publish_burst_per_connection, keys
        )
        self._users = Buckets(limits.publish_rate_per_user, limits.publish_burst_per_user, keys)
        self._channels = Buckets(limits.publish_rate_per_channel, limits.publish_burst_per_channel, keys)
        self._refusals: dict[Hashable, int] = {}
        self.refused_connections = 0
        self.refused_publications = 0

    # -- connections ------------------------------------------------------------

    def admit(self, identity: Identity, peer: str) -> Admission:
        """Take a place for a long-lived connection; raise `LimitExceeded` when there is none."""
        if self._is_dev or identity.may_all:
            return FREE
        address = _counted(peer)
        user = identity.user
        if not address and not user:
            return FREE
        if self._of_address.get(address, 0) >= self._limits.max_connections_per_address:
            self.refused_connections += 1
            raise LimitExceeded("there are too many connections from this address")
        if self._of_user.get(user, 0) >= self._limits.max_connections_per_user:
            self.refused_connections += 1
            raise LimitExceeded("this user has too many connections")
        if address:
            self._of_address[address] = self._of_address.get(address, 0) + 1
        if user:
            self._of_user[user] = self._of_user.get(user, 0) + 1
        return Admission(self, address, user)

    def give_back(self, address: str, user: str) -> None:
        """Count a connection out (`Admission.release`)."""
        for counted, key in ((self._of_address, address), (self._of_user, user)):
            if key:
                left = counted[key] - 1
                if left:
                    counted[key] = left
                else:
                    del counted[key]

    # -- publications -------------------------------------------------------------

    def check_publish(self, caller: Caller, channel: str) -> None:
        """Count a publication; raise `TooManyRequests` when its connection, user or channel is too fast."""
        if self._is_dev or caller.identity.may_all:
            return
        now_s = self._clock()
        connection = caller.client or caller.peer
        user = caller.identity.user
        wait_s = self._connections.wait_s(connection, now_s)
        whose = "this connection publishes"
        if user:
            user_wait_s = self._users.wait_s(user, now_s)
            if user_wait_s > wait_s:
                wait_s, whose = user_wait_s, "this user publishes"
        channel_wait_s = self._channels.wait_s(channel, now_s)
        if channel_wait_s > wait_s:
            wait_s, whose = channel_wait_s, "this channel is published to"
        if wait_s:
            raise self._too_fast(connection, whose, wait_s)
        # Only what is let through counts: who is refused for the channel keeps their own tokens.
        self._connections.take(connection, now_s)
        if user:
            self._users.take(user, now_s)
        self._channels.take(channel, now_s)
        if self._refusals:
            self._refusals.pop(connection, None)

    def _too_fast(self, connection: Hashable, whose: str, wait_s: float) -> TooManyRequests:
        self.refused_publications += 1
        refusals = self._refusals.get(connection, 0) + 1
        if len(self._refusals) >= self._limits.max_quota_keys:
            self._refusals.clear()
        self._refusals[connection] = refusals
        return TooManyRequests(
            f"{whose} too fast; slow down", wait_s, is_sustained=refusals >= self._limits.max_refusals
        )

    def forget(self, caller: Caller) -> None:
        """Hear that a connection ended."""
        self._refusals.pop(caller.client or caller.peer, None)


@lru_cache(maxsize=4096)
def _counted(peer: str) -> str:
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
