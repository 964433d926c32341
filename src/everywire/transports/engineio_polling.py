"""Engine.IO over polling: GETs that wait for packets, POSTs that bring some.

A poll that its client cancels ends the connection, and so does a POST that ends halfway: whether it arrived
nobody could say. What is above ``max_payload`` is answered 413, before it is read where its length is said.

Answers to python-engineio's clients have at most 16 packets: these refuse payloads of more, and what is left
comes with the next poll.
"""

from __future__ import annotations

import re
import sys
from typing import Final, NamedTuple

from everywire.codecs.engineio.jsonp import decode_jsonp_form, encode_jsonp
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.sockets.engine import Engine
from everywire.transports.engineio_answers import (
    ErrorCode,
    answer_payload,
    answer_script,
    answer_taken,
    refuse,
    refuse_error,
)
from everywire.transports.exchange import Exchange, Request
from everywire.transports.gate import Cors

__all__ = ["Asked", "WaitingPoll", "give", "max_post_bytes", "take_payload"]

_PYTHON: Final = re.compile(r"python|aiohttp", re.IGNORECASE)
_PYTHON_PACKETS: Final = 16
_BINARY_TYPE: Final = "application/octet-stream"
_FORM_FACTOR: Final = 3
"""How much larger a payload can be as a form: every byte as ``%XX``."""


class Asked(NamedTuple):
    """What a request that passed all checks comes down to."""

    exchange: Exchange
    cors: Cors
    protocol: int
    sid: str | None
    script: str | None
    """The index of a JSONP callback, checked; None for any other poll."""
    is_base64: bool
    """Whether the client cannot take binary frames (version 3)."""


def max_packets(request: Request) -> int:
    """Return how many packets a client takes in one answer."""
    agent = request.header(b"user-agent")
    return _PYTHON_PACKETS if agent and _PYTHON.search(agent) else sys.maxsize


def give(asked: Asked, payload: bytes, *, binary: bool = False) -> None:
    """Answer a poll with a payload."""
    if asked.script is None:
        answer_payload(asked.exchange, payload, asked.cors, binary=binary)
    else:
        answer_script(asked.exchange, encode_jsonp(asked.script, payload), asked.cors)


class WaitingPoll:
    """A GET that waits: the exchange's driver, and the connection's `Poll`."""

    __slots__ = ("_answered", "_asked", "_engine", "max_packets")

    def __init__(self, asked: Asked, engine: Engine, transport: str) -> None:
        self._asked = asked
        self._engine: Engine | None = engine
        self._answered: Engine | None = None
        self.max_packets = max_packets(asked.exchange.request)
        asked.exchange.attend(self, transport)

    # -- what the connection asks (Poll) -------------------------------------------------

    @property
    def is_text(self) -> bool:
        """Whether the client can take nothing but text: a script."""
        return self._asked.script is not None

    def answer(self, payload: bytes, *, binary: bool = False) -> None:
        """Answer with a payload of text, or of bytes."""
        self._answered, self._engine = self._engine, None
        give(self._asked, payload, binary=binary)

    def refuse(self) -> None:
        """Answer that this is a bad request."""
        self._engine = None
        refuse(self._asked.exchange, ErrorCode.BAD_REQUEST, self._asked.cors)

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note for the log line."""
        self._asked.exchange.note(messages_out, code)

    # -- what the host tells (Driver) ----------------------------------------------------

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is one write."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Hear that the poll was cancelled."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.lose_poll(self)

    def drain(self, retry_ms: int) -> None:
        """Hear that the server stops."""
        if self._engine is not None:
            self._engine.drain(retry_ms)

    def unheard(self) -> None:
        """Hear that the node broke down that was to give the answer: the client comes back as if it had been
        cut off, and then hears what it missed."""
        if self._answered is not None:
            self._answered.lose_answer()

    def release(self) -> None:
        """Hear that the node stops that carries the answer to the client: it asks again elsewhere."""
        if self._engine is not None:
            self._engine.release_poll()


def max_post_bytes(max_payload: int, *, is_form: bool) -> int:
    """Return how large the body of a POST may be."""
    return max_payload * _FORM_FACTOR if is_form else max_payload


def take_payload(asked: Asked, engine: Engine, transport: str) -> None:
    """Read a POST, and hand over its packets."""
    exchange = asked.exchange
    max_payload = engine.options.max_payload
    is_form = asked.script is not None
    max_bytes = max_post_bytes(max_payload, is_form=is_form)
    length = exchange.request.headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > max_bytes:
        _refuse_large(asked, max_payload)
        return
    content_type = (exchange.request.header(b"content-type") or "").partition(";")[0].strip().lower()
    post = _TakenPost(asked, engine, is_form)
    if not engine.begin_post(post):
        return
    exchange.attend(post, transport)

    def take(body: bytes) -> None:
        payload = decode_jsonp_form(body) if is_form else body
        if len(payload) > max_payload:
            post.is_read = True
            _refuse_large(asked, max_payload)
            engine.lose_post()
        else:
            post.take(payload, binary=content_type == _BINARY_TYPE)

    exchange.read_body(max_bytes, take)


def _refuse_large(asked: Asked, max_payload: int) -> None:
    error = EverywireError(f"a payload is at most {max_payload} bytes", code=codes.TOO_LARGE)
    refuse_error(asked.exchange, error, asked.cors)


class _TakenPost:
    """A POST: the exchange's driver, and the connection's `Post`."""

    __slots__ = ("_asked", "_engine", "_is_form", "is_read")

    def __init__(self, asked: Asked, engine: Engine, is_form: bool) -> None:
        self._asked = asked
        self._engine: Engine | None = engine
        self._is_form = is_form
        self.is_read = False
        """Whether all of it is here."""

    def take(self, payload: bytes, *, binary: bool) -> None:
        """Hand over the payload."""
        self.is_read = True
        if self._engine is not None:
            self._engine.take_post(payload, self, binary=binary)

    # -- what the connection asks (Post) -------------------------------------------------

    def accept(self) -> None:
        """Answer ``ok``."""
        self._engine = None
        answer_taken(self._asked.exchange, self._asked.cors, is_form=self._is_form)

    def refuse(self) -> None:
        """Answer that this is a bad request."""
        self._engine = None
        refuse(self._asked.exchange, ErrorCode.BAD_REQUEST, self._asked.cors)

    # -- what the host tells (Driver) ----------------------------------------------------

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is one write."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Hear that nobody waits for the answer. What arrived as a whole is taken all the same."""
        if not self.is_read and self._engine is not None:
            engine, self._engine = self._engine, None
            engine.lose_post()

    def drain(self, retry_ms: int) -> None:
        """Let the answer, which is on its way, be given."""
