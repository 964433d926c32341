"""The parts that all sessions of a server share, and that the transports work with, too."""

from __future__ import annotations

import time
from collections.abc import Callable

from everywire.access.authority import Authority
from everywire.access.hooks import Hooks
from everywire.access.publishing import Publishing
from everywire.access.quotas import Quotas
from everywire.core.limits import Limits
from everywire.hub.hub import Hub
from everywire.sessions.counters import Counters
from everywire.sessions.passes import Passes
from everywire.sessions.presence import Presence
from everywire.sessions.registry import Registry
from everywire.sessions.tasks import Tasks

__all__ = ["Shared"]


class Shared:
    """Hub, authority, hooks, publishing, quotas, presence, registry and limits of one server.

    ``version`` is what clients are told; ``passes`` sign what a polling client goes on with; ``unix_s`` is
    the clock by which credentials run out. ``tasks`` is to be closed after all sessions have ended.
    """

    __slots__ = (
        "authority",
        "counters",
        "hooks",
        "hub",
        "limits",
        "passes",
        "presence",
        "publishing",
        "quotas",
        "registry",
        "tasks",
        "unix_s",
        "version",
    )

    def __init__(
        self,
        hub: Hub,
        authority: Authority,
        hooks: Hooks,
        publishing: Publishing,
        quotas: Quotas,
        presence: Presence,
        registry: Registry,
        limits: Limits,
        *,
        version: str = "",
        passes: Passes | None = None,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.hub = hub
        self.authority = authority
        self.hooks = hooks
        self.publishing = publishing
        self.quotas = quotas
        self.presence = presence
        self.registry = registry
        self.limits = limits
        self.version = version
        self.passes = passes or Passes()
        self.unix_s = unix_s
        self.tasks = Tasks()
        self.counters = Counters()
