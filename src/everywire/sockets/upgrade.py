"""The upgrade of an Engine.IO connection from polling to WebSocket, without losing or doubling anything.

    handshake ──2probe──▶ 3probe sent ──5──▶ the socket carries the connection
        └──────────────────┴── time is over, closed, anything else ──▶ polling goes on

Until the client says ``5`` nothing but the answer to the probe goes out by the new socket, and nothing that
waits for a poll is given to anything else. After the probe the pending poll is answered at once, with
``6`` if there is nothing else, and so is the next one, which may have crossed the answer; any further ones
within a tenth of a second, so that a client whose socket was cut on the way does not poll in a circle.
"""

from __future__ import annotations

from typing import Final, Protocol

from everywire.codecs.engineio.packets import PROBE_PONG
from everywire.core.wheel import Slot, Wheel
from everywire.sockets.engine_parts import NOBODY, WebSocket

__all__ = ["Probe", "Upgrading"]

_PROBE: Final = b"2probe"
_UPGRADE: Final = b"5"
_POLL_S: Final = 0.05
"""How long a poll is held while an upgrade is under way; the wheel adds up to two ticks."""
_NORMAL: Final = 1000


class Upgrading(Protocol):
    """What a probe asks of the connection that it wants to take over."""

    def release_poll(self) -> None:
        """Answer a pending poll, with nothing if there is nothing to say."""

    def upgrade(self, socket: WebSocket, is_stalled: bool) -> None:
        """Go on over a socket."""

    def not_upgraded(self) -> None:
        """Hear that it came to nothing."""

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops."""


class Probe:
    """A WebSocket that is about to take a connection over: its listener until then."""

    __slots__ = (
        "_engine",
        "_has_let_go",
        "_is_stalled",
        "_polls",
        "_slot",
        "_socket",
        "_wheel",
        "is_confirmed",
    )

    def __init__(self, engine: Upgrading, socket: WebSocket, wheel: Wheel, timeout_s: float) -> None:
        self._engine: Upgrading | None = engine
        self._socket = socket
        self._wheel = wheel
        self._is_stalled = self._has_let_go = False
        self._polls: Slot | None = None
        self.is_confirmed = False
        """Whether the client's probe was answered."""
        self._slot: Slot = wheel.arm(self, wheel.now_s + wheel.resolution_s + timeout_s, Probe.abandon)
        socket.listener = self

    def poll_came(self) -> None:
        """Hear of a poll that came meanwhile: its client may be waiting for it to be answered."""
        if self.is_confirmed and self._engine is not None:
            if self._has_let_go:
                wheel = self._wheel
                self._polls = wheel.arm((self, "poll"), wheel.now_s + _POLL_S, _release)
            else:
                self._has_let_go = True
                self._engine.release_poll()

    def release_poll(self) -> None:
        """Let a poll that was held go."""
        if self._engine is not None:
            self._engine.release_poll()

    def abandon(self) -> None:
        """Give up; polling goes on. Called by whoever has had enough of it: the time, or the connection."""
        engine = self._finish()
        if engine is not None:
            self._socket.listener = NOBODY
            self._socket.close(_NORMAL, "")
            engine.not_upgraded()

    def _finish(self) -> Upgrading | None:
        engine, self._engine = self._engine, None
        self._wheel.disarm(self, self._slot)
        if self._polls is not None:
            self._polls.pop((self, "poll"), None)
        return engine

    # -- what the socket tells (WebSocketListener) -----------------------------------------

    def socket_message(self, data: bytes, binary: bool) -> None:
        """Hear the probe, and then that the client is ready."""
        if self._engine is None:
            return
        if data == _PROBE and not binary and not self.is_confirmed:
            self.is_confirmed = True
            self._socket.write(self._socket.framing.frame([PROBE_PONG]))
            self._engine.release_poll()
        elif data == _UPGRADE and not binary and self.is_confirmed:
            engine = self._finish()
            if engine is not None:
                engine.upgrade(self._socket, self._is_stalled)
        else:
            self.abandon()

    def socket_stalled(self) -> None:
        """Hear that the answer to the probe is not sent yet."""
        self._is_stalled = True

    def socket_writable(self) -> None:
        """Hear that it is."""
        self._is_stalled = False

    def socket_gone(self) -> None:
        """Hear that it came to nothing."""
        engine = self._finish()
        if engine is not None:
            engine.not_upgraded()

    def drain(self, retry_ms: int) -> None:
        """Let the connection hear that the server stops."""
        if self._engine is not None:
            self._engine.drain(retry_ms)


def _release(key: tuple[Probe, str]) -> None:
    key[0].release_poll()
