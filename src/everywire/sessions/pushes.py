"""Pushes that many sessions are told alike: framed once for those that share dialect and framing."""

from __future__ import annotations

from typing import Any, Final

from everywire.codecs.centrifuge.messages import Push
from everywire.hub.interfaces import Framing
from everywire.sessions.dialect import Dialect

__all__ = ["framed_bytes", "framed_ping", "framed_presence"]

_MOST_KINDS: Final = 64
"""Pairs of dialect and framing that something is remembered for; there are a handful."""

_pings: dict[tuple[Dialect, Framing], Any] = {}
_presence: dict[tuple[Dialect, Framing], tuple[str, object, bool, Any]] = {}


def framed_ping(dialect: Dialect, framing: Framing) -> Any:
    """Return the protocol's ping."""
    key = (dialect, framing)
    found = _pings.get(key)
    if found is None:
        if len(_pings) >= _MOST_KINDS:
            _pings.clear()
        found = _pings[key] = framing.frame(dialect.ping())
    return found


def framed_presence(dialect: Dialect, framing: Framing, push: Push) -> Any:
    """Return the push of a join or a leave. All listeners of a channel are told one after the other, with
    the same object of who it is: the last one told is remembered."""
    key = (dialect, framing)
    is_join = push.join is not None
    told = push.join or push.leave
    info = None if told is None else told.info
    last = _presence.get(key)
    if last is not None and last[0] == push.channel and last[1] is info and last[2] is is_join:
        return last[3]
    if len(_presence) >= _MOST_KINDS:
        _presence.clear()
    framed = framing.frame(dialect.push(push))
    _presence[key] = (push.channel, info, is_join, framed)
    return framed


def framed_bytes(framed: Any) -> int:
    """Return how large something framed is: bytes, or a list of messages where the host frames them."""
    if isinstance(framed, (bytes, bytearray, memoryview)):
        return len(framed)
    try:
        return sum(len(data) for _, data in framed)
    except (TypeError, ValueError):
        return len(framed)
