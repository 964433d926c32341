"""The connect reply: what a client is told when it may come."""

from __future__ import annotations

from collections.abc import Mapping

from everywire.codecs.centrifuge.messages import (
    ConnectRequest,
    ConnectResult,
    SubscribeRequest,
    SubscribeResult,
)
from everywire.sessions.answers import field
from everywire.sessions.expiry import is_soon, ttl_of
from everywire.sessions.keepalive import ping_s
from everywire.sessions.line import POLL, Line

__all__ = ["has_news", "make_result"]


def make_result(
    line: Line, request: ConnectRequest, data: bytes | None, subs: dict[str, SubscribeResult]
) -> ConnectResult:
    """Return what a client is told that may come, and note what it was told of its expiry."""
    shared = line.shared
    is_poll = line.transport == POLL
    is_one_way = line.carrier.dialect.is_one_way
    result = ConnectResult(
        client=line.client,
        version=shared.version,
        data=field(data, line.carrier.dialect.is_binary),
        subs=subs,
        ping=ping_s(line),
        pong=not is_one_way and ping_s(line) > 0,
        session=line.session_id,
    )
    if is_poll:
        result.session = shared.passes.issue(line.client, line.identity.user)
    if line.carrier.is_emulated:
        result.node = shared.hub.broker.node
    expires_s = line.identity.expires_s
    if expires_s is not None and request.token:
        line.can_refresh = not is_one_way and not is_poll
        if not is_one_way:
            result.expires = True
            result.ttl = ttl_of(line, expires_s)
    # Who was just told how little is left, or asks again with every poll, need not be told once more.
    line.is_forewarned = is_poll or (result.expires and is_soon(line))
    return result


def has_news(result: ConnectResult, wishes: Mapping[str, SubscribeRequest]) -> bool:
    """Say whether a connect reply tells what its client did not know: publications of server-side
    subscriptions, or that one of them begins or is gone."""
    told = result.subs
    if any(one.publications or not one.recovered for one in told.values()):
        return True
    return any(channel not in told for channel in wishes)
