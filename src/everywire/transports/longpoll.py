"""Long polling: the same page as a poll, held until there is something or the time is over.

All that wait at one position are one group of the hub: the answer is encoded once, and each
is written the same bytes. Deadlines are kept in the hub's wheel, not in timers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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

__all__ = ["DEFAULT_WAIT_S", "serve_long_poll"]

DEFAULT_WAIT_S: Final = 25.0
"""How long ``?transport=long-poll`` waits without ``wait=``."""


def serve_long_poll(ask: Ask) -> None:
    """Answer when something is published after the position, or when the time is over."""
    waiting = LongPoll(ask)
    ask.exchange.attend(waiting, ask.transport)
    hub = ask.service.hub
    query = ask.query
    encoder = PAGE[ask.has_several]
    reader = hub.reader(ask.channels, encoder, waiting.framing, waiting, max_publications=query.limit)
    waiting.reader = reader
    hub.open(reader, ask.start or LATEST)
    if not reader.is_closed:
        wait_s = DEFAULT_WAIT_S if query.wait_s is None else query.wait_s
        deadlines = hub.deadlines
        # The wheel's own time is old by one tick at most.
        due_s = deadlines.now_s + deadlines.resolution_s + wait_s
        waiting.deadline = deadlines.arm(waiting, due_s, LongPoll.time_is_over)


class LongPoll:
    """One waiting request: the exchange's driver and the hub's subscriber."""

    __slots__ = ("_ask", "deadline", "exchange", "framing", "position", "reader")

    reader: Reader

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.exchange = ask.exchange
        self.framing: Framing = ask.exchange.response_framing(200, json_headers(ask.cors))
        self.deadline: Slot | None = None
        self.position = ""

    def send(self, framed: Any) -> int:
        """Give the answer; the host takes it whole."""
        self.write(framed)
        return len(framed)

    def write(self, framed: Any, /) -> None:
        """Give the answer."""
        self._disarm()
        self.exchange.note(self.reader.delivered)
        self.exchange.answer(framed)

    def _disarm(self) -> None:
        deadline = self.deadline
        if deadline is not None:
            self.deadline = None
            self._ask.service.hub.deadlines.disarm(self, deadline)

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
        self._disarm()
        refuse(self.exchange, EverywireError(code=code), self._ask.cors)

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is one write."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Stop waiting."""
        self._disarm()
        self.reader.close()

    def drain(self, retry_ms: int) -> None:
        """Answer with the position: whoever comes back finds the next server."""
        if not self.position:
            self.reader.close()
            self.ended(codes.BUSY, None)
            return
        self._disarm()
        position = self._standing()
        self.reader.close()
        headers = (*json_headers(self._ask.cors), (b"retry-after", b"%d" % (retry_ms // 1000 + 1)))
        body = PAGE[self._ask.has_several].page((), position)
        self.exchange.respond(200, headers, body)
