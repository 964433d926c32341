"""Messages without channels: an application's own function at the other end of a connection.

What handlers of SockJS and of Engine.IO have in common. A handler is a coroutine function that gets a
connection and reads from it until it ends::

    async def echo(connection: Connection) -> None:
        async for message in connection:
            await connection.send(message)

or a function of a connection and a message, which is called for each one, in order; it may be synchronous and
then runs in a thread. When a handler of the first kind returns, its connection is closed. What it raises
closes it, too: an `EverywireError` with its own code and sentence, anything else with 3004, and is logged.

When the client is gone, reading ends and sending raises `ConnectionOver`; a handler that does neither is
cancelled `Limits.close_timeout_s` later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.wheel import Slot
from everywire.handlers.functions import Function
from everywire.handlers.message_handler import MessageHandler
from everywire.hub.called import called
from everywire.sessions.answers import as_end
from everywire.sessions.shared import Shared
from everywire.sockets.link import Link

__all__ = ["Connection", "ConnectionOver", "Message", "Sent", "Speaker"]

_log = logging.getLogger("everywire.handlers")

Message: TypeAlias = str | bytes

_THREAD_TIMEOUT_S: Final = 30.0
_MESSAGE_BYTES: Final = 64
"""What a message takes in memory besides its text."""


class ConnectionOver(EverywireError):
    """The connection has ended: nothing can be sent over it."""

    code = codes.DISCONNECTED


class Sent:
    """A message that was sent, or waits to be. Awaited, it waits until there is room for another."""

    __slots__ = ("_speaker",)

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def __await__(self) -> Generator[Any, None, None]:
        return self._speaker.has_room().__await__()


class Connection:
    """One client, as a handler sees it.

    Iterate over it for the messages. In a thread all methods wait for the event loop.
    """

    __slots__ = ("_speaker", "memo")

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self.memo: Any = None
        """What the application keeps with this connection."""

    @property
    def identity(self) -> Identity:
        """Whom its credential proved."""
        return self._speaker.identity

    @property
    def user(self) -> str:
        """The user id; empty is nobody."""
        return self._speaker.identity.user

    @property
    def request(self) -> AuthRequest:
        """What its first request brought: headers, cookies, query."""
        return self._speaker.link.request

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._speaker.peer

    @property
    def transport(self) -> str:
        """What carries it."""
        return self._speaker.link.transport

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._speaker.is_over

    @property
    def queued_bytes(self) -> int:
        """What waits for the client to take it, or to ask for it."""
        return self._speaker.link.queued_bytes

    def send(self, message: Message) -> Sent:
        """Send a message. It is on its way, or waits, when this returns. Awaited it waits for room, so that
        nobody sends faster than a client takes it. Otherwise the connection ends (3008) when more is sent
        while twice `Limits.max_session_queue_bytes` wait.

        Raises `ConnectionOver`.
        """
        speaker = self._speaker
        speaker.call(lambda: speaker.send(message))
        speaker.wait_for_room()
        return Sent(speaker)

    async def receive(self) -> Message:
        """Wait for a message; raises `ConnectionOver`. Cancelling loses nothing."""
        return await self._speaker.receive()

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            try:
                message = await self._speaker.receive()
            except ConnectionOver:
                return
            yield message

    def __repr__(self) -> str:
        return f"{type(self).__name__}(user={self.user!r}, transport={self.transport!r})"


class Speaker:
    """What speaks over a link: hands messages to the handler, and a visitor if it is somebody's.

    An `everywire.sockets.link.Upper`. What a message is on a wire, and who its client is, each wire says.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_handler",
        "_inbox",
        "_inbox_bytes",
        "_is_known",
        "_is_paused",
        "_is_served",
        "_loop",
        "_reason",
        "_room",
        "_shared",
        "_slot",
        "_task",
        "_wakers",
        "identity",
        "is_over",
        "link",
    )

    client = session_id = ""
    transport: ClassVar = ""
    channels = ()

    def __init__(
        self, handler: MessageHandler, shared: Shared, link: Link, connection: type[Connection]
    ) -> None:
        self._handler = handler
        self._shared = shared
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Message] = deque()
        self._inbox_bytes = 0
        self._is_paused = False
        self._wakers: list[asyncio.Future[None]] = []
        self._room: list[asyncio.Future[None]] = []
        self._slot: Slot | None = None
        self._task: asyncio.Task[None] | None = None
        self._reason = ""
        self._is_known = self._is_served = False
        self.is_over = False
        self.identity = NOBODY
        self._connection = connection(self)

    def begin(self) -> None:
        """Begin; the handler runs soon."""
        self._task = self._shared.tasks.start(self._run(), self._handler.name)

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.link.peer

    # -- what each wire does in its own way ------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message."""
        raise NotImplementedError

    async def identify(self) -> Identity:
        """Find out whom the first request proved; by default the authority is asked."""
        found: Identity = await called(partial(self._shared.authority.authenticate, self.link.request))
        return found

    # -- who it is ---------------------------------------------------------------------------

    def know(self, identity: Identity) -> None:
        """Learn who the client is: from now on it can be ended by its user, and ends when its time does."""
        self.identity = identity
        self._is_known = True
        if self.is_over:
            return
        if identity.kind:
            self._shared.registry.enter(self)
        if identity.expires_s is not None:
            shared = self._shared
            due_s = shared.hub.time() + identity.expires_s - shared.unix_s()
            self._slot = shared.hub.deadlines.arm(self, due_s, Speaker._expired)

    # -- the handler -------------------------------------------------------------------

    async def _run(self) -> None:
        handler, link = self._handler, self.link
        try:
            if not self._is_known:
                self.know(await self.identify())
            if not self.is_over:
                await self._serve()
        except ConnectionOver:
            link.close()
        except EverywireError as error:
            link.close(as_end(error), error.sentence)
        except asyncio.CancelledError:
            link.close(codes.SHUTDOWN)
            raise
        except Exception:  # the top of the application's work: nothing of it may leak
            _log.exception("%s failed", handler.name)
            link.close(codes.SERVER_ERROR)
        else:
            link.close()
        finally:
            self._task = None
            self._disarm()
            if self._is_served and handler.closes is not None:
                await self._say_closed(handler.closes)

    async def _serve(self) -> None:
        handler, self._is_served = self._handler, True
        if handler.opens is not None:
            await handler.opens(handler.threads, handler.limits.hook_timeout_s, self._connection)
        if handler.takes_messages:
            await self._hand_over()
        else:
            await handler.function(self._connection)

    async def _hand_over(self) -> None:
        handler = self._handler
        async for message in self._connection:
            await handler.each(handler.threads, handler.limits.call_timeout_s, self._connection, message)

    async def _say_closed(self, closes: Function) -> None:
        try:
            await closes(
                self._handler.threads, self._handler.limits.hook_timeout_s, self._connection, self._reason
            )
        except EverywireError:
            pass  # logged where it was raised, and there is nobody left to tell

    # -- what a connection asks ----------------------------------------------------------

    def _is_here(self) -> bool:
        """Whether this is the event loop's own thread."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def wait_for_room(self) -> None:
        """In a thread, wait as `has_room` does."""
        if not self._is_here():
            room = asyncio.run_coroutine_threadsafe(self.has_room(), self._loop)
            room.result(self._shared.limits.stall_timeout_s)

    def call(self, act: Callable[[], None]) -> None:
        """Do something in the event loop; in a thread, wait until it is done."""
        if self._is_here():
            act()
            return
        future: Future[None] = Future()

        def run() -> None:
            try:
                act()
                future.set_result(None)
            except Exception as error:  # handed over to the thread that waits
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        future.result(_THREAD_TIMEOUT_S)

    def post(self, packet: tuple[bool, bytes]) -> None:
        """Send a packet; raises `ConnectionOver`."""
        if self.is_over:
            raise ConnectionOver
        self.link.post((packet,))

    async def has_room(self) -> None:
        """Wait until less waits than a session may have waiting before its input is paused."""
        while not self.is_over and self.link.queued_bytes > self._shared.limits.max_session_queue_bytes:
            future = self._loop.create_future()
            self._room.append(future)
            await future

    async def receive(self) -> Message:
        """Wait for a message."""
        while not self._inbox:
            if self.is_over:
                raise ConnectionOver
            future = self._loop.create_future()
            self._wakers.append(future)
            await future
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message) + _MESSAGE_BYTES
        if self._is_paused and not self._is_full(2):
            self._is_paused = False
            self.link.resume_reading()
        return message

    def _is_full(self, share: int = 1) -> bool:
        limits = self._shared.limits
        return (
            len(self._inbox) >= limits.max_pending_commands // share
            or self._inbox_bytes >= limits.max_pending_bytes // share
        )

    # -- what the link tells (Upper) --------------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Keep a message for the handler, and hear no more when there are enough."""
        message = data if binary else data.decode("utf-8", "surrogatepass")
        self._inbox.append(message)
        self._inbox_bytes += len(message) + _MESSAGE_BYTES
        _wake(self._wakers)
        if not self._is_paused and self._is_full():
            self._is_paused = True
            self.link.pause_reading()

    def stalled(self) -> None:
        """Do nothing: what is sent waits in the link."""

    def writable(self) -> None:
        """Let those go on who wait for room."""
        _wake(self._room)

    def moved(self) -> None:
        """Do nothing: there are no readers."""

    def gone(self, reason: str) -> None:
        """End reading and sending; the handler has a little while to end."""
        if self.is_over:
            return
        self.is_over = True
        self._reason = reason
        self._disarm()
        if self.identity.kind:
            self._shared.registry.leave(self)
        _wake(self._wakers)
        _wake(self._room)
        if self._task is not None:
            hub = self._shared.hub
            due_s = hub.time() + self._shared.limits.close_timeout_s
            self._slot = hub.deadlines.arm(self, due_s, Speaker._cancel)

    def drain(self, retry_ms: int) -> None:
        """Say nothing: the link says why it closes."""

    def _cancel(self) -> None:
        self._slot = None
        if self._task is not None:
            self._task.cancel()

    def _expired(self) -> None:
        self._slot = None
        self.link.close(codes.EXPIRED)

    def _disarm(self) -> None:
        if self._slot is not None:
            self._shared.hub.deadlines.disarm(self, self._slot)
            self._slot = None

    # -- what the registry tells (Visitor) ----------------------------------------------------

    def disconnect(self, code: Code, reason: str = "") -> None:
        """Close: the registry says so."""
        self.link.close(code, reason or code.sentence)

    def unsubscribe(self, channel: str, code: Code) -> None:
        """Do nothing: it reads no channel."""


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    woken, waiting[:] = list(waiting), []
    for future in woken:
        if not future.done():
            future.set_result(None)
