"""Interleaved rounds: every subject of every scenario in turn, then again.

What is compared is measured within seconds of each other, so that a machine that gets slower
slows all of them. A run whose deliveries did not all arrive gives no figures, only a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everywire.lab.plan import Scenario, Subject
from everywire.lab.prepare import longest_turn_s
from everywire.lab.processes import NotRunning, end, last_words, lines_of, start
from everywire.lab.servers import SERVER_LOG, Running, make_certificate, running
from everywire.lab.tools import (
    Missing,
    Tools,
    find_nchan,
    find_node_socketio,
    find_openssl,
    find_python_socketio,
)

__all__ = ["Cores", "Row", "check_requirements", "rounds", "run_once", "two_cores"]

Row = dict[str, Any]
"""What one phase of one run gave: its place in the plan, and the values the generator printed."""

REQUIRED: Mapping[str, Callable[[], object]] = {
    "nchan": find_nchan,
    "node-socketio": find_node_socketio,
    "python-socketio": find_python_socketio,
}
"""What finds the programs that a kind of subject needs."""

SLACK_S = 60.0
"""For connecting, settling and draining, beside the measured seconds."""

TLS_HANDSHAKES_PER_S = 100.0
"""A slow machine's; the bound of a run with TLS readers follows from it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the server and the generator run; None leaves it to the kernel."""

    server: int | None
    generator: int | None


def two_cores() -> Cores:
    """Choose a core for the server and another for the generator."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Missing("the benchmark needs two cores: one for the server, one for the load generator")
    return Cores(server=cores[0], generator=cores[1])


def check_requirements(chosen: Sequence[Scenario]) -> None:
    """Raise `Missing` for a program that some scenario needs, before anything is measured."""
    kinds = {subject.kind for scenario in chosen for subject in scenario.subjects}
    for kind, find in REQUIRED.items():
        if kind in kinds:
            find()
    if any(scenario.tls for scenario in chosen):
        find_openssl()


def rounds(
    chosen: Sequence[Scenario], count: int, tools: Tools, cores: Cores, tell: Callable[[str], None]
) -> Iterator[Row]:
    """Run all rounds, and yield a row for each phase of each run."""
    for number in range(1, count + 1):
        for scenario in chosen:
            for subject in scenario.subjects:
                tell(f"round {number}/{count}: {scenario.name}, {subject.name}")
                for row in run_once(scenario, subject, tools, cores):
                    yield {"round": number, "scenario": scenario.name, "subject": subject.name, **row}


def run_once(scenario: Scenario, subject: Subject, tools: Tools, cores: Cores) -> list[Row]:
    """Start a subject, let the generator have it, end it; a failure is one row that says why."""
    with tempfile.TemporaryDirectory(prefix="everywire-lab-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx gives its rights away, and looks for its folders after that
        try:
            certificate = make_certificate(folder) if subject.tls else None
            with running(subject, tools, cores.server, folder, certificate) as server:
                wire = subject.wire or scenario.wire
                return _generate(replace(scenario, wire=wire), server, tools, cores, folder)
        except (NotRunning, OSError, subprocess.SubprocessError, ValueError) as error:
            said = last_words(folder / SERVER_LOG)
            return [{"phase": "failed", "reason": f"{error}; the server's last words: {said}"}]


def _generate(scenario: Scenario, server: Running, tools: Tools, cores: Cores, folder: Path) -> list[Row]:
    command = _tls_command(scenario, server) if scenario.tls else _command(scenario, server, tools)
    limit_s = scenario.seconds + SLACK_S
    if scenario.tls:
        limit_s += scenario.readers / TLS_HANDSHAKES_PER_S
    log = folder / "generator.log"
    rows: list[Row] = []
    process = start(command, core=cores.generator, log=log, piped=True)
    try:
        assert process.stdout is not None
        for line in lines_of(process.stdout, limit_s):
            rows.append(json.loads(line))
            # The generator rests after each line, so this is not measured.
            if server.kind == "everywire" and not scenario.tls and scenario.readers >= 10_000:
                turn_s = longest_turn_s(server.port)
                if turn_s is not None:
                    rows[-1]["longest_turn_ms"] = turn_s * 1e3
        status = process.wait(timeout=SLACK_S)
    finally:
        end(process)
    if status != 0:
        raise NotRunning(f"status {status}: {last_words(log)}")
    return rows


def _command(scenario: Scenario, server: Running, tools: Tools) -> list[str | Path]:
    values: dict[str, object] = {
        "wire": scenario.wire,
        "port": server.port,
        "pid": server.pid,
        "path": server.path(scenario.wire),
        "publish-path": server.publish_path,
        "cursor": server.cursor,
        "readers": scenario.readers,
        "publishers": scenario.publishers,
        "idle-s": scenario.idle_s,
        "rate": scenario.rate,
        "rate-s": scenario.rate_s,
        "saturate-s": scenario.saturate_s,
        "in-flight": scenario.in_flight,
        "burst-s": scenario.burst_s,
    }
    return [tools.loadgen, *(part for name, value in values.items() for part in (f"--{name}", str(value)))]


def _tls_command(scenario: Scenario, server: Running) -> list[str | Path]:
    assert server.certificate is not None
    return [
        sys.executable, "-m", "everywire.lab.tls_readers", "--port", str(server.port), "--pid",
        str(server.pid), "--ca", server.certificate, "--wire", scenario.wire, "--readers",
        str(scenario.readers), "--idle-s", str(scenario.idle_s),
    ]  # fmt: skip
