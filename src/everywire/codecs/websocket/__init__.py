"""WebSocket without I/O: opening handshake, frames, messages and permessage-deflate (RFC 6455, RFC 7692)."""

from everywire.codecs.websocket.deflate import Deflate, DeflateOptions
from everywire.codecs.websocket.events import (
    BinaryMessage,
    CloseReceived,
    Event,
    Failed,
    PingReceived,
    PongReceived,
    TextMessage,
)
from everywire.codecs.websocket.frames import CloseCode, Opcode, Role, encode_close, encode_frame
from everywire.codecs.websocket.handshake import (
    Handshake,
    HandshakeError,
    accept_handshake,
    check_response,
    make_key,
    request_headers,
)
from everywire.codecs.websocket.masking import apply_mask
from everywire.codecs.websocket.protocol import WebSocketCodec

__all__ = [
    "BinaryMessage",
    "CloseCode",
    "CloseReceived",
    "Deflate",
    "DeflateOptions",
    "Event",
    "Failed",
    "Handshake",
    "HandshakeError",
    "Opcode",
    "PingReceived",
    "PongReceived",
    "Role",
    "TextMessage",
    "WebSocketCodec",
    "accept_handshake",
    "apply_mask",
    "check_response",
    "encode_close",
    "encode_frame",
    "make_key",
    "request_headers",
]
