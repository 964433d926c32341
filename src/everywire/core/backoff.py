"""How long to wait before another attempt: full jitter, as measured by AWS's architecture blog in 2015.

A random time up to a bound that doubles with every failure, so that many clients that lost their
server together do not come back together.
"""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """The delays of one client, from its last success on."""

    __slots__ = ("_base_s", "_max_s", "_random", "failures")

    def __init__(
        self, base_s: float = 0.5, max_s: float = 20.0, random_source: random.Random | None = None
    ) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._random = random_source or random.Random()
        self.failures = 0
        """Attempts since the last success."""

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    def next_delay_s(self, hint_s: float | None = None) -> float:
        """Return the next delay; the server's own word, if there is one, is the least it will be."""
        bound_s = min(self._max_s, self._base_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        if hint_s is not None:
            # A little after the hint: the server may have said the same to many.
            return hint_s + self._random.uniform(0, min(self._base_s, hint_s / 4))
        return self._random.uniform(0, bound_s)
