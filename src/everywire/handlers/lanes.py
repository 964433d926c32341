"""In which order the calls of a function are handled, as its decorator says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everywire.access.hooks import IN_ORDER, Lane
from everywire.core.errors import SettingsError

__all__ = ["lane_of"]


def lane_of(name: str, concurrency: int | None, key: Callable[..., Any] | None, cancel: bool) -> Lane:
    """Return the lane of a function's calls: by default the one that all of a connection share.

    Raises `SettingsError` for a concurrency below 1.
    """
    if concurrency is None and key is None:
        return IN_ORDER._replace(is_cancelled=cancel)
    if concurrency is not None and concurrency < 1:
        raise SettingsError("a concurrency is at least 1")
    return Lane((name,), concurrency or 1, cancel)
