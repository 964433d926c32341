"""The way of hints and control messages: publish/subscribe, only for what somebody here wants to hear.

One connection listens to one server, and where Redis is a cluster, one to each server that has subjects of
ours: there all subjects are sharded (``SSUBSCRIBE``), so that a hint travels to those who listen and
nowhere else. When a slot moves, its old server says so by unsubscribing us, and we subscribe at the new
one. What is wanted and what is subscribed are compared after every change, and once a second.

Nothing is promised of what is heard: Redis drops who does not keep up (``client-output-buffer-limit
pubsub``), and what was published while a connection was away is not repeated. The log is the truth.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from redis.exceptions import ResponseError

from everywire.brokers.redis.address import Names, Place
from everywire.brokers.redis.link import Link, Reply
from everywire.brokers.redis.servers import Servers
from everywire.core.backoff import Backoff
from everywire.core.errors import BrokerError

__all__ = ["Bus"]

_LOOK_S: Final = 1.0
_PATIENCE_S: Final = 0.5
"""How long a question about a channel waits until its hints are heard."""
_AT_ONCE: Final = 200
"""Subjects in one command."""

_log: Final = logging.getLogger("everywire.brokers")


class Ear:
    """A subscribed connection: what it asked for, and what was confirmed."""

    __slots__ = ("asked", "commands", "confirmed", "link", "pinged_at")

    def __init__(self) -> None:
        self.link: Link | None = None
        self.asked: set[str] = set()
        self.confirmed: set[str] = set()
        self.commands: deque[str] = deque()
        """Subjects of the commands that are not answered, on a cluster, where each has one."""
        self.pinged_at = 0.0


class Bus:
    """The subscriptions of one node. ``heard`` gets a subject and what was published on it; ``restored`` is
    called when subjects are heard again after a connection was lost."""

    def __init__(
        self,
        names: Names,
        servers: Servers,
        timeout_s: float,
        quiet_s: float,
        heard: Callable[[str, bytes], object],
        restored: Callable[[], object],
    ) -> None:
        self.received = 0
        self.bytes_in = 0
        self.reconnects = 0
        self._names = names
        self._servers = servers
        self._timeout_s = timeout_s
        self._quiet_s = quiet_s
        self._heard = heard
        self._restored = restored
        self._wanted: dict[str, int] = {}
        """Subjects and their slots."""
        self._ears: dict[Place, Ear] = {}
        self._backoffs: dict[Place, tuple[Backoff, float]] = {}
        self._dirty: set[str] = set()
        """Subjects that were wanted or left since they were last compared."""
        self._is_unsure = True
        """Whether everything must be compared, and not only what changed."""
        self._may_move = servers.address.kind != "single"
        self._was_lost = False
        self._changed = asyncio.Event()
        self._waiting: list[tuple[frozenset[str], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._words = (b"smessage", b"ssubscribe", b"sunsubscribe") if names.is_cluster else (
            b"message", b"subscribe", b"unsubscribe"
        )  # fmt: skip

    # -- what is wanted ---------------------------------------------------------

    def listen(self, subject: str) -> None:
        """Hear a subject from soon on."""
        self._wanted[subject] = self._names.slot(subject)
        self._dirty.add(subject)
        self._changed.set()

    def leave(self, subject: str) -> None:
        """Hear a subject no more."""
        self._wanted.pop(subject, None)
        self._dirty.add(subject)
        self._changed.set()

    def is_heard(self, subject: str) -> bool:
        """Say whether all that is published on a subject from now on arrives here, as far as is known."""
        return any(subject in ear.confirmed for ear in self._ears.values())

    async def until_heard(self, subjects: Iterable[str], patience_s: float | None = None) -> None:
        """Wait until subjects are heard, but not long, and not at all without a connection; or so long in
        any case."""
        missing = frozenset(one for one in subjects if one in self._wanted and not self.is_heard(one))
        is_away = not any(ear.link is not None for ear in self._ears.values())
        if not missing or (is_away and patience_s is None):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((missing, future))
        try:
            async with asyncio.timeout(_PATIENCE_S if patience_s is None else patience_s):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting = [one for one in self._waiting if one[1] is not future]

    # -- life ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="Redis subscriptions")

    async def close(self) -> None:
        """Hear nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        links = [ear.link for ear in self._ears.values() if ear.link is not None]
        for link in links:
            link.close("the broker is closed")
        await asyncio.gather(*(link.wait_closed() for link in links))

    def drop_link(self, subject: str, reason: str) -> None:
        """Close the connection on which a subject is to be heard, which is deaf; another is made."""
        for ear in list(self._ears.values()):
            if ear.link is not None and subject in ear.asked:
                ear.link.close(reason)

    @property
    def is_connected(self) -> bool:
        """Whether all that is wanted is subscribed."""
        return sum(len(ear.confirmed) for ear in self._ears.values()) >= len(self._wanted)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._compare()
            except BrokerError as error:
                _log.debug("the subscriptions wait: %s", error.sentence)
                self._is_unsure = True
                await asyncio.sleep(0.05)
            except Exception:
                # The top of a task, which must not end: nothing would be subscribed any more.
                _log.exception("the subscriptions could not be compared")
                self._is_unsure = True
                await asyncio.sleep(_LOOK_S)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                self._is_unsure |= self._may_move

    def _look_again(self, at: float = 0.0) -> None:
        """Compare everything, now or at a time of the loop's clock."""
        self._is_unsure = True
        if at:
            asyncio.get_running_loop().call_at(at, self._changed.set)
        else:
            self._changed.set()

    # -- comparing what is wanted with what is subscribed -----------------------------

    async def _compare(self) -> None:
        is_all, self._is_unsure = self._is_unsure, False
        dirty, self._dirty = self._dirty, set()
        by_place: dict[Place, set[str]] = {}
        for subject in list(self._wanted) if is_all else dirty & self._wanted.keys():
            place = await self._servers.place(self._wanted.get(subject, 0))
            by_place.setdefault(place, set()).add(subject)
        for place in list(self._ears):
            if is_all and place not in by_place:
                link = self._ears.pop(place).link
                if link is not None:
                    link.close("nothing is to be heard there")
        for place in by_place.keys() | self._ears.keys():
            subjects, ear = by_place.get(place, set()), self._ears.setdefault(place, Ear())
            link = await self._link(place, ear)
            if link is not None:
                self._ping(ear, link)
                self._subscribe(ear, link, subjects - ear.asked)
                gone = ear.asked - subjects if is_all else ear.asked & dirty - self._wanted.keys()
                self._unsubscribe(ear, link, gone)

    async def _link(self, place: Place, ear: Ear) -> Link | None:
        if ear.link is not None and ear.link.is_open:
            return ear.link
        loop = asyncio.get_running_loop()
        backoff, at = self._backoffs.get(place) or (Backoff(0.05, 0.5), 0.0)
        if loop.time() < at:
            self._look_again(at)
            return None
        try:
            ear.link = await Link.open(
                self._servers.address,
                place,
                self._timeout_s,
                lambda link: self._closed(place, link),
                lambda reply: self._push(ear, reply),
            )
        except BrokerError as error:
            _log.debug("the subscriptions wait: %s", error.sentence)
            at = loop.time() + backoff.next_delay_s()
            self._backoffs[place] = (backoff, at)
            self._look_again(at)
            self._servers.mislaid(place)
            return None
        self._backoffs.pop(place, None)
        self._look_again()
        ear.asked.clear()
        ear.confirmed.clear()
        ear.commands.clear()
        self.reconnects += self._was_lost
        return ear.link

    def _closed(self, place: Place, link: Link) -> None:
        ear = self._ears.get(place)
        if ear is not None and ear.link is link:
            ear.link = None
            ear.asked.clear()
            ear.confirmed.clear()
            self._was_lost = True
        self._look_again()

    def _ping(self, ear: Ear, link: Link) -> None:
        now = asyncio.get_running_loop().time()
        if ear.pinged_at > link.heard_at and now - ear.pinged_at > self._quiet_s:
            link.close(f"Redis at {link.place[0]}:{link.place[1]} does not answer a subscriber")
        elif now - link.heard_at > self._quiet_s / 2 and ear.pinged_at <= link.heard_at:
            ear.pinged_at = now
            link.call(("PING",), _ignore)

    def _subscribe(self, ear: Ear, link: Link, subjects: set[str]) -> None:
        new = sorted(subjects)
        ear.asked.update(new)
        if self._names.is_cluster:
            for subject in new:
                ear.commands.append(subject)
                link.call(("SSUBSCRIBE", subject), _ignore)
        else:
            for at in range(0, len(new), _AT_ONCE):
                link.call(("SUBSCRIBE", *new[at : at + _AT_ONCE]), _ignore)

    def _unsubscribe(self, ear: Ear, link: Link, subjects: set[str]) -> None:
        for subject in subjects:
            ear.asked.discard(subject)
            ear.confirmed.discard(subject)
            if self._names.is_cluster:
                ear.commands.append(subject)
                link.call(("SUNSUBSCRIBE", subject), _ignore)
            else:
                link.call(("UNSUBSCRIBE", subject), _ignore)

    # -- what comes -----------------------------------------------------------------

    def _push(self, ear: Ear, reply: Reply) -> None:
        if isinstance(reply, ResponseError):
            if ear.commands:
                ear.asked.discard(ear.commands.popleft())
            self._servers.moved()
            self._look_again(asyncio.get_running_loop().time() + 0.05)
            return
        if not isinstance(reply, list):
            return
        message, subscribed, unsubscribed = self._words
        word = reply[0]
        if word == message:
            self.received += 1
            self.bytes_in += len(reply[2])
            self._heard(reply[1].decode(), reply[2])
        elif word == subscribed:
            self._confirm(ear, reply[1].decode())
        elif word == unsubscribed and reply[1] is not None:
            self._ended(ear, reply[1].decode())

    def _confirm(self, ear: Ear, subject: str) -> None:
        _answered(ear, subject)
        if subject in ear.asked:
            ear.confirmed.add(subject)
        for missing, future in self._waiting:
            if subject in missing and not future.done() and all(map(self.is_heard, missing)):
                future.set_result(None)
        if self._was_lost and self.is_connected:
            self._was_lost = False
            self._restored()

    def _ended(self, ear: Ear, subject: str) -> None:
        if not _answered(ear, subject) and self._names.is_cluster and subject in ear.asked:
            # The slot went to another server.
            ear.asked.discard(subject)
            ear.confirmed.discard(subject)
            self._was_lost = True
            self._servers.moved()
            self._look_again(asyncio.get_running_loop().time() + 0.05)


def _answered(ear: Ear, subject: str) -> bool:
    """Say whether this is the answer to a command, on a cluster; answers come in order."""
    if subject not in ear.commands:
        return False
    while ear.commands.popleft() != subject:
        pass
    return True


def _ignore(reply: Reply) -> None:
    """Hear nothing: a subscribed connection has no answers."""
