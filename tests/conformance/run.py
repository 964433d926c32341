"""Runs the protocol suites that others wrote against ``examples/conformance_server.py``.

    python tests/conformance/run.py [SUITE …]

Ends with 0 only if every suite ran whole and passed. What a suite needs and is not here is named,
and the run ends non-zero. Environment: ``EVERYWIRE_PYTHON27`` is a Python 2.7 interpreter (else
``python2.7`` on PATH), for Autobahn and SockJS; ``EVERYWIRE_SUITES`` is the folder with the suites that
live in other people's repositories, checked out: socketio/socket.io and sockjs/sockjs-protocol.
Reports stay in ``results/conformance``. Only processes started here are ended, each by its own handle.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # so that this runs as a script, and is imported by its own tests

from tests.client.certificates import make_certificate  # noqa: E402
from tests.conformance import mocha  # noqa: E402
from tests.conformance.autobahn import fuzz, prepare  # noqa: E402
from tests.conformance.needs import Missing  # noqa: E402
from tests.conformance.processes import running, stop  # noqa: E402
from tests.conformance.sockjs import run_sockjs  # noqa: E402
from tests.conformance.verdict import Judgement  # noqa: E402

__all__ = ["SUITES", "conformance_server", "explanations", "main", "table"]

HERE: Final = Path(__file__).parent
RESULTS: Final = ROOT / "results" / "conformance"
ENVIRONMENTS: Final = ROOT / ".venv" / "conformance"
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 15.0
AUTOBAHN_TIMEOUT_S: Final = 2400.0


class Result(NamedTuple):
    """One row of the summary."""

    suite: str
    judgement: Judgement
    seconds: float


def autobahn(reports: Path) -> Judgement:
    """Run all 517 Autobahn cases over TCP."""
    return _autobahn(reports, quick=False)


def autobahn_tls(reports: Path) -> Judgement:
    """Run the 301 quick Autobahn cases over TLS."""
    cert, key = make_certificate(RESULTS)
    return _autobahn(reports, "--tls-cert", cert, "--tls-key", key, quick=True)


def sockjs(reports: Path) -> Judgement:
    """Run the 68 tests of the SockJS protocol."""
    with conformance_server() as url:
        return run_sockjs(_port(url), ENVIRONMENTS / "sockjs", _explained("sockjs"))


def _mocha(name: str, pings: mocha.Pings) -> Callable[[Path], Judgement]:
    def suite(reports: Path) -> Judgement:
        with conformance_server(*pings.flags) as url:
            return mocha.run_text(name, _port(url), pings, ENVIRONMENTS / "mocha", _explained(name))

    text = mocha.TEXTS[name]
    suite.__doc__ = f"Run the {text.tests} tests in socketio/socket.io, {text.folder}."
    if pings == mocha.LONG:
        suite.__doc__ = f"Run the same but the {text.timeouts} of the ping time-out, where it hides nothing."
    return suite


SUITES: Final[Mapping[str, Callable[[Path], Judgement]]] = {
    **{
        f"{name}{ending}": _mocha(name, pings)
        for name in mocha.TEXTS
        for ending, pings in (("", mocha.SHORT), ("-unhidden", mocha.LONG))
    },
    "sockjs": sockjs,
    "autobahn": autobahn,
    "autobahn-tls": autobahn_tls,
}
"""Every suite by its name, in the order they run."""


def _autobahn(reports: Path, *flags: str, quick: bool) -> Judgement:
    wstest = prepare(ENVIRONMENTS / "autobahn")
    explained = _explained("autobahn")
    with conformance_server(*flags) as url:
        return fuzz(wstest, url, reports, quick=quick, timeout_s=AUTOBAHN_TIMEOUT_S, explained=explained)


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _explained(suite: str) -> Mapping[str, str]:
    return explanations(HERE / "explained.toml").get(suite, {})


def explanations(path: Path) -> Mapping[str, Mapping[str, str]]:
    """Read which cases of a suite are explained, and how."""
    return tomllib.loads(path.read_text("utf-8"))


@contextlib.contextmanager
def conformance_server(*flags: str) -> Iterator[str]:
    """Run the example server on a free port and give the URL of its WebSocket echo."""
    command = [sys.executable, str(ROOT / "examples" / "conformance_server.py"), "--port", "0", *flags]
    environ = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    with running(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        # A server that neither speaks nor ends would keep us reading for ever.
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            url = next((found for line in process.stdout if (found := _echo_url(line))), None)
            watchdog.cancel()
            if url is None:
                raise Missing(f"examples/conformance_server.py did not start (status {process.wait()})")
            yield url
            if process.poll() is not None:
                status = process.returncode
                raise Missing(f"examples/conformance_server.py ended with {status} during the run")
        finally:
            watchdog.cancel()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            process.stdout.close()


def _echo_url(line: str) -> str | None:
    found = re.search(r"wss?://127\.0\.0\.1:[0-9]+/\S+", line)
    return found.group() if found else None


def missing_suites(environ: Mapping[str, str]) -> list[str]:
    """Name what EVERYWIRE_SUITES promises and is not there."""
    folder = environ.get("EVERYWIRE_SUITES")
    if folder and not Path(folder).is_dir():
        return [f"EVERYWIRE_SUITES: {folder} is no folder"]
    return []


def table(results: Sequence[Result]) -> str:
    """Return the summary, a row for each suite."""
    verdicts = ["OK", "INFORMATIONAL", "NON-STRICT"]
    rows = [["suite", "cases", *verdicts, "other", "OK at close", "seconds", ""]]
    for suite, judgement, seconds in results:
        known = [judgement.behavior[verdict] for verdict in verdicts]
        closed = judgement.close["OK"] if judgement.close else ""
        numbers = [*known, judgement.behavior.total() - sum(known), closed, round(seconds)]
        cases = f"{judgement.cases} of {judgement.expected}"
        rows.append([suite, cases, *map(str, numbers), "passed" if judgement.passed else "FAILED"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def run(names: Sequence[str]) -> tuple[list[Result], list[str]]:
    """Run suites; return their results, and what was missing."""
    results: list[Result] = []
    missing = missing_suites(os.environ)
    for name in names:
        print(f"== {name}: {SUITES[name].__doc__}", flush=True)
        began_s = time.monotonic()
        try:
            judgement = SUITES[name](RESULTS / name)
        except Missing as error:
            missing.append(f"{name}: {error}")
            print(f"!! MISSING for {name}: {error}", flush=True)
            continue
        results.append(Result(name, judgement, time.monotonic() - began_s))
        for remark in judgement.remarks:
            print(f"   {remark}")
        for failure in judgement.failures:
            print(f"!! {failure}")
    return results, missing


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep the folder of reports to this run; raise `Missing` while another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Missing(f"another run is under way in {folder}") from None
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites that are named, or all; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suite", nargs="*", help=f"one of {', '.join(SUITES)}; all without")
    names = parser.parse_args(arguments).suite
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        parser.error(f"there is no suite {unknown[0]}; there are {', '.join(SUITES)}")
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with alone(RESULTS):
            results, missing = run(names or list(SUITES))
    except Missing as error:
        results, missing = [], [str(error)]
    finally:
        signal.signal(signal.SIGTERM, before)
    if results:
        print(f"\n{table(results)}")
    for line in missing:
        print(f"MISSING: {line}")
    failed = [result.suite for result in results if not result.judgement.passed]
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
