"""The lab: what it makes of known rows, and one short round with the real programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from everywire.lab import command, run, tools
from everywire.lab.plan import BASELINE, FIGURES, OURS, Cell, Figure, Scenario, Subject, scenarios
from everywire.lab.prepare import longest_turn_s
from everywire.lab.processes import NotRunning, cpu_s, lines_of, memory_bytes, start
from everywire.lab.report import failures, judge, markdown, outcome_rows
from everywire.lab.run import Cores, run_once
from everywire.lab.servers import running

pytestmark = pytest.mark.xdist_group("busy")

ANYWHERE = Cores(server=None, generator=None)
MINE, PEER = Cell("s", "ours", "rate"), Cell("s", "peer", "rate")


def row(number: int, subject: str, cpu_us_each: float, phase: str = "rate") -> dict[str, Any]:
    return {"round": number, "scenario": "s", "subject": subject, "phase": phase, "cpu_us_each": cpu_us_each}


def ratio(must: float | None = None, aim: float | None = None) -> Figure:
    return Figure(title="t", over=(MINE,), under=(PEER,), must=must, aim=aim)


ROWS = [
    {"CPU": "some", "kernel": "some"},
    *(row(number, "ours", value) for number, value in enumerate([3.0, 90.0, 2.0], 1)),
    *(row(number, "peer", value) for number, value in enumerate([6.0, 5.0, 1.0], 1)),
]


# -- figures ------------------------------------------------------------------


def test_a_ratio_is_that_of_the_medians_and_shows_how_rounds_differed() -> None:
    [outcome] = judge(ROWS, [ratio()])
    assert (outcome.ours, outcome.theirs) == (3.0, 5.0)
    assert outcome.value == pytest.approx(0.6)
    assert (outcome.lowest, outcome.highest) == (pytest.approx(0.5), pytest.approx(18.0))


@pytest.mark.parametrize(
    ("must", "aim", "verdict"),
    [
        (0.7, 0.6, "aim met"),
        (0.7, 0.5, "must met"),
        (0.6, None, "must met"),
        (0.5, 0.4, "missed"),
        (0.5, None, "missed"),
        (None, None, "told"),
    ],
)
def test_verdicts(must: float | None, aim: float | None, verdict: str) -> None:
    assert judge(ROWS, [ratio(must, aim)])[0].verdict == verdict


def test_growth_is_a_quotient_of_quotients() -> None:
    rows = [
        row(1, "ours", 6.0),
        row(1, "peer", 4.0),
        row(1, "ours", 3.0, "burst"),
        row(1, "peer", 2.5, "burst"),
    ]
    few_ours, few_peer = Cell("s", "ours", "burst"), Cell("s", "peer", "burst")
    [outcome] = judge(rows, [Figure(title="t", over=(MINE, few_peer), under=(PEER, few_ours))])
    assert outcome.value == pytest.approx((6.0 / 4.0) / (3.0 / 2.5))


def test_what_was_not_measured_has_no_verdict_and_no_line() -> None:
    rows = [line for line in ROWS if line.get("subject") != "peer"]
    [outcome] = judge(rows, [ratio(1.0)])
    assert (outcome.value, outcome.lowest, outcome.verdict) == (None, None, "not measured")
    assert outcome_rows([outcome]) == []
    assert "| t " not in markdown(rows, [ratio(1.0)])


def test_a_peer_that_costs_nothing_makes_no_figure() -> None:
    assert judge([row(1, "ours", 1.0), row(1, "peer", 0.0)], [ratio()])[0].value is None


def test_a_round_that_failed_on_one_side_counts_for_the_other() -> None:
    failed = {"round": 2, "scenario": "s", "subject": "peer", "phase": "failed", "reason": "gone"}
    rows: list[Mapping[str, Any]] = [*ROWS, failed]
    rows = [line for line in rows if line != row(2, "peer", 5.0)]
    [outcome] = judge(rows, [ratio()])
    assert outcome.value == pytest.approx(3.0 / 3.5)
    assert failures(rows) == ["round 2, s, peer: gone"]
    assert "* round 2, s, peer: gone" in markdown(rows, [ratio()])


def test_the_report_is_a_table_with_every_column() -> None:
    report = markdown(ROWS, [ratio(0.7, 0.5)])
    assert "CPU: some; kernel: some" in report
    line = next(line for line in report.splitlines() if line.startswith("| t "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["t", "3.00", "5.00", "0.60 ×", "0.50 to 18.0", "0.70", "0.50", "must met"]
    assert json.loads(json.dumps(outcome_rows(judge(ROWS, [ratio(0.7, 0.5)]))))[0]["verdict"] == "must met"


def test_every_figure_is_of_something_that_is_measured() -> None:
    """A cell that no scenario fills would silently drop its figure from the report."""
    phases = {
        (scenario.name, subject.name, phase)
        for scenario in scenarios()
        for subject in scenario.subjects
        for phase, seconds in {
            "connect": 1.0,
            "idle": scenario.idle_s,
            "rate": scenario.rate_s,
            "saturate": scenario.saturate_s,
            "burst": scenario.burst_s,
        }.items()
        if seconds > 0
    }
    for figure in FIGURES:
        for cell in (*figure.over, *figure.under):
            assert (cell.scenario, cell.subject, cell.phase) in phases, figure.title


def test_an_idle_phase_contains_a_heartbeat_of_every_reader() -> None:
    for quick in (False, True):
        for scenario in scenarios(quick):
            if scenario.name.startswith("idle"):
                assert all(scenario.idle_s > subject.heartbeat_s for subject in scenario.subjects)


# -- the real programs ----------------------------------------------------------


@pytest.fixture(scope="session")
def built() -> tools.Tools:
    return tools.build()


@pytest.mark.parametrize("wire", ["websocket", "sse"])
def test_one_short_round_against_bare_c(built: tools.Tools, wire: str) -> None:
    scenario = Scenario(name="short", wire=wire, subjects=(BASELINE,), readers=40, idle_s=0.1, rate=50.0,
                        rate_s=0.5, saturate_s=0.2, burst_s=0.2 if wire == "websocket" else 0.0)  # fmt: skip
    rows = run_once(scenario, BASELINE, built, ANYWHERE)
    assert failures({"round": 1, "scenario": "short", "subject": "baseline", **row} for row in rows) == []
    phases = {row["phase"]: row for row in rows}
    assert list(phases) == ["connect", "idle", "rate", "saturate", "burst"][: len(rows)]
    assert len(rows) == (5 if wire == "websocket" else 4)
    assert phases["connect"]["readers"] == 36
    assert "memory_bytes_each" in phases["idle"]
    for name in ("rate", "saturate", "burst")[: len(rows) - 2]:
        assert phases[name]["published"] > 0
        assert (phases[name]["missing"], phases[name]["repeated"]) == (0, 0)
        assert phases[name]["cpu_us_each"] > 0
        assert phases[name]["max_ms"] >= phases[name]["p50_ms"] > 0


def test_a_server_that_ends_at_once_is_a_failed_run(built: tools.Tools) -> None:
    broken = tools.Tools(loadgen=built.loadgen, baseline=Path("/bin/false"))
    [row] = run_once(Scenario(name="short", wire="sse", subjects=(BASELINE,)), BASELINE, broken, ANYWHERE)
    assert row["phase"] == "failed"
    assert "ended at once with status 1" in row["reason"]


def test_a_generator_that_is_refused_is_a_failed_run(built: tools.Tools) -> None:
    """Bare C has no long polling: it answers with a stream, which has no length."""
    scenario = Scenario(name="short", wire="longpoll", subjects=(BASELINE,), readers=2, saturate_s=0.1)
    row = run_once(scenario, BASELINE, built, ANYWHERE)[-1]
    assert row["phase"] == "failed"
    assert "an answer does not say how long it is" in row["reason"]


def test_what_hangs_is_given_up(tmp_path: Path) -> None:
    process = start(["sleep", "60"], core=None, log=tmp_path / "log", piped=True)
    try:
        assert process.stdout is not None
        with pytest.raises(NotRunning, match="nothing more came"):
            list(lines_of(process.stdout, 0.05))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_proc_is_read() -> None:
    before = cpu_s(os.getpid())
    assert before > 0
    assert sum(range(1_000_000)) > 0
    assert cpu_s(os.getpid()) > before
    assert memory_bytes(os.getpid()) > 1024 * 1024


# -- what may be missing ----------------------------------------------------------


def test_a_missing_compiler_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    source = tmp_path / "a.c"
    source.write_text("int main(void) { return 0; }\n")
    with pytest.raises(tools.Missing, match="no C compiler: apt-get install gcc"):
        tools._compile(tmp_path / "build" / "a", [source], [], [])


def test_a_missing_nchan_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nginx = tmp_path / "nginx"
    nginx.write_text("")
    nginx.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "MODULE_FOLDERS", (str(tmp_path),))
    with pytest.raises(tools.Missing, match="apt-get install libnginx-mod-nchan"):
        tools.find_nchan()


def test_a_missing_node_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(tools.Missing, match="no Node for a peer"):
        tools.find_node_socketio()


def test_a_missing_peer_of_npm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "node"
    node.write_text("")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "sources", lambda: tmp_path)
    with pytest.raises(tools.Missing, match=r"npm's socket\.io is not in .*: tools/setup.sh bench"):
        tools.find_node_socketio()


def test_a_missing_peer_of_pypi_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(tools.Missing, match="no Python module socketio for a peer"):
        tools.find_python_socketio()


def test_every_peer_of_a_scenario_is_looked_for_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_for: list[str] = []
    for kind in run.REQUIRED:
        monkeypatch.setitem(run.REQUIRED, kind, lambda kind=kind: looked_for.append(kind))
    run.check_requirements([scenario for scenario in scenarios() if scenario.name in ("socketio", "sse")])
    assert sorted(looked_for) == ["nchan", "node-socketio", "python-socketio"]


def test_something_missing_ends_with_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise tools.Missing("there is no such thing: apt-get install it")

    monkeypatch.setattr(command, "two_cores", missing)
    assert command.main(["--out", str(tmp_path)]) == 3
    assert capsys.readouterr().err == "everywire.lab: there is no such thing: apt-get install it\n"


@pytest.mark.parametrize("line", [["--only", "nothing"], ["--rounds", "0"]])
def test_a_wrong_line_ends_with_status_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(line) == 2
    assert "everywire.lab: --" in capsys.readouterr().err


def test_an_earlier_run_can_be_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"CPU": "some"}, *(
        {"round": 1, "scenario": "websocket", "subject": subject, "phase": "rate", "cpu_us_each": value}
        for subject, value in {"everywire": 4.0, "baseline": 4.0}.items()
    ), {"figure": "from before", "value": 7.0}]  # fmt: skip
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command.main(["--from", str(results)]) == 0
    report = capsys.readouterr().out
    assert "aim met" in report
    assert "from before" not in report


# -- our own server, as the lab starts it --------------------------------------------


@pytest.mark.parametrize("wire", ["websocket", "sse", "stream", "longpoll", "socketio"])
def test_our_server_is_measured_on_every_wire(built: tools.Tools, wire: str) -> None:
    subject = Subject(name="everywire", kind="everywire", window=10, other_channels=40)
    scenario = Scenario(name="short", wire=wire, subjects=(subject,), readers=20, saturate_s=0.1, in_flight=1)
    rows = run_once(scenario, subject, built, ANYWHERE)
    assert [row.get("reason") for row in rows if row["phase"] == "failed"] == []
    phases = {row["phase"]: row for row in rows}
    assert phases["saturate"]["published"] > 0
    assert (phases["saturate"]["missing"], phases["saturate"]["repeated"]) == (0, 0)


@pytest.mark.parametrize("wire", ["websocket", "sse"])
def test_idle_tls_readers_are_measured(built: tools.Tools, wire: str) -> None:
    subject = Subject(name="everywire", kind="everywire", tls=True)
    scenario = Scenario(name="short", wire=wire, subjects=(subject,), readers=20, idle_s=0.1, tls=True)
    rows = run_once(scenario, subject, built, ANYWHERE)
    assert [row.get("reason") for row in rows if row["phase"] == "failed"] == []
    assert {row["phase"] for row in rows} == {"connect", "idle"}
    assert rows[0]["cpu_us_each"] > 0


def test_our_server_tells_its_longest_turn(built: tools.Tools, tmp_path: Path) -> None:
    with running(OURS, built, None, tmp_path) as server:
        assert longest_turn_s(server.port) is not None
