"""Publishing over a server's HTTP API: a POST to the channel, each exactly once however often it is sent.

Orders of one author to one channel take turns in a lane; lanes share a few connections that are kept.
Every POST has an ``Idempotency-Key``, so that it may be sent again when no answer came.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from typing import Final

from everywire.client.errors import ConnectionLost, Refused
from everywire.client.publish import Publisher
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import (
    BadRequest,
    BrokerBusy,
    BrokerError,
    EverywireError,
    Forbidden,
    KeyReused,
    TooLarge,
)
from everywire.publishing.destination import Destination
from everywire.publishing.order import Order, Published

__all__ = ["HttpRoute"]

MAX_CONNECTIONS: Final = 8
_JSON_TYPE: Final = "application/json"
_log = logging.getLogger("everywire.publishing")

_ERRORS: Final[dict[int, type[EverywireError]]] = {
    400: BadRequest,
    403: Forbidden,
    413: TooLarge,
    422: KeyReused,
}
_CODES: Final[dict[int, Code]] = {401: codes.UNAUTHORIZED, 404: codes.UNKNOWN_CHANNEL}


class HttpRoute:
    """The way to one server."""

    def __init__(self, destination: Destination, loop: asyncio.AbstractEventLoop) -> None:
        self._destination = destination
        self._loop = loop
        self._lanes: dict[tuple[int, str], deque[Order]] = {}
        self._idle: list[Publisher] = []
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, order: Order) -> None:
        """Put an order into its lane."""
        key = (order.author, order.draft.channel)
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(order)
            return
        self._lanes[key] = lane = deque((order,))
        task = self._loop.create_task(self._work(key, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, key: tuple[int, str], lane: deque[Order]) -> None:
        """Post what waits in a lane, in order, until nothing does."""
        try:
            while lane:
                async with self._turns:  # one after the other of all lanes, however long one is
                    order = lane.popleft()
                    if not order.is_done:
                        order.finish(await self._post(order))
        finally:
            del self._lanes[key]

    async def _post(self, order: Order) -> Published | EverywireError:
        """Return where it stands, or why it does not, or may not."""
        publisher: Publisher | None = None
        try:
            publisher = self._idle.pop() if self._idle else self._connect()
            # Until the order's own deadline ended it: what is sent by then may stand, or not.
            async with asyncio.timeout_at(order.ends_s):
                found = await self._publish(publisher, order)
        except TimeoutError:
            return BrokerError("the server did not answer in time; the publication may stand, or not")
        except Refused as error:
            return _error_of(error)
        except ConnectionLost as error:
            return BrokerError(error.sentence)
        except EverywireError as error:
            return error
        except Exception as error:  # the top of a task: whoever waits must hear of it
            _log.exception("publishing to %s failed", order.draft.channel)
            return EverywireError(f"publishing failed: {type(error).__name__}")
        finally:
            if publisher is not None:
                self._idle.append(publisher)
        return found

    async def _publish(self, publisher: Publisher, order: Order) -> Published:
        draft = order.draft
        found = await publisher.publish(
            draft.channel,
            draft.data,
            draft.content_type or _JSON_TYPE,
            event=draft.event,
            tags=draft.tags,
            key=uuid.uuid4().hex if draft.key is None else draft.key[1:],
        )
        return Published(found.offset, found.epoch, found.position, draft.key is not None and found.is_replay)

    def _connect(self) -> Publisher:
        key = self._destination.api_key
        return Publisher(
            self._destination.url, {"X-API-Key": key} if key else {}, tls=self._destination.tls
        )

    async def close(self) -> None:
        """End what is under way, and let go of the connections."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(publisher.close() for publisher in idle))


def _error_of(refused: Refused) -> EverywireError:
    """Return the error that the server in one's own process would have raised."""
    kind = _ERRORS.get(refused.number)
    if kind is not None:
        return kind(refused.sentence)
    if refused.number == 0:
        return BrokerBusy(refused.sentence)
    return EverywireError(refused.sentence, code=_CODES.get(refused.number))
