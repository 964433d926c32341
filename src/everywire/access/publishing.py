"""Publishing: the one way into the log for clients of every wire."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from everywire.access.authority import Authority
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import Action
from everywire.access.quotas import Quotas
from everywire.brokers.base import Appended
from everywire.core.errors import EverywireError
from everywire.core.publication import Draft
from everywire.hub.hub import Hub

__all__ = ["Publishing"]

Done = Callable[[Appended | EverywireError], None]


class Publishing:
    """Lets clients publish: permission, quota, the application's hook, then the log."""

    def __init__(self, hub: Hub, authority: Authority, quotas: Quotas, hooks: Hooks) -> None:
        self._hub = hub
        self._authority = authority
        self._quotas = quotas
        self._hooks = hooks

    def publish(self, caller: Caller, draft: Draft, done: Done) -> bool:
        """Publish a draft of a client; returns False when its input is to be paused until ``done``."""
        self._authority.authorize(
            caller.identity, Action.PUBLISH, (draft.channel,), partial(self._allowed, caller, draft, done)
        )
        return True

    def _allowed(self, caller: Caller, draft: Draft, done: Done, error: EverywireError | None) -> None:
        if error is None:
            try:
                self._quotas.check_publish(caller, draft.channel)
            except EverywireError as too_many:
                error = too_many
        if error is not None:
            done(error)
            return
        self._hub.publish(draft, done)
