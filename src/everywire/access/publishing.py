"""Publishing: the one way into the log for clients of every wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b

from everywire.access.authority import Authority
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import Action
from everywire.access.quotas import Quotas
from everywire.brokers.base import Appended
from everywire.codecs.json_text import check_json, dump
from everywire.core.errors import BadRequest, EverywireError, TooLarge
from everywire.core.limits import Limits
from everywire.core.publication import JSON, Draft
from everywire.hub.hub import Hub

__all__ = ["Publishing", "make_draft"]

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


def make_draft(
    channel: str,
    data: bytes,
    limits: Limits,
    *,
    content_type: str = JSON,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    key: str | None = None,
) -> Draft:
    """Check data and make a draft of it; raise `BadRequest` or `TooLarge`."""
    if len(data) > limits.max_body_bytes:
        raise TooLarge(f"a publication is at most {limits.max_body_bytes} bytes")
    if content_type == JSON:
        try:
            check_json(data)
        except ValueError as error:
            raise BadRequest(
                f"the data is not JSON ({str(error)[:100]}); for other data name its Content-Type"
            ) from None
    fingerprint = b""
    if key is not None:
        digest = blake2b(digest_size=16)
        for part in (content_type, event or "", dump(tags or {}).decode()):
            digest.update(part.encode() + b"\0")
        digest.update(data)
        fingerprint = digest.digest()
    return Draft(channel, data, content_type, event, tags, None, key, fingerprint)
