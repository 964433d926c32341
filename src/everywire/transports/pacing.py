"""What a raw WebSocket sends faster than it may: there is no place to tell it, so it has to wait.

What was refused for being too much is held, in order, and tried again when the quota allows; meanwhile the
socket is not read, and so the client's own socket fills and holds it back. A host may hand over what it had
read already: that is held too, up to a bound, beyond which the connection ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from everywire.core.errors import TooManyRequests
from everywire.core.publication import Draft
from everywire.core.wheel import Slot, Wheel

__all__ = ["Pace"]

_MAX_HELD: Final = 1_000
_MIN_WAIT_S: Final = 0.1


class Pace:
    """Holds drafts back for one connection."""

    __slots__ = ("_deadline", "_deadlines", "_held", "_held_bytes", "_max_bytes", "_publish")

    def __init__(self, deadlines: Wheel, max_bytes: int, publish: Callable[[Draft], None]) -> None:
        self._deadlines = deadlines
        self._max_bytes = max_bytes
        self._publish = publish
        self._deadline: Slot | None = None
        self._held: deque[Draft] = deque()
        self._held_bytes = 0

    @property
    def is_holding(self) -> bool:
        """Whether something is held: what comes now has to stand behind it."""
        return bool(self._held)

    def hold(self, draft: Draft, error: TooManyRequests | None = None) -> bool:
        """Hold a draft back, behind the others; False when there are too many. The error says how long."""
        if self._held and (
            len(self._held) >= _MAX_HELD or self._held_bytes + len(draft.data) > self._max_bytes
        ):
            return False
        self._held.append(draft)
        self._held_bytes += len(draft.data)
        if self._deadline is None:
            wait_s = _MIN_WAIT_S if error is None else max(_MIN_WAIT_S, error.retry_s)
            self._deadline = self._deadlines.arm(self, self._deadlines.now_s + wait_s, Pace._try_again)
        return True

    def _try_again(self) -> None:
        """Publish what is held; what is too much is held again, in its order, by whoever publishes."""
        self._deadline = None
        held, self._held = self._held, deque()
        self._held_bytes = 0
        for draft in held:
            self._publish(draft)

    def end(self) -> None:
        """Drop what is held: the connection has ended."""
        self._held.clear()
        if self._deadline is not None:
            self._deadlines.disarm(self, self._deadline)
            self._deadline = None
