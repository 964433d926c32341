"""What our own host counts, as figures for a scrape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from everywire.api.figures import Figure
from everywire.server.server import Server

__all__ = ["host_figures"]

_NAME: Final = re.compile(r'(\w+)(?:\{(\w+)="([^"]*)"\})?')
_HELP: Final = {
    "connections_accepted_total": "Connections accepted",
    "tls_handshake_failures_total": "TLS handshakes that did not succeed",
    "log_lines_dropped_total": "Log lines dropped because writing them was too slow",
    "received_bytes_total": "Bytes received on TCP connections that have been closed",
    "sent_bytes_total": "Bytes acknowledged on TCP connections that have been closed",
    "loop_turn_seconds_max": "Longest time that the event loop did not come round, since the last scrape",
    "requests_total": "Requests answered, by the hundreds of their status",
    "refused_total": "Connections and requests that the host answered with an error, by reason",
    "deadlines_missed_total": "Deadlines that peers missed, by kind",
}


def host_figures(server: Server) -> Iterator[Figure]:
    """Tell what a host counts, and what is open at this moment."""
    for key, value in server.metrics.counters().items():
        found = _NAME.fullmatch(key)
        if found is None:
            raise ValueError(f"{key!r} is no name of a figure")
        name, label, label_value = found[1], found[2] or "", found[3] or ""
        yield Figure(f"everywire_{name}", _HELP.get(name, name), value, label, label_value)
    for transport, count in server.open_connections().items():
        yield Figure("everywire_connections", "Open connections, by transport", count, "transport", transport)
