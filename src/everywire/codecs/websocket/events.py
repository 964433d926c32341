"""What a WebSocket codec tells its owner: messages, control frames, and how the connection ends."""

from dataclasses import dataclass


@dataclass(slots=True)
class TextMessage:
    """A whole text message: UTF-8 that was checked, not yet decoded."""

    data: bytes

    @property
    def text(self) -> str:
        """The message decoded."""
        return self.data.decode()


@dataclass(slots=True)
class BinaryMessage:
    """A whole binary message."""

    data: bytes


@dataclass(slots=True)
class PingReceived:
    """The peer asked for a sign of life; the codec answers by itself (RFC 6455 §5.5.2)."""

    payload: bytes


@dataclass(slots=True)
class PongReceived:
    """The peer gave a sign of life, asked for or not (RFC 6455 §5.5.3)."""

    payload: bytes


@dataclass(slots=True)
class CloseReceived:
    """The peer closes; ``code`` is 1005 when it gave none. Answered by the codec, unless we closed first."""

    code: int
    reason: str


@dataclass(slots=True)
class Failed:
    """The peer broke the protocol and nothing more will be read.

    The codec queues a close frame with this code, except for 1006: the peer went away without a close
    frame, and there is nobody to tell.
    """

    code: int
    reason: str


Event = TextMessage | BinaryMessage | PingReceived | PongReceived | CloseReceived | Failed
