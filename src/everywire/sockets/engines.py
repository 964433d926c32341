"""All Engine.IO connections of one mount on this node, by their ids.

An id is the node's label and a random token, joined by a dot: whichever node gets a request knows whose it
is. It is a secret. Bounded by `Limits.max_engines`, and for each address by the quota of connections. Of a
connection that was closed while no poll was here the last words are kept for a moment, for the poll that its
client is about to send.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from everywire.access.identity import NOBODY, AuthRequest
from everywire.access.quotas import FREE, Admission
from everywire.codecs.engineio.packets import encode_open
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.sessions.shared import Shared
from everywire.sockets.engine import Engine
from everywire.sockets.engine_options import DEFAULTS, EngineOptions
from everywire.sockets.engine_parts import WebSocket
from everywire.sockets.ids import make_token
from everywire.sockets.link import (
    FORCED,
    PARSE_ERROR,
    PING_TIMEOUT,
    POLLING,
    TRANSPORT_ERROR,
    WEBSOCKET,
    Upper,
)

__all__ = ["Accept", "Engines", "label_of", "owner_of"]

Accept: TypeAlias = Callable[[Engine], Upper]
"""Takes a connection that was opened, and returns who speaks over it. It may post packets, which go out right
behind the open packet, and raises an `everywire.core.errors.EverywireError` to refuse."""

_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


def label_of(node: str) -> str:
    """Return how ids name a node: its name, or a digest of one that cannot stand in an id."""
    if _LABEL.fullmatch(node):
        return node
    return hashlib.blake2b(node.encode(), digest_size=8).hexdigest()


def owner_of(sid: str) -> str:
    """Return the label of the node that an id belongs to; nothing when it is no id of ours."""
    label, dot, _ = sid.partition(".")
    return label if dot else ""


class Engines:
    """The Engine.IO connections of one mount."""

    def __init__(self, shared: Shared, options: EngineOptions = DEFAULTS) -> None:
        self.shared = shared
        self.options = options
        self.label = label_of(shared.hub.broker.node)
        self.opened = self.refused = self.upgraded = self.upgrades_failed = 0
        self.ended = self.failed = self.ping_timeouts = 0
        self._engines: dict[str, Engine] = {}
        self._words: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._engines)

    def find(self, sid: str) -> Engine | None:
        """Return the connection with an id, if it is open and was heard in time."""
        engine = self._engines.get(sid)
        if engine is not None and engine.is_overdue:
            engine.missed()
            return None
        return engine

    def admit(self, peer: str) -> Admission:
        """Take a place for a connection; raise `LimitExceeded`, or an error that says to come back later."""
        if len(self._engines) >= self.shared.limits.max_engines:
            self.refused += 1
            raise EverywireError("there are too many connections; come back later", code=codes.BUSY)
        try:
            return self.shared.quotas.admit(NOBODY, peer)
        except EverywireError:
            self.refused += 1
            raise

    def open(
        self,
        request: AuthRequest,
        protocol: int,
        accept: Accept,
        *,
        socket: WebSocket | None = None,
        admission: Admission = FREE,
        is_base64: bool = False,
    ) -> Engine:
        """Open a connection that polls, or one over a WebSocket; ``admission`` is given back at its end.
        ``is_base64`` is for clients of version 3 that take no binary payloads.

        Raises what ``accept`` raises. A connection that it closed is ended when this returns.
        """
        sid = f"{self.label}.{make_token()}"
        engine = Engine(self, sid, request, protocol, admission, socket)
        engine.is_base64 = is_base64
        self._engines[sid] = engine
        self.opened += 1
        options = self.options
        upgrades = [WEBSOCKET] if socket is None and WEBSOCKET in options.transports else []
        ping_interval_ms, ping_timeout_ms = (
            round(time_s * 1000) for time_s in (options.ping_interval_s, options.ping_timeout_s)
        )
        engine.post([encode_open(sid, upgrades, ping_interval_ms, ping_timeout_ms, options.max_payload)])
        try:
            upper = accept(engine)
        except EverywireError as error:
            engine.close(error.code, error.sentence)
            self._words.pop(sid, None)
            raise
        if engine.is_ended:
            upper.gone(FORCED)
        else:
            engine.begin_with(upper)
        return engine

    def forget(self, engine: Engine, reason: str) -> None:
        """Hear that a connection ended."""
        self._engines.pop(engine.sid, None)
        self.ended += 1
        self.failed += reason in (PARSE_ERROR, TRANSPORT_ERROR)
        self.ping_timeouts += reason == PING_TIMEOUT

    def note_upgrade(self, is_done: bool) -> None:
        """Count an upgrade that was done, or came to nothing."""
        if is_done:
            self.upgraded += 1
        else:
            self.upgrades_failed += 1

    # -- last words -----------------------------------------------------------------

    def leave_word(self, sid: str, payload: bytes) -> None:
        """Keep the last words of a connection for a moment."""
        limits, wheel = self.shared.limits, self.shared.hub.deadlines
        if len(self._words) < limits.max_engines:
            self._words[sid] = payload
            wheel.arm((self, sid), wheel.now_s + limits.close_timeout_s, _forget_word)

    def take_word(self, sid: str) -> bytes | None:
        """Return the last words of a connection that are still to be told, once."""
        return self._words.pop(sid, None)

    def has_word(self, sid: str) -> bool:
        """Whether there are some."""
        return sid in self._words

    # -- figures, and the end ---------------------------------------------------------

    def statistics(self) -> Mapping[str, int]:
        """Return how many connections there are by carrier, and what there was since the start."""
        polling = sum(engine.transport == POLLING for engine in self._engines.values())
        return {
            "polling": polling,
            "websocket": len(self._engines) - polling,
            "opened": self.opened,
            "refused": self.refused,
            "upgraded": self.upgraded,
            "upgrades_failed": self.upgrades_failed,
            "ended": self.ended,
            "failed": self.failed,
            "ping_timeouts": self.ping_timeouts,
        }

    def drain(self, retry_ms: int = 0) -> None:
        """Let every connection hear that the server stops, those included that have no request open."""
        for engine in list(self._engines.values()):
            engine.drain(retry_ms)

    def close(self) -> None:
        """End all connections, before the hub is closed."""
        self.drain()
        self._words.clear()


def _forget_word(key: tuple[Engines, str]) -> None:
    engines, sid = key
    engines.take_word(sid)
