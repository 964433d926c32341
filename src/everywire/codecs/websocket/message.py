"""One incoming message while its bytes arrive (RFC 6455 §5.4, §8.1; RFC 7692 §6.2).

Exists only between the first byte of a message and its last, so that an idle connection holds no buffer.
Payload bytes are joined into one growing buffer, whatever the size of the fragments: a million one-byte
fragments cost a million bytes. Text is checked as it arrives, so that a bad byte fails the connection
before the frame is complete.
"""

from codecs import utf_8_decode

from everywire.codecs.websocket.deflate import Inflater
from everywire.codecs.websocket.events import BinaryMessage, TextMessage
from everywire.codecs.websocket.frames import CloseCode, FrameError, Opcode
from everywire.codecs.websocket.masking import apply_mask, rotate_mask

# Decoding makes a string of up to four bytes a character that is thrown away at once: check in steps.
_UTF8_STEP_BYTES = 1 << 16


def check_utf8(rest: bytes, data: bytes) -> bytes:
    """Check the next bytes of a text and return its unfinished last character (0 to 3 bytes).

    ``rest`` is what the last call returned. A sequence that no byte can complete any more is refused at once.

    Raises:
        FrameError: code 1007.
    """
    if not rest and data.isascii():
        return rest
    try:
        for at in range(0, len(data), _UTF8_STEP_BYTES):
            step = rest + data[at : at + _UTF8_STEP_BYTES]
            rest = step[utf_8_decode(step, "strict", False)[1] :]
    except UnicodeDecodeError:
        raise not_utf8() from None
    # The decoder waits for the third byte of a surrogate before it refuses it.
    if len(rest) == 2 and rest[0] == 0xED and rest[1] > 0x9F:
        raise not_utf8()
    return rest


def not_utf8() -> FrameError:
    """The error for text that is not UTF-8."""
    return FrameError(CloseCode.INVALID_DATA, "text message is not UTF-8")


def too_big(max_bytes: int) -> FrameError:
    """The error for a message above the limit."""
    return FrameError(CloseCode.MESSAGE_TOO_BIG, f"message of more than {max_bytes} bytes")


class IncomingMessage:
    """A message that is not complete yet."""

    __slots__ = (
        "_data",
        "_inflater",
        "_mask",
        "_max_bytes",
        "_opcode",
        "_utf8_rest",
        "fragments",
        "in_frame",
        "is_last_frame",
        "remaining_bytes",
        "wire_bytes",
    )

    def __init__(self, opcode: int, max_bytes: int, inflater: Inflater | None) -> None:
        self._opcode = opcode
        self._max_bytes = max_bytes
        self._inflater = inflater
        self._data = bytearray()
        self._utf8_rest = b""
        self._mask: bytes | None = None
        self.fragments = 0
        self.in_frame = False
        self.is_last_frame = False
        self.remaining_bytes = 0
        self.wire_bytes = 0

    @property
    def is_compressed(self) -> bool:
        """Whether what arrives is deflated."""
        return self._inflater is not None

    def start_frame(self, length: int, mask: bytes | None, fin: bool) -> None:
        """Begin a frame of ``length`` payload bytes."""
        self.fragments += 1
        self.wire_bytes += length
        self.remaining_bytes = length
        self.in_frame = True
        self.is_last_frame = fin
        self._mask = mask

    def feed(self, payload: bytes) -> None:
        """Take the next payload bytes of the current frame, still masked.

        Raises:
            FrameError: text that is not UTF-8, corrupt deflate data (1007), or more than the limit (1009).
        """
        self.remaining_bytes -= len(payload)
        if self._mask is not None:
            mask = self._mask
            if self.remaining_bytes:
                self._mask = rotate_mask(mask, len(payload))
            payload = apply_mask(payload, mask)
        if self._inflater is None:
            self._append(payload)
        else:
            self._append(self._inflater.feed(payload, self._max_bytes - len(self._data)))

    def finish(self) -> TextMessage | BinaryMessage:
        """Hand the message out after the last byte of its last frame.

        Raises:
            FrameError: as ``feed``, or text that ends within a character.
        """
        if self._inflater is not None:
            self._append(self._inflater.finish(self._max_bytes - len(self._data)))
        if self._opcode == Opcode.BINARY:
            return BinaryMessage(bytes(self._data))
        if self._utf8_rest:
            raise not_utf8()
        return TextMessage(bytes(self._data))

    def _append(self, data: bytes) -> None:
        # Text before size: a deflated frame that is both bad UTF-8 and too big gets the same answer whether
        # it arrives whole or in parts.
        if self._opcode == Opcode.TEXT:
            self._utf8_rest = check_utf8(self._utf8_rest, data)
        if len(self._data) + len(data) > self._max_bytes:
            raise too_big(self._max_bytes)
        self._data += data
