"""The client for code without an event loop: the same calls, each of which waits.

The asynchronous client lives in an event loop on a thread of its own; every call here is handed over to
it and waited for. Use it from any thread; a subscription is read by one thread at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from everywire.client.client import Client
from everywire.client.errors import Refused
from everywire.client.items import Received
from everywire.client.subscription import Item, Subscription
from everywire.core.position import Place

__all__ = ["SyncClient", "SyncSubscription"]

T = TypeVar("T")


class SyncClient:
    """A connection to an Everywire server. Use as a context manager; arguments are those of `Client`,
    but ``get_token`` is a plain function."""

    def __init__(self, url: str, *, get_token: Callable[[], str] | None = None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        if get_token is not None:
            options["get_token"] = _awaitable(get_token)
        self._thread = threading.Thread(target=self._loop.run_forever, name="everywire", daemon=True)
        self._thread.start()
        try:
            self._client = self.run(_make(url, options))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> SyncClient:
        """Connect."""
        try:
            self.connect()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect, and end the thread."""
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the client's loop and wait for it; `Refused` when the client was closed."""
        if self._loop.is_closed():
            work.close()
            raise Refused("this client was closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # as when the waiting thread is interrupted
            raise

    def connect(self) -> None:
        """Connect, and wait until there is a connection; see `Client.connect`."""
        self.run(self._client.connect())

    def close(self) -> None:
        """Disconnect for good, and end the thread. A second time does nothing."""
        if self._loop.is_closed():
            return
        try:
            self.run(self._client.close())
        finally:
            self._stop()

    def _stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def transport(self) -> str:
        """The wire that is in use; nothing while there is none."""
        return self._client.transport

    def channel(
        self,
        name: str,
        *,
        since: Place | None = None,
        join_leave: bool = False,
        get_token: Callable[[], str] | None = None,
        data: Any = None,
    ) -> SyncSubscription:
        """Return a subscription of a channel, not subscribed yet; see `Client.channel`."""

        async def make() -> Subscription:
            token = None if get_token is None else _awaitable(get_token)
            return self._client.channel(
                name, since=since, join_leave=join_leave, get_token=token, data=data
            )

        return SyncSubscription(self, self.run(make()))

    def publish(self, channel: str, data: Any) -> None:
        """Publish what JSON can say."""
        self.run(self._client.publish(channel, data))

    def rpc(self, method: str, data: Any = None) -> Any:
        """Call a method of the application and return its answer."""
        return self.run(self._client.rpc(method, data))

    def send(self, data: Any) -> None:
        """Send a message to the application; there is no answer."""
        self.run(self._client.send(data))

    def presence(self, channel: str) -> dict[str, dict[str, Any]]:
        """Return who is in a channel, by client id."""
        return self.run(self._client.presence(channel))

    def presence_stats(self, channel: str) -> tuple[int, int]:
        """Return how many clients and how many users are in a channel."""
        return self.run(self._client.presence_stats(channel))

    def history(
        self, channel: str, *, limit: int = 0, since: Place | None = None, reverse: bool = False
    ) -> tuple[list[Received], Place]:
        """Return publications that are kept, and where the channel stands; see `Client.history`."""
        return self.run(self._client.history(channel, limit=limit, since=since, reverse=reverse))


class SyncSubscription:
    """A channel to read: ``for item in subscription``."""

    def __init__(self, client: SyncClient, subscription: Subscription) -> None:
        self._client = client
        self._subscription = subscription

    def __enter__(self) -> SyncSubscription:
        """Subscribe; return when the server has said yes."""
        self.subscribe()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the channel."""
        self.unsubscribe()

    def subscribe(self) -> None:
        """Subscribe, and wait for the server's answer."""
        self._client.run(self._subscription.subscribe())

    def unsubscribe(self) -> None:
        """Leave the channel; the position stays."""
        self._client.run(self._subscription.unsubscribe())

    def __iter__(self) -> Iterator[Item]:
        """Read items until the subscription ends."""
        while True:
            try:
                yield self.get()
            except StopAsyncIteration:
                return

    def get(self, timeout_s: float | None = None) -> Item:
        """Return the next item; `TimeoutError` when there is none in time, and ``StopAsyncIteration`` when
        the subscription was left."""

        async def take() -> Item:
            async with asyncio.timeout(timeout_s):
                return await anext(self._subscription)

        return self._client.run(take())


async def _make(url: str, options: dict[str, Any]) -> Client:
    return Client(url, **options)


def _awaitable(get_token: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        return await asyncio.to_thread(get_token)

    return call
