"""The connections to other nodes: opened when needed, kept while they are idle, the last used first.

An idle one is used again only for some seconds, so that it is never the one that its peer is about to close.
The Unix socket is tried first: its name holds the node's own, so that no other machine has the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from everywire.hub.hub import Hub
from everywire.sessions.tasks import Tasks
from everywire.transports.relay_link import PeerLink
from everywire.transports.relay_peers import Peer

__all__ = ["MAX_IDLE_S", "Links"]

MAX_IDLE_S: Final = 20.0
"""How long an idle connection may be used again; its peer keeps it open for longer."""
_MAX_IDLE: Final = 256
"""Idle connections kept for one peer."""


class Links:
    """All connections of this node to others."""

    def __init__(self, hub: Hub, tasks: Tasks) -> None:
        self.opened = 0
        self._hub = hub
        self._tasks = tasks
        self._idle: dict[str, deque[PeerLink]] = {}
        self._open: dict[PeerLink, str] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    def find(self, peer: Peer, done: Callable[[PeerLink | None], None]) -> None:
        """Find a connection to a node: within the call if one is idle; None when it cannot be reached."""
        idle = self._idle.get(peer.label)
        while idle:
            link = idle.pop()
            if link.is_open and self._hub.time() - link.idle_s < MAX_IDLE_S:
                done(link)
                return
            link.abort()
        self._tasks.start(self._connect(peer, done), "connecting to another node")

    async def _connect(self, peer: Peer, done: Callable[[PeerLink | None], None]) -> None:
        link = await self._reach(peer)
        if link is not None:
            if self._is_closed or not link.is_open:
                link.abort()
                link = None
            else:
                self.opened += 1
                self._open[link] = peer.label
        done(link)

    async def _reach(self, peer: Peer) -> PeerLink | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._hub.limits.relay_connect_timeout_s):
                if peer.unix:
                    try:
                        return (await loop.create_unix_connection(self._make, peer.unix))[1]
                    except OSError:
                        pass  # the node is on another machine, or gone
                if peer.tcp:
                    host, _, port = peer.tcp.rpartition(":")
                    return (await loop.create_connection(self._make, host.strip("[]"), int(port)))[1]
        except (OSError, ValueError):  # a time-out is an OSError; a port may be none
            pass
        return None

    def _make(self) -> PeerLink:
        return PeerLink(self._hub, self._became_idle, self._closed)

    def _became_idle(self, link: PeerLink) -> None:
        label = self._open.get(link)
        if label is None or self._is_closed:
            link.abort()
            return
        idle = self._idle.setdefault(label, deque())
        idle.append(link)
        while idle and (len(idle) > _MAX_IDLE or link.idle_s - idle[0].idle_s > MAX_IDLE_S):
            idle.popleft().abort()

    def _closed(self, link: PeerLink) -> None:
        label = self._open.pop(link, None)
        idle = self._idle.get(label or "")
        if label is not None and idle is not None:
            if link in idle:
                idle.remove(link)
            if not idle:
                del self._idle[label]

    def close(self) -> None:
        """Cut them all."""
        self._is_closed = True
        for link in list(self._open):
            link.abort()
