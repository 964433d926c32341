"""The sums over all workers of one parent, the gone ones included.

Running totals (names that end in ``_total``) of a worker that is gone stay in the sum with what it told last,
so that no sum ever goes backwards; of one that was killed it misses what it counted since, at most
`Limits.worker_figures_s` seconds. Of what is at the moment only the living count; of names that end in
``_max`` the sum is the largest value since the last time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from everywire.server.worker_link import Row

__all__ = ["Totals"]

_MAX_KEPT: Final = 10_000
"""Totals of gone workers; there are some hundred names, times their labels' values."""

_Key = tuple[str, str, str]


class Totals:
    """What workers have counted, by a number that each process has alone."""

    def __init__(self) -> None:
        self._last: dict[int, Sequence[Row]] = {}
        self._gone: dict[_Key, Row] = {}
        self._most: dict[_Key, Row] = {}

    def heard(self, process: int, rows: Sequence[Row]) -> None:
        """Take what a worker has counted so far."""
        self._last[process] = rows
        for row in rows:
            if row[0].endswith("_max"):
                key = _key(row)
                self._most[key] = row if key not in self._most else max(row, self._most[key], key=_value)

    def gone(self, process: int) -> None:
        """Keep the totals of a worker that counts no more."""
        totals = [row for row in self._last.pop(process, ()) if row[0].endswith("_total")]
        known = len(self._gone)
        _add(self._gone, [row for row in totals if known < _MAX_KEPT or _key(row) in self._gone])

    def sum(self) -> list[Row]:
        """Return the sums."""
        sums: dict[_Key, Row] = dict(self._gone)
        for rows in self._last.values():
            _add(sums, [row for row in rows if not row[0].endswith("_max")])
        sums |= self._most
        self._most = {}
        return _in_families(sums)


def _key(row: Row) -> _Key:
    return row[0], row[3], row[4]


def _value(row: Row) -> float:
    return row[2]


def _add(sums: dict[_Key, Row], rows: Iterable[Row]) -> None:
    for row in rows:
        name, text, value, label, label_value = row
        known = sums.get(_key(row))
        sums[_key(row)] = row if known is None else (name, text, known[2] + value, label, label_value)


def _in_families(sums: Mapping[_Key, Row]) -> list[Row]:
    return sorted(sums.values(), key=lambda row: (row[0], row[4]))
