"""Runs the suite of the SockJS protocol (Python 2.7, unittest) and reads its report.

It lives in the repository sockjs/sockjs-protocol, whose main branch today's servers follow: tag 0.3.3
contradicts it. It waits for a second at most for anything, so no heartbeat can hide what never came.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.conformance.needs import Missing, python27_environment, repository
from tests.conformance.verdict import Judgement, judge_tests

__all__ = ["TESTS", "run_sockjs"]

REPOSITORY: Final = "sockjs/sockjs-protocol"
PACKAGES: Final = ("unittest2==1.1.0", "websocket-client==0.59.0", "ws4py==0.6.0")
TESTS: Final = 68
TIMEOUT_S: Final = 600.0
REPORTER: Final = Path(__file__).with_name("unittest_report.py")


def run_sockjs(port: int, environment: Path, explained: Mapping[str, str]) -> Judgement:
    """Run the suite against ``http://localhost:port`` and judge it; raise `Missing` for what is not here."""
    suite = repository(REPOSITORY, os.environ) / "sockjs-protocol.py"
    if not suite.is_file():
        raise Missing(f"{REPOSITORY} is there, and {suite.name} is not in it")
    python = python27_environment(environment, PACKAGES, suite="SockJS") / "python"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ |= {"SOCKJS_URL": f"http://localhost:{port}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [str(python), str(REPORTER), str(suite)],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Judgement(expected=TESTS, failures=[f"not done within {TIMEOUT_S:g} s, ended"])
    # The tests may print as well; the report is the last line.
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    try:
        outcomes: dict[str, str] = json.loads(lines[-1])
    except (IndexError, ValueError):
        outcomes = {}
    judgement = judge_tests(outcomes, TESTS, explained)
    if not outcomes:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        judgement.failures.insert(0, f"there is no report; the suite said: {said}")
    return judgement
