"""Messages between nodes over whatever carries bytes from one to another: broadcasts, questions, answers.

A broker gives `Post` a function that sends a frame to one node, or to all of them, and hands it what arrives.
Frames may be lost, and a lost question is one that is not answered in time. What is no frame is dropped and
counted. Questions of others are answered by tasks, of which there are so many at most; one more is refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from everywire.brokers.base import Sink
from everywire.core.errors import BrokerError, EverywireError

__all__ = ["Post"]

_MAX_ANSWERING: Final = 256
_log: Final = logging.getLogger("everywire.brokers")


class _Frame(msgspec.Struct, array_like=True, frozen=True):
    kind: str
    """``b`` broadcast, ``q`` question, ``a`` answer, ``e`` an answer that is an error's sentence."""
    node: str
    """Who sent it."""
    topic: str
    payload: bytes
    id: str = ""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Frame)

Send = Callable[[str | None, bytes], Awaitable[None]]
"""Sends a frame to a node, or to every other node when None; raises `BrokerError` when it cannot."""


class Post:
    """The `everywire.brokers.base.Control` of one node. All calls from the event loop."""

    def __init__(self, node: str, send: Send) -> None:
        self.sink: Sink | None = None
        self.dropped = 0
        """Frames that could not be read, and questions that were too many."""
        self._node = node
        self._send = send
        self._asked: dict[str, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def broadcast(self, topic: str, payload: bytes) -> None:
        """Send to every node's sink, this one's at once."""
        if self.sink is not None:
            self.sink.broadcasted(topic, payload, self._node)
        await self._send(None, _encoder.encode(_Frame("b", self._node, topic, payload)))

    async def ask(self, node: str, topic: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask one node; `BrokerError` when there is no answer in time, or the answer is an error."""
        if node == self._node:
            return await self._ask_here(topic, payload, timeout_s)
        id = secrets.token_hex(8)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[id] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(node, _encoder.encode(_Frame("q", self._node, topic, payload, id)))
                return await answer
        except TimeoutError:
            raise BrokerError(f"node {node} did not answer in time") from None
        finally:
            del self._asked[id]

    async def _ask_here(self, topic: str, payload: bytes, timeout_s: float) -> bytes:
        if self.sink is None:
            raise BrokerError(f"node {self._node} is not started")
        try:
            async with asyncio.timeout(timeout_s):
                return await self.sink.asked(topic, payload, self._node)
        except TimeoutError:
            raise BrokerError(f"node {self._node} did not answer in time") from None

    def received(self, data: bytes) -> None:
        """Hear a frame of another node; those of this one are passed over."""
        try:
            frame = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.dropped += 1
            return
        if frame.node == self._node or self.sink is None:
            return
        if frame.kind == "b":
            try:
                self.sink.broadcasted(frame.topic, frame.payload, frame.node)
            except Exception:
                # The top of what other nodes say: no message may take the link along that it came by.
                self.dropped += 1
                _log.exception("a message of another node about %.64r failed", frame.topic)
        elif frame.kind == "q":
            self._answer_soon(self.sink, frame)
        else:
            self._answered(frame)

    def _answered(self, frame: _Frame) -> None:
        asked = self._asked.get(frame.id)
        if asked is None or asked.done():
            return
        if frame.kind == "a":
            asked.set_result(frame.payload)
        else:
            asked.set_exception(BrokerError(frame.payload.decode("utf-8", "replace")))

    def _answer_soon(self, sink: Sink, frame: _Frame) -> None:
        if len(self._tasks) >= _MAX_ANSWERING:
            self.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._answer(sink, frame), name="answer another node")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, sink: Sink, frame: _Frame) -> None:
        try:
            kind, payload = "a", await sink.asked(frame.topic, frame.payload, frame.node)
        except EverywireError as error:
            kind, payload = "e", error.sentence.encode()
        except Exception:
            # The top of a task: whoever asked hears that it went wrong, and our log hears how.
            _log.exception("a question of another node about %r failed", frame.topic)
            kind, payload = "e", b"the question could not be answered"
        try:
            await self._send(frame.node, _encoder.encode(_Frame(kind, self._node, "", payload, frame.id)))
        except BrokerError as error:
            _log.warning("an answer did not go out: %s", error.sentence)

    async def close(self) -> None:
        """Answer nothing more, and let who waits for an answer know."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(BrokerError("this node is leaving"))
