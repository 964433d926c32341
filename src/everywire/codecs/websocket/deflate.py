"""permessage-deflate: negotiation, compressing and inflating of messages (RFC 7692).

What we send never needs the context of an earlier message. So the compressed form of a message is the same
for every reader with the same ``Deflate`` (a broadcast compresses once per object), and a connection keeps
no compressor. As a server we also ask the client to reset its context, so an idle connection keeps no
inflater either. As a client we accept a server that keeps its context, and then keep one inflater.

Inflating is bounded while it runs: no more output is made than the message may still have.

Window of 8 bits: zlib cannot make one, but matches of distance one fit every window, so for it we compress
by run length only (``Z_RLE``). What we read is always inflated with the largest window, which reads every
smaller one.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from everywire.codecs.websocket.frames import CloseCode, FrameError
from everywire.codecs.websocket.header_values import HeaderParameter, HeaderValueError, ParametrizedToken

EXTENSION_NAME: Final = b"permessage-deflate"
# Below this, deflate rarely wins more bytes than its own overhead.
MIN_COMPRESSED_MESSAGE_BYTES: Final = 64

_SERVER_NO_TAKEOVER: Final = b"server_no_context_takeover"
_CLIENT_NO_TAKEOVER: Final = b"client_no_context_takeover"
_SERVER_WINDOW: Final = b"server_max_window_bits"
_CLIENT_WINDOW: Final = b"client_max_window_bits"
_WINDOW_BITS: Final = {str(bits).encode(): bits for bits in range(8, 16)}  # no leading zeros (§7.1.2)
_LARGEST_WINDOW_BITS: Final = 15

_SYNC_TAIL: Final = b"\x00\x00\xff\xff"
_FINAL_BLOCK: Final = b"\x03\x00"
# A message may hold a block marked as final, after which deflate data begins anew (§7.2.3.4). Each new
# start costs an inflater for two bytes of input, so they are few.
_MAX_STREAMS_PER_MESSAGE: Final = 8


@dataclass(frozen=True, slots=True)
class DeflateOptions:
    """What one end is willing to do.

    Args:
        max_window_bits: the largest window we compress with, 9 to 15; a peer may ask for less.
        level: zlib's compression level, 1 (fast) to 9.
        memory_level: zlib's memory level, 1 to 9; 5 keeps a compressor's memory below malloc's mmap
            threshold, which at 8 doubles the cost of a small message.
    """

    max_window_bits: int = _LARGEST_WINDOW_BITS
    level: int = 1
    memory_level: int = 5

    def __post_init__(self) -> None:
        if not 9 <= self.max_window_bits <= _LARGEST_WINDOW_BITS:
            raise ValueError("max_window_bits must be 9 to 15")
        if not 1 <= self.level <= 9 or not 1 <= self.memory_level <= 9:
            raise ValueError("level and memory_level must be 1 to 9")


class Deflate:
    """Negotiated parameters. Equal parameters give the same object, so it can key broadcast groups.

    Args:
        window_bits: the window of what we send, 8 to 15.
        level, memory_level: as in ``DeflateOptions``.
        peer_takeover: whether the peer may refer to its earlier messages (client role only).
    """

    __slots__ = ("level", "memory_level", "peer_takeover", "window_bits")

    window_bits: int
    level: int
    memory_level: int
    peer_takeover: bool

    def __new__(
        cls, window_bits: int = 15, level: int = 1, memory_level: int = 5, peer_takeover: bool = False
    ) -> "Deflate":
        """Return the one object with these parameters."""
        if window_bits != 8:
            DeflateOptions(window_bits, level, memory_level)  # checks the ranges, so the table stays small
        key = (window_bits, level, memory_level, peer_takeover)
        if (found := _interned.get(key)) is not None:
            return found
        made = super().__new__(cls)
        made.window_bits, made.level, made.memory_level, made.peer_takeover = key
        return _interned.setdefault(key, made)  # one step, whatever other threads do

    def __repr__(self) -> str:
        """Show the parameters."""
        return (
            f"Deflate(window_bits={self.window_bits}, level={self.level}, memory_level={self.memory_level}, "
            f"peer_takeover={self.peer_takeover})"
        )

    def compress(self, payload: bytes) -> bytes:
        """Deflate one message without context, for a frame with RSV1 (§7.2.1).

        The result is good for every connection that negotiated this object. It may be longer than
        ``payload`` when that is short or random. Safe to call from several threads.
        """
        if not payload:
            return b"\x00"  # §7.2.3.6
        strategy = zlib.Z_RLE if self.window_bits == 8 else zlib.Z_DEFAULT_STRATEGY
        compressor = zlib.compressobj(
            self.level, zlib.DEFLATED, -max(self.window_bits, 9), self.memory_level, strategy
        )
        return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


_interned: dict[tuple[int, int, int, bool], Deflate] = {}


class Inflater:
    """Inflates messages: one message without context takeover, all of a connection with it (§7.2.2)."""

    __slots__ = ("_decompressor", "_keeps_context", "_streams")

    def __init__(self, keeps_context: bool) -> None:
        self._keeps_context = keeps_context
        self._streams = 1
        self._decompressor = zlib.decompressobj(-_LARGEST_WINDOW_BITS)

    def feed(self, data: bytes, max_bytes: int) -> bytes:
        """Inflate the next bytes of a message, to at most ``max_bytes + 1`` bytes.

        One byte more than allowed shows that the message is too big; the caller must then stop.

        Raises:
            FrameError: corrupt data (1007).
        """
        output = b""
        while data:
            if self._decompressor.eof:
                self._start_again()
            output += self._inflate(data, max_bytes + 1 - len(output))
            if len(output) > max_bytes:
                break
            data = self._decompressor.unused_data
        return output

    def finish(self, max_bytes: int) -> bytes:
        """Inflate what is left when the message has ended, and make ready for the next one.

        Raises:
            FrameError: the data does not end where a deflate block does, or is corrupt (1007).
        """
        output = b""
        self._streams = 1
        if self._decompressor.eof:
            if self._keeps_context:
                self._decompressor = zlib.decompressobj(-_LARGEST_WINDOW_BITS)
        elif self._keeps_context:
            output = self._inflate(_SYNC_TAIL, max_bytes + 1)
        else:
            # A final block can be read only at the end of a block: this tells a message that was cut short.
            output = self._inflate(_SYNC_TAIL + _FINAL_BLOCK, max_bytes + 1)
            if len(output) <= max_bytes and not self._decompressor.eof:
                raise _corrupt()
        return output

    def _inflate(self, data: bytes, max_bytes: int) -> bytes:
        try:
            return self._decompressor.decompress(data, max_bytes)
        except zlib.error:
            raise _corrupt() from None

    def _start_again(self) -> None:
        # After a final block nobody refers further back: who writes one has reset the compressor.
        self._streams += 1
        if self._streams > _MAX_STREAMS_PER_MESSAGE:
            raise _corrupt()
        self._decompressor = zlib.decompressobj(-_LARGEST_WINDOW_BITS)


def _corrupt() -> FrameError:
    return FrameError(CloseCode.INVALID_DATA, "compressed message is corrupt")


def _read_parameters(parameters: Sequence[HeaderParameter]) -> dict[bytes, int | None] | None:
    """Check names, values and repetition (§7.1); ``None`` when they are not to be accepted."""
    read: dict[bytes, int | None] = {}
    for name, value in parameters:
        if name in read:
            return None
        if name in (_SERVER_NO_TAKEOVER, _CLIENT_NO_TAKEOVER):
            if value is not None:
                return None
            read[name] = None
        elif name in (_SERVER_WINDOW, _CLIENT_WINDOW):
            if value is None and name == _CLIENT_WINDOW:
                read[name] = None
            elif value in _WINDOW_BITS:
                read[name] = _WINDOW_BITS[value]
            else:
                return None
        else:
            return None
    return read


def accept_offer(
    offers: Sequence[ParametrizedToken], options: DeflateOptions
) -> tuple[Deflate, bytes] | None:
    """Choose the first acceptable offer of a client (server role, §5.1, §7.1).

    Returns the parameters and the value of the answering ``Sec-WebSocket-Extensions`` header. Offers that are
    malformed, unknown or repeat a parameter are passed over. Both directions are told to reset their
    context, which an answer may always do (§7.1.1). ``client_max_window_bits`` needs no answer: we read
    every window.
    """
    for name, parameters in offers:
        asked = _read_parameters(parameters) if name == EXTENSION_NAME else None
        if asked is None:
            continue
        window_bits = min(asked.get(_SERVER_WINDOW) or _LARGEST_WINDOW_BITS, options.max_window_bits)
        answer = b"; ".join((EXTENSION_NAME, _SERVER_NO_TAKEOVER, _CLIENT_NO_TAKEOVER))
        if window_bits < _LARGEST_WINDOW_BITS or _SERVER_WINDOW in asked:
            answer += b"; %b=%d" % (_SERVER_WINDOW, window_bits)
        return Deflate(window_bits, options.level, options.memory_level), answer
    return None


def make_offer(options: DeflateOptions) -> bytes:
    """The value of the ``Sec-WebSocket-Extensions`` header that a client sends."""
    offer = b"; ".join((EXTENSION_NAME, _CLIENT_NO_TAKEOVER, _CLIENT_WINDOW))
    if options.max_window_bits < _LARGEST_WINDOW_BITS:
        offer += b"=%d" % options.max_window_bits
    return offer


def accept_answer(answer: Sequence[ParametrizedToken], options: DeflateOptions) -> Deflate:
    """Read what a server answered to ``make_offer`` (client role, §7.1).

    Raises:
        HeaderValueError: an extension that was not offered, more than one, or parameters that are not legal
            in an answer; the client must then fail the connection.
    """
    if len(answer) != 1 or answer[0][0] != EXTENSION_NAME:
        raise HeaderValueError("an extension that was not offered")
    agreed = _read_parameters(answer[0][1])
    if agreed is None or agreed.get(_CLIENT_WINDOW, 0) is None:
        raise HeaderValueError("bad parameters of permessage-deflate")
    window_bits = min(agreed.get(_CLIENT_WINDOW) or _LARGEST_WINDOW_BITS, options.max_window_bits)
    return Deflate(
        window_bits, options.level, options.memory_level, peer_takeover=_SERVER_NO_TAKEOVER not in agreed
    )
