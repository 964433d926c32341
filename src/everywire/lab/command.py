"""The command line of the lab: what to run, how often, and where the results go.

Exit status: 0 when every run was complete, whatever the verdicts (figures are for people), 1 when
a run failed, 2 for a wrong command line, 3 when a program that is needed is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from everywire.lab.plan import FIGURES, Scenario, scenarios
from everywire.lab.processes import raise_file_limit
from everywire.lab.report import failures, judge, markdown, outcome_rows
from everywire.lab.run import Row, check_requirements, rounds, two_cores
from everywire.lab.tools import Missing, build, find_nchan

__all__ = ["add_arguments", "main", "run"]

MAX_ROUNDS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the lab's options to a parser."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (5)")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER",
                        help="where results.jsonl and results.md go (results)")  # fmt: skip
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO",
                        help=f"one of {', '.join(s.name for s in scenarios())}; repeatable")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="shorter runs: a look, not a figure")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE",
                        help="measure nothing; judge the results.jsonl of an earlier run")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the line and run."""
    parser = argparse.ArgumentParser(
        prog="everywire.lab",
        description="Measure Everywire and its peers (bare C, nginx with Nchan, socket.io) in turn.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Measure, write the results, print the report."""
    known = {scenario.name: scenario for scenario in scenarios(args.quick)}
    unknown = [name for name in args.only if name not in known]
    if unknown or not 1 <= args.rounds <= MAX_ROUNDS:
        wrong = f"--only: expected one of {', '.join(known)}" if unknown else f"--rounds: 1 to {MAX_ROUNDS}"
        return _fail(wrong, 2)
    if args.source is not None:
        return _judge_again(args.source)
    chosen = [scenario for name, scenario in known.items() if not args.only or name in args.only]
    signal.signal(signal.SIGTERM, _stop)
    try:
        rows = _measure(chosen, args.rounds, args.out)
    except Missing as missing:
        return _fail(str(missing), 3)
    except KeyboardInterrupt:
        return _fail("stopped; what was measured is in results.jsonl", 130)
    report = markdown(rows, FIGURES)
    (args.out / "results.md").write_text(report, "utf-8")
    print(report)
    failed = failures(rows)
    return _fail(f"{len(failed)} runs failed", 1) if failed else 0


def _judge_again(source: Path) -> int:
    try:
        rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        return _fail(f"--from: expected the results.jsonl of an earlier run; {error}", 2)
    print(markdown([row for row in rows if "figure" not in row], FIGURES))
    return 0


def _measure(chosen: Sequence[Scenario], count: int, out: Path) -> list[Row]:
    cores = two_cores()
    check_requirements(chosen)
    tools = build()
    raise_file_limit()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [machine()]
    with (out / "results.jsonl").open("w", encoding="utf-8") as results:
        _write(results, rows)
        for row in rounds(chosen, count, tools, cores, lambda text: print(text, file=sys.stderr)):
            rows.append(row)
            _write(results, [row])
        _write(results, outcome_rows(judge(rows, FIGURES)))
    return rows


def _write(results: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        results.write(json.dumps(row, ensure_ascii=False) + "\n")
    results.flush()


def machine() -> Row:
    """Say what the figures were made on, without naming the machine."""
    model = "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    row: Row = {"CPU": model, "kernel": platform.release(), "Python": platform.python_version()}
    with contextlib.suppress(Missing):
        nginx = str(find_nchan().nginx)
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, timeout=10.0).stderr
        row["nginx"] = said.strip().rpartition("/")[2]
    return row


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(sentence: str, status: int) -> int:
    print(f"everywire.lab: {sentence}", file=sys.stderr)
    return status
