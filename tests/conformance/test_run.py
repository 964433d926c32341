"""The verdict on a conformance run: what passes, what does not, and what is missing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import mocha, run
from tests.conformance.autobahn import fuzz
from tests.conformance.needs import Missing, find_interpreter, repository
from tests.conformance.processes import running, stop
from tests.conformance.sockjs import REPORTER, TESTS
from tests.conformance.verdict import (
    FULL_CASES,
    INFORMATIONAL,
    QUICK_CASES,
    Judgement,
    case_order,
    judge,
    judge_tests,
)
from tests.server.workers import lives

EXPECTED = 12


def report(**planted: tuple[str, str]) -> dict[str, Any]:
    """Make an index of twelve cases, the three informational among them; planted ones end otherwise."""
    names = [*sorted(INFORMATIONAL), *(f"1.1.{number}" for number in range(1, 10))]
    cases = {
        name: {"behavior": word, "behaviorClose": word, "remoteCloseCode": 1000}
        for name in names
        for word in ["INFORMATIONAL" if name in INFORMATIONAL else "OK"]
    }
    for name, (behavior, close) in planted.items():
        case = name.removeprefix("case_").replace("_", ".")
        assert case in cases
        cases[case] |= {"behavior": behavior, "behaviorClose": close}
    return {"everywire": cases}


def verdict(index: dict[str, Any], **explained: str) -> Judgement:
    reasons = {case.removeprefix("case_").replace("_", "."): reason for case, reason in explained.items()}
    return judge(index, "everywire", EXPECTED, reasons)


def test_a_clean_report_passes() -> None:
    judgement = verdict(report())
    assert judgement.passed
    assert judgement.behavior == {"OK": 9, "INFORMATIONAL": 3}
    assert len(judgement.remarks) == 3


def test_too_few_cases_fail_first() -> None:
    index = report(case_1_1_2=("FAILED", "OK"))
    del index["everywire"]["1.1.1"]
    judgement = verdict(index)
    assert judgement.failures[0] == "11 cases in the report, and there have to be 12"
    assert len(judgement.failures) == 2


def test_too_many_cases_fail() -> None:
    index = report()
    index["everywire"]["1.1.10"] = index["everywire"]["1.1.1"]
    assert not verdict(index).passed


@pytest.mark.parametrize("index", [{}, {"another server": report()["everywire"]}])
def test_a_report_without_our_cases_fails(index: dict[str, Any]) -> None:
    assert verdict(index).failures == ["0 cases in the report, and there have to be 12"]


BAD_WORDS = ("FAILED", "UNIMPLEMENTED", "UNCLEAN", "WRONG CODE", "FAILED BY CLIENT", "?")


@pytest.mark.parametrize("word", BAD_WORDS)
def test_a_failed_case_fails_in_either_verdict_and_cannot_be_explained(word: str) -> None:
    for planted in ((word, "OK"), ("OK", word), (word, word), ("NON-STRICT", word)):
        judgement = verdict(report(case_1_1_4=planted), case_1_1_4="it is how it is")
        assert len(judgement.failures) == 1
        assert judgement.failures[0].startswith("1.1.4: ")
        assert word in judgement.failures[0]


def test_a_case_without_a_verdict_fails() -> None:
    index = report()
    del index["everywire"]["1.1.3"]["behaviorClose"]
    assert "behaviorClose MISSING" in verdict(index).failures[0]


def test_non_strict_needs_an_explanation() -> None:
    index = report(case_1_1_5=("NON-STRICT", "OK"))
    assert verdict(index).failures == [
        "1.1.5: behavior NON-STRICT, behaviorClose OK, closed with 1000: not explained"
    ]
    explained = verdict(index, case_1_1_5="the suite wants it sooner")
    assert explained.passed
    assert any("the suite wants it sooner" in remark for remark in explained.remarks)


def test_informational_is_expected_of_three_cases_only() -> None:
    assert not verdict(report(case_1_1_5=("INFORMATIONAL", "INFORMATIONAL"))).passed
    assert verdict(report(case_7_1_6=("OK", "OK"))).passed
    assert not verdict(report(case_7_1_6=("INFORMATIONAL", "FAILED"))).passed


def test_cases_are_told_in_the_order_of_the_suite() -> None:
    cases = ["10.1.1", "9.8.6", "1.1.10", "1.1.9"]
    assert sorted(cases, key=case_order) == ["1.1.9", "1.1.10", "9.8.6", "10.1.1"]


def test_the_counts_are_those_of_the_suite() -> None:
    assert (FULL_CASES, QUICK_CASES) == (517, 301)


def script(folder: Path, text: str) -> Path:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run_client(tmp_path: Path, text: str, timeout_s: float = 30.0) -> Judgement:
    wstest, reports = script(tmp_path, text), tmp_path / "reports"
    return fuzz(wstest, "ws://127.0.0.1:9/", reports, quick=True, timeout_s=timeout_s, explained={})


def test_a_client_that_leaves_no_report_and_status_0_fails(tmp_path: Path) -> None:
    judgement = run_client(tmp_path, "exit 0")
    assert judgement.failures[0].startswith("there is no report")
    assert "0 cases in the report" in judgement.failures[1]


def test_a_report_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "index.json").write_text('{"everywire": {"1.1.1": {}}}', "utf-8")
    assert run_client(tmp_path, "exit 0").cases == 0


def test_a_client_that_does_not_end_is_ended_and_fails(tmp_path: Path) -> None:
    judgement = run_client(tmp_path, "exec sleep 600", timeout_s=0.2)
    assert judgement.failures[0].startswith("not done within 0.2 s")


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no python2\.7 on PATH; set EVERYWIRE_PYTHON27"):
        find_interpreter({"PATH": str(tmp_path)}, suite="Autobahn")
    with pytest.raises(Missing, match="does not run"):
        find_interpreter({"EVERYWIRE_PYTHON27": str(tmp_path / "none")}, suite="")
    with pytest.raises(Missing, match=r"is 3\.1"):
        find_interpreter({"EVERYWIRE_PYTHON27": str(script(tmp_path, "echo 3.11"))}, suite="")
    assert find_interpreter({"EVERYWIRE_PYTHON27": str(script(tmp_path, "echo 2.7"))}, suite="")


def test_a_run_with_something_missing_ends_non_zero(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def absent(reports: Path) -> Judgement:
        raise Missing("a thing that nobody has")

    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "SUITES", {"absent": absent})
    monkeypatch.delenv("EVERYWIRE_SUITES", raising=False)
    assert run.main([]) == 1
    assert "MISSING: absent: a thing that nobody has" in capsys.readouterr().out
    monkeypatch.setattr(run, "SUITES", {"good": lambda reports: verdict(report())})
    monkeypatch.setenv("EVERYWIRE_SUITES", os.fspath(tmp_path / "none"))
    assert run.main([]) == 1
    assert "EVERYWIRE_SUITES" in capsys.readouterr().out


def test_a_run_ends_with_0_only_if_every_suite_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    suites = {
        "good": lambda reports: verdict(report()),
        "bad": lambda reports: verdict(report(case_1_1_1=("OK", "FAILED"))),
    }
    monkeypatch.setattr(run, "SUITES", suites)
    monkeypatch.delenv("EVERYWIRE_SUITES", raising=False)
    assert run.main(["good"]) == 0
    assert run.main([]) == 1
    out = capsys.readouterr().out
    assert "FAILED: bad" in out
    assert "12 of 12" in out


def test_two_runs_at_once_do_not_mix_their_reports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "SUITES", {"good": lambda reports: verdict(report())})
    with run.alone(tmp_path):
        assert run.main([]) == 1
    assert "another run is under way" in capsys.readouterr().out
    assert run.main([]) == 0


def test_a_run_that_is_told_to_stop_ends_what_it_started(tmp_path: Path) -> None:
    script(tmp_path, f'echo $$ > "{tmp_path}/pid"; exec sleep 600')
    code = (
        "import pathlib, sys\n"
        "from tests.conformance import run\n"
        "from tests.conformance.autobahn import fuzz\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "run.RESULTS = here / 'results'\n"
        "def suite(reports):\n"
        "    return fuzz(here / 'program', '-', reports, quick=True, timeout_s=60, explained={})\n"
        "run.SUITES = {'endless': suite}\n"
        "sys.exit(run.main([]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=run.ROOT)
    try:
        deadline_s = time.monotonic() + 30
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text("utf-8"):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 128 + 15
    finally:
        process.kill()
        process.wait()
    # It was killed; whoever inherited it may take a moment to see it off.
    pid = int((tmp_path / "pid").read_text("utf-8"))
    deadline_s = time.monotonic() + 30
    while lives(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_signal_that_comes_while_a_program_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    popen, started = subprocess.Popen, []

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
        started.append(popen(*arguments, **options))
        stop(15, None)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(SystemExit) as caught, running(["sleep", "600"]):
        pytest.fail("it went on")
    assert caught.value.code == 128 + 15 and started[0].returncode == -9


def test_the_explanations_can_be_read() -> None:
    found = run.explanations(Path(run.__file__).with_name("explained.toml"))
    assert set(found) == {"autobahn", "engineio-3", "sockjs"}
    assert all(reason for reasons in found.values() for reason in reasons.values())


def test_a_suite_of_tests_passes_only_whole() -> None:
    good = {"one": "passed", "two": "passed"}
    assert judge_tests(good, 2, {}).passed
    assert judge_tests(good, 3, {}).failures == ["2 tests in the report, and there have to be 3"]
    assert judge_tests({}, 2, {}).failures == ["0 tests in the report, and there have to be 2"]
    for outcome in ("failed: why", "pending", "skipped", ""):
        bad = {"one": "passed", "two": outcome}
        judgement = judge_tests(bad, 2, {})
        assert judgement.failures == [f"two: {outcome}"]
        assert judgement.behavior == {"OK": 1, "FAILED": 1}
        explained = judge_tests(bad, 2, {"two": "because"})
        assert explained.passed and "because" in explained.remarks[0]
        assert explained.behavior == {"OK": 1, "EXPLAINED": 1}


def test_what_mocha_reports_is_read() -> None:
    report = {
        "stats": {"tests": 3},
        "passes": [{"fullTitle": "a b", "err": {}}],
        "pending": [{"fullTitle": "c", "err": {}}],
        "failures": [{"fullTitle": "d", "err": {"message": "no"}}],
    }
    text = json.dumps(report, indent=2)
    told = {"a b": "passed", "c": "pending", "d": "failed: no"}
    assert mocha.outcomes(f"said by a test {{\n{text}") == told
    for broken in ("", "Error: nothing", text[:-5]):
        assert mocha.outcomes(broken) == {}


SUITE_TEXT = 'const URL = "http://localhost:3000";\nconst PING_INTERVAL = 300;\nconst PING_TIMEOUT = 200;\n'


def test_a_suite_gets_the_address_and_the_heartbeat_of_the_server() -> None:
    assert mocha.adapted(SUITE_TEXT, 1234, mocha.LONG) == (
        'const URL = "http://localhost:1234";\nconst PING_INTERVAL = 300;\nconst PING_TIMEOUT = 600000;\n'
    )
    for other in (SUITE_TEXT.replace("300;", "301;"), SUITE_TEXT * 2, ""):
        with pytest.raises(Missing, match="another one than is known"):
            mocha.adapted(other, 1234, mocha.SHORT)


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"socketio/socket\.io.*EVERYWIRE_SUITES is not set"):
        repository("socketio/socket.io", {})
    told = {"EVERYWIRE_SUITES": str(tmp_path)}
    with pytest.raises(Missing, match="it is not in"):
        repository("socketio/socket.io", told)
    (tmp_path / "socketio" / "socket.io").mkdir(parents=True)
    assert repository("socketio/socket.io", told) == tmp_path / "socketio" / "socket.io"
    (tmp_path / "socket.io").mkdir()
    assert repository("socketio/socket.io", told) == tmp_path / "socket.io"


def test_every_suite_without_its_repository_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.delenv("EVERYWIRE_SUITES", raising=False)
    names = ["engineio-4", "engineio-4-unhidden", "sockjs"]
    assert run.main(names) == 1
    out = capsys.readouterr().out
    for name in names:
        assert f"MISSING: {name}: https://github.com/" in out


def test_all_suites_of_others_are_there_with_their_counts() -> None:
    assert list(run.SUITES) == [
        *("engineio-4", "engineio-4-unhidden", "engineio-3", "engineio-3-unhidden"),
        *("socketio-5", "socketio-5-unhidden", "sockjs", "autobahn", "autobahn-tls"),
    ]
    assert {name: text.tests for name, text in mocha.TEXTS.items()} == {
        "engineio-4": 25,
        "engineio-3": 24,
        "socketio-5": 32,
    }
    assert TESTS == 68
    assert mocha.LONG.flags == ("--ping-interval", "300", "--ping-timeout", "600000")


def test_unittest_cases_are_reported(tmp_path: Path) -> None:
    """With Python 3, where what the reporter needs of 2.7 is put in its place."""
    (tmp_path / "unittest2.py").write_text("from unittest import *\n", "utf-8")
    (tmp_path / "imp.py").write_text(
        "import types\n"
        "def load_source(name, path):\n"
        "    module = types.ModuleType(name)\n"
        "    exec(open(path).read(), module.__dict__)\n"
        "    return module\n",
        "utf-8",
    )
    (tmp_path / "cases.py").write_text(
        "import unittest\n"
        "class Some(unittest.TestCase):\n"
        "    def test_good(self): print('{')\n"
        "    def test_bad(self): assert 1 == 2, 'why'\n"
        "    def test_worse(self): raise ValueError('what')\n"
        "    @unittest.skip('not now')\n"
        "    def test_skipped(self): pass\n",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(REPORTER), str(tmp_path / "cases.py")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "Some.test_good": "passed",
        "Some.test_bad": "failed: AssertionError: why",
        "Some.test_worse": "failed: ValueError: what",
        "Some.test_skipped": "skipped",
    }
