"""What carries a session: the one interface between sessions and their transports.

A carrier hands over decoded commands (`Session.receive`), tells the session what its host tells it
(stalled, writable, gone, drain), and takes payloads that the session's dialect made and the carrier's
framing framed. A session does not care what carries it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sessions.dialect import Dialect

__all__ = ["Carrier"]


class Carrier(Protocol):
    """One connection, or one request, that a session lives on."""

    @property
    def transport(self) -> str:
        """The name for logs and metrics: ``websocket``, ``http_stream``, ``sse``, ``poll``, ``uni_sse``…"""

    @property
    def dialect(self) -> Dialect:
        """How replies and pushes are written here; shared by all carriers of a kind."""

    @property
    def framing(self) -> Framing:
        """The host's framing of the dialect's payloads."""

    @property
    def is_emulated(self) -> bool:
        """Whether the client's commands come by other requests: it is told ``session`` and ``node``."""

    @property
    def send(self) -> Callable[[Any], int]:
        """Write a framed payload as far as it goes at once; see `everywire.hub.interfaces.Subscriber.send`.
        Looked up once per subscription."""

    def write(self, framed: Any, /) -> object:
        """Write a framed payload; if bytes remain unsent, `Session.stalled` is called before this returns."""

    def beat(self) -> None:
        """Send a ping of the carrier's own, where ``dialect.has_own_pings``."""

    def close(self, code: Code, reason: str) -> None:
        """Tell the peer in the carrier's own words why this ends (close frame; ``disconnect`` push and the
        end of the body), and end. Nothing is written afterwards; `Session.gone` need not follow."""

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""

    def pause_reading(self) -> None:
        """Bring no more commands until `resume_reading`; a carrier that cannot wait ignores it."""

    def resume_reading(self) -> None:
        """Bring commands again."""
