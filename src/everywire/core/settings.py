"""What can be set per channel, by patterns of names; the first pattern that fits counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from everywire.core.names import matches

__all__ = ["ChannelSettings", "Durability", "SettingsTable", "SlowReader", "Window"]


class SlowReader(Enum):
    """What happens to a reader when the window has moved past it; it is always told."""

    GAP = "gap"
    """Tell the gap and go on with the oldest publication still kept."""
    LATEST = "latest"
    """Tell the gap and go on with the newest publication."""
    DISCONNECT = "disconnect"
    """End the connection with a code that allows to come back."""


class Durability(Enum):
    """Where a channel's log lives."""

    BROKER = "broker"
    """In the broker's store."""
    MEMORY = "memory"
    """In this node's memory only (typing, cursors, games); a loss is told."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a channel's log keeps; whatever bound is reached first counts."""

    max_publications: int = 1_000
    max_bytes: int = 1024 * 1024
    max_age_s: float = 300.0


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """The settings of the channels that fit a pattern."""

    window: Window = field(default_factory=Window)
    slow_reader: SlowReader = SlowReader.GAP
    heartbeat_s: float = 20.0
    durability: Durability = Durability.BROKER
    presence: bool = True
    """Whether it is kept who is in the channel."""
    join_leave: bool = True
    """Whether those who ask for it are told who comes and goes; needs ``presence``."""
    presence_by_user: bool = False
    """Whether a user's first device is a join and the last one a leave, instead of every one."""


class SettingsTable:
    """Channel settings by name pattern, looked up once per channel and remembered by its owner."""

    __slots__ = ("_default", "_rows")

    def __init__(
        self,
        rows: Iterable[tuple[str, ChannelSettings]] = (),
        default: ChannelSettings | None = None,
    ) -> None:
        self._rows = tuple(rows)
        self._default = default or ChannelSettings()
        for pattern, _ in self._rows:
            matches(pattern, "")  # a bad pattern is an error at start, not at the first lookup

    @property
    def rows(self) -> tuple[tuple[str, ChannelSettings], ...]:
        """The patterns and their settings; the first that fits counts."""
        return self._rows

    @property
    def default(self) -> ChannelSettings:
        """The settings of channels that no pattern fits."""
        return self._default

    def become(self, other: SettingsTable) -> None:
        """Take over another table's rows, for channels that are looked up from now on."""
        self._rows, self._default = other.rows, other.default

    def of(self, name: str) -> ChannelSettings:
        """Return the settings of a channel."""
        for pattern, settings in self._rows:
            if matches(pattern, name):
                return settings
        return self._default
