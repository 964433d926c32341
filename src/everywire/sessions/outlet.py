"""What a session tells its client, and how much of it may wait.

Replies to the commands of one batch are joined into one write. A subscription's reader is opened right
after its reply was written, so that no publication comes before it; it begins at the offset that the reply
told, so that nothing falls between. Publications themselves go from the hub to the carrier without passing
here. What is no publication waits in the carrier while the client does not read, and is counted: beyond
`Limits.max_session_queue_bytes` no command is begun any more, and pushes beyond twice as much end the
session (3008).
"""

from __future__ import annotations

from typing import Any, Final

from everywire.codecs.centrifuge.messages import Push, Reply
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.sessions.answers import ENDS, as_end, error_reply
from everywire.sessions.carrier import Carrier
from everywire.sessions.pushes import framed_bytes
from everywire.sessions.shared import Shared
from everywire.sessions.subscription import Subscription

__all__ = ["Outlet"]

_JOINED_REPLIES: Final = 16
"""Replies in one write, as the reference server has it."""


class Outlet:
    """The way to the client of one session."""

    __slots__ = (
        "_opening",
        "_out",
        "carrier",
        "has_news",
        "is_ended",
        "is_joining",
        "is_stalled",
        "queued_bytes",
        "shared",
        "subscriptions",
    )

    has_news: bool
    """Whether anything was told but the connect reply and subscribe replies with nothing missed: then a
    carrier that polls answers at once. Set before `Carrier.write` is called; what comes by `Carrier.send`
    is news anyhow."""
    is_ended: bool
    """Whether its life is over."""

    def __init__(self, shared: Shared, carrier: Carrier) -> None:
        self.shared = shared
        self.carrier: Carrier = carrier
        self.subscriptions: dict[str, Subscription] = {}
        self.has_news = self.is_ended = False
        self.is_stalled = self.is_joining = False
        self.queued_bytes = 0
        self._out: list[Reply] = []
        self._opening: list[Subscription] = []

    def end(self, code: Code, reason: str = "") -> None:
        """End the session, and tell the client why; the session's."""
        raise NotImplementedError

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

    def write_last(self) -> None:
        """Write the replies that there are; what they would open is not read any more."""
        self._opening = []
        if self._out:
            self.write_replies()

    def forget_replies(self) -> None:
        """Let go of what was not written."""
        self._out = []
        self._opening = []
