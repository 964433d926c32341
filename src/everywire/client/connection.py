"""The connection of a client: made, proven, lost, made again, and moved to a better wire.

It knows commands, replies and links, and nothing of channels; what those need it asks its `Delegate`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn, Protocol

from everywire.client.choosing import Attempted, Proven, choose
from everywire.client.errors import ClientError, CommandError, ConnectionLost, Refused, TokenExpired
from everywire.client.links import LINKS, Link, LinkOptions, check_disconnect
from everywire.codecs.centrifuge.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    ErrorReply,
    Push,
    Reply,
)
from everywire.core.backoff import Backoff

__all__ = ["Connection", "Delegate"]

IDLE_TIMEOUT_S: Final = 60.0
"""The server pings every 25 s; after this long without a byte, the connection is dead."""
MAX_PENDING: Final = 10_000
SETTLE_S: Final = 5.0
"""How long a move to a better wire waits for the answers of the old one."""

_log: Final = logging.getLogger("everywire.client")


class Delegate(LinkOptions, Protocol):
    """What a connection asks of its client."""

    def connect_request(self) -> ConnectRequest:
        """Return what is said to connect."""

    def subscriptions(self) -> list[Command]:
        """Return a subscribe command for each channel that is followed, from where it stands."""

    async def fetch_token(self, has_expired: bool) -> None:
        """Have a token ready for the next connect command; raise `Refused` if there cannot be one."""

    def connected(self, result: ConnectResult) -> None:
        """Hear that there is a connection, or another one."""

    async def restore(self) -> None:
        """Subscribe again to all that is followed."""

    def disconnected(self, reason: str, delay_s: float) -> None:
        """Hear that the connection broke, and when the next attempt comes."""

    def pushed(self, push: Push) -> None:
        """Take a push."""

    def settled(self) -> None:
        """Hear that all that came together was taken."""

    def ended(self, error: ClientError) -> None:
        """Hear that there will be no connection any more."""


class Connection:
    """Keeps one connection for its delegate, over the best wire that works."""

    def __init__(
        self,
        delegate: Delegate,
        transports: Sequence[str],
        request_timeout_s: float,
        climb_s: float,
    ) -> None:
        self._delegate = delegate
        self._transports = tuple(transports)
        self._request_timeout_s = request_timeout_s
        self._climb_s = climb_s
        self.attempts: list[Attempted] = []
        self._good = ""
        self._last_id = 0
        self._pending: dict[int, Callable[[Reply], None]] = {}
        self._link: Link | None = None
        self._is_live = asyncio.Event()
        self._calls = 0
        self._is_settled = asyncio.Event()
        """Set while no call waits for its reply."""
        self._is_settled.set()
        self._may_call = asyncio.Event()
        """Set but while a move waits for the replies to what was called before."""
        self._may_call.set()
        self._end: ClientError | None = None
        self._task: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        """Links that are being closed; unlike chores they are brought to their end."""

    # -- life ---------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._is_live.is_set() and self._end is None

    @property
    def end(self) -> ClientError | None:
        """Why there will be no connection any more."""
        return self._end

    @property
    def transport(self) -> str:
        """The wire in use, or nothing."""
        return self._link.name if self._link is not None and self.is_live else ""

    def start(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._end = None
            self._is_live.clear()
            self._task = asyncio.create_task(self._run())

    async def live(self) -> None:
        """Wait for a connection; raise what ended it for good."""
        await self._is_live.wait()
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        """Disconnect for good."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._finish(Refused("this client was closed"))
        link, self._link = self._link, None
        if link is not None:
            self._let_go(link)
        for chore in self._chores:
            chore.cancel()
        if rest := self._chores | self._closing:
            await asyncio.wait(rest)

    def _let_go(self, link: Link) -> None:
        """Close a link, beside."""
        closing = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _finish(self, error: ClientError) -> None:
        self._end = error
        self._drop_pending(error)
        self._delegate.ended(error)
        self._is_live.set()

    def do(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something beside; when the connection breaks meanwhile, its reader hears of it, too."""

        async def chore() -> None:
            try:
                await work
            except ClientError:
                pass
            except Exception:  # the top of a task: nobody else would hear of it
                _log.exception("a client could not do something beside")

        task = asyncio.get_running_loop().create_task(chore())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    # -- commands ---------------------------------------------------------------------

    async def call(self, command: Command) -> Reply:
        """Send a command and return its reply, waiting for a connection first.

        Raises:
            CommandError: the reply is an error.
            ConnectionLost: the connection broke, or no reply came in time; it may have been done or not.
            Refused: this client has ended.
        """
        await self.live()
        await self._may_call.wait()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def take(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        command.id = self.expect(take)
        self._calls += 1
        self._is_settled.clear()
        try:
            async with asyncio.timeout(self._request_timeout_s):
                await self.send([command])
                reply = await future
        except TimeoutError:
            raise ConnectionLost(f"no reply within {self._request_timeout_s:g} s") from None
        finally:
            self._pending.pop(command.id, None)
            self._calls -= 1
            if not self._calls:
                self._is_settled.set()
        error = reply.error
        if error is None:
            return reply
        if error.code == _LOST:
            raise ConnectionLost(error.message)
        raise CommandError(error.message, error.code, error.temporary is True)

    def expect(self, take: Callable[[Reply], None]) -> int:
        """Return a fresh command id whose reply goes to ``take``. When the connection breaks first, it gets
        an error with a code below zero."""
        if len(self._pending) >= MAX_PENDING:
            raise ConnectionLost("too many commands wait for their reply")
        number = self.next_id()
        self._pending[number] = take
        return number

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands over the connection that there is."""
        if self._link is None:
            raise ConnectionLost("there is no connection")
        await self._link.send(commands)

    def _drop_pending(self, error: ClientError) -> None:
        pending, self._pending = self._pending, {}
        for take in pending.values():
            take(Reply(error=ErrorReply(code=_LOST, message=error.sentence)))

    # -- what links ask (StateOfSession) --------------------------------------------------

    def next_id(self) -> int:
        """Return a fresh command id."""
        self._last_id += 1
        return self._last_id

    def connect_request(self) -> ConnectRequest:
        """Return what is said to connect."""
        return self._delegate.connect_request()

    def subscriptions(self) -> list[Command]:
        """Return a subscribe command for each channel that is followed."""
        return self._delegate.subscriptions()

    def forget(self, commands: Sequence[Command]) -> None:
        """Wait no longer for these replies."""
        for command in commands:
            self._pending.pop(command.id, None)

    # -- connecting -------------------------------------------------------------------------

    def _make(self, name: str) -> Link:
        link: Link = LINKS[name](self._delegate, self, IDLE_TIMEOUT_S)
        return link

    async def _run(self) -> None:
        backoff = Backoff()
        has_expired = False
        try:
            while True:
                try:
                    await self._delegate.fetch_token(has_expired)
                    await self._connect_once(backoff)
                except ConnectionLost as error:
                    has_expired = isinstance(error, TokenExpired)
                    delay_s = backoff.next_delay_s(error.retry_after_s)
                    self._disconnected(error.sentence, delay_s)
                await asyncio.sleep(delay_s)
        except ClientError as error:
            self._finish(error)
        except Exception as error:  # the top of a task: whoever waits for a connection must hear of it
            _log.exception("a client failed")
            self._finish(ClientError(f"the client failed: {error}"))

    async def _connect_once(self, backoff: Backoff) -> NoReturn:
        """Choose a wire, and live on it until it breaks."""
        self.attempts = []
        rest = [name for name in self._transports if name != self._good]
        # What worked before comes first.
        candidates = [self._good, *rest] if self._good else rest
        proven = await choose(candidates, self._make, self, self.attempts)
        backoff.succeeded()
        self._take_over(proven)
        await self._delegate.restore()
        self._is_live.set()
        climber = asyncio.create_task(self._climb())
        try:
            while True:
                link = self._link
                assert link is not None
                try:
                    self._take(await link.receive())
                except ConnectionLost:
                    if link is self._link:
                        raise
        finally:
            climber.cancel()

    def _take_over(self, proven: Proven) -> None:
        self._link = proven.link
        self._good = proven.link.name
        self._delegate.connected(proven.connect)
        self._take(proven.replies)

    def _disconnected(self, reason: str, delay_s: float) -> None:
        self._is_live.clear()
        self._drop_pending(ConnectionLost(reason))
        self._delegate.disconnected(reason, delay_s)
        link, self._link = self._link, None
        if link is not None:
            self._let_go(link)

    async def _climb(self) -> None:
        """Try the better wires now and then, and move over to one that works."""
        while self._link is not None and (rank := self._transports.index(self._link.name)) > 0:
            await asyncio.sleep(self._climb_s)
            try:
                proven = await choose(self._transports[:rank], self._make, self, self.attempts)
            except ClientError:
                continue
            await self._move_to(proven)

    async def _move_to(self, proven: Proven) -> None:
        """Change over when what was called on the old connection is answered; what is called now waits."""
        self._may_call.clear()
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._is_settled.wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            # The old connection broke first. The next one is chosen as after any loss.
            self._let_go(proven.link)
            raise
        finally:
            self._may_call.set()
        old = self._link
        assert old is not None
        # What the old one told and nobody read is asked for again on the new one, from the same position.
        self._drop_pending(ConnectionLost("the client moved to a better wire before the answer came"))
        self._take_over(proven)
        try:
            await self._delegate.restore()
        except ConnectionLost:
            pass  # whoever reads the new link hears of it
        finally:
            self._let_go(old)

    # -- what comes in --------------------------------------------------------------------------

    def _take(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if reply.id:
                take = self._pending.pop(reply.id, None)
                if take is not None:
                    take(reply)
            elif reply.push is not None:
                self._delegate.pushed(reply.push)
            else:
                self.do(self._answer_ping())
        self._delegate.settled()
        check_disconnect(replies)

    async def _answer_ping(self) -> None:
        """Answer a ping; once more if the request that carried the answer was lost, for two do no harm: of
        several workers, the one that died need not be the one that the session is in."""
        try:
            await self.send([Command()])
        except ConnectionLost:
            await self.send([Command()])


_LOST: Final = -1
"""The code of the error that stands for a reply which never came."""
