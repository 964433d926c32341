"""The canary: what a node sends to itself through the engine, over and over, to know that its link works.

A connection that looks open may be deaf, in either direction. So every few seconds a token goes the whole
way, out by the way of hints and back in by it. When none comes back in time the node is not ready, and the
broker is told to make its link anew; as soon as one comes back it is ready again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from everywire.brokers.base import Health
from everywire.core.errors import BrokerError

__all__ = ["Canary"]

_log: Final = logging.getLogger("everywire.brokers")


class Canary:
    """One node's. ``send`` sends a token on its way and raises `BrokerError` if it cannot; ``missed`` is
    called for each that did not come back, and makes the link anew; ``healed`` is called when one does
    again, and compares heads."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        *,
        interval_s: float,
        timeout_s: float,
        missed: Callable[[str], object],
        healed: Callable[[], object],
    ) -> None:
        self.sent = self.lost = 0
        """How many went out, and did not come back."""
        self._send = send
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._missed, self._healed = missed, healed
        self._token = b""
        self._is_back = asyncio.Event()
        self._reason = "nothing came back from the engine yet"
        self._task: asyncio.Task[None] | None = None

    def health(self) -> Health:
        """Say whether the last one came back."""
        return Health(not self._reason, self._reason)

    def start(self) -> None:
        """Begin; the first one goes out at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="canary of the broker")

    async def close(self) -> None:
        """Send no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def heard(self, token: bytes) -> None:
        """Hear a token that came back; old ones do not count."""
        if token == self._token:
            self._is_back.set()

    async def _run(self) -> None:
        while True:
            reason = await self._try()
            was, self._reason = self._reason, reason
            if reason:
                self.lost += 1
                if reason != was:
                    _log.warning("the link to the broker is deaf: %s", reason)
                self._missed(reason)
            elif was:
                _log.info("the link to the broker works")
                self._healed()
            await asyncio.sleep(self._interval_s)

    async def _try(self) -> str:
        """Send one; return why it did not come back, or nothing."""
        self._token = secrets.token_bytes(8)
        self._is_back.clear()
        self.sent += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(self._token)
                await self._is_back.wait()
        except TimeoutError:
            return "what this node sends to itself does not come back"
        except BrokerError as error:
            return error.sentence
        except Exception:
            # The top of a task, which must not end: without it the node would seem ready for ever.
            _log.exception("what this node sends to itself could not be sent")
            return "what this node sends to itself could not be sent"
        return ""
