"""Runs the Autobahn fuzzing client against a WebSocket echo and reads its report.

The suite (PyPI ``autobahntestsuite``) runs under Python 2.7 only; see `needs` for how that is had.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.conformance.needs import Missing, python27_environment
from tests.conformance.processes import running
from tests.conformance.verdict import FULL_CASES, QUICK_CASES, Judgement, judge

__all__ = ["fuzz", "prepare"]

AGENT: Final = "everywire"
SUITE: Final = "autobahntestsuite==25.10.1"
PROGRESS_S: Final = 30


def prepare(folder: Path) -> Path:
    """Make the suite's environment in the folder, once, and return its ``wstest``."""
    wstest = python27_environment(folder, [SUITE], suite="Autobahn") / "wstest"
    if not wstest.is_file():
        raise Missing(f"{SUITE} was installed, but brought no wstest")
    return wstest


def fuzz(
    wstest: Path, url: str, reports: Path, *, quick: bool, timeout_s: float, explained: Mapping[str, str]
) -> Judgement:
    """Run the fuzzing client against the URL and judge its report; whatever it leaves is in ``reports``."""
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    spec = reports / "fuzz.json"
    spec.write_text(json.dumps(_spec(url, reports, quick)), "utf-8")
    expected = QUICK_CASES if quick else FULL_CASES
    log = reports / "wstest.log"
    with log.open("wb") as output:
        command = [str(wstest), "-m", "fuzzingclient", "-s", str(spec)]
        with running(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=reports
        ) as process:
            is_over = _wait(process, log, expected, time.monotonic() + timeout_s)
    index = _read(reports / "index.json")
    judgement = judge(index, AGENT, expected, explained)
    if not is_over:
        judgement.failures.insert(0, f"not done within {timeout_s:g} s, ended; see {log.name}")
    elif not index:
        judgement.failures.insert(0, f"there is no report; the suite's last words are in {log.name}")
    return judgement


def _spec(url: str, reports: Path, quick: bool) -> dict[str, Any]:
    return {
        "outdir": str(reports),
        "servers": [{"agent": AGENT, "url": url}],
        "cases": ["*"],
        "exclude-cases": ["12.*", "13.*"] if quick else [],
        "exclude-agent-cases": {},
    }


def _wait(process: subprocess.Popen[bytes], log: Path, expected: int, deadline_s: float) -> bool:
    """Wait for the client and show how far it is; return False at the deadline."""
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            process.wait(min(PROGRESS_S, left_s))
            return True
        except subprocess.TimeoutExpired:
            begun = log.read_bytes().count(b"Running test case ID")
            print(f"  {begun} of {expected} cases begun", flush=True)
    return False


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
