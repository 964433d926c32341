"""The connection to NATS: one at a time, made anew with back-off, with requests and subscriptions over it.

`nats-py` speaks the protocol. Its own reconnecting is not used: it keeps what was published meanwhile and
sends it later, whereas here what was under way when a connection ended fails at once, and whoever sent it
looks whether it arrived. After each connect the owner's ``restored`` looks at the store before others may
use it. All replies come to one inbox; each subject has one subscription.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from everywire.brokers.nats.address import NatsAddress
from everywire.core.backoff import Backoff
from everywire.core.errors import BrokerError

__all__ = ["Link", "LinkLost", "Msg", "NotThere", "delivered"]

_MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""Of one subscription, for messages that this process has not looked at; more are lost, and counted."""
_DELIVERED: Final = "$JS.ACK."
REPLICATED_SINCE: Final = (2, 10, 20)
"""Before, a stream with replicas could accept several messages that expected the same newest one, and its
replicas could come to differ when a server restarted: nats-server's issues 4320 and 5644, seen here, too."""
_log: Final = logging.getLogger("everywire.brokers")

Heard = Callable[[Msg], None]


class LinkLost(BrokerError):
    """The connection ended before the answer: it is not known whether the question arrived."""


class NotThere(BrokerError):
    """Nobody answers to the subject: JetStream, or the stream, is not there."""


class Link:
    """One node's link; ``restored`` is called after each connect."""

    def __init__(
        self, address: NatsAddress, timeout_s: float, restored: Callable[[], Awaitable[None]]
    ) -> None:
        self.reconnects = self.lost = self.bytes_in = self.bytes_out = 0
        """Connections made after the first; messages lost in this process; bytes of messages."""
        self.version = (0, 0, 0)
        """The engine's."""
        self.reason = "the engine was not reached yet"
        """Why there is no connection, or nothing."""
        self._address = address
        self._timeout_s = timeout_s
        self._restored = restored
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._inbox = ""
        self._numbers = count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._collecting: dict[str, Heard] = {}
        self._wanted: dict[str, Heard] = {}
        self._subscribed: dict[str, Subscription] = {}
        self._own: list[Subscription] = []
        self._changes: dict[str, None] = {}
        self._changing = asyncio.Lock()
        self._changer: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------

    async def open(self) -> None:
        """Connect; `BrokerError` when that does not succeed in time."""
        self._task = asyncio.get_running_loop().create_task(self._supervise(), name="link to NATS")
        try:
            await self.ready(self._timeout_s)
        except BrokerError:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect, and fail what is under way."""
        self._up.clear()
        tasks = [task for task in (self._task, self._changer) if task is not None]
        self._task = self._changer = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect("this node is leaving")

    async def ready(self, timeout_s: float) -> None:
        """Wait until the link works; `BrokerError` when it does not in time."""
        if self._up.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise BrokerError(f"the broker cannot be reached: {self.reason}") from None

    @property
    def is_up(self) -> bool:
        """Whether the link works, as far as is known."""
        return self._up.is_set()

    def renew(self, reason: str) -> None:
        """Give the connection up and make another."""
        if self._up.is_set():
            self._ended(reason)

    def _ended(self, reason: str) -> None:
        # Nobody takes the link for a working one from this moment on, or they would try for ever at once.
        self.reason = self.reason or reason
        self._up.clear()
        self._down.set()

    async def _supervise(self) -> None:
        backoff = Backoff(0.1, 2.0)
        is_first = True
        servers = self._address.servers
        while True:
            self._down.clear()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._connect(servers[backoff.failures % len(servers)])
                    await self._resubscribe()
                    await self._restored()
            except Exception as error:
                # The top of a task, which must not end: what is found in the store may be anything.
                if not isinstance(error, nats.errors.Error | BrokerError | OSError):
                    _log.exception("the link to NATS could not be made")
                self.reason = str(error) or type(error).__name__
                await self._disconnect(self.reason)
                await asyncio.sleep(backoff.next_delay_s())
                continue
            backoff.succeeded()
            self.reconnects += not is_first
            is_first = False
            self.reason = ""
            self._up.set()
            await self._down.wait()
            _log.warning("the link to NATS is made anew: %s", self.reason)
            await self._disconnect(self.reason)

    async def _connect(self, server: str) -> None:
        address = self._address
        client = Client()

        async def closed() -> None:
            if self._client is client:
                self._ended("the connection ended")

        async def failed(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError):
                self.lost += 1
            _log.debug("NATS: %r", error)

        self._client = client
        await client.connect(
            servers=[server],
            name="everywire",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, round(self._timeout_s)),
            ping_interval=20,
            pending_size=8 * 1024 * 1024,
            closed_cb=closed,
            error_cb=failed,
            user=address.user,
            password=address.password,
            token=address.token,
            user_credentials=address.creds,
            tls=ssl.create_default_context() if address.tls else None,
            skip_subject_validation=True,
        )
        self._inbox = client.new_inbox() + "."
        version = client.connected_server_version
        self.version = (version.major, version.minor, version.patch)
        if address.replicas > 1 and self.version < REPLICATED_SINCE:
            raise BrokerError(
                f"replicas wants nats-server {_dotted(REPLICATED_SINCE)}, not {_dotted(self.version)}"
            )
        self._own.append(await self._subscribe(client, self._inbox + "*", self._answered))
        reading = getattr(client, "_reading_task", None)
        if reading is not None:
            # `closed_cb` is not called when the connection breaks while nats-py is still writing to it.
            reading.add_done_callback(lambda _: self._reading_ended(client))

    def _reading_ended(self, client: Client) -> None:
        if self._client is client:
            self._ended("the connection broke")

    async def _disconnect(self, reason: str) -> None:
        client, self._client = self._client, None
        subscriptions = [*self._subscribed.values(), *self._own]
        self._subscribed.clear()
        self._own.clear()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(LinkLost(f"the link to NATS was lost: {reason}"))
        self._collecting.clear()
        if client is not None:
            try:
                async with asyncio.timeout(1.0):
                    await client.close()
            except (nats.errors.Error, OSError, TimeoutError, RuntimeError) as error:
                _log.debug("NATS, while closing: %r", error)
            await _end_tasks(client, subscriptions)

    # -- requests -----------------------------------------------------------------

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message; `BrokerError` when there is no connection."""
        client = self._client
        if client is None:
            raise LinkLost(f"there is no link to NATS: {self.reason}")
        self.bytes_out += len(data)
        try:
            await client.publish(subject, data, reply)
        except (nats.errors.Error, OSError) as error:
            self._ended(str(error))
            raise LinkLost(f"NATS did not take a message: {error}") from None

    async def request(
        self, subject: str, data: bytes, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Msg:
        """Send a message and return its answer. Raises `NotThere`, `LinkLost`, or another `BrokerError` when
        there is no answer in time."""
        client = self._client
        if client is None:
            raise LinkLost(f"there is no link to NATS: {self.reason}")
        loop = asyncio.get_running_loop()
        token = f"{next(self._numbers):x}"
        answer: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = answer
        timer = loop.call_later(max(timeout_s, 0.0), _expire, answer)
        self.bytes_out += len(data)
        try:
            await client.publish(
                subject, data, self._inbox + token, dict(headers) if headers is not None else None
            )
            found = await answer
        except (nats.errors.Error, OSError) as error:
            self._ended(str(error))
            raise LinkLost(f"NATS did not take a request: {error}") from None
        finally:
            timer.cancel()
            self._waiting.pop(token, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # it was seen
        if found.headers and found.headers.get("Status") == "503":
            raise NotThere("the engine has nobody who answers; JetStream is off, or a stream is missing")
        return found

    def collect(self, consumer: str, heard: Heard | None) -> str:
        """Give what is delivered of a consumer to a function, or no longer; return the inbox to have it sent
        to. What the engine says of the request itself arrives there, too."""
        if heard is None:
            self._collecting.pop(consumer, None)
            self._collecting.pop(self._inbox + consumer, None)
        else:
            self._collecting[consumer] = self._collecting[self._inbox + consumer] = heard
        return self._inbox + consumer

    def _answered(self, msg: Msg) -> None:
        if msg.reply.startswith(_DELIVERED):
            heard = self._collecting.get(delivered(msg.reply)[0])
        else:
            answer = self._waiting.get(msg.subject[len(self._inbox) :])
            if answer is not None:
                if not answer.done():
                    answer.set_result(msg)
                return
            heard = self._collecting.get(msg.subject)
        if heard is not None:
            heard(msg)

    # -- subscriptions ---------------------------------------------------------------

    def want(self, subject: str, heard: Heard | None) -> None:
        """Subscribe soon, or no longer; after every connect again."""
        if heard is None:
            self._wanted.pop(subject, None)
        else:
            self._wanted[subject] = heard
        self._changes[subject] = None
        if self._changer is None or self._changer.done():
            self._changer = asyncio.get_running_loop().create_task(self.settle(), name="subscribe at NATS")

    async def settle(self) -> None:
        """Let the engine know of all subscriptions; what is sent after this finds them."""
        if not self._changes:
            return
        async with self._changing:
            while self._changes:
                client = self._client
                if client is None:
                    return  # all are made after the next connect
                subject = next(iter(self._changes))
                del self._changes[subject]
                try:
                    await self._change(client, subject)
                except (nats.errors.Error, OSError) as error:
                    self._changes[subject] = None
                    if client is self._client:
                        self._ended(f"while subscribing: {error}")
                        return
                if client is not self._client:
                    # It was made over a connection that is gone; the one after it needs it, too.
                    self._subscribed.pop(subject, None)
                    self._changes[subject] = None

    async def _change(self, client: Client, subject: str) -> None:
        there = self._subscribed.pop(subject, None)
        heard = self._wanted.get(subject)
        if there is not None and heard is not None:
            self._subscribed[subject] = there
        elif heard is not None:
            self._subscribed[subject] = await self._subscribe(client, subject, heard)
        elif there is not None:
            await there.unsubscribe()

    async def _resubscribe(self) -> None:
        self._subscribed.clear()
        self._changes.update(dict.fromkeys(self._wanted))
        await self.settle()

    async def _subscribe(self, client: Client, subject: str, heard: Heard) -> Subscription:
        async def on_message(msg: Msg) -> None:
            self.bytes_in += len(msg.data)
            try:
                heard(msg)
            except BrokerError as error:
                _log.warning("a message of NATS is passed over: %s", error.sentence)
            except Exception:
                # The top of nats-py's task for the subscription, which would go on without a word.
                _log.exception("a message of NATS could not be taken")

        return await client.subscribe(
            subject, cb=on_message, pending_msgs_limit=0, pending_bytes_limit=_MAX_PENDING_BYTES
        )


def delivered(reply: str) -> tuple[str, int]:
    """Return the consumer that a message was delivered of, and its stream sequence.

    Both stand in its reply subject: ``$JS.ACK.stream.consumer.deliveries.seq.…``, or the same with a domain
    and an account before the stream."""
    parts = reply.split(".")
    at = 3 if len(parts) < 11 else 5
    return parts[at], int(parts[at + 2])


async def _end_tasks(client: Client, subscriptions: Sequence[Subscription]) -> None:
    """End the tasks that nats-py leaves behind when a connection breaks while it is being closed."""
    names = ("_reading_task", "_ping_interval_task", "_flusher_task")
    found = [getattr(client, name, None) for name in names]
    found += [getattr(one, "_wait_for_msgs_task", None) for one in subscriptions]
    current = asyncio.current_task()
    tasks = [task for task in found if isinstance(task, asyncio.Task) and task is not current]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(BrokerError("the broker did not answer in time"))
