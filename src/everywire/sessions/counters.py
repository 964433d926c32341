"""What sessions count: plain integers, rendered when somebody asks."""

from __future__ import annotations

__all__ = ["Counters"]


class Counters:
    """Running totals of one server's sessions."""

    __slots__ = (
        "commands",
        "connected",
        "errors",
        "presence_dropped",
        "recovered",
        "refused",
        "subscribed",
        "unrecovered",
    )

    def __init__(self) -> None:
        self.connected = 0
        """Sessions that were connected."""
        self.refused = 0
        """Connect commands that were refused."""
        self.commands = 0
        """Commands that were handled, connects included."""
        self.errors = 0
        """Commands that were answered with an error."""
        self.subscribed = 0
        """Subscriptions that were opened, server-side ones included."""
        self.recovered = 0
        """Of these, those that recovered from a position."""
        self.unrecovered = 0
        """Of these, those whose position was told to be gone."""
        self.presence_dropped = 0
        """Joins and leaves that a client which did not read was told of as one change."""
