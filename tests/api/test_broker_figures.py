"""What a broker counts, as figures."""

from __future__ import annotations

from collections.abc import Mapping

from everywire.api.figures import broker_figures, render
from everywire.brokers.base import Health
from everywire.brokers.memory import MemoryBroker


class CountingBroker(MemoryBroker):
    def statistics(self) -> Mapping[str, int]:
        return {"appends": 3, "unfinished_appends": 2}

    def health(self) -> Health:
        return Health(False, "deaf")


def test_totals_are_counters_and_what_is_now_are_gauges() -> None:
    text = render(broker_figures(CountingBroker())).decode()
    assert 'everywire_broker_total{what="appends"} 3.0' in text
    assert "# TYPE everywire_broker_unfinished_appends gauge" in text
    assert "everywire_broker_unfinished_appends 2.0" in text
    assert "everywire_broker_ready 0.0" in text


def test_a_broker_in_this_process_has_nothing_to_count() -> None:
    assert list(broker_figures(MemoryBroker())) == []
