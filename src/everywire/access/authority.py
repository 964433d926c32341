"""The authority: the one place that says who someone is and what they may do.

Every transport asks here, plain or with sessions, and nothing reaches a channel without passing it.
Answers come by callback, within the call whenever they are known already, so that a crowd that polls
costs no task.

Errors of `authenticate`: `InvalidToken` (101; sessions turn it into the disconnect 3500), other 101 for a
credential that is not valid, 109 for one that has expired, 103 for who is shut out, 100 when the application
failed, 124 when too much is being judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, time

from everywire.access.hooks import Hooks
from everywire.access.identity import NOBODY, Action, AuthRequest, Identity
from everywire.access.revocations import Revocations
from everywire.access.rules import Rules
from everywire.access.tickets import Tickets
from everywire.access.tokens import SubscriptionToken, Tokens
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits

__all__ = ["Authority"]


class Authority:
    """Judges credentials and permissions by rules, tokens and hooks."""

    def __init__(
        self,
        rules: Rules,
        hooks: Hooks | None = None,
        *,
        tokens: Tokens | None = None,
        tickets: Tickets | None = None,
        revocations: Revocations | None = None,
        limits: Limits | None = None,
        cookie_name: str = "",
        clock: Callable[[], float] = monotonic,
        unix_s: Callable[[], float] = time,
    ) -> None:
        self.rules = rules
        self.hooks = hooks or Hooks()
        self.tokens = tokens
        self.tickets = tickets
        self.revocations = revocations
        self.limits = limits or Limits()
        self._unix_s = unix_s

    def authenticate(self, request: AuthRequest, done: Callable[[Identity | EverywireError], None]) -> None:
        """Say whom the credentials prove; `NOBODY` when there are none."""
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
        """Whether a judgement that was remembered may still be relied on: not expired, not revoked, at
        most 30 s old. If not, authenticate anew. Sessions, which outlive that, ask `is_revoked`."""
        return not self.is_expired(identity) and not self.is_revoked(identity)

    def is_expired(self, identity: Identity) -> bool:
        """Whether the credential has run out."""
        return identity.expires_s is not None and identity.expires_s <= self._unix_s()

    def is_revoked(self, identity: Identity) -> bool:
        """Whether the identity was shut out since it was judged; cheap."""
        return self.revocations is not None and self.revocations.is_revoked(identity)

    def subscription(self, identity: Identity, channel: str, client: str, token: str) -> SubscriptionToken:
        """Verify a subscription token; an empty channel takes the token's.

        Raises: 109 expired; 103 broken or revoked; 3500 for another user's, channel's or client's; 100
        (temporary) while its key is being fetched, which `judge_subscription` waits for.
        """
        raise EverywireError("no tokens are known here", code=codes.PERMISSION_DENIED)

    def judge_subscription(
        self,
        identity: Identity,
        channel: str,
        client: str,
        token: str,
        done: Callable[[SubscriptionToken | EverywireError], None],
    ) -> None:
        """Verify a subscription token as `subscription` does, waiting for its key if it must be fetched."""
        try:
            done(self.subscription(identity, channel, client, token))
        except EverywireError as error:
            done(error)

    def forget(self, user: str, channel: str = "") -> None:
        """Drop what is remembered of a user, or of a user and a channel, answers under way included."""

    async def close(self) -> None:
        """End what is under way: whoever waits is told that it failed."""
