"""Figures for operators: how the rooms tell what they count, and how it is rendered.

Counting is plain integers where things happen; only a scrape makes metrics of them
(Prometheus text format 0.0.4, by prometheus_client).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everywire.hub.hub import Hub

__all__ = ["Figure", "Figures", "hub_figures"]


class Figure(NamedTuple):
    """One number: a running total when its name ends in ``_total``, else what is at this moment."""

    name: str
    help: str
    value: float
    label: str = ""
    """The label's name, if the figure has one of several values under one name."""
    label_value: str = ""


Source = Callable[[], Iterable[Figure]]


class Figures(Collector):
    """All sources of one server, rendered together."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add(self, source: Source) -> None:
        """Ask a source, too, from now on."""
        self._sources.append(source)

    def collect(self) -> Iterator[Metric]:
        """Make metric families of what all sources tell."""
        families: dict[str, Metric] = {}
        for source in self._sources:
            for figure in source():
                family = families.get(figure.name)
                labels = [figure.label] if figure.label else []
                if family is None:
                    kind = CounterMetricFamily if figure.name.endswith("_total") else GaugeMetricFamily
                    family = families[figure.name] = kind(figure.name, figure.help, labels=labels)
                values = [figure.label_value] if figure.label else []
                family.add_metric(values, figure.value)  # type: ignore[attr-defined]
        yield from families.values()

    def render(self) -> bytes:
        """Return the text that a scrape gets."""
        return generate_latest(self._registry)


def hub_figures(hub: Hub) -> Iterator[Figure]:
    """Tell what a hub counts."""
    totals = {
        "publications": "Publications appended by this node",
        "replayed": "Publishes answered from their idempotency key",
        "appends_failed": "Publishes that the broker refused",
        "delivered": "Publications written to readers",
        "readers_opened": "Readers begun",
        "readers_ended": "Readers that the hub ended: too slow, or with a gap that their wire cannot tell",
        "stalls": "Times that a reader's socket could not take all bytes",
        "gaps_told": "Gaps told to readers",
        "resets_told": "Gaps told whose reason was another epoch or an unreadable position",
        "missed": "Publications that readers missed and were told of",
    }
    for name, text in totals.items():
        yield Figure(f"everywire_{name}_total", text, getattr(hub.counters, name))
    states = {
        "channels_read": "Channels that have readers here",
        "groups": "Groups of readers that are told the same bytes",
        "readers": "Readers at this moment",
        "readers_stalled": "Readers whose socket holds unsent bytes",
        "appends_unfinished": "Appends on their way to the store",
        "log_bytes": "Bytes that logs and tails of this process hold",
    }
    statistics = hub.statistics()
    for name, text in states.items():
        yield Figure(f"everywire_{name}", text, statistics[name])
    yield Figure(
        "everywire_log_trimmed_total", "Publications trimmed for the byte budget", statistics["log_trimmed"]
    )
