"""Occupancy: which channels have any member, and the hooks that are told of it.

It is presence once more: the members of the group ``/occupied`` are the nodes that have members of a
channel, and the channel is their "user". So a channel's first member anywhere is a join, and its last
one's leave is told after the same grace (`Limits.leave_debounce_s`), also when it was on a node that was
killed.

Every node hears of it, and one of them calls the hook: the one that rendezvous hashing (Thaler and
Ravishankar) chooses for the channel among the nodes. When that node dies in those very seconds, the
hook may not be called; nodes that see different sets of nodes may both call it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

from everywire.access.hooks import Hooks
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.sessions.nodes import Nodes

__all__ = ["OCCUPIED", "Occupancy", "occupant"]

OCCUPIED: Final = "/occupied"
"""The group of leases; no channel has a slash in its name."""
_MAX_WAITING: Final = 10_000
"""Calls of hooks that wait; more are left out, and logged."""
_log = logging.getLogger("everywire.sessions")

Hook = Callable[[str], Awaitable[None]]


def occupant(channel: str, node: str) -> ClientInfo:
    """Return what stands for a node with members of a channel."""
    return ClientInfo(user=channel, client=f"{channel}/{node}")


class Occupancy:
    """Calls the hooks ``occupied`` and ``vacated``, one after the other, in the order of what happened."""

    def __init__(self, hooks: Hooks, nodes: Nodes, limits: Limits) -> None:
        self._hooks = hooks
        self._nodes = nodes
        self._timeout_s = limits.hook_timeout_s
        self._waiting: deque[tuple[Hook, str]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is any hook to call."""
        return self._hooks.occupied is not None or self._hooks.vacated is not None

    async def start(self) -> None:
        """Begin to call."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tell of occupied channels")

    async def close(self) -> None:
        """Stop; a hook that is running is cancelled."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- as a listener of the group ----------------------------------------------------

    def joined(self, channel: str, info: ClientInfo) -> None:
        """Hear that a channel has its first member."""
        self._call(self._hooks.occupied, info.user)

    def left(self, channel: str, info: ClientInfo) -> None:
        """Hear that a channel has lost its last member."""
        self._call(self._hooks.vacated, info.user)

    def changed(self, channel: str) -> None:
        """Hear that some were left out."""
        _log.warning("more channels became occupied and vacated than hooks are told of")

    def _call(self, hook: Hook | None, channel: str) -> None:
        if hook is None:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self.changed(channel)
            return
        self._waiting.append((hook, channel))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            names: list[str] = []
            while self._waiting:
                hook, channel = self._waiting.popleft()
                names = names or await self._names()
                if chosen(channel, names) == self._nodes.own:
                    await self._run_hook(hook, channel)

    async def _names(self) -> list[str]:
        try:
            return await self._nodes.names()
        except EverywireError as error:
            _log.warning("the nodes are not known, each calls its hooks: %s", error)
            return [self._nodes.own]

    async def _run_hook(self, hook: Hook, channel: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await hook(channel)
        except Exception:  # the top of the application's code: whatever it raises is its own
            _log.exception("a hook for channel %s failed", channel)


def chosen(channel: str, names: list[str]) -> str:
    """Return the node that rendezvous hashing chooses for a channel."""
    return max(names, key=lambda name: blake2b(f"{channel}/{name}".encode(), digest_size=8).digest())
