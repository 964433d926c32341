"""Acknowledgements that are waited for: what a server asked one client, and the errors when none comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from everywire.core import codes
from everywire.core.errors import EverywireError, LimitExceeded

__all__ = ["AckTimeout", "Acks", "SocketGone"]


class AckTimeout(EverywireError, TimeoutError):
    """A client did not acknowledge an event in time."""

    code = codes.TIMEOUT

    def __init__(self, sentence: str = "the client did not acknowledge the event in time") -> None:
        super().__init__(sentence)


class SocketGone(EverywireError):
    """The client that an event was for is not there, or went before it acknowledged it."""

    code = codes.UNKNOWN_CHANNEL

    def __init__(self, sentence: str = "this client is not connected") -> None:
        super().__init__(sentence)


class Acks:
    """The events of one socket that its client has not acknowledged yet."""

    __slots__ = ("_last_id", "_max", "_waiting")

    def __init__(self, most: int) -> None:
        self._max = most
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self) -> tuple[int, asyncio.Future[list[Any]]]:
        """Return a new id and what its acknowledgement will be put into; `forget` it in the end.

        Raises `LimitExceeded` when too many are waited for.
        """
        if len(self._waiting) >= self._max:
            raise LimitExceeded("this client leaves too many events without acknowledgement")
        self._last_id += 1
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        return self._last_id, future

    def take(self, ack_id: int, args: Sequence[Any]) -> bool:
        """Take an acknowledgement; False when nobody waits for it (any more)."""
        future = self._waiting.pop(ack_id, None)
        if future is None or future.done():
            return False
        future.set_result(list(args))
        return True

    def forget(self, ack_id: int) -> None:
        """Wait for an acknowledgement no longer."""
        self._waiting.pop(ack_id, None)

    def close(self) -> None:
        """Tell all who wait that the client has gone."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(SocketGone("the client went before it acknowledged the event"))
                future.exception()  # who waited may have gone, too
