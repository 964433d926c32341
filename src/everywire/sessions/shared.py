"""The parts that all sessions of a server share, and that the transports work with, too."""

from __future__ import annotations

from everywire.access.authority import Authority
from everywire.access.hooks import Hooks
from everywire.access.publishing import Publishing
from everywire.access.quotas import Quotas
from everywire.core.limits import Limits
from everywire.hub.hub import Hub
from everywire.sessions.presence import Presence
from everywire.sessions.registry import Registry

__all__ = ["Shared"]


class Shared:
    """Hub, authority, hooks, publishing, quotas, presence, registry and limits of one server."""

    __slots__ = ("authority", "hooks", "hub", "limits", "presence", "publishing", "quotas", "registry")

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
    ) -> None:
        self.hub = hub
        self.authority = authority
        self.hooks = hooks
        self.publishing = publishing
        self.quotas = quotas
        self.presence = presence
        self.registry = registry
        self.limits = limits
