"""Exchanges that are answered as a whole by a coroutine: what the store has to be asked for.

The coroutine is cancelled when its peer has gone, and has a deadline. What it raises becomes the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, NamedTuple

from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.transports.exchange import Exchange, Headers
from everywire.transports.gate import Cors
from everywire.transports.service import Service, json_headers, refuse

__all__ = ["Answer", "answer_by"]

_log = logging.getLogger("everywire.transports")


class Answer(NamedTuple):
    """A whole JSON answer."""

    status: int
    body: bytes
    headers: Headers = ()


def answer_by(
    service: Service,
    exchange: Exchange,
    cors: Cors,
    transport: str,
    work: Coroutine[Any, Any, Answer],
) -> None:
    """Answer an exchange with what a coroutine returns, within `Limits.answer_timeout_s`."""
    driver = _Answering(exchange, cors)
    exchange.attend(driver, transport)
    timeout_s = service.limits.answer_timeout_s
    driver.task = service.shared.tasks.start(driver.run(work, timeout_s), transport)


class _Answering:
    """The driver of such an exchange."""

    __slots__ = ("_cors", "_exchange", "task")

    def __init__(self, exchange: Exchange, cors: Cors) -> None:
        self._exchange = exchange
        self._cors = cors
        self.task: asyncio.Task[None] | None = None

    async def run(self, work: Coroutine[Any, Any, Answer], timeout_s: float) -> None:
        """Do the work and answer."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await work
        except EverywireError as error:
            refuse(self._exchange, error, self._cors)
        except TimeoutError:
            refuse(self._exchange, EverywireError(code=codes.BUSY), self._cors)
        except Exception:
            # The top of this task: the peer is answered whatever happened.
            _log.exception("an answer failed")
            refuse(self._exchange, EverywireError(), self._cors)
        else:
            self._exchange.respond(answer.status, [*json_headers(self._cors), *answer.headers], answer.body)

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is whole."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Stop: nobody waits for the answer."""
        if self.task is not None:
            self.task.cancel()

    def drain(self, retry_ms: int) -> None:
        """Let the answer, which is on its way, be given."""
