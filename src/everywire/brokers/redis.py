"""The broker over Redis or Valkey: one server, a Sentinel set, or a cluster."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from everywire.brokers.base import Control, Health, Leases, Log, Sink, Store
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["RedisBroker"]


class RedisBroker:
    """A broker whose store is Redis; ``clock_ms`` gives UNIX time in milliseconds, Redis does when None."""

    node: str
    log: Log
    leases: Leases
    store: Store
    control: Control

    def __init__(
        self,
        url: str,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        *,
        clock_ms: Callable[[], int] | None = None,
        node: str | None = None,
    ) -> None:
        self.node = node or secrets.token_hex(4)

    @classmethod
    def from_url(
        cls, url: str, limits: Limits, settings: SettingsTable, *, node: str | None = None
    ) -> RedisBroker:
        """Make a broker for an address; `SettingsError` when it is none."""
        return cls(url, limits, settings, node=node)

    async def start(self, sink: Sink) -> None:
        """Connect, and call the sink back from now on."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect; finish or fail what is unfinished."""

    def health(self) -> Health:
        """Say whether what this node sends to itself through Redis comes back."""
        return Health(False, "not started")

    def sweep(self) -> None:
        """Do a bounded part of the housekeeping."""

    def statistics(self) -> dict[str, int]:
        """Return what happened so far, for the metrics."""
        return {}
