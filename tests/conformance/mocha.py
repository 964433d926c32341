"""Runs the suites of the Engine.IO and Socket.IO protocols (Node, mocha) and reads their report.

They live in the repository socketio/socket.io, below ``docs/``. What they ask of is fixed in their text:
the server's address, and the times of its heartbeat. A copy gets those of the server that was started;
nothing else is changed, and what they import is installed at fixed versions. The copy and the packages
lie in a folder that git ignores.

They never answer a ping. A server that merely ignores what it should answer with a close closes when the
answer is overdue, and they take that for what they wait for. So each runs twice: as it stands, and with a
ping time-out so long that it hides nothing; then the tests of the time-out itself are counted out.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.conformance.needs import Missing, node_environment, repository
from tests.conformance.verdict import Judgement, judge_tests

__all__ = ["LONG", "SHORT", "TEXTS", "Pings", "Text", "adapted", "outcomes", "run_text"]

REPOSITORY: Final = "socketio/socket.io"
PACKAGES: Final = {
    "chai": "4.5.0",
    "chai-string": "1.6.0",
    "mocha": "9.2.2",
    "node-fetch": "3.3.2",
    "ws": "8.21.0",
}
TIMEOUT_S: Final = 300.0


class Pings(NamedTuple):
    """The heartbeat that the server is started with."""

    interval_ms: int
    timeout_ms: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The server's flags for it."""
        return "--ping-interval", str(self.interval_ms), "--ping-timeout", str(self.timeout_ms)


SHORT: Final = Pings(300, 200)
"""What the suites are written for."""

LONG: Final = Pings(300, 600_000)
"""No answer to a ping is overdue while a suite runs."""


class Text(NamedTuple):
    """One suite: where it lies, and how many tests it has."""

    folder: str
    tests: int
    timeouts: int
    """How many of them are about the ping time-out."""


TEXTS: Final[Mapping[str, Text]] = {
    "engineio-4": Text("docs/engine.io-protocol/v4-test-suite", 25, 2),
    "engineio-3": Text("docs/engine.io-protocol/v3-test-suite", 24, 2),
    "socketio-5": Text("docs/socket.io-protocol/v5-test-suite", 32, 2),
}


def run_text(
    name: str, port: int, pings: Pings, environment: Path, explained: Mapping[str, str]
) -> Judgement:
    """Run a suite against ``http://localhost:port`` and judge it; raise `Missing` for what is not here."""
    text = TEXTS[name]
    folder = repository(REPOSITORY, os.environ) / text.folder
    if not (folder / "test-suite.js").is_file():
        raise Missing(f"{REPOSITORY} is there, and {text.folder} is not in it")
    node = node_environment(environment, PACKAGES)
    # Beside the packages, so that Node finds them.
    copy = environment / f"{name}-{pings.timeout_ms}"
    copy.mkdir(exist_ok=True)
    for source in ("node-imports.js", "test-suite.js"):
        content = (folder / source).read_text("utf-8")
        (copy / source).write_text(adapted(content, port, pings) if source == "test-suite.js" else content)
    command = [node, str(environment / "node_modules/mocha/bin/mocha"), "--reporter", "json", "--exit"]
    if pings == LONG:
        command += ["--grep", " ping timeout", "--invert"]
    try:
        done = subprocess.run(
            [*command, "test-suite.js"],
            cwd=copy,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Judgement(expected=text.tests, failures=[f"not done within {TIMEOUT_S:g} s, ended"])
    expected = text.tests - (text.timeouts if pings == LONG else 0)
    judgement = judge_tests(outcomes(done.stdout), expected, explained)
    if not judgement.cases:
        judgement.failures.insert(0, f"there is no report; mocha said: {done.stderr.strip()[-300:]}")
    return judgement


def adapted(content: str, port: int, pings: Pings) -> str:
    """Return the suite's text for a server at another port, with another heartbeat."""
    for old, new in (
        ('const URL = "http://localhost:3000";', f'const URL = "http://localhost:{port}";'),
        ("const PING_INTERVAL = 300;", f"const PING_INTERVAL = {pings.interval_ms};"),
        ("const PING_TIMEOUT = 200;", f"const PING_TIMEOUT = {pings.timeout_ms};"),
    ):
        if content.count(old) != 1:
            raise Missing(f"the suite is another one than is known here: it has to say once: {old}")
        content = content.replace(old, new)
    return content


def outcomes(report: str) -> dict[str, str]:
    """Return how each test ended, by its full title, from what mocha's JSON reporter wrote."""
    start = report.find('{\n  "stats"')
    try:
        content: Any = json.loads(report[start:]) if start >= 0 else {}
    except ValueError:
        content = {}
    found: dict[str, str] = {}
    for verdict, key in (("passed", "passes"), ("pending", "pending"), ("failed", "failures")):
        for test in content.get(key, ()):
            said = test.get("err", {}).get("message", "")
            found[test["fullTitle"]] = f"{verdict}: {said}" if verdict == "failed" else verdict
    return found
