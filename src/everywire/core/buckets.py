"""Token buckets for many keys, one number each (the generic cell rate algorithm, ITU-T I.371).

Nothing is refilled: per key there is only the time at which its bucket would be full again, so an idle key
is one that may be forgotten. There is no clock here; times are seconds that never go back.
"""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Buckets"]


class Buckets:
    """Buckets of ``burst`` tokens that refill at ``per_s``, for at most ``max_keys`` keys.

    A rate of 0 is no bound. Beyond the number of keys those that are full are forgotten, and if that is not
    enough, the oldest: whoever that is gets a full bucket back, which is the lesser evil.
    """

    __slots__ = ("_full_at", "_interval_s", "_max_keys", "_slack_s")

    def __init__(self, per_s: float, burst: int, max_keys: int) -> None:
        self._interval_s = 1 / per_s if per_s > 0 else 0.0
        # A billionth of a token makes up for rounding.
        self._slack_s = (max(burst, 1) - 1 + 1e-9) * self._interval_s
        self._max_keys = max_keys
        self._full_at: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, key: Hashable, now_s: float) -> float:
        """Return how long a key must wait for its next token; 0 when there is one."""
        full_at = self._full_at.get(key)
        return 0.0 if full_at is None else max(full_at - self._slack_s - now_s, 0.0)

    def take(self, key: Hashable, now_s: float) -> None:
        """Take a token, whether or not there is one."""
        if not self._interval_s:
            return
        full_at = self._full_at.get(key)
        if full_at is None:
            if len(self._full_at) >= self._max_keys:
                self._make_room(now_s)
            full_at = now_s
        self._full_at[key] = max(full_at, now_s) + self._interval_s

    def forget(self, key: Hashable) -> None:
        """Drop a key that will not come back."""
        self._full_at.pop(key, None)

    def _make_room(self, now_s: float) -> None:
        kept = {key: full_at for key, full_at in self._full_at.items() if full_at > now_s}
        # An eighth is freed at a time, so that a crowd of new keys does not walk through all of them each.
        while len(kept) > self._max_keys * 7 // 8:
            del kept[next(iter(kept))]
        self._full_at = kept
