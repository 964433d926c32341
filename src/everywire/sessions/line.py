"""A session's line to its client: who is at the other end, what is told, and how much of that may wait.

Replies to the commands of one batch are joined into one write. A subscription's reader is opened right
after its reply was written, so that no publication comes before it; it begins at the offset that the reply
told, so that nothing falls between. Publications themselves go from the hub to the carrier without passing
here. What is no publication waits in the carrier while the client does not read, and is counted: beyond
`Limits.max_session_queue_bytes` no command is begun any more, and pushes beyond twice as much end the
session (3008).

`Line` is what the parts of a session work on; `everywire.sessions.session.Session` is one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.access.quotas import Admission
from everywire.codecs.centrifuge.messages import ClientInfo, Command, Empty, Push, Reply, Unsubscribe
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.publication import Gap
from everywire.core.wheel import Slot
from everywire.sessions.answers import ENDS, as_end, error_reply, field
from everywire.sessions.asking import asked
from everywire.sessions.carrier import Carrier
from everywire.sessions.lanes import Lanes
from everywire.sessions.pushes import framed_bytes, framed_presence
from everywire.sessions.shared import Shared
from everywire.sessions.subscription import Subscription

__all__ = ["POLL", "Line"]

POLL: Final = "poll"
"""The transport whose every request is a session: it has no pings, and outlives them in presence."""

_JOINED_REPLIES: Final = 16
"""Replies in one write, as the reference server has it."""


class Line:
    """The state of one session, and the way to its client."""

    __slots__ = (
        "__weakref__",
        "_opening",
        "_out",
        "admission",
        "backlog",
        "backlog_bytes",
        "can_refresh",
        "carrier",
        "checked_s",
        "client",
        "connect_due_s",
        "delivered",
        "expiry_due_s",
        "has_news",
        "identity",
        "info",
        "is_connected",
        "is_ended",
        "is_entered",
        "is_failed",
        "is_forewarned",
        "is_introduced",
        "is_joining",
        "is_paused",
        "is_publishing_held",
        "is_stalled",
        "lanes",
        "memo",
        "on_idle",
        "pending",
        "pending_bytes",
        "ping_due_s",
        "pong_due_s",
        "queued_bytes",
        "request",
        "session_id",
        "shared",
        "slot",
        "slot_s",
        "subscriptions",
        "tick_due_s",
        "ticks",
        "ticks_left",
        "transport",
        "turn",
        "wait_s",
    )

    identity: Identity
    """Whom its credential proved; `NOBODY` before it is connected."""
    client: str
    """The client id, a UUID; empty before it is connected."""
    session_id: str
    """The secret by which commands that come by other requests find it; empty where there are none."""
    transport: str
    """The wire that carries it."""
    has_news: bool
    """Whether anything was told but the connect reply and subscribe replies with nothing missed: then a
    carrier that polls answers at once. Set before `Carrier.write` is called; what comes by `Carrier.send`
    is news anyhow."""
    on_idle: Callable[[], None] | None
    """Called whenever every command that came was answered and nothing is pending (a carrier that polls)."""
    wait_s: float
    """How long a carrier that polls is going to hold its request."""
    memo: Any
    """What the application keeps with this session; None at first."""
    is_ended: bool
    """Whether its life is over."""

    def __init__(self, shared: Shared, carrier: Carrier, request: AuthRequest) -> None:
        self.shared = shared
        self.carrier: Carrier = carrier
        self.transport = carrier.transport
        self.request = request
        self.identity = NOBODY
        self.client = self.session_id = ""
        self.info = ClientInfo()
        self.memo = None
        self.on_idle = None
        self.wait_s = 0.0
        self.has_news = False
        # Its life: asked for nothing yet, failed to connect, connected, ended.
        self.is_connected = self.is_failed = self.is_ended = False
        self.is_introduced = self.is_entered = False
        self.admission: Admission | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.turn = 0
        self.delivered = 0
        # What comes in.
        self.backlog: deque[Command] = deque()
        self.pending = self.pending_bytes = self.backlog_bytes = 0
        self.is_paused = self.is_publishing_held = False
        self.lanes: Lanes | None = None
        # What goes out.
        self.is_stalled = False
        self.queued_bytes = 0
        self._out: list[Reply] = []
        self._opening: list[Subscription] = []
        self.is_joining = False
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

    # -- replies ---------------------------------------------------------------------

    def join_replies(self) -> None:
        """Write no reply before `flush`."""
        self.is_joining = True

    def reply(self, reply: Reply, *, is_news: bool = True, is_large: bool = False) -> None:
        """Answer a command. A large answer is written at once, and counted before the next is made."""
        if self.is_ended:
            return
        if is_news:
            self.has_news = True
        self._out.append(reply)
        is_due = is_large or self.is_stalled or len(self._out) >= _JOINED_REPLIES
        if is_due or not self.is_joining:
            self.write_replies()

    def reply_and_open(self, reply: Reply, subscription: Subscription, *, is_news: bool) -> None:
        """Answer a subscribe command, and read once the answer was written."""
        self._opening.append(subscription)
        is_large = reply.subscribe is not None and bool(reply.subscribe.publications)
        self.reply(reply, is_news=is_news, is_large=is_large)

    def fail(self, command_id: int, error: EverywireError) -> None:
        """Answer a command with an error, or end the session when that is what the error says."""
        if error.code.number >= ENDS:
            self.end(error.code, error.sentence)
        elif self.carrier.dialect.is_one_way:
            self.end(as_end(error), error.sentence)
        else:
            self.shared.counters.errors += 1
            self.reply(Reply(id=command_id, error=error_reply(error)))

    def flush(self) -> None:
        """Write the replies that were joined."""
        self.is_joining = False
        if self._out:
            self.write_replies()

    def write_replies(self) -> None:
        """Write the replies that there are, and read what they open."""
        replies, self._out = self._out, []
        opening, self._opening = self._opening, []
        self._write(self.carrier.dialect.payload(replies))
        for subscription in opening:
            # Of those that were unsubscribed in the same batch, nothing is read any more.
            if not self.is_ended and self.subscriptions.get(subscription.channel) is subscription:
                subscription.open(self.shared.hub)

    # -- pushes ----------------------------------------------------------------------

    def push(self, push: Push) -> None:
        """Tell what nobody asked for."""
        if self.is_ended:
            return
        if self._out:
            self.write_replies()
        self.has_news = True
        self._write_push(self.carrier.framing.frame(self.carrier.dialect.push(push)))

    def write_push(self, framed: Any) -> None:
        """Write a framed push that many are told, or a ping."""
        if self._out:
            self.write_replies()
        self._write_push(framed)

    def _write_push(self, framed: Any) -> None:
        if self.is_ended:
            return
        self._write_framed(framed)
        if self.queued_bytes > 2 * self.shared.limits.max_session_queue_bytes:
            self.end(codes.SLOW)

    def _write(self, payload: Any) -> None:
        if not self.is_ended:
            self._write_framed(self.carrier.framing.frame(payload))

    def _write_framed(self, framed: Any) -> None:
        if self.is_stalled:
            self.queued_bytes += framed_bytes(framed)
        self.carrier.write(framed)

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the client to read that no command is begun any more."""
        return self.is_stalled and self.queued_bytes > self.shared.limits.max_session_queue_bytes

    # -- what subscriptions ask (Home) --------------------------------------------------

    def note_news(self) -> None:
        """Hear that the client is about to be told something."""
        self.has_news = True

    def lost(self, subscription: Subscription, code: Code, gap: Gap | None) -> None:
        """Tell the client that a subscription has come to an end that nobody wished."""
        if self.is_ended:
            return
        if code in (codes.STALE, codes.SLOW):
            # The peer may only sleep: it may come back.
            self.end(codes.SLOW)
        elif subscription.is_server_side:
            self.end(codes.INSUFFICIENT_STATE if gap is not None else codes.SERVER_ERROR)
        else:
            self.push_unsubscribe(subscription, codes.SUBSCRIPTION_GAP)

    def push_unsubscribe(self, subscription: Subscription, code: Code) -> None:
        """End an open subscription, and tell the client."""
        self.drop(subscription)
        told = Unsubscribe(code=code.number, reason=code.sentence)
        self.push(Push(channel=subscription.channel, unsubscribe=told))

    def drop(self, subscription: Subscription) -> None:
        """End a subscription without a word. The place is free for another one of the channel."""
        if self.subscriptions.get(subscription.channel) is subscription:
            del self.subscriptions[subscription.channel]
        self._close(subscription)
        if subscription.is_open:
            self.shared.presence.leave(subscription.channel, self.client)

    def drop_all(self) -> None:
        """End all subscriptions without a word."""
        for subscription in tuple(self.subscriptions.values()):
            self.drop(subscription)

    def _close(self, subscription: Subscription) -> None:
        self.delivered += subscription.close()
        if subscription.is_listening:
            subscription.is_listening = False
            self.shared.presence.unlisten(subscription.channel, subscription)

    def tell_presence(self, subscription: Subscription, push: Push) -> None:
        """Push a join or a leave. While the client does not read, they may take half of what waits; what
        does not fit is told as one change."""
        if self.is_ended or not subscription.is_open:
            return
        if self.is_stalled and self.queued_bytes > self.shared.limits.max_session_queue_bytes // 2:
            subscription.is_unsaid = True
            self.shared.counters.presence_dropped += 1
            return
        self.has_news = True
        carrier = self.carrier
        self.write_push(framed_presence(carrier.dialect, carrier.framing, push))

    def presence_changed(self, subscription: Subscription) -> None:
        """Have the client read again who is in the channel."""
        if self.is_ended or not subscription.is_open:
            return
        if self.is_stalled:
            subscription.is_unsaid = True
        elif not self.carrier.dialect.is_binary:
            # An extension of ours, which other clients ignore: to have all of a crowd subscribe again
            # whenever somebody comes or goes would do more harm than an old list.
            self.push(Push(channel=subscription.channel, presence_changed=Empty()))

    def say_unsaid(self) -> None:
        """Tell what could not be told of presence while the client did not read: it subscribes again, and
        reads the list; where the server subscribed it, it can only be told."""
        for subscription in [one for one in self.subscriptions.values() if one.is_unsaid]:
            subscription.is_unsaid = False
            if subscription.is_server_side:
                self.presence_changed(subscription)
            elif not self.is_ended:
                self.push_unsubscribe(subscription, codes.SUBSCRIPTION_GAP)

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
        self._opening = []
        if self._out:
            self.write_replies()
        self._end(code, reason)

    def _end(self, code: Code, reason: str) -> None:
        if self.is_ended:
            return  # while it was written to, the carrier found out that the peer is gone
        carrier = self.carrier
        self.release(code)
        carrier.note(self.delivered, code)
        carrier.close(code, reason or code.sentence)

    def release(self, code: Code | None) -> None:
        """Let go of everything."""
        self.is_ended = True
        shared = self.shared
        if self.slot is not None:
            shared.hub.deadlines.disarm(self, self.slot)
            self.slot = None
        subscriptions, self.subscriptions = self.subscriptions, {}
        for subscription in subscriptions.values():
            self._close(subscription)
            if subscription.is_open and self.transport != POLL:
                shared.presence.leave(subscription.channel, self.client)
        if self.is_entered:
            shared.registry.leave(self)
        if self.admission is not None:
            self.admission.release()
            self.admission = None
        if self.lanes is not None:
            self.lanes.close()
            self.lanes = None
        shared.quotas.forget(self)
        self.on_idle = None
        self.backlog.clear()
        self._out = []
        self._opening = []
        if self.is_introduced:
            self.say_goodbye(code)

    def say_goodbye(self, code: Code | None) -> None:
        """Tell the application, which was told that the session began, that it ended."""
        hook = self.shared.hooks.disconnect
        if hook is None:
            return
        timeout_s = self.shared.limits.hook_timeout_s

        async def tell() -> None:
            await asked("the disconnect hook", hook(self, code), timeout_s)

        self.shared.tasks.start(tell(), "the disconnect hook")
