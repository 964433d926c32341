"""The lab of brokers: a short look at each, over real engines."""

from __future__ import annotations

import shutil

import pytest

from everywire.lab import brokers
from everywire.lab.processes import NotRunning

pytestmark = pytest.mark.xdist_group("busy")


@pytest.mark.parametrize("broker", ["memory", "sqlite", "redis", "nats"])
def test_a_broker_is_measured(broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert brokers.main(["--rounds", "1", "--seconds", "0.3", "--broker", broker]) == 0
    table = capsys.readouterr().out
    wanted = ["publish to deliver, median", "publications per second, one writer"]
    if broker != "memory":
        wanted += ["publications per second, four writers", "of what one node gets that reads everything"]
    for title in wanted:
        assert f"{broker}: {title}" in table


def test_a_run_that_lost_something_gives_no_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lossy(*_: object) -> brokers.Row:
        raise NotRunning("not all arrived: 199 of 200")

    monkeypatch.setattr(brokers, "_measure", lossy)
    assert brokers.main(["--rounds", "1", "--broker", "memory"]) == 1
    out = capsys.readouterr().out
    assert "199 of 200" in out and "median" not in out


def test_a_missing_engine_is_told_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert brokers.main(["--broker", "nats"]) == 3
    assert "apt-get install nats-server" in capsys.readouterr().err
