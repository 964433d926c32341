"""From rows to figures: medians, quotients, what they spread over rounds, and verdicts.

Text in, text out: nothing is measured here, so an old `results.jsonl` can be judged again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from everywire.lab.plan import Cell, Figure

__all__ = ["Outcome", "Samples", "failures", "judge", "markdown", "outcome_rows"]

Samples = Mapping[Cell, Mapping[int, float]]
"""For each cell, its value in each round."""

NO_VALUE = "–"
PHASES = ("connect", "idle", "rate", "saturate", "burst")
PLACE = frozenset({"round", "scenario", "subject", "phase"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """A figure, as it came out."""

    figure: Figure
    value: float | None
    lowest: float | None
    """The quotient within single rounds, lowest and highest: how much the noise was."""
    highest: float | None
    ours: float | None
    """Medians of the first cell over and the first under the line."""
    theirs: float | None

    @property
    def verdict(self) -> str:
        """aim met, must met, missed; told for a figure without bounds; not measured."""
        if self.value is None:
            return "not measured"
        if self.figure.aim is not None and self.value <= self.figure.aim:
            return "aim met"
        if self.figure.must is None:
            return "told"
        return "must met" if self.value <= self.figure.must else "missed"


def samples_of(rows: Iterable[Mapping[str, Any]]) -> Samples:
    """Sort the numbers of all rows into their cells."""
    samples: dict[Cell, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if "phase" not in row:
            continue  # what tells of the machine
        for name, value in row.items():
            if name not in PLACE and isinstance(value, int | float):
                cell = Cell(row["scenario"], row["subject"], row["phase"], name)
                samples[cell][row["round"]] = float(value)
    return samples


def failures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each run that failed."""
    return [
        f"round {row['round']}, {row['scenario']}, {row['subject']}: {row['reason']}"
        for row in rows
        if row.get("phase") == "failed"
    ]


def judge(rows: Iterable[Mapping[str, Any]], figures: Sequence[Figure]) -> list[Outcome]:
    """Work out every figure."""
    samples = samples_of(rows)
    return [_outcome(figure, samples) for figure in figures]


def _outcome(figure: Figure, samples: Samples) -> Outcome:
    medians = {
        cell: median(samples[cell].values()) if samples.get(cell) else None
        for cell in (*figure.over, *figure.under)
    }
    complete = set.intersection(*(set(samples.get(cell, {})) for cell in medians))
    single = [
        quotient
        for number in sorted(complete)
        if (quotient := _quotient(figure, {cell: samples[cell][number] for cell in medians})) is not None
    ]
    return Outcome(
        figure=figure,
        value=_quotient(figure, medians),
        lowest=min(single, default=None),
        highest=max(single, default=None),
        ours=medians[figure.over[0]],
        theirs=medians[figure.under[0]] if figure.under else None,
    )


def _quotient(figure: Figure, values: Mapping[Cell, float | None]) -> float | None:
    over = [values[cell] for cell in figure.over]
    under = [values[cell] for cell in figure.under]
    known = [value for value in (*over, *under) if value is not None]
    if len(known) < len(over) + len(under):
        return None
    divisor = math.prod(known[len(over) :])
    return math.prod(known[: len(over)]) / divisor if divisor > 0 else None


def outcome_rows(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return what came out as rows for `results.jsonl`."""
    return [
        {
            "figure": outcome.figure.title,
            "value": outcome.value,
            "unit": outcome.figure.unit,
            "lowest": outcome.lowest,
            "highest": outcome.highest,
            "must": outcome.figure.must,
            "aim": outcome.figure.aim,
            "verdict": outcome.verdict,
        }
        for outcome in outcomes
        if outcome.value is not None
    ]


# -- tables ---------------------------------------------------------------------

RUN_COLUMNS = {
    "cpu_us_each": "CPU µs each",
    "cpu_percent": "CPU %",
    "deliveries_per_s": "deliveries/s",
    "deliveries_per_read": "per read",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "max_ms": "max ms",
    "memory_bytes_each": "memory B each",
    "reads_each": "reads each",
    "longest_turn_ms": "longest turn ms",
}


def markdown(rows: Sequence[Mapping[str, Any]], figures: Sequence[Figure], *, has_runs: bool = True) -> str:
    """Return the whole report: the machine, the figures, the runs if it has any, and what failed."""
    outcomes = [outcome for outcome in judge(rows, figures) if outcome.value is not None]
    machine = [f"{name}: {value}" for row in rows if "phase" not in row for name, value in row.items()]
    parts = ["; ".join(machine), _figure_table(outcomes), _run_table(rows) if has_runs else ""]
    failed = failures(rows)
    if failed:
        parts.append("Failed:\n\n" + "\n".join(f"* {sentence}" for sentence in failed))
    return "\n\n".join(part for part in parts if part) + "\n"


def _figure_table(outcomes: Iterable[Outcome]) -> str:
    lines = [
        ("figure", "ours", "beside", "result", "single rounds", "must", "aim", "verdict"),
        *(
            (
                outcome.figure.title,
                _number(outcome.ours),
                _number(outcome.theirs),
                f"{_number(outcome.value)} {outcome.figure.unit}",
                f"{_number(outcome.lowest)} to {_number(outcome.highest)}",
                _number(outcome.figure.must),
                _number(outcome.figure.aim),
                outcome.verdict,
            )
            for outcome in outcomes
        ),
    ]
    return _table(lines)


def _run_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Show the medians of each phase of each subject, side by side."""
    samples = samples_of(rows)
    places = dict.fromkeys((cell.scenario, cell.phase, cell.subject) for cell in samples)
    scenarios = list(dict.fromkeys(scenario for scenario, _, _ in places))
    places_in_order = sorted(places, key=lambda place: (scenarios.index(place[0]), PHASES.index(place[1])))
    lines = [("run", "phase", "server", *RUN_COLUMNS.values())]
    for scenario, phase, subject in places_in_order:
        cells = (samples.get(Cell(scenario, subject, phase, name)) for name in RUN_COLUMNS)
        values = (_number(median(cell.values())) if cell else NO_VALUE for cell in cells)
        lines.append((scenario, phase, subject, *values))
    return _table(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table that reads well as plain text, too; one without lines is left out."""
    if len(lines) == 1:
        return ""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in ruled
    )


def _number(value: float | None) -> str:
    if value is None:
        return NO_VALUE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
