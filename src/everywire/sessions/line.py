"""A session's line to its client: who is at the other end, what is under way, and how it ends.

`Line` is the state that the parts of a session work on; `everywire.sessions.session.Session` is one. All
that a session has taken from others (readers, a deadline, a place among visitors, members and connections,
lanes) is given back in one place: `Line.release`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.access.quotas import FREE, Admission
from everywire.codecs.centrifuge.messages import ClientInfo, Command
from everywire.core.codes import Code
from everywire.core.wheel import Slot
from everywire.sessions.answers import field
from everywire.sessions.asking import asked
from everywire.sessions.carrier import Carrier
from everywire.sessions.departed import DEPARTED
from everywire.sessions.holding import Holder
from everywire.sessions.lanes import Lanes
from everywire.sessions.shared import Shared

__all__ = ["POLL", "Line"]

POLL: Final = "poll"
"""The transport whose every request is a session: it has no pings, and outlives them in presence."""


class Line(Holder):
    """The state of one session, and the way to its client."""

    __slots__ = (
        "__weakref__",
        "admission",
        "backlog",
        "backlog_bytes",
        "can_refresh",
        "checked_s",
        "connect_due_s",
        "expiry_due_s",
        "identity",
        "info",
        "is_connected",
        "is_entered",
        "is_failed",
        "is_forewarned",
        "is_introduced",
        "is_paused",
        "is_publishing_held",
        "lanes",
        "memo",
        "on_idle",
        "pending",
        "pending_bytes",
        "ping_due_s",
        "pong_due_s",
        "request",
        "session_id",
        "slot",
        "slot_s",
        "tick_due_s",
        "ticks",
        "ticks_left",
        "transport",
        "turn",
        "wait_s",
    )

    identity: Identity
    """Whom its credential proved; `NOBODY` before it is connected."""
    session_id: str
    """The secret by which commands that come by other requests find it; empty where there are none."""
    transport: str
    """The wire that carries it."""
    on_idle: Callable[[], None] | None
    """Called whenever every command that came was answered and nothing is pending (a carrier that polls)."""
    wait_s: float
    """How long a carrier that polls is going to hold its request."""
    memo: Any
    """What the application keeps with this session; None at first."""

    def __init__(self, shared: Shared, carrier: Carrier, request: AuthRequest) -> None:
        super().__init__(shared, carrier)
        self.transport = carrier.transport
        self.request = request
        self.identity = NOBODY
        self.session_id = ""
        self.info = ClientInfo()
        self.memo = None
        self.on_idle = None
        self.wait_s = 0.0
        # Its life: asked for nothing yet, failed to connect, connected, ended.
        self.is_connected = self.is_failed = False
        self.is_introduced = self.is_entered = False
        self.admission: Admission | None = None
        self.turn = 0
        # What comes in.
        self.backlog: list[Command] = []  # an empty deque takes ten times as much
        self.pending = self.pending_bytes = self.backlog_bytes = 0
        self.is_paused = self.is_publishing_held = False
        self.lanes: Lanes | None = None
        # The clockwork: see `everywire.sessions.keepalive`.
        self.slot: Slot | None = None
        self.slot_s = math.inf
        self.connect_due_s = self.ping_due_s = self.pong_due_s = math.inf
        self.tick_due_s = self.expiry_due_s = math.inf
        self.ticks = self.ticks_left = 0
        self.checked_s = 0.0
        self.can_refresh = self.is_forewarned = False

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.request.peer

    @property
    def channels(self) -> Iterable[str]:
        """The names of the channels it is subscribed to, or is about to be."""
        return self.subscriptions.keys()

    def set_info(self) -> None:
        """Learn from the identity what others see of this client."""
        identity = self.identity
        conn_info = field(identity.info, False)
        self.info = ClientInfo(user=identity.user, client=self.client, conn_info=conn_info)

    # -- the clockwork ---------------------------------------------------------------

    def now_s(self) -> float:
        """Return the time that deadlines go by: time in which the event loop was blocked does not count."""
        hub = self.shared.hub
        return hub.time() - hub.deadlines.lost_s

    def arm(self) -> None:
        """Have the wheel call when the next thing is due."""
        due_s = min(
            self.connect_due_s, self.ping_due_s, self.pong_due_s, self.tick_due_s, self.expiry_due_s
        )
        deadlines = self.shared.hub.deadlines
        if self.slot is not None:
            if self.slot_s <= due_s:
                return  # it is armed again when that is over
            deadlines.disarm(self, self.slot)
            self.slot = None
        if due_s < math.inf and not self.is_ended:
            self.slot_s = due_s
            self.slot = deadlines.arm(self, due_s + deadlines.lost_s, Line._is_due)

    def _is_due(self) -> None:
        self.slot = None
        self.run_due()
        if not self.is_ended:
            self.arm()

    def run_due(self) -> None:
        """Do what is due; the session's."""
        raise NotImplementedError

    # -- commands under way -------------------------------------------------------------

    def begin(self, size: int = 0) -> None:
        """Note a command that is going to be answered."""
        self.pending += 1
        self.pending_bytes += size

    def finish(self, size: int = 0) -> None:
        """Note that a command was answered, and begin what waited for it."""
        self.pending -= 1
        self.pending_bytes -= size
        if not self.is_ended:
            self.go_on()

    def go_on(self) -> None:
        """Begin what waits, if it may; the session's."""
        raise NotImplementedError

    def lane_is_free(self) -> None:
        """Hear that the work of a handler is over."""
        if self.backlog:
            self.go_on()

    def handle(self, command: Command) -> None:
        """Handle one command; the session's."""
        raise NotImplementedError

    def has_room(self, size: int = 0) -> bool:
        """Whether one more command may be under way."""
        limits = self.shared.limits
        # A call is counted by both, and a message by its lane alone.
        busy = max(self.pending, 0 if self.lanes is None else self.lanes.busy)
        if not busy:
            return True
        return busy < limits.max_pending_commands and self.pending_bytes + size <= limits.max_pending_bytes

    # -- the end ----------------------------------------------------------------------

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End a subscription by order of the server; the session's."""
        raise NotImplementedError

    def disconnect(self, code: Code, reason: str = "") -> None:
        """End the session, telling the client why."""
        self.end(code, reason)

    def end(self, code: Code, reason: str = "") -> None:
        """End the session, and tell the client why."""
        if self.is_ended:
            return
        self.write_last()
        self._end(code, reason)

    def _end(self, code: Code, reason: str) -> None:
        if self.is_ended:
            return  # while it was written to, the carrier found out that the peer is gone
        self.release(code).close(code, reason or code.sentence)

    def release(self, code: Code | None) -> Carrier:
        """Let go of everything; return the carrier."""
        self.is_ended = True
        carrier, self.carrier = self.carrier, DEPARTED
        shared = self.shared
        if self.slot is not None:
            shared.hub.deadlines.disarm(self, self.slot)
            self.slot = None
        subscriptions, self.subscriptions = self.subscriptions, {}
        for subscription in subscriptions.values():
            self.close(subscription)
            if subscription.is_open and self.transport != POLL:
                shared.presence.leave(subscription.channel, self.client)
        if self.is_entered:
            shared.registry.leave(self)
            shared.quotas.forget(self)
        admission, self.admission = self.admission or FREE, None
        if self.lanes is None:
            admission.release()
        else:
            # Its place is taken as long as its handlers have work, or else whoever comes and goes quickly
            # could have any number of them at work.
            self.lanes.close(admission.release)
            self.lanes = None
        self.on_idle = None
        self.backlog.clear()
        self.forget_replies()
        carrier.note(self.delivered, code)
        if self.is_introduced:
            self.say_goodbye(code)
        return carrier

    def say_goodbye(self, code: Code | None) -> None:
        """Tell the application, which was told that the session began, that it ended."""
        hook = self.shared.hooks.disconnect
        if hook is None:
            return
        timeout_s = self.shared.limits.hook_timeout_s

        async def tell() -> None:
            await asked("the disconnect hook", hook(self, code), timeout_s)

        self.shared.tasks.start(tell(), "the disconnect hook")
