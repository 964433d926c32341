"""What the host counts: plain integers, read when somebody asks.

What can be found by walking over the open connections is not counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["HostMetrics"]


class HostMetrics:
    """Running totals of one server."""

    __slots__ = (
        "accepted",
        "bytes_received",
        "bytes_sent",
        "deadlines",
        "handshake_failures",
        "log_lines_dropped",
        "loop_turn_max_s",
        "refused",
        "requests",
    )

    def __init__(self) -> None:
        self.accepted = 0
        """Connections accepted."""
        self.requests = [0, 0, 0, 0, 0, 0]
        """Requests by the hundreds of their answer's status; 0 is not used."""
        self.refused: Counter[str] = Counter()
        """Connections and requests that the host itself answered with an error, by the code's name."""
        self.handshake_failures = 0
        """TLS handshakes that did not succeed."""
        self.deadlines: Counter[str] = Counter()
        """Deadlines that peers missed, by kind."""
        self.bytes_received = 0
        """Bytes received on TCP connections that have been closed, as the kernel counted them."""
        self.bytes_sent = 0
        """Bytes that peers acknowledged on TCP connections that have been closed."""
        self.log_lines_dropped = 0
        self.loop_turn_max_s = 0.0
        """The longest time that the event loop did not come round, since the last scrape."""

    def counters(self) -> Mapping[str, int | float]:
        """Return totals by name, with labels as Prometheus writes them; a scrape resets the longest turn."""
        counters: dict[str, int | float] = {
            "connections_accepted_total": self.accepted,
            "tls_handshake_failures_total": self.handshake_failures,
            "log_lines_dropped_total": self.log_lines_dropped,
            "received_bytes_total": self.bytes_received,
            "sent_bytes_total": self.bytes_sent,
            "loop_turn_seconds_max": self.loop_turn_max_s,
        }
        for hundreds in range(1, 6):
            counters[f'requests_total{{status="{hundreds}xx"}}'] = self.requests[hundreds]
        for name, count in self.refused.items():
            counters[f'refused_total{{reason="{name}"}}'] = count
        for kind, count in self.deadlines.items():
            counters[f'deadlines_missed_total{{kind="{kind}"}}'] = count
        self.loop_turn_max_s = 0.0
        return counters
