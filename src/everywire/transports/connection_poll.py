"""Sessions over polling and long polling: ``POST /connection/poll?wait=25``.

Ours, and written down in ``docs/protocol-sessions.md``. Each request is a session of its own life: its body
brings connect, the channels with their positions, and any other commands; the answer is all that is told
until it is given. It is given as soon as every command was answered and there is news, or when the time is
over. What is written meanwhile is collected, so that a session does not know that it is carried so; when too
much is, publications wait in the log, where the next request finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import Command, Disconnect, Push
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError
from everywire.core.wheel import Slot
from everywire.hub.interfaces import Framing
from everywire.sessions.dialect import Dialect
from everywire.sessions.dialects import POLL_JSON, POLL_PROTOBUF
from everywire.sessions.session import Session
from everywire.transports.connection_asked import Asked, wants_protobuf
from everywire.transports.connection_stream import BINARY_TYPE, LINES_TYPE
from everywire.transports.service import refuse, stream_headers
from everywire.transports.target import wait_seconds

__all__ = ["PollCarrier", "serve_poll"]

_RETRY_SOON_S: Final = 1
_RETRY_S: Final = 2
"""When to ask again after an answer that was not waited for, with news in it and without."""


class Collected:
    """The framing of what is collected: bytes as they are."""

    def frame(self, payload: Any) -> Any:
        """Return the payload."""
        return payload


_COLLECTED: Final = Collected()


def serve_poll(asked: Asked) -> None:
    """Take the commands, and answer when there is something to tell."""
    auth = asked.auth()
    wait_s = wait_seconds(auth.query.get("wait"), asked.service.limits) or 0.0
    dialect = POLL_PROTOBUF if wants_protobuf(asked) else POLL_JSON
    carrier = PollCarrier(asked, dialect, wait_s)

    def take(body: bytes) -> None:
        try:
            commands = dialect.commands(body, asked.service.limits.max_batch_commands)
            if commands[0].connect is None:
                raise BadRequest("the first command is connect")
        except EverywireError as error:
            refuse(asked.exchange, error, asked.cors)
        else:
            carrier.begin(auth, commands)

    asked.exchange.read_body(asked.service.limits.max_body_bytes, take)


class PollCarrier:
    """One request that carries a session for as long as it is held: the exchange's driver."""

    __slots__ = (
        "_asked",
        "_deadline",
        "_has_sent",
        "_is_answered",
        "_is_looking",
        "_is_over",
        "_last",
        "_parts",
        "_retry_s",
        "_size",
        "_wait_s",
        "dialect",
        "exchange",
        "session",
    )

    transport = "poll"
    is_emulated = False
    framing: Framing = _COLLECTED

    def __init__(self, asked: Asked, dialect: Dialect, wait_s: float) -> None:
        self._asked = asked
        self._wait_s = wait_s
        self._deadline: Slot | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._has_sent = self._is_looking = self._is_answered = False
        self._is_over = not wait_s
        self._retry_s: int | None = None
        self.session: Session | None = None
        self.dialect = dialect
        self.exchange = asked.exchange
        asked.exchange.attend(self, "long-poll" if wait_s else "poll")

    def begin(self, auth: AuthRequest, commands: Sequence[Command]) -> None:
        """Begin the session, and hold the request for as long as it may take."""
        session = self.session = Session(self._asked.service.shared, self, auth)
        session.on_idle = self._look_soon
        session.wait_s = self._wait_s
        if not self._is_over:
            deadlines = self._asked.service.hub.deadlines
            # The wheel's own time is old by one tick at most.
            due_s = deadlines.now_s + deadlines.resolution_s + self._wait_s
            self._deadline = deadlines.arm(self, due_s, PollCarrier._time_is_over)
        session.receive(commands)

    def _time_is_over(self) -> None:
        self._deadline = None
        self._is_over = True
        self._look()

    # -- when to answer ------------------------------------------------------------------

    def _look_soon(self) -> None:
        """See in the next turn whether to answer: what is told in this one goes along."""
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._is_looking = False
        session = self.session
        if session is None or self._is_answered:
            return
        if session.is_idle:
            if self._is_over or self._has_sent or session.has_news:
                has_news = self._has_sent or session.has_news
                session.gone("answered")
                self._answer(has_news)
        elif session.is_full:
            session.disconnect(codes.SLOW, "this is more than one answer holds; ask for less at a time")

    def _answer(self, has_news: bool) -> None:
        self._end()
        content_type = BINARY_TYPE if self.dialect.is_binary else LINES_TYPE
        headers = list(stream_headers(content_type, self._asked.cors))
        retry_s = self._retry_s
        if retry_s is None and not self._wait_s:
            retry_s = _RETRY_SOON_S if has_news else _RETRY_S
        if retry_s is not None:
            headers.append((b"retry-after", b"%d" % retry_s))
        parts, self._parts = self._parts, []
        self.exchange.respond(200, headers, b"".join(parts))

    def _end(self) -> None:
        self._is_answered = True
        if self._deadline is not None:
            self._asked.service.hub.deadlines.disarm(self, self._deadline)
            self._deadline = None

    # -- what the session asks (Carrier) ----------------------------------------------

    def send(self, framed: Any) -> int:
        """Collect publications."""
        self._has_sent = True
        self._collect(framed)
        self._look_soon()
        return len(framed)

    def write(self, framed: Any, /) -> None:
        """Collect replies and pushes, and publications that came from the log."""
        self._collect(framed)
        self._look_soon()

    def _collect(self, framed: bytes) -> None:
        if self._is_answered:
            return
        self._parts.append(framed)
        self._size += len(framed)
        if self._size > self._asked.service.limits.max_write_bytes and self.session is not None:
            self.session.stalled()

    def beat(self) -> None:
        """Do nothing: a poll is a sign of life itself."""

    def close(self, code: Code, reason: str) -> None:
        """Say why in the last line, and answer."""
        told = Push(disconnect=Disconnect(code=code.number, reason=reason))
        self._parts.append(self.dialect.push(told))
        self._answer(has_news=True)

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Note for the log line how many publications went out, and why it ended."""
        self.exchange.note(messages_out, code)

    def pause_reading(self) -> None:
        """Do nothing: all commands are here."""

    def resume_reading(self) -> None:
        """Do nothing."""

    # -- what the host tells -------------------------------------------------------------

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is one write."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Stop waiting."""
        self._end()
        if self.session is not None:
            self.session.gone(reason)

    def drain(self, retry_ms: int) -> None:
        """Answer with what there is; whoever comes back finds the next server."""
        self._retry_s = retry_ms // 1000 + 1
        self._is_over = True
        self._look()
