"""Channel settings by pattern: the first that fits counts."""

from __future__ import annotations

import pytest

from everywire.core.errors import BadChannelName
from everywire.core.settings import ChannelSettings, SettingsTable, SlowReader

GAP, LATEST, CUT = (ChannelSettings(slow_reader=policy) for policy in SlowReader)


def test_the_first_pattern_that_fits_counts() -> None:
    table = SettingsTable([("a.b", LATEST), ("a.*", CUT), ("*.b", GAP)], GAP)
    assert table.of("a.b") is LATEST
    assert table.of("a.c") is CUT
    assert table.of("c.b") is GAP


def test_without_a_pattern_the_default_counts() -> None:
    assert SettingsTable([("a", LATEST)], CUT).of("b") is CUT
    assert SettingsTable().of("b") == ChannelSettings()


def test_a_bad_pattern_is_an_error_at_the_start() -> None:
    with pytest.raises(BadChannelName):
        SettingsTable([("a", GAP), ("a b", GAP)])


def test_the_default_window_is_the_documented_one() -> None:
    window = ChannelSettings().window
    assert (window.max_publications, window.max_bytes, window.max_age_s) == (1_000, 1024 * 1024, 300.0)
