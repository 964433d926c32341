"""One connection to Redis: many calls on their way at once, answered in order.

The library opens the connection, authenticates it and parses; what is sent in one turn of the event loop
goes out in one write. A link that is broken, or does not answer in time, is never used again: everything on
its way fails, and whoever needs one opens another. So no answer can ever be taken for that of another call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from everywire.brokers.redis.address import Address, Place
from everywire.core.errors import BrokerError

__all__ = ["Argument", "Done", "Link", "Refused", "Reply"]

Argument = str | bytes | int
Reply = Any
"""What Redis answered; an exception when that was an error, or when there was no answer."""
Done = Callable[[Reply], object]

_log: Final = logging.getLogger("everywire.brokers")


class Refused(BrokerError):
    """Redis does not take the user or the password; trying again will not help."""


class Link:
    """A connection to one server. ``pushed`` is for one that is subscribed: it hears all that comes, as
    nothing there is an answer to a call. ``closed`` is called once when the link is broken or closed."""

    def __init__(
        self,
        connection: Connection,
        place: Place,
        timeout_s: float,
        pushed: Callable[[Reply], object] | None,
        closed: Callable[[Link], object],
    ) -> None:
        self.place = place
        self.is_open = True
        self.reason = ""
        """Why it was closed."""
        self.heard_at = asyncio.get_running_loop().time()
        """When something came last, by the event loop's clock."""
        self.run = ""
        """The run id of the server."""
        self._connection = connection
        self._timeout_s = timeout_s
        self._pushed = pushed
        self._closed = closed
        self._calls: deque[tuple[Done, float]] = deque()
        self._out: list[bytes] = []
        self._has_out = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="link to Redis")

    @classmethod
    async def open(
        cls,
        address: Address,
        place: Place,
        timeout_s: float,
        closed: Callable[[Link], object],
        pushed: Callable[[Reply], object] | None = None,
    ) -> Link:
        """Connect, authenticate and choose the database; `BrokerError` within the time-out."""
        connection = _connection(address, place, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (AuthenticationError, AuthorizationError) as error:
            raise Refused(f"Redis at {place[0]}:{place[1]} refuses the user or the password") from error
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            reason = str(error) or "no answer"
            raise BrokerError(f"Redis at {place[0]}:{place[1]} is away: {reason}") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return cls(connection, place, timeout_s, pushed, closed)

    def call(self, command: Sequence[Argument], done: Done) -> None:
        """Send a command; ``done`` is called later, once, with its answer."""
        if not self.is_open:
            self._loop.call_soon(done, BrokerError(self.reason))
            return
        if self._pushed is None:
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s, self._look_at_time)
            self._calls.append((done, self._loop.time()))
        self._out.extend(self._connection.pack_command(*command))
        self._has_out.set()

    def ask(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command; the future gets the answer, or raises what it is when it is an error."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def done(reply: Reply) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.call(command, done)
        return future

    def close(self, reason: str) -> None:
        """Use the link no more; all that waits for an answer fails."""
        if self.is_open:
            self._end(reason)
            self._task.cancel()

    def _end(self, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self.reason = reason
            calls, self._calls = self._calls, deque()
            for done, _ in calls:
                self._loop.call_soon(done, BrokerError(reason))
            if self._timer is not None:
                self._timer.cancel()
            self._loop.call_soon(self._closed, self)

    async def wait_closed(self) -> None:
        """Wait until nothing of a closed link is left."""
        await asyncio.gather(self._task, return_exceptions=True)

    def _look_at_time(self) -> None:
        self._timer = None
        if not self.is_open or not self._calls:
            return
        left_s = self._calls[0][1] + self._timeout_s - self._loop.time()
        if left_s <= 0:
            self.close(f"Redis at {self.place[0]}:{self.place[1]} does not answer")
        else:
            self._timer = self._loop.call_later(left_s + 0.001, self._look_at_time)

    async def _run(self) -> None:
        writer = self._loop.create_task(self._write(), name="writer of a link to Redis")
        try:
            await self._read()
        except asyncio.CancelledError:
            pass  # `close` ends it so
        except Exception as error:
            # The top of a task. A parser that failed is as good as a broken connection.
            if not isinstance(error, RedisError | OSError):
                _log.exception("a link to Redis failed")
            self._end(f"the connection to Redis at {self.place[0]}:{self.place[1]} broke: {error}")
        finally:
            writer.cancel()
            await asyncio.gather(writer, self._connection.disconnect(nowait=True), return_exceptions=True)

    async def _read(self) -> None:
        read, loop, pushed = self._connection.read_response, self._loop, self._pushed
        while True:
            try:
                reply = await read(disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            self.heard_at = loop.time()
            if pushed is not None:
                pushed(reply)
            elif self._calls:
                loop.call_soon(self._calls.popleft()[0], reply)

    async def _write(self) -> None:
        try:
            while True:
                await self._has_out.wait()
                self._has_out.clear()
                out, self._out = self._out, []
                await self._connection.send_packed_command(out, check_health=False)
        except (RedisError, OSError) as error:
            self.close(f"the connection to Redis at {self.place[0]}:{self.place[1]} broke: {error}")


def _connection(address: Address, place: Place, timeout_s: float) -> Connection:
    options: dict[str, Any] = {}
    if address.is_tls:
        options["ssl_ca_certs"] = address.ca_file
    return (SSLConnection if address.is_tls else Connection)(
        host=place[0],
        port=place[1],
        db=address.db,
        username=address.username,
        password=address.password,
        protocol=2,
        client_name="everywire",
        socket_connect_timeout=timeout_s,
        socket_timeout=None,
        # Attempts are ours to space out, and a command must never be sent twice unknown to us.
        retry=Retry(NoBackoff(), 0),
        socket_keepalive=True,
        **options,
    )
