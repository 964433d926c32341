"""A publication: one item of a channel, before and after it has its offset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["JSON", "RESERVED_EVENTS", "RESERVED_TAGS", "Draft", "Gap", "Publication"]

JSON: Final = ""
"""The content type of a publication whose data is JSON text."""

RESERVED_EVENTS: Final = frozenset({"gap", "binary", "error", "open"})
"""Event names that the wires use themselves."""

RESERVED_TAGS: Final = "socketio."
"""Tags whose names begin so say whom a publication is for; only the server itself sets them."""

OVERHEAD_BYTES: Final = 200
"""What a publication costs a log besides its data, measured with ``sys.getsizeof`` and rounded up."""

TAG_OVERHEAD_BYTES: Final = 150
"""What a tag costs besides its characters: two string objects and their place in a dictionary."""


class Publication:
    """One item of a channel, immutable once made.

    ``data`` is bytes as they were published: JSON text in UTF-8 when ``content_type`` is
    empty (`JSON`), any bytes otherwise. ``time_ms`` is UNIX time in milliseconds.
    """

    __slots__ = ("content_type", "data", "event", "info", "offset", "tags", "time_ms")

    def __init__(
        self,
        offset: int,
        data: bytes,
        time_ms: int,
        content_type: str = JSON,
        event: str | None = None,
        tags: Mapping[str, str] | None = None,
        info: bytes | None = None,
    ) -> None:
        self.offset = offset
        self.data = data
        self.time_ms = time_ms
        self.content_type = content_type
        self.event = event
        self.tags = tags
        self.info = info

    @property
    def is_json(self) -> bool:
        """Whether ``data`` is JSON text."""
        return not self.content_type

    @property
    def cost_bytes(self) -> int:
        """What this publication counts against windows and budgets."""
        cost = len(self.data) + len(self.content_type) + OVERHEAD_BYTES
        if self.tags:
            for key, value in self.tags.items():
                cost += len(key) + len(value) + TAG_OVERHEAD_BYTES
        if self.info is not None:
            cost += len(self.info)
        return cost

    def __repr__(self) -> str:
        return f"Publication({self.offset}, {self.data[:40]!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Publication):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


class Draft(NamedTuple):
    """What a publisher gives: a publication that has no offset yet.

    ``key`` makes the append idempotent: it is already joined with the publisher's
    identity; ``fingerprint`` tells two bodies under one key apart.
    """

    channel: str
    data: bytes
    content_type: str = JSON
    event: str | None = None
    tags: Mapping[str, str] | None = None
    info: bytes | None = None
    key: str | None = None
    fingerprint: bytes = b""


class Gap(NamedTuple):
    """Publications that a reader missed and cannot have any more.

    ``first`` and ``last`` are the missed offsets, both included; with reason
    ``reset`` (another epoch, or no position that can be read) both are None.
    """

    first: int | None
    last: int | None
    reason: str

    @property
    def missed(self) -> int:
        """How many publications are known to be missing; 0 for a reset."""
        if self.first is None or self.last is None:
            return 0
        return self.last - self.first + 1


RESET: Final = Gap(None, None, "reset")


def trimmed(first: int, last: int) -> Gap:
    """Make the gap of publications that the log no longer keeps."""
    return Gap(first, last, "trimmed")
