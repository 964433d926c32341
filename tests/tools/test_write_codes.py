"""The page of codes says what the table says, and every code has its place on it."""

from __future__ import annotations

import re

import pytest

from everywire.core.codes import CODES
from tools import write_codes


def test_the_page_is_up_to_date() -> None:
    assert write_codes.PAGE.read_text("utf-8") == write_codes.page()
    assert write_codes.main(["--check"]) == 0


def test_every_code_is_on_the_page_once() -> None:
    numbers = [int(found) for found in re.findall(r"^\| (\d+) \|", write_codes.page(), re.MULTILINE)]
    assert sorted(numbers) == sorted(row.number for row in CODES)
    assert len(numbers) > 20


def test_the_ranges_say_who_may_come_back() -> None:
    come_back, stay_away = write_codes.SECTIONS[2:4]
    for row in CODES:
        if come_back.holds(row.number):
            assert row.reconnect
        if stay_away.holds(row.number):
            assert not row.reconnect


def test_a_page_that_differs_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write_codes, "CODES", CODES[1:])
    assert write_codes.main(["--check"]) == 1
    assert "tools/write_codes.py" in capsys.readouterr().out
