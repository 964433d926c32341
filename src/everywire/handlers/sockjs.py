"""The application's side of a SockJS mount: messages as they are, without channels.

What a handler is, and how it ends, is in `everywire.handlers.conversation`; a connection whose handler
returns is closed with 1000.
"""

from __future__ import annotations

from typing import ClassVar, Final

from everywire.access.identity import Identity
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError
from everywire.handlers.conversation import Connection, ConnectionOver, Message, Sent, Speaker
from everywire.handlers.message_handler import MessageHandler
from everywire.sessions.answers import as_end
from everywire.sessions.shared import Shared
from everywire.sockets.link import Upper
from everywire.sockets.sockjs_link import Accept, SockJsLink

__all__ = ["ConnectionOver", "SockJsConnection", "SockJsHandler"]

_NORMAL: Final = Code(1000, "normal", 0, "Normal closure")


class SockJsHandler(MessageHandler):
    """A handler, and what its connections share."""

    kind: ClassVar = "sockjs"

    def accept(self, shared: Shared) -> Accept:
        """Return what begins a connection over each link."""

        def accept(link: SockJsLink) -> Upper:
            return _Speaker(self, shared, link)

        return accept


class SockJsConnection(Connection):
    """One client, as a handler sees it.

    Messages are text, and bytes where a client of ``/websocket`` sends a binary one. Its ``transport`` is
    what its first request asked for: ``websocket``, ``xhr``, ``xhr_streaming``, ``eventsource``, ``htmlfile``
    or ``jsonp``.
    """

    __slots__ = ()

    def send(self, message: Message) -> Sent:
        """Send a message, as `Connection.send` says.

        Bytes must be UTF-8 (else `BadRequest`), except over ``/websocket``, where they are a binary message.
        """
        return super().send(message)

    def close(self, code: Code | int = _NORMAL, reason: str = "") -> None:
        """End it, and say why: 1000, or a number from 3000 to 4999. What was sent before arrives first."""
        row = code if isinstance(code, Code) else Code(code, "closed", 0, reason)
        if row.number != _NORMAL.number and not 3000 <= row.number < 5000:
            raise ValueError(f"{row.number} is no code to close with: 1000, or 3000 to 4999")
        self._speaker.call(lambda: self._speaker.link.close(row, reason or row.sentence))


class _Speaker(Speaker):
    """What speaks over a session; who its client is, its first request has proved already."""

    __slots__ = ("_session",)

    transport: ClassVar = "sockjs"

    def __init__(self, handler: SockJsHandler, shared: Shared, link: SockJsLink) -> None:
        super().__init__(handler, shared, link, SockJsConnection)
        self._session = link
        found = link.identity
        if isinstance(found, EverywireError):
            self.is_over = True
            link.close(as_end(found), found.sentence)
            return
        self.know(found if isinstance(found, Identity) else Identity())
        self.begin()

    def send(self, message: Message) -> None:
        """Send a message."""
        if isinstance(message, str):
            self.post((False, message.encode("utf-8", "surrogatepass")))
            return
        data = bytes(message)
        if not self._session.carries_bytes:
            try:
                data.decode()
            except UnicodeDecodeError:
                raise BadRequest("SockJS carries text: these bytes are no UTF-8") from None
        self.post((True, data))
