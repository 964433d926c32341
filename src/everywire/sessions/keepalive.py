"""The clockwork of a session: one deadline at a time on the hub's wheel, and no task.

* The connect command is awaited for `Limits.connect_timeout_s`; then the session ends (3502).
* The server pings every `Limits.ping_interval_s`, the first time after a random half to whole of it, on a
  busy line too: some clients count nothing else. Any sign of life within `Limits.pong_timeout_s` will do;
  then it ends (3012). Nobody is asked for one whose bytes are still on their way, or whose input is paused.
* Numbered ticks follow the connect reply where the client asked for them.
* With the pings permissions are looked at again, and there is the expiry: `everywire.sessions.expiry`.

A poll has no pings: whoever holds it ends it in time.
"""

from __future__ import annotations

import math
import random
from typing import Final

from everywire.codecs.centrifuge.messages import Push, Tick
from everywire.core import codes
from everywire.sessions.expiry import check_expiry, look_again
from everywire.sessions.line import POLL, Line
from everywire.sessions.pushes import framed_ping

__all__ = ["await_connect", "heard", "keep_alive", "ping_s", "run_due"]

_BEAT_S: Final = 25.0
"""How often a session without pings is looked at."""


def await_connect(line: Line) -> None:
    """Begin: the connect command has to come in time."""
    line.connect_due_s = line.now_s() + line.shared.limits.connect_timeout_s
    line.arm()


def ping_s(line: Line) -> int:
    """Return the interval of the protocol's pings that the client is told; 0 if there are none."""
    if line.transport == POLL or line.carrier.dialect.has_own_pings:
        return 0
    interval_s = line.shared.limits.ping_interval_s
    return max(round(interval_s), 1) if interval_s else 0


def keep_alive(line: Line, ticks: int) -> None:
    """Go on after the connect reply."""
    limits = line.shared.limits
    line.connect_due_s = math.inf
    now_s = line.now_s()
    line.checked_s = now_s
    if line.transport != POLL:
        line.ping_due_s = now_s + _beat_s(line) * random.uniform(0.5, 1.0)
    if ticks > 0 and line.transport != POLL:
        line.ticks = line.ticks_left = min(ticks, limits.max_ticks)
        line.tick_due_s = now_s + limits.tick_interval_s
    line.arm()


def heard(line: Line) -> None:
    """Take a sign of life."""
    line.pong_due_s = math.inf  # the deadline that is armed finds nothing to do


def run_due(line: Line) -> None:
    """Do what is due."""
    now_s = line.now_s()
    if now_s >= line.connect_due_s:
        line.end(codes.STALE)
    if now_s >= line.pong_due_s and not line.is_ended:
        _miss_pong(line, now_s)
    if now_s >= line.tick_due_s and not line.is_ended:
        _tick(line, now_s)
    if now_s >= line.ping_due_s and not line.is_ended:
        _ping(line, now_s)
    if now_s >= line.expiry_due_s and not line.is_ended:
        check_expiry(line)


def _beat_s(line: Line) -> float:
    return line.shared.limits.ping_interval_s or _BEAT_S


def _ping(line: Line, now_s: float) -> None:
    limits = line.shared.limits
    line.ping_due_s = now_s + _beat_s(line)
    if limits.ping_interval_s and not line.is_stalled:
        dialect = line.carrier.dialect
        if dialect.has_own_pings:
            line.carrier.beat()
        else:
            line.write_push(framed_ping(dialect, line.carrier.framing))
            if not dialect.is_one_way and line.pong_due_s == math.inf:
                line.pong_due_s = now_s + limits.pong_timeout_s
    if not line.is_ended and now_s - line.checked_s >= limits.recheck_s:
        line.checked_s = now_s
        look_again(line)


def _miss_pong(line: Line, now_s: float) -> None:
    if line.is_stalled or line.is_paused:
        # The ping, or the answer, is behind other bytes. Who takes none at all is ended by the hub.
        line.pong_due_s = now_s + line.shared.limits.pong_timeout_s
    else:
        line.end(codes.NO_PONG)


def _tick(line: Line, now_s: float) -> None:
    line.ticks_left -= 1
    more = line.ticks_left > 0
    line.tick_due_s = now_s + line.shared.limits.tick_interval_s if more else math.inf
    line.push(Push(tick=Tick(n=line.ticks - line.ticks_left)))
