"""Reading channels for as long as the caller wants to: reconnecting and resuming.

A lost connection is made again after a delay with full jitter, or when the server said to, and reading
goes on from the last position. What the log no longer kept meanwhile comes as `Missed`. A server
that refuses (400, 401, 403, 404 and their like; close codes 3500 to 3999 and 4500 to 4999) ends it with
`Refused`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from everywire.client.address import Address
from everywire.client.errors import ConnectionLost
from everywire.client.http import HttpClient
from everywire.client.items import Item
from everywire.client.websocket import websocket
from everywire.client.wires import Attempt, Wire, long_poll, poll, sse, stream
from everywire.core.backoff import Backoff
from everywire.core.errors import BadRequest
from everywire.core.names import check_name

__all__ = ["TRANSPORTS", "subscribe"]

TRANSPORTS: Final[Mapping[str, Wire]] = {
    "poll": poll,
    "long-poll": long_poll,
    "stream": stream,
    "sse": sse,
    "websocket": websocket,
}

IDLE_TIMEOUT_S: Final = 90.0
"""A server shows a sign of life every 20 s or so; after this long without one, the connection is dead."""


async def subscribe(
    url: str,
    channels: str | Sequence[str],
    transport: str = "sse",
    after: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    max_failures: int | None = None,
    lost: Callable[[str, float], None] | None = None,
) -> AsyncGenerator[Item, None]:
    """Yield publications and gaps of one or several channels.

    Reading starts at ``after`` (a position, ``earliest`` or ``latest``), or live without one. Nothing
    is fetched ahead of the caller beyond what one read of the socket brought. ``lost`` hears why a
    connection ended and how many seconds the next attempt waits; ``max_failures`` attempts in a row
    without an answer end it. Close the generator (``contextlib.aclosing``) to let go of the connection.

    Raises:
        BadRequest: the URL, a channel's name or the transport is none.
        Refused: the server does not want this reader.
        ConnectionLost: after ``max_failures``.
    """
    wire = TRANSPORTS.get(transport)
    if wire is None:
        raise BadRequest(f"{transport!r} is no transport: expected one of {', '.join(TRANSPORTS)}")
    names = [check_name(name) for name in ([channels] if isinstance(channels, str) else channels)]
    if not names:
        raise BadRequest("expected at least one channel")
    backoff = Backoff()
    http = HttpClient(Address.parse(url), headers, tls)
    attempt = Attempt(http, names, after, idle_timeout_s, backoff.succeeded)
    try:
        while True:
            reason = "the server ended the answer"
            hint_s = None
            try:
                async with aclosing(wire(attempt)) as items:
                    async for item in items:
                        yield item
            except ConnectionLost as error:
                if max_failures is not None and backoff.failures + 1 >= max_failures:
                    raise
                reason, hint_s = error.sentence, error.retry_after_s
            await http.close()
            # What was said on the connection that ended counts for the first attempt after it.
            delay_s = backoff.next_delay_s(attempt.retry_after_s if hint_s is None else hint_s)
            attempt.retry_after_s = None
            if lost is not None:
                lost(reason, delay_s)
            await asyncio.sleep(delay_s)
    finally:
        await http.close()
