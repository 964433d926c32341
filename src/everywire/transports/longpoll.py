"""Long polling: the same page as a poll, held until there is something or the time is over.

All that wait at one position are one group of the hub: the answer is encoded once, and each
is written the same bytes. Deadlines are kept in the hub's wheel, not in timers of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from everywire.access.identity import Identity
from everywire.access.quotas import FREE, Admission
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.publication import Gap
from everywire.core.wheel import Slot
from everywire.hub.interfaces import Framing
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST
from everywire.transports.encoders import PAGE
from everywire.transports.service import Ask, json_headers, refuse
from everywire.transports.stay import end_of_reading, show_life

__all__ = ["DEFAULT_WAIT_S", "serve_long_poll"]

DEFAULT_WAIT_S: Final = 25.0
"""How long ``?transport=long-poll`` waits without ``wait=``."""


def serve_long_poll(ask: Ask) -> None:
    """Answer when something is published after the position, or when the time is over."""
    waiting = LongPoll(ask, ask.service.admit(ask.identity, ask.peer))
    ask.exchange.attend(waiting, ask.transport)
    hub = ask.service.hub
    query = ask.query
    encoder = PAGE[ask.has_several]
    reader = hub.reader(ask.channels, encoder, waiting.framing, waiting, max_publications=query.limit)
    waiting.reader = reader
    wait_s = DEFAULT_WAIT_S if query.wait_s is None else query.wait_s
    identity = ask.identity
    if identity.kind:
        wait_s = waiting.enter(wait_s)
    hub.open(reader, ask.start or LATEST)
    if not reader.is_closed:
        deadlines = hub.deadlines
        # The wheel's own time is old by one tick at most.
        due_s = deadlines.now_s + deadlines.resolution_s + wait_s
        waiting.deadline = deadlines.arm(waiting, due_s, LongPoll.time_is_over)


class LongPoll:
    """One waiting request: the exchange's driver, the hub's subscriber, and a visitor if it is somebody's."""

    __slots__ = ("_admission", "_ask", "_is_visitor", "deadline", "exchange", "framing", "position", "reader")

    client = session_id = ""
    reader: Reader

    def __init__(self, ask: Ask, admission: Admission) -> None:
        self._ask = ask
        self._admission = admission
        self.exchange = ask.exchange
        self.framing: Framing = ask.exchange.response_framing(200, json_headers(ask.cors))
        self.deadline: Slot | None = None
        self.position = ""
        self._is_visitor = False

    def enter(self, wait_s: float) -> float:
        """Be found, and present if it is a user's; return how long to wait at most.

        It is answered when the credential runs out: the next request has to bring another one.
        """
        shared = self._ask.service.shared
        identity = self._ask.identity
        if identity.expires_s is not None:
            wait_s = min(wait_s, max(0.0, identity.expires_s - shared.unix_s()))
        self._is_visitor = True
        shared.registry.enter(self)
        if identity.user:
            show_life(shared, identity, self._ask.channels, wait_s)
        return wait_s

    def send(self, framed: Any) -> int:
        """Give the answer; the host takes it whole."""
        self.write(framed)
        return len(framed)

    def write(self, framed: Any, /) -> None:
        """Give the answer."""
        self._leave()
        self.exchange.note(self.reader.delivered)
        self.exchange.answer(framed)

    def _leave(self) -> None:
        if self._admission is not FREE:
            self._admission.release()
        deadline = self.deadline
        if deadline is not None:
            self.deadline = None
            self._ask.service.hub.deadlines.disarm(self, deadline)
        if self._is_visitor:
            self._is_visitor = False
            self._ask.service.shared.registry.leave(self)

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Remember where the reader stands; name channels that it did not know at once."""
        self.position = position
        if new:
            self._answer_empty(new)

    def time_is_over(self) -> None:
        """Answer with nothing but the position; with an error when the log did not say it in time."""
        self.deadline = None
        if self.position:
            self._answer_empty(())
        else:
            self.reader.close()
            self.ended(codes.BUSY, None)

    def _answer_empty(self, new: Sequence[str]) -> None:
        position = self._standing()
        self.reader.close()
        self.write(self.framing.frame(PAGE[self._ask.has_several].page((), position, new)))

    def _standing(self) -> str:
        # While it waits the reader stands at the head; a channel that came to be known since then
        # may stand elsewhere than it did at first, so the group is asked.
        group = self.reader.group
        return self.position if self.reader.cohort is None else group.position(group.heads())

    def beat(self) -> None:
        """Show no sign of life: the head of the answer was not sent yet."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Answer with the error that the log gave."""
        self._leave()
        refuse(self.exchange, EverywireError(code=code), self._ask.cors)

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is one write."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Stop waiting."""
        self._leave()
        self.reader.close()

    def drain(self, retry_ms: int) -> None:
        """Answer with the position: whoever comes back finds the next server."""
        if not self.position:
            self.reader.close()
            self.ended(codes.BUSY, None)
            return
        self._leave()
        position = self._standing()
        self.reader.close()
        headers = (*json_headers(self._ask.cors), (b"retry-after", b"%d" % (retry_ms // 1000 + 1)))
        body = PAGE[self._ask.has_several].page((), position)
        self.exchange.respond(200, headers, body)

    # -- what the registry asks and tells -------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who waits."""
        return self._ask.identity

    @property
    def channels(self) -> Iterable[str]:
        """The channels that are read."""
        return self._ask.channels

    @property
    def transport(self) -> str:
        """The wire's name."""
        return self._ask.transport

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._ask.peer

    def disconnect(self, code: Code, reason: str = "") -> None:
        """Answer with the error that the code is in HTTP."""
        if not self.reader.is_closed:
            self._leave()
            self.reader.close()
            refuse(self.exchange, EverywireError(reason, code=code), self._ask.cors)

    def unsubscribe(self, channel: str, code: Code) -> None:
        """Answer with an error: this reads all of its channels or none."""
        self.disconnect(*end_of_reading(channel, code))
