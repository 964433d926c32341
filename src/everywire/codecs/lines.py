"""Splitting bytes into lines that end with LF, as newline-delimited JSON does.

Empty lines and a CR before the LF are dropped; what the lines say is left to others. A line has a
largest size.
"""

from __future__ import annotations

from everywire.core.errors import TooLarge

__all__ = ["LineSplitter"]


class LineSplitter:
    """Splits one stream of bytes into lines."""

    __slots__ = ("_max_line_bytes", "_pieces", "_size")

    def __init__(self, max_line_bytes: int = 16 * 1024 * 1024) -> None:
        self._max_line_bytes = max_line_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take bytes and return the lines that they complete; raise `TooLarge` for one beyond the bound."""
        *complete, rest = data.split(b"\n")
        lines = []
        for piece in complete:
            self._add(piece)
            line = self.rest()
            if line:
                lines.append(line)
        if rest:
            self._add(rest)
        return lines

    def rest(self) -> bytes:
        """Return and forget the unfinished line: whole if the source ended here, torn if it was cut."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return line.removesuffix(b"\r")

    def _add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > self._max_line_bytes:
            raise TooLarge(f"a line is larger than {self._max_line_bytes} bytes")
