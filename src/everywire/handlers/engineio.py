"""The application's side of a bare Engine.IO mount: messages as they are, text and bytes, without channels.

Clients of Engine.IO alone (npm's ``engine.io-client``, python-engineio's) have no namespaces, events or
rooms; whoever wants those wants ``wire.socketio``. What a handler is, and how it ends, is in
`everywire.handlers.conversation`.
"""

from __future__ import annotations

from typing import ClassVar

from everywire.access.identity import Identity
from everywire.access.quotas import FREE, Admission
from everywire.handlers.conversation import Connection, ConnectionOver, Message, Speaker
from everywire.handlers.message_handler import MessageHandler
from everywire.sessions.shared import Shared
from everywire.sockets.engine import Engine
from everywire.sockets.engines import Accept
from everywire.sockets.link import Upper

__all__ = ["ConnectionOver", "EngineConnection", "EngineHandler"]


class EngineHandler(MessageHandler):
    """A handler, and what its connections share."""

    kind: ClassVar = "engineio"

    def accept(self, shared: Shared) -> Accept:
        """Return what begins a connection over each link."""

        def accept(engine: Engine) -> Upper:
            return _Speaker(self, shared, engine)

        return accept


class EngineConnection(Connection):
    """One client, as a handler sees it. Messages are text or bytes, both ways, over each transport.

    Its ``transport`` is what carries it at the moment: ``polling`` or ``websocket``.
    """

    __slots__ = ()

    @property
    def protocol(self) -> int:
        """The version of Engine.IO that it speaks: 4, or 3."""
        return self._speaker.link.protocol

    def close(self) -> None:
        """End it. What was sent before arrives first."""
        self._speaker.call(self._speaker.link.close)


class _Speaker(Speaker):
    """What speaks over a connection; the authority says who its client is."""

    __slots__ = ("_admission",)

    transport: ClassVar = "engineio"

    def __init__(self, handler: EngineHandler, shared: Shared, link: Engine) -> None:
        super().__init__(handler, shared, link, EngineConnection)
        self._admission: Admission = FREE
        self.begin()

    async def identify(self) -> Identity:
        """Find out who it is, and take a place among the connections of its user."""
        identity = await super().identify()
        if not self.is_over:
            # The address was counted when the connection was opened.
            self._admission = self._shared.quotas.admit(identity, "")
        return identity

    def gone(self, reason: str) -> None:
        """Give the place back, and end."""
        super().gone(reason)
        self._admission.release()

    def send(self, message: Message) -> None:
        """Send a message; text has its packet type in front."""
        if isinstance(message, str):
            self.post((False, b"4" + message.encode("utf-8", "replace")))
        else:
            self.post((True, bytes(message)))
