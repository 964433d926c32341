"""Runs the Autobahn fuzzing client against a WebSocket echo and reads its report.

The suite (PyPI ``autobahntestsuite``) runs under Python 2.7 only. Its environment is made here, in
a folder that git ignores: virtualenv 20.21.1 is the last that makes one for 2.7. What cannot be
had is told by `Missing`, never passed over.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.conformance.verdict import FULL_CASES, QUICK_CASES, Judgement, judge

__all__ = ["Missing", "fuzz", "prepare"]

AGENT: Final = "everywire"
VIRTUALENV: Final = "virtualenv==20.21.1"
SUITE: Final = "autobahntestsuite==25.10.1"
INSTALL_TIMEOUT_S: Final = 600
PROGRESS_S: Final = 30


class Missing(Exception):
    """Something that the suite needs is not here."""


def prepare(folder: Path) -> Path:
    """Make the suite's environment in the folder, once, and return its ``wstest``.

    Raises `Missing` without Python 2.7, or when a package cannot be installed.
    """
    environment = folder / "python2.7"
    wstest = environment / "bin" / "wstest"
    stamp = environment / "installed"
    if stamp.is_file() and stamp.read_text("utf-8") == SUITE and wstest.is_file():
        return wstest
    interpreter = find_interpreter(os.environ)
    print(f"making the suite's environment ({SUITE}) …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    maker = folder / "maker"
    _install([sys.executable, "-m", "venv", str(maker)], "venv")
    _install([*_pip(maker), VIRTUALENV], VIRTUALENV)
    _install([str(maker / "bin" / "python"), "-m", "virtualenv", "-q", "-p", interpreter, str(environment)],
             f"virtualenv for {interpreter}")  # fmt: skip
    _install([*_pip(environment), SUITE], SUITE)
    if not wstest.is_file():
        raise Missing(f"{SUITE} was installed, but brought no wstest")
    stamp.write_text(SUITE, "utf-8")
    return wstest


def find_interpreter(environ: Mapping[str, str]) -> str:
    """Return a Python 2.7 that runs: what EVERYWIRE_PYTHON27 says, else one on PATH."""
    told = environ.get("EVERYWIRE_PYTHON27")
    candidate = told or shutil.which("python2.7", path=environ.get("PATH"))
    hint = "set EVERYWIRE_PYTHON27 to the path of a Python 2.7 interpreter"
    if candidate is None:
        raise Missing(f"Python 2.7, which the Autobahn suite runs under: no python2.7 on PATH; {hint}")
    try:
        found = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"Python 2.7: {candidate} does not run ({error}); {hint}") from None
    version = found.stdout.strip()
    if version != "2.7":
        said = (version and f"is {version}") or "does not run"
        raise Missing(f"Python 2.7: {candidate} {said}; {hint}")
    return candidate


def _pip(environment: Path) -> list[str]:
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    return pip


def _install(command: list[str], what: str) -> None:
    # Python 2.7 has its own idea of where packages are: nothing of ours may reach it.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, env=environ
    )
    if done.returncode:
        last_lines = "\n    ".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-5:])
        raise Missing(f"{what} could not be installed:\n    {last_lines}")


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
        process = subprocess.Popen(
            [str(wstest), "-m", "fuzzingclient", "-s", str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=reports,
        )
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
    """Wait for the client and show how far it is; end it at the deadline and return False."""
    try:
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            try:
                process.wait(min(PROGRESS_S, left_s))
                return True
            except subprocess.TimeoutExpired:
                begun = log.read_bytes().count(b"Running test case ID")
                print(f"  {begun} of {expected} cases begun", flush=True)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
