"""What an Engine.IO connection asks of whoever carries it, so that it knows neither HTTP nor WebSocket.

A transport gives a connection `Poll`, `Post` and `WebSocket` objects, each of which stands for one request.
Of a socket it tells whoever listens to it at the moment: a probe first, the connection after the upgrade.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from everywire.core.codes import Code
from everywire.hub.interfaces import Framing

__all__ = ["NOBODY", "Poll", "Post", "WebSocket", "WebSocketListener"]


class Poll(Protocol):
    """A GET that waits for packets. It is answered or refused once."""

    @property
    def max_packets(self) -> int:
        """The most packets that its client takes in one answer."""

    @property
    def is_text(self) -> bool:
        """Whether its client can take nothing but text."""

    def answer(self, payload: bytes, *, binary: bool = False) -> None:
        """Answer with a payload of text, or of bytes."""

    def refuse(self) -> None:
        """Answer that this is a bad request."""

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note for the log line."""


class Post(Protocol):
    """A POST that brings packets. It is answered once, when all of them were taken."""

    def accept(self) -> None:
        """Answer ``ok``."""

    def refuse(self) -> None:
        """Answer that this is a bad request."""


class WebSocketListener(Protocol):
    """Who hears what a WebSocket's client and host tell."""

    def socket_message(self, data: bytes, binary: bool) -> None:
        """Hear one message; text is valid UTF-8."""

    def socket_stalled(self) -> None:
        """Hear that bytes remain unsent."""

    def socket_writable(self) -> None:
        """Hear that all bytes were taken."""

    def socket_gone(self) -> None:
        """Hear that it is closed; nothing else is heard afterwards."""

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops."""


class WebSocket(Protocol):
    """A WebSocket that carries a connection, or is about to."""

    listener: WebSocketListener

    @property
    def framing(self) -> Framing:
        """Frames packets, in the form of the connection's version."""

    @property
    def send(self) -> Callable[[Any], int]:
        """Write frames as far as it goes: the host's own."""

    def write(self, framed: Any, /) -> None:
        """Write frames; `WebSocketListener.socket_stalled` is called before this returns if some remain."""

    def close(self, code: int, reason: str) -> None:
        """Close; nothing is heard any more."""

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note for the log line."""

    def pause_reading(self) -> None:
        """Hear no more messages."""

    def resume_reading(self) -> None:
        """Hear messages again."""


class _Nobody:
    """The upper of a connection that has none, and the listener of a socket that has none."""

    __slots__ = ()

    def message(self, data: bytes, binary: bool) -> None:
        """Do nothing."""

    def stalled(self) -> None:
        """Do nothing."""

    def writable(self) -> None:
        """Do nothing."""

    def moved(self) -> None:
        """Do nothing."""

    def gone(self, reason: str) -> None:
        """Do nothing."""

    def drain(self, retry_ms: int) -> None:
        """Do nothing."""

    def socket_message(self, data: bytes, binary: bool) -> None:
        """Do nothing."""

    def socket_stalled(self) -> None:
        """Do nothing."""

    def socket_writable(self) -> None:
        """Do nothing."""

    def socket_gone(self) -> None:
        """Do nothing."""


NOBODY = _Nobody()
