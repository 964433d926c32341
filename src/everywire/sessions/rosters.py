"""All rosters of one node: who listens to which channel, and telling them in slices.

A roster lives as long as its channel has a listener here. One task compares rosters with the leases: a new
one at once, then each every few seconds, one after the other. Listeners are told from the event loop some
hundred at a time, so that a crowd that listens does not hold up everybody else.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.errors import EverywireError
from everywire.hub.hub import Hub
from everywire.sessions.membership import decode_info
from everywire.sessions.roster import JoinLeaveListener, Roster, Told

__all__ = ["Rosters"]

COMPARE_S: Final = 5.0
"""A roster is compared with the leases about so often."""
COMPARE_LARGE_S: Final = 60.0
"""The same for one that has more members than are told of one by one."""
_MAX_COMPARED: Final = 200
"""Rosters compared per second."""
_MAX_SLICE: Final = 200
"""Listeners told in one turn of the event loop: some 0.2 ms and what they make of it."""
_MAX_WAITING: Final = 10_000
"""Joins and leaves that wait for their listeners to be told; then listeners are told to read the list."""
_log = logging.getLogger("everywire.sessions")


class Telling(NamedTuple):
    """One thing that listeners are being told."""

    roster: Roster
    what: Told
    info: ClientInfo | None
    listeners: list[JoinLeaveListener]
    """Those that are still to be told."""


class Rosters:
    """The rosters of one node; ``read`` has a channel's members read, and `compare` is called with them."""

    def __init__(self, hub: Hub, read: Callable[[str], Awaitable[object]]) -> None:
        self._hub = hub
        self._limits = hub.limits
        self._read = read
        self._rosters: OrderedDict[str, Roster] = OrderedDict()
        self._queue: dict[str, None] = {}
        self._busy: dict[Roster, None] = {}
        self._waiting: deque[Telling] = deque()
        self._is_scheduled = False
        self._is_failing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.told = 0
        """Joins and leaves told, times listeners."""
        self.left_out = 0
        """Times that listeners were told to read the list again instead."""

    def __len__(self) -> int:
        return len(self._rosters)

    async def start(self) -> None:
        """Begin to compare."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._compare_all(), name="compare presence")

    async def close(self) -> None:
        """Stop, and tell nothing more."""
        self._waiting.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def listen(
        self, channel: str, listener: JoinLeaveListener, *, by_user: bool, is_unbounded: bool = False
    ) -> None:
        """Tell a listener from now on."""
        roster = self._rosters.get(channel)
        if roster is None:
            limits = self._limits
            roster = self._rosters[channel] = Roster(
                channel,
                by_user=by_user,
                tell=self._tell,
                debounce_s=limits.leave_debounce_s,
                max_members=limits.max_leases if is_unbounded else limits.max_roster_members,
                max_tells_per_s=math.inf if is_unbounded else limits.max_presence_tells_per_s,
            )
            self._ask(channel)
        roster.listeners[listener] = None

    def unlisten(self, channel: str, listener: JoinLeaveListener) -> None:
        """Tell a listener no more; nothing that was under way reaches it either."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.listeners.pop(listener, None)
            if not roster.listeners:
                del self._rosters[channel]
                self._busy.pop(roster, None)

    def entered(self, channel: str, value: bytes) -> None:
        """Hear that somebody came to a channel or has other info."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.entered(value)
            self._busy[roster] = None

    def gone(self, channel: str, value: bytes) -> None:
        """Hear that somebody is gone."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.gone(value, self._hub.time())
            self._busy[roster] = None

    def compare(self, channel: str, members: Mapping[str, bytes]) -> None:
        """Hear who the members are at this moment."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.compare(members, self._hub.time())
            self._busy[roster] = None

    def compare_soon(self) -> None:
        """Have all rosters compared with the leases, as soon as that can be done."""
        for channel in self._rosters:
            self._ask(channel)

    def listed(self, channel: str) -> None:
        """Hear that somebody is given a channel's list."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.listed()

    def advance(self, now_s: float, passed_s: float) -> None:
        """Tell what is due, and have compared what has not been for long."""
        for roster in list(self._busy):
            if not roster.advance(now_s, passed_s):
                del self._busy[roster]
        for _ in range(min(len(self._rosters), math.ceil(_MAX_COMPARED * passed_s))):
            channel, roster = next(iter(self._rosters.items()))
            if roster.compared_s + COMPARE_S > now_s and roster.is_loaded:
                break
            self._rosters.move_to_end(channel)
            if not roster.is_large or roster.compared_s + COMPARE_LARGE_S <= now_s:
                self._ask(channel)

    # -- comparing --------------------------------------------------------------------

    def _ask(self, channel: str) -> None:
        self._queue[channel] = None
        self._wake.set()

    async def _compare_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                channel = next(iter(self._queue))
                del self._queue[channel]
                if channel in self._rosters:
                    await self._compare(channel)

    async def _compare(self, channel: str) -> None:
        try:
            await self._read(channel)
            self._is_failing = False
        except EverywireError as error:
            if not self._is_failing:  # one line, not one for each of them as long as it lasts
                _log.warning("members of %s could not be compared: %s", channel, error)
            self._is_failing = True
        except Exception:
            # The top of a task: one channel's members must not keep all others from being compared.
            _log.exception("members of %s could not be compared", channel)

    # -- telling ----------------------------------------------------------------------

    def _tell(self, roster: Roster, what: Told, value: bytes) -> None:
        if what is Told.CHANGED:
            self.left_out += 1
        elif len(self._waiting) >= _MAX_WAITING:
            roster.has_changed = True
            return
        info = None if what is Told.CHANGED else decode_info(value)
        listeners = list(roster.listeners)
        listeners.reverse()  # they are taken from the end
        self._waiting.append(Telling(roster, what, info, listeners))
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled and self._loop is not None:
            self._is_scheduled = True
            self._loop.call_soon(self._tell_slice)

    def _tell_slice(self) -> None:
        self._is_scheduled = False
        waiting = self._waiting
        try:
            for _ in range(_MAX_SLICE):
                while waiting and not waiting[0].listeners:
                    waiting.popleft()
                if not waiting:
                    break
                telling = waiting[0]
                listener = telling.listeners.pop()
                if listener in telling.roster.listeners:
                    self.told += 1
                    _tell_one(listener, telling)
        finally:
            if waiting:
                self._schedule()


def _tell_one(listener: JoinLeaveListener, telling: Telling) -> None:
    channel = telling.roster.channel
    if telling.info is None:
        listener.changed(channel)
    elif telling.what is Told.JOINED:
        listener.joined(channel, telling.info)
    else:
        listener.left(channel, telling.info)
