"""What brokers count: under the same names, and each explained to operators."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from everywire.api.figures import BROKER_NOW
from everywire.brokers.opening import open_broker
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

DOCUMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.mark.parametrize("url", ["sqlite://{}", "redis://127.0.0.1:1/0", "nats://127.0.0.1:1"])
async def test_each_figure_is_explained(tmp_path: Path, url: str) -> None:
    broker: Any = open_broker(url.format(tmp_path), Limits(), SettingsTable())
    text = DOCUMENT.read_text("utf-8")
    explained = {
        name
        for line in text[text.index("What `everywire_broker_total` counts") :].splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([a-z_]+)`", line.split("|")[1])
    }
    assert explained >= broker.statistics().keys() - BROKER_NOW
    assert {"appends", "errors", "hints_lost", "posts_dropped", "reconnects", "new_epochs"} <= {
        *broker.statistics()
    }
