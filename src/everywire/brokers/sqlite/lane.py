"""What waits to be sent to one node of the machine: bounded, and melting together.

Of each channel there is at most one hint. It carries the publications as long as they follow one another and
are few bytes; else only how far the channel is, and whoever hears it reads the log.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from everywire.brokers.sqlite.channels import Run

__all__ = ["MAX_DATAGRAM_BYTES", "Hint", "Lane"]

MAX_DATAGRAM_BYTES: Final = 48 * 1024
"""Far below what a socket's buffer holds (212,992 by default), so that some fit at once."""
_MAX_CARRIED_BYTES: Final = 16 * 1024
"""Publications that one hint carries."""
_MAX_HINTS: Final = 10_000
_MAX_HINT_BYTES: Final = 4 * 1024 * 1024
"""Beyond it hints wait without their publications."""
_MAX_LETTERS: Final = 1_024
_MAX_LETTER_BYTES: Final = 4 * 1024 * 1024
_HINT_OVERHEAD_BYTES: Final = 64

_encoder: Final = msgspec.msgpack.Encoder()


class Hint(msgspec.Struct, array_like=True):
    """That a channel stands at ``last``; with the newest publications, without holes, or without any."""

    channel: str
    epoch: str
    previous: int
    """The offset before the first publication; 0 when the channel was just made."""
    last: int
    records: list[bytes] | None
    size_bytes: int = 0


class Lane:
    """The way to one node."""

    __slots__ = ("_hint_bytes", "_letter_bytes", "_next", "_next_hints", "dropped", "hints", "is_waiting",
                 "letters", "socket")  # fmt: skip

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        """Connected, so that it can be waited for until the node's queue has room."""
        self.is_waiting = False
        self.dropped = 0
        self.hints: dict[str, Hint] = {}
        self.letters: deque[bytes] = deque()
        self._hint_bytes = self._letter_bytes = 0
        self._next: bytes | None = None
        self._next_hints = 0

    def add(self, epoch: str, run: Run) -> None:
        """Let a hint wait, or melt it into the one that waits."""
        hint = self.hints.get(run.channel)
        last = run.publications[-1].offset
        if hint is None:
            if len(self.hints) >= _MAX_HINTS:
                self.dropped += 1
                return
            size = sum(map(len, run.records))
            self.hints[run.channel] = Hint(run.channel, epoch, run.previous, last, list(run.records), size)
            self._hint_bytes += size
            self._lighten(self.hints[run.channel])
        elif hint.epoch != epoch or hint.records is None or hint.last != run.previous:
            self._strip(hint)
            hint.last = last if hint.epoch != epoch else max(last, hint.last)
            hint.epoch = epoch
        else:
            size = sum(map(len, run.records))
            hint.records.extend(run.records)
            hint.last = last
            hint.size_bytes += size
            self._hint_bytes += size
            self._lighten(hint)

    def _lighten(self, hint: Hint) -> None:
        if hint.size_bytes > _MAX_CARRIED_BYTES or self._hint_bytes > _MAX_HINT_BYTES:
            self._strip(hint)

    def _strip(self, hint: Hint) -> None:
        self._hint_bytes -= hint.size_bytes
        hint.size_bytes = 0
        hint.records = None

    def post(self, datagram: bytes) -> bool:
        """Let a letter wait; return False when there are too many."""
        if len(self.letters) >= _MAX_LETTERS or self._letter_bytes > _MAX_LETTER_BYTES:
            return False
        self.letters.append(datagram)
        self._letter_bytes += len(datagram)
        return True

    def next(self) -> bytes | None:
        """Return the datagram that is to be sent next, the same one until it is `sent`."""
        if self._next is None:
            if self.letters:
                self._next = self.letters[0]
            elif self.hints:
                hints = self._some_hints()
                self._next, self._next_hints = b"h" + _encoder.encode(hints), len(hints)
        return self._next

    def _some_hints(self) -> Sequence[Hint]:
        taken: list[Hint] = []
        size = 0
        for hint in self.hints.values():
            size += hint.size_bytes + len(hint.channel) + _HINT_OVERHEAD_BYTES
            if taken and size > MAX_DATAGRAM_BYTES:
                break
            taken.append(hint)
        for hint in taken:
            del self.hints[hint.channel]
            self._hint_bytes -= hint.size_bytes
        return taken

    def sent(self) -> int:
        """Hear that it was sent; return how many hints it had."""
        count, self._next, self._next_hints = self._next_hints, None, 0
        if not count:
            self._letter_bytes -= len(self.letters.popleft())
        return count

    def lost(self) -> int:
        """Return how many hints are lost when the lane ends now."""
        return self.dropped + len(self.hints) + self._next_hints
