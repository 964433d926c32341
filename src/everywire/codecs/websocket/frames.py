"""WebSocket frames: opcodes, close codes and how frames are written (RFC 6455 §5.2, §5.5, §7.4).

Reading frames is the work of ``protocol.py``, because a frame is read as its bytes arrive. Nothing here
fragments a message: frames are written whole, and who wants fragments passes ``fin=False``.
"""

from enum import Enum, IntEnum
from struct import Struct

from everywire.codecs.websocket.masking import apply_mask

MAX_CONTROL_PAYLOAD_BYTES = 125
_MAX_REASON_BYTES = MAX_CONTROL_PAYLOAD_BYTES - 2


class Role(Enum):
    """Which end of the connection this is: clients mask what they send, servers do not (§5.1)."""

    SERVER = "server"
    CLIENT = "client"


class Opcode(IntEnum):
    """What a frame carries (§5.2, §11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ended (§7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class FrameError(Exception):
    """The peer broke the protocol; carries the close code to fail the connection with (§7.1.7)."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry this code (§7.4.2, and the IANA registry as of 2025).

    1004 has no meaning, 1005, 1006 and 1015 are for local use, and 1016 to 2999 are not assigned.
    """
    return 3000 <= code <= 4999 or 1007 <= code <= 1014 or 1000 <= code <= 1003


_EXTENDED_16 = Struct("!BBH").pack
_EXTENDED_64 = Struct("!BBQ").pack


def encode_frame(
    opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False, mask: bytes | None = None
) -> bytes:
    """Write one frame, with the shortest length encoding (§5.2).

    ``rsv1`` marks a compressed message (RFC 7692 §6). With ``mask``, four bytes, the payload is masked. The
    bytes of an unmasked frame are the same for every reader, so a broadcast encodes once.

    Raises:
        ValueError: a control frame of more than 125 bytes, fragmented or compressed (§5.5).
    """
    length = len(payload)
    first = opcode
    if fin:
        first |= 0x80
    if rsv1:
        first |= 0x40
    if opcode > 7 and (length > MAX_CONTROL_PAYLOAD_BYTES or rsv1 or not fin):
        raise ValueError("a control frame is whole, uncompressed and carries at most 125 bytes")
    masked = 0 if mask is None else 0x80
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 0x10000:
        head = _EXTENDED_16(first, masked | 126, length)
    else:
        head = _EXTENDED_64(first, masked | 127, length)
    if mask is None:
        return head + payload
    return head + mask + apply_mask(payload, mask)


def encode_close(code: int | None, reason: str = "", *, mask: bytes | None = None) -> bytes:
    """Write a close frame (§5.5.1).

    ``None`` gives an empty one, which the peer reads as code 1005. The reason is cut to 123 bytes, between
    two characters.

    Raises:
        ValueError: a code that must not be sent, or a reason without a code.
    """
    if code is None:
        if reason:
            raise ValueError("a close reason needs a close code")
        return encode_frame(Opcode.CLOSE, b"", mask=mask)
    if not may_be_sent(code):
        raise ValueError(f"close code {code} must not be sent; use 1000-1003, 1007-1014 or 3000-4999")
    cut = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + cut.encode(), mask=mask)


def decode_close(payload: bytes) -> tuple[int, str]:
    """Read the payload of a close frame: its code (1005 when there is none) and its reason (§5.5.1, §7.1.5).

    Raises:
        FrameError: half a code, a code that must not be sent (1002), or a reason that is not UTF-8 (1007).
    """
    if not payload:
        return CloseCode.NO_STATUS, ""
    if len(payload) == 1:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "close frame with half a close code")
    code = payload[0] << 8 | payload[1]
    if not may_be_sent(code):
        raise FrameError(CloseCode.PROTOCOL_ERROR, f"close code {code} must not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_DATA, "close reason is not UTF-8") from None
