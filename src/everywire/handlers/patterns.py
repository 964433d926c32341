"""A table by patterns of channel names (`everywire.core.names.matches`); the first that fits counts."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from everywire.core.names import matches

__all__ = ["Patterns"]

_REMEMBERED: Final = 10_000
"""Names whose entry is remembered; then all are looked up anew."""

Entry = TypeVar("Entry")


class Patterns(Generic[Entry]):
    """Entries in the order they were added."""

    __slots__ = ("_found", "_rows")

    def __init__(self) -> None:
        self._rows: list[tuple[str, Entry]] = []
        self._found: dict[str, Entry | None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, pattern: str, entry: Entry) -> None:
        """Add an entry behind the others; raise `BadChannelName` when the pattern is none."""
        matches(pattern, "")  # a bad pattern is an error where it is written down
        self._rows.append((pattern, entry))
        self._found.clear()

    def find(self, name: str) -> Entry | None:
        """Return the entry of the first pattern that fits, or None."""
        try:
            return self._found[name]
        except KeyError:
            pass
        found = next((entry for pattern, entry in self._rows if matches(pattern, name)), None)
        if len(self._found) >= _REMEMBERED:
            self._found.clear()
        self._found[name] = found
        return found
