"""A session: one client's life with many channels, whatever carries it.

It speaks the Centrifuge client protocol (version 2). A carrier makes it, hands over what the client sends,
and tells it what its host tells; the session writes through the carrier. It is made before the client is
known: the first command has to be ``connect``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.codecs.centrifuge.messages import Command
from everywire.core.codes import Code
from everywire.core.position import Place
from everywire.sessions.carrier import Carrier
from everywire.sessions.shared import Shared

__all__ = ["Session"]


class Session:
    """One client's life. A carrier's methods and a `everywire.sessions.registry.Visitor`'s.

    All calls are plain ones from the event loop; none waits. After its end a session ignores whatever is
    told to it, and holds nothing.
    """

    identity: Identity
    """Whom its credential proved; `NOBODY` before it is connected."""
    client: str
    """The client id, a UUID; empty before it is connected."""
    session_id: str
    """The secret by which commands that come by other requests find it; empty where there are none."""
    has_news: bool
    """Whether anything was told but the connect reply and subscribe replies with nothing missed: then a
    carrier that polls answers at once. Set before `Carrier.write` is called."""
    on_idle: Callable[[], None] | None
    """Called whenever every command that came was answered and nothing is pending (a carrier that polls)."""
    memo: Any
    """What the application keeps with this session; None at first."""

    def __init__(self, shared: Shared, carrier: Carrier, request: AuthRequest) -> None:
        self.identity = NOBODY
        self.client = self.session_id = ""
        self.has_news = False
        self.on_idle = None
        self.memo = None

    # -- who it is (Caller, Visitor) ------------------------------------------------

    @property
    def transport(self) -> str:
        """The wire that carries it."""
        raise NotImplementedError

    @property
    def peer(self) -> str:
        """The client's address."""
        raise NotImplementedError

    @property
    def channels(self) -> Iterable[str]:
        """The names of the channels it is subscribed to, or is about to be."""
        raise NotImplementedError

    @property
    def is_ended(self) -> bool:
        """Whether its life is over."""
        raise NotImplementedError

    @property
    def is_idle(self) -> bool:
        """Whether every command that came was answered."""
        raise NotImplementedError

    # -- what the carrier brings -------------------------------------------------------

    def receive(self, commands: Sequence[Command]) -> None:
        """Take commands, in order. A command that the protocol does not allow ends the session (3501)."""
        raise NotImplementedError

    def receive_bytes(self, data: bytes) -> None:
        """Take commands as the client wrote them, in the form of the carrier's dialect. What cannot be read,
        holds no command or too many ends the session (3501)."""
        raise NotImplementedError

    def stalled(self) -> None:
        """Hear that the carrier holds unsent bytes."""
        raise NotImplementedError

    def writable(self) -> None:
        """Hear that the carrier's bytes were all taken."""
        raise NotImplementedError

    def gone(self, reason: str) -> None:
        """Hear that the peer is gone: the session ends without a word."""
        raise NotImplementedError

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops: the session ends with 3001."""
        raise NotImplementedError

    # -- what the application does to it (Visitor) ---------------------------------------

    def disconnect(self, code: Code, reason: str = "") -> None:
        """End the session, telling the client why."""
        raise NotImplementedError

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End a subscription: push ``unsubscribe``. A subscription that is being made is refused (103)."""
        raise NotImplementedError

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        """Begin a server-side subscription, after a place or at the head: push ``subscribe``. Nothing
        happens when there is a subscription to the channel already, or no room for one more."""
        raise NotImplementedError

    def refresh(self, expires_s: float | None) -> None:
        """Let the session be good until another time (UNIX time; None is for ever): push ``refresh``."""
        raise NotImplementedError

    def message(self, data: bytes) -> None:
        """Send a message: push ``message`` with JSON text (any bytes to a Protobuf client)."""
        raise NotImplementedError
