"""The session protocol inside SockJS messages: a carrier over a SockJS link.

Each message is what a WebSocket message of the protocol's JSON form is: commands or replies, one a line. So
channels, recovery and everything else come to clients that have nothing but SockJS, whatever carries that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everywire.core.codes import Code
from everywire.hub.interfaces import Framing
from everywire.sessions.dialect import Dialect
from everywire.sessions.dialects import SOCKJS_JSON
from everywire.sessions.session import Session
from everywire.sessions.shared import Shared
from everywire.sockets.link import Upper
from everywire.sockets.sockjs_link import SockJsLink

__all__ = ["SockJsCarrier", "accept_session"]


def accept_session(shared: Shared) -> Callable[[SockJsLink], Upper]:
    """Return what begins a session over each link."""

    def accept(link: SockJsLink) -> Upper:
        return SockJsCarrier(shared, link)

    return accept


class SockJsCarrier:
    """A SockJS link that carries a session: what speaks over the link, and the session's carrier."""

    __slots__ = ("_is_claimed", "_is_settled", "_link", "session")

    transport = "sockjs"
    is_emulated = False
    dialect: Dialect = SOCKJS_JSON

    def __init__(self, shared: Shared, link: SockJsLink) -> None:
        self._link = link
        self._is_settled = self._is_claimed = False
        self.session = Session(shared, self, link.request)
        if link.is_stalled:
            self.session.stalled()

    # -- what the session asks (Carrier) ----------------------------------------------

    @property
    def framing(self) -> Framing:
        """The link's framing."""
        return self._link.framing

    @property
    def send(self) -> Callable[[Any], int]:
        """Write as far as it goes: the link's own."""
        return self._link.send

    def write(self, framed: Any, /) -> None:
        """Write; what cannot be written yet waits in the link."""
        if not self._is_claimed and self.session.is_connected:
            self._is_claimed = True
            self._link.claim(self.session.identity.user)
        self._link.write(framed)

    def beat(self) -> None:
        """Do nothing: there are no pings but the protocol's."""

    def close(self, code: Code, reason: str) -> None:
        """Close; the close frame says why."""
        self._link.close(code, reason)

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""
        self._link.note(messages_out, code)

    def pause_reading(self) -> None:
        """Hear no more messages."""
        self._link.pause_reading()

    def resume_reading(self) -> None:
        """Hear messages again."""
        self._link.resume_reading()

    # -- what the link tells (Upper) -----------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Hand over the commands of a message. The first one says who it is, and takes a place of its own."""
        if not self._is_settled:
            self._is_settled = True
            self._link.settle()
        self.session.receive_bytes(data)

    def stalled(self) -> None:
        """Pass on that the client does not keep up, or has not asked again yet."""
        self.session.stalled()

    def writable(self) -> None:
        """Pass on that more can be written."""
        self.session.writable()

    def moved(self) -> None:
        """Do nothing: a SockJS session looks the same to its readers, whatever asks for it."""

    def gone(self, reason: str) -> None:
        """Pass on that the client is gone."""
        self.session.gone(reason)

    def drain(self, retry_ms: int) -> None:
        """Pass on that the server stops."""
        self.session.drain(retry_ms)
