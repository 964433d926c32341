"""What the hub counts: plain integers, rendered when somebody asks."""

from __future__ import annotations

__all__ = ["Counters"]


class Counters:
    """Running totals of one hub."""

    __slots__ = (
        "appends_failed",
        "delivered",
        "gaps_told",
        "missed",
        "publications",
        "readers_ended",
        "readers_opened",
        "replayed",
        "resets_told",
        "stalls",
    )

    def __init__(self) -> None:
        self.publications = 0
        """Publications appended by this node."""
        self.replayed = 0
        """Publishes answered from their idempotency key."""
        self.appends_failed = 0
        self.delivered = 0
        """Publications written to readers."""
        self.readers_opened = 0
        self.readers_ended = 0
        """Readers that the hub ended: too slow, or with a gap that their wire cannot tell."""
        self.stalls = 0
        """Times that a reader's socket could not take all bytes."""
        self.gaps_told = 0
        self.resets_told = 0
        self.missed = 0
        """Publications that readers missed and were told of."""
