"""What is measured, beside whom, and what must and should come out.

Plain data: a *subject* is a server with its settings, a *scenario* is one run of a generator
against each of its subjects, and a *figure* is a quotient of measured cells with its bounds.
Ratios are bounded beside a peer measured in the same rounds; only what a machine hardly changes
(memory, the share of a core that idle readers take) has a bound of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BASELINE",
    "FIGURES",
    "NCHAN",
    "NODE_RECOVERY",
    "NODE_SOCKETIO",
    "OURS",
    "PLAIN",
    "PLAIN_BASELINE",
    "PYTHON_SOCKETIO",
    "Cell",
    "Figure",
    "Scenario",
    "Subject",
    "scenarios",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A server to be measured, with its settings."""

    name: str
    kind: str
    """baseline, everywire, nchan, node-socketio or python-socketio."""
    wire: str | None = None
    """What its readers speak, where it differs from the scenario's wire."""
    heartbeat_s: float = 20.0
    window: int | None = None
    """Publications that a channel keeps; they are there before the measurement begins."""
    other_channels: int = 0
    """Channels beside the measured one, each with a publication and a reader."""
    tls: bool = False
    workers: int = 1
    """Processes that serve; more than one share their channels by the broker over SQLite."""
    has_recovery: bool = False
    """Node's socket.io: whether connection state recovery is on, as ours is."""


BASELINE = Subject(name="baseline", kind="baseline")
OURS = Subject(name="everywire", kind="everywire")
NCHAN = Subject(name="nchan", kind="nchan")
NODE_SOCKETIO = Subject(name="node socket.io", kind="node-socketio")
NODE_RECOVERY = Subject(name="node socket.io, recovery", kind="node-socketio", has_recovery=True)
PYTHON_SOCKETIO = Subject(name="python-socketio", kind="python-socketio")
PLAIN_BASELINE = Subject(name="baseline, plain", kind="baseline", wire="websocket")
PLAIN = Subject(name="everywire, plain", kind="everywire", wire="websocket")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run of a generator, made against each subject in turn."""

    name: str
    wire: str
    subjects: tuple[Subject, ...]
    readers: int = 1_000
    idle_s: float = 0.0
    rate: float = 20.0
    rate_s: float = 0.0
    saturate_s: float = 0.0
    in_flight: int = 4
    publishers: int = 1
    """How many connections messages are posted over, by turns."""
    burst_s: float = 0.0
    tls: bool = False

    @property
    def seconds(self) -> float:
        """How long the measured phases take together."""
        return self.idle_s + self.rate_s + self.saturate_s + self.burst_s


def scenarios(quick: bool = False) -> tuple[Scenario, ...]:
    """Return all scenarios; the quick ones are shorter, for a look and not for a figure."""
    everyone = (BASELINE, OURS, NCHAN)
    steady, closed = (2.0, 1.0) if quick else (5.0, 3.0)
    heartbeat_s = 5.0 if quick else OURS.heartbeat_s
    idle_s = heartbeat_s + 1.0  # so that each reader's heartbeat falls into it
    beating = Subject(name="everywire", kind="everywire", heartbeat_s=heartbeat_s)
    beating_tls = Subject(name="everywire", kind="everywire", heartbeat_s=heartbeat_s, tls=True)
    windows = tuple(Subject(name=f"window {count}", kind="everywire", window=count) for count in (10, 1_000))
    channels = tuple(
        Subject(name=f"channels {count}", kind="everywire", other_channels=count) for count in (1, 10_000)
    )
    workers = tuple(
        Subject(name=f"workers {count}", kind="everywire", workers=count) for count in (1, 2)
    )
    # 10,000 readers at a tenth of the rate: the deliveries per second stay the same.
    return (
        Scenario(name="websocket", wire="websocket", subjects=everyone, idle_s=1.0, rate_s=steady,
                 saturate_s=closed, burst_s=closed),
        Scenario(name="sse", wire="sse", subjects=everyone, idle_s=1.0, rate_s=steady, saturate_s=closed),
        Scenario(name="stream", wire="stream", subjects=(OURS,), idle_s=1.0, rate_s=steady,
                 saturate_s=closed),
        Scenario(name="longpoll", wire="longpoll", subjects=(OURS, NCHAN), idle_s=1.0, saturate_s=closed,
                 in_flight=1),
        Scenario(name="socketio", wire="socketio",
                 subjects=(PLAIN_BASELINE, PLAIN, OURS, NODE_SOCKETIO, NODE_RECOVERY, PYTHON_SOCKETIO),
                 idle_s=1.0, rate_s=steady, saturate_s=closed, burst_s=closed),
        Scenario(name="crowd", wire="websocket", subjects=everyone, readers=10_000, rate=2.0,
                 idle_s=1.0, rate_s=steady * 2, saturate_s=closed),
        Scenario(name="channels", wire="websocket", subjects=channels, rate_s=steady, saturate_s=closed),
        Scenario(name="window", wire="websocket", subjects=windows, rate_s=steady, saturate_s=closed),
        Scenario(name="workers", wire="websocket", subjects=workers, publishers=10, idle_s=1.0,
                 rate_s=steady, saturate_s=closed, burst_s=closed),
        Scenario(name="workers-crowd", wire="websocket", subjects=workers, readers=10_000, rate=2.0,
                 rate_s=steady * 2),
        Scenario(name="idle-websocket", wire="websocket", subjects=(beating,), readers=10_000,
                 idle_s=idle_s),
        Scenario(name="idle-sse", wire="sse", subjects=(beating,), readers=10_000, idle_s=idle_s),
        Scenario(name="idle-websocket-tls", wire="websocket", subjects=(beating_tls,), readers=10_000,
                 idle_s=idle_s, tls=True),
        Scenario(name="idle-sse-tls", wire="sse", subjects=(beating_tls,), readers=10_000, idle_s=idle_s,
                 tls=True),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured value: of which run, of which of its phases."""

    scenario: str
    subject: str
    phase: str
    value: str = "cpu_us_each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The product of some cells' medians, divided by the product of others'."""

    title: str
    over: tuple[Cell, ...]
    under: tuple[Cell, ...] = ()
    unit: str = "×"
    must: float | None = None
    aim: float | None = None


def _beside(
    title: str, peer: str, scenario: str, phase: str, must: float | None = None, aim: float | None = None
) -> Figure:
    over, under = Cell(scenario, "everywire", phase), Cell(scenario, peer, phase)
    return Figure(title=title, over=(over,), under=(under,), must=must, aim=aim)


def _alone(title: str, cell: Cell, unit: str, must: float | None = None, aim: float | None = None) -> Figure:
    return Figure(title=title, over=(cell,), unit=unit, must=must, aim=aim)


def _growth(title: str, scenario: str, small: str, large: str, phase: str) -> Figure:
    # "No growth", with room for the noise of two medians.
    over, under = Cell(scenario, large, phase), Cell(scenario, small, phase)
    return Figure(title=title, over=(over,), under=(under,), must=1.10, aim=1.05)


def _socketio(beside: str, peer: Subject, must: float | None = None) -> tuple[Figure, ...]:
    phases = {"steady": "rate", "saturated": "saturate", "bursts of ten": "burst"}
    return tuple(
        _beside(f"Socket.IO, {name}, CPU per delivery, {beside}", peer.name, "socketio", phase, must)
        for name, phase in phases.items()
    )


MEMORY, IDLE_CPU, TURN = "memory_bytes_each", "cpu_percent", "longest_turn_ms"

FIGURES: tuple[Figure, ...] = (
    _beside("WebSocket, steady, CPU per delivery, of bare C", "baseline", "websocket", "rate", 1.5, 1.3),
    _beside("WebSocket, steady, CPU per delivery, of Nchan", "nchan", "websocket", "rate", 0.95, 0.8),
    _beside("SSE, steady, CPU per delivery, of Nchan", "nchan", "sse", "rate", 0.7, 0.6),
    _beside("SSE, steady, CPU per delivery, of bare C", "baseline", "sse", "rate"),
    _beside("WebSocket, saturated, CPU per delivery, of Nchan", "nchan", "websocket", "saturate", 0.55, 0.4),
    _beside("WebSocket, saturated, CPU per delivery, of bare C", "baseline", "websocket", "saturate"),
    _beside("SSE, saturated, CPU per delivery, of Nchan", "nchan", "sse", "saturate"),
    _beside("WebSocket, bursts of ten, CPU per delivery, of bare C", "baseline", "websocket", "burst", 0.35,
            0.2),
    _beside("long poll, CPU per cycle, of Nchan", "nchan", "longpoll", "saturate", 1.2, 0.9),
    *_socketio("of our plain WebSocket", PLAIN, 1.2),
    *_socketio("of Node's", NODE_SOCKETIO, 0.5),
    *_socketio("of Node's with recovery", NODE_RECOVERY, 0.5),
    *_socketio("of bare C's plain WebSocket", PLAIN_BASELINE),
    *_socketio("of python-socketio's", PYTHON_SOCKETIO),
    Figure(title="10,000 readers, ratio to bare C, of that at 1,000", must=1.15,
           over=(Cell("crowd", "everywire", "rate"), Cell("websocket", "baseline", "rate")),
           under=(Cell("crowd", "baseline", "rate"), Cell("websocket", "everywire", "rate"))),
    _beside("10,000 readers, steady, CPU per delivery, of Nchan", "nchan", "crowd", "rate"),
    _growth("10,000 other channels, steady, of that with one", "channels", "channels 1", "channels 10000",
            "rate"),
    _growth("10,000 other channels, saturated, of that with one", "channels", "channels 1", "channels 10000",
            "saturate"),
    _growth("1,000 publications kept, steady, of that with 10", "window", "window 10", "window 1000", "rate"),
    _growth("1,000 publications kept, saturated, of that with 10", "window", "window 10", "window 1000",
            "saturate"),
    *(_growth(f"two workers, {name}, of one", "workers", "workers 1", "workers 2", phase)
      for name, phase in (("steady", "rate"), ("saturated", "saturate"), ("bursts of ten", "burst"))),
    _growth("two workers, 10,000 readers, of one", "workers-crowd", "workers 1", "workers 2", "rate"),
    _alone("memory per idle WebSocket reader", Cell("websocket", "everywire", "idle", MEMORY), "B", 4096.0,
           2560.0),
    _alone("memory per idle SSE reader", Cell("sse", "everywire", "idle", MEMORY), "B", 4096.0, 2560.0),
    _alone("memory per idle NDJSON reader", Cell("stream", "everywire", "idle", MEMORY), "B"),
    _alone("memory per waiting long poll", Cell("longpoll", "everywire", "idle", MEMORY), "B"),
    _alone("memory per idle Socket.IO reader", Cell("socketio", "everywire", "idle", MEMORY), "B"),
    _alone("memory per idle Socket.IO reader, Node's", Cell("socketio", NODE_SOCKETIO.name, "idle", MEMORY),
           "B"),
    _alone("memory per idle WebSocket reader, 10,000 of them", Cell("crowd", "everywire", "idle", MEMORY),
           "B", 4096.0, 2560.0),
    _alone("memory per idle WebSocket reader, TLS", Cell("idle-websocket-tls", "everywire", "idle", MEMORY),
           "B"),
    _alone("memory per idle SSE reader, TLS", Cell("idle-sse-tls", "everywire", "idle", MEMORY), "B"),
    _alone("WebSocket handshake, CPU", Cell("websocket", "everywire", "connect"), "µs", 35.0, 20.0),
    _alone("WebSocket handshake, CPU, TLS", Cell("idle-websocket-tls", "everywire", "connect"), "µs"),
    _alone("Socket.IO greeting and subscription, CPU", Cell("socketio", "everywire", "connect"), "µs"),
    _alone("Socket.IO greeting and subscription, CPU, Node's",
           Cell("socketio", NODE_SOCKETIO.name, "connect"), "µs"),
    _alone("10,000 idle WebSocket readers with heartbeats, of a core",
           Cell("idle-websocket", "everywire", "idle", IDLE_CPU), "%", 3.0),
    _alone("10,000 idle SSE readers with heartbeats, of a core",
           Cell("idle-sse", "everywire", "idle", IDLE_CPU), "%", 3.0),
    _alone("10,000 idle WebSocket readers with heartbeats, TLS, of a core",
           Cell("idle-websocket-tls", "everywire", "idle", IDLE_CPU), "%"),
    _alone("10,000 idle SSE readers with heartbeats, TLS, of a core",
           Cell("idle-sse-tls", "everywire", "idle", IDLE_CPU), "%"),
    _alone("longest turn of the loop, 10,000 readers served steadily",
           Cell("crowd", "everywire", "rate", TURN), "ms", 20.0),
    _alone("longest turn of the loop, 10,000 readers served, saturated",
           Cell("crowd", "everywire", "saturate", TURN), "ms", 20.0),
    _alone("longest turn of the loop, heartbeats of 10,000 readers",
           Cell("idle-websocket", "everywire", "idle", TURN), "ms", 20.0),
    _alone("longest turn of the loop, 10,000 readers connecting",
           Cell("crowd", "everywire", "connect", TURN), "ms"),
)  # fmt: skip
