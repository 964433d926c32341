"""Figures for operators: how the rooms tell what they count, and how it is rendered.

Counting is plain integers where things happen; only a scrape makes metrics of them
(Prometheus text format 0.0.4, by prometheus_client).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everywire.access.webhooks import Webhooks
from everywire.brokers.base import Broker
from everywire.hub.hub import Hub
from everywire.server.worker_link import Row
from everywire.sessions.shared import Shared
from everywire.sockets.engines import Engines
from everywire.sockets.link import POLLING, WEBSOCKET
from everywire.sockets.sockets import Sockets
from everywire.transports.relay_private import PrivateSide
from everywire.transports.relay_way import PeerRelay

__all__ = [
    "Figure",
    "Figures",
    "broker_figures",
    "hub_figures",
    "relay_figures",
    "render",
    "session_figures",
    "socket_figures",
    "webhook_figures",
]

BROKER_NOW: Final = frozenset({"channels", "unfinished_appends"})
"""Names in a broker's statistics that are no running totals."""
_SOCKETIO_NOW: Final = {
    "connections": "Connections that speak Socket.IO",
    "sockets": "Clients of Socket.IO in all namespaces",
    "namespaces": "Namespaces in which there are clients",
    "rooms": "Rooms in which there are clients",
    "incomplete": "Clients of Socket.IO in the middle of a packet with attachments",
    "parked": "Clients of Socket.IO that were cut off and may come back as who they were",
}


class Figure(NamedTuple):
    """One number: a running total when its name ends in ``_total``, else what is at this moment."""

    name: str
    help: str
    value: float
    label: str = ""
    """The label's name, if the figure has one of several values under one name."""
    label_value: str = ""


Source = Callable[[], Iterable[Figure]]


class Figures:
    """All sources of one server."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Ask a source, too, from now on."""
        self._sources.append(source)

    def all(self) -> list[Figure]:
        """Return what all sources tell."""
        return [figure for source in self._sources for figure in source()]


class _Rendered(Collector):
    def __init__(self, figures: Iterable[Row]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Make metric families."""
        families: dict[str, Metric] = {}
        for name, text, value, label, label_value in self._figures:
            family = families.get(name)
            if family is None:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                family = families[name] = kind(name, text, labels=[label] if label else [])
            family.add_metric([label_value] if label else [], value)  # type: ignore[attr-defined]
        yield from families.values()


def render(figures: Iterable[Row]) -> bytes:
    """Return the text that a scrape gets."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rendered(list(figures)))
    return generate_latest(registry)


def broker_figures(broker: Broker) -> Iterator[Figure]:
    """Tell what a broker counts on its way to its engine; one in this process has nothing to count."""
    statistics: Callable[[], Mapping[str, int]] | None = getattr(broker, "statistics", None)
    if statistics is None:
        return
    for name, count in statistics().items():
        if name in BROKER_NOW:
            yield Figure(f"everywire_broker_{name}", "What the broker's link is like", count)
        else:
            help_ = "What came of the broker's link to its engine"
            yield Figure("everywire_broker_total", help_, count, "what", name)
    is_ready = "Links to the broker's engine that work in both directions"
    yield Figure("everywire_broker_ready", is_ready, int(broker.health().ready))


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


def webhook_figures(webhooks: Webhooks) -> Iterator[Figure]:
    """Tell how often the application was asked over HTTP."""
    for kind, asked in webhooks.asked.items():
        yield Figure(
            "everywire_webhooks_asked_total", "Questions to the application over HTTP", asked, "kind", kind
        )
    yield Figure(
        "everywire_webhooks_failed_total", "Questions to the application without an answer", webhooks.failed
    )


def session_figures(shared: Shared) -> Iterator[Figure]:
    """Tell what there is of sessions, and what quotas refused."""
    here = shared.registry.statistics()
    for name, text in (
        ("visitors", "Connections that can be reached: sessions, and readers of plain wires who are known"),
        ("sessions", "Sessions"),
        ("users", "Users with a connection here"),
    ):
        yield Figure(f"everywire_{name}", text, here[name])
    for name, text in {
        "connected": "Sessions that were connected",
        "refused": "Connect commands that were refused",
        "commands": "Commands of sessions",
        "errors": "Commands of sessions that were answered with an error",
        "subscribed": "Subscriptions of sessions",
        "recovered": "Subscriptions that recovered from a position",
        "unrecovered": "Subscriptions whose position was told to be gone",
        "presence_dropped": "Joins and leaves told as one change to sessions that did not read",
    }.items():
        yield Figure(f"everywire_sessions_{name}_total", text, getattr(shared.counters, name))
    presence = shared.presence.statistics()
    for name, text in {
        "presence_members": "Members of channels that this node keeps in them",
        "presence_lease_writes_total": "Leases of members written",
        "presence_lease_failures_total": "Leases of members that could not be written",
        "presence_told_total": "Joins and leaves told to nodes",
        "presence_left_out_total": "Joins and leaves told as one change, because there were too many",
    }.items():
        yield Figure(f"everywire_{name}", text, presence[name])
    quotas = shared.quotas
    yield Figure(
        "everywire_quota_connections_refused_total",
        "Connections refused because an address or a user had too many",
        quotas.refused_connections,
    )
    yield Figure(
        "everywire_quota_publications_refused_total",
        "Publications refused because they came too fast",
        quotas.refused_publications,
    )


def socket_figures(
    mounts: Iterable[Engines], sockets: Sockets | None, sockjs_sessions: int
) -> Iterator[Figure]:
    """Tell what there is of Engine.IO, Socket.IO and SockJS."""
    sums: dict[str, int] = {}
    for engines in mounts:
        for name, count in engines.statistics().items():
            sums[name] = sums.get(name, 0) + count
    for name, count in sums.items():
        if name in (POLLING, WEBSOCKET):
            help_ = "Connections of Engine.IO, by what carries them"
            yield Figure("everywire_engineio_connections", help_, count, "carrier", name)
        else:
            help_ = "What came of connections of Engine.IO"
            yield Figure("everywire_engineio_total", help_, count, "what", name)
    yield Figure("everywire_sockjs_sessions", "Sessions of SockJS without WebSocket", sockjs_sessions)
    for name, count in ({} if sockets is None else sockets.statistics()).items():
        if name in _SOCKETIO_NOW:
            yield Figure(f"everywire_socketio_{name}", _SOCKETIO_NOW[name], count)
        else:
            yield Figure("everywire_socketio_total", "What came of Socket.IO", count, "what", name)


def relay_figures(relay: PeerRelay | None, private: PrivateSide | None) -> Iterator[Figure]:
    """Tell what was forwarded between this node and others; nothing where there are no others."""
    if relay is None or private is None:
        return
    help_ = (
        "Requests that were forwarded to the node of their session, and those of others, by what came of it"
    )
    for what, count in (
        ("forwarded", relay.forwarded),
        ("lost", relay.lost),
        ("broken", relay.broken),
        ("taken", private.taken),
        ("refused", private.refused),
    ):
        yield Figure("everywire_relay_total", help_, count, "what", what)
    yield Figure(
        "everywire_relay_connections", "Connections to the private addresses of nodes", len(relay.links)
    )
    yield Figure("everywire_relay_looks_total", "Times that other nodes were looked up", relay.peers.looks)
