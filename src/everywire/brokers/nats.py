"""The NATS broker: JetStream as the log, the leases and the store; core NATS between the nodes.

Address: ``nats://[user:password@ | token@]host:port[,host:port…][?prefix=everywire&replicas=1&shards=16&tls=1
&creds=/path]``. ``prefix`` begins the name of every stream and subject, so that several systems share an
engine; ``replicas`` and ``shards`` are what the streams are made with, and must be the same on every node.

Wants nats-server 2.9: expected sequences per subject, direct get and ``republish`` are all of it that is
used. Per-message time to live (2.11), batched direct get (2.11) and atomic batches (2.12) are not. See
docs/decisions for what was measured.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from everywire.brokers.base import Health, Sink
from everywire.brokers.nats_address import NatsAddress
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["NatsBroker"]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class NatsBroker:
    """One node's link to NATS; ``clock_ms`` gives UNIX time in milliseconds. See
    `everywire.brokers.base.Broker`."""

    def __init__(
        self,
        address: NatsAddress,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        clock_ms: Callable[[], int] = _wall_ms,
        node: str | None = None,
    ) -> None:
        self.node = node or secrets.token_hex(4)

    @classmethod
    def from_url(
        cls, url: str, limits: Limits, settings: SettingsTable, *, node: str | None = None
    ) -> NatsBroker:
        """Make a broker from its address; `SettingsError` when that is wrong."""
        return cls(NatsAddress.parse(url), limits, settings, node=node)

    async def start(self, sink: Sink) -> None:
        """Connect, and call the sink back from now on; `BrokerError` when the engine cannot be reached."""
        raise NotImplementedError

    async def close(self) -> None:
        """Fail what is unfinished, and disconnect."""
        raise NotImplementedError

    def health(self) -> Health:
        """Say whether the canary comes back."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Do a bounded part of the housekeeping, in the background."""
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """Return what was counted since the start."""
        raise NotImplementedError
