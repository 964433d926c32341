"""Publishing by HTTP, each publication exactly once however often it has to be sent.

A POST carries an ``Idempotency-Key``; when no answer arrives it is sent again with the same key, and the
server answers with the position that the first one got.
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from everywire.client.address import Address
from everywire.client.errors import ConnectionLost
from everywire.client.http import HttpClient
from everywire.client.wires import failure
from everywire.core.backoff import Backoff
from everywire.core.names import check_name

__all__ = ["Published", "Publisher"]

MAX_ATTEMPTS: Final = 5
MAX_DELAY_S: Final = 5.0


class Published(NamedTuple):
    """Where a publication came to stand. ``is_replay``: an earlier attempt had put it there already.
    ``answer`` is all that the server said."""

    offset: int
    epoch: str
    position: str
    subscribers: int | None
    is_replay: bool
    answer: Mapping[str, Any]


class Publisher:
    """Publishes to one server over a connection that is kept. For one caller at a time."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._http = HttpClient(Address.parse(url), headers, tls)
        self._max_attempts = max_attempts

    async def publish(
        self,
        channel: str,
        data: bytes,
        content_type: str = "application/json",
        *,
        event: str | None = None,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Published:
        """Publish data as it stands: JSON text, or any bytes with another content type.

        Raises:
            BadRequest: the channel's name is none.
            Refused: the server does not take it.
            ConnectionLost: no attempt got an answer; the publication may be there or not.
        """
        query: dict[str, str | list[str]] = {}
        if event is not None:
            query["event"] = event
        if tags:
            query["tag"] = [f"{name}:{value}" for name, value in tags.items()]
        target = self._http.address.target([check_name(channel)], query)
        headers = {"Content-Type": content_type, "Idempotency-Key": key or uuid.uuid4().hex}
        backoff = Backoff(max_s=MAX_DELAY_S)
        for attempt in range(1, self._max_attempts + 1):
            try:
                return await self._post(target, headers, data)
            except ConnectionLost as error:
                if attempt == self._max_attempts:
                    raise
                await asyncio.sleep(backoff.next_delay_s(error.retry_after_s))
        raise AssertionError("max_attempts is at least 1")

    async def _post(self, target: str, headers: Mapping[str, str], data: bytes) -> Published:
        answer = await self._http.exchange("POST", target, headers, data)
        if answer.status not in (200, 201):
            raise failure(answer.status, answer.headers, answer.body, self._http.address)
        try:
            said = msgspec.json.decode(answer.body, type=dict[str, Any])
            return Published(
                said["offset"],
                said["epoch"],
                said["position"],
                said.get("subscribers"),
                answer.status == 200,
                said,
            )
        except (msgspec.MsgspecError, KeyError):
            raise ConnectionLost(f"{self._http.address}: the answer is not Everywire's") from None

    async def close(self) -> None:
        """Let go of the connection."""
        await self._http.close()
