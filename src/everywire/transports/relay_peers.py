"""Where the other nodes are to be reached: their private addresses, as their leases tell.

A node's lease holds ``{"relay": {"unix": path, "tcp": "host:port"}}``, each only if there is one. What is
known is used without asking; a node that is not known is looked up at once, all who ask meanwhile by one
look, and if there is none that is remembered for a moment. Looks are some time apart, so that ids that
somebody made up cost the store little. An address that does not answer makes its node be looked up anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from everywire.core.errors import EverywireError
from everywire.sessions.nodes import Nodes
from everywire.sessions.tasks import Tasks
from everywire.sockets.engines import label_of

__all__ = ["Peer", "Peers", "lease_value"]

_BETWEEN_LOOKS_S: Final = 0.05
_UNKNOWN_S: Final = 1.0
_MAX_UNKNOWN: Final = 1024
_log = logging.getLogger("everywire.transports")


class Peer(NamedTuple):
    """A node's private addresses; "" where there is none."""

    label: str
    unix: str = ""
    tcp: str = ""


class _Relay(msgspec.Struct):
    unix: str = ""
    tcp: str = ""


class _Value(msgspec.Struct):
    relay: _Relay = msgspec.field(default_factory=_Relay)


_decoder: Final = msgspec.json.Decoder(_Value)


def lease_value(unix: str, tcp: str) -> bytes:
    """Return what the lease of a node tells that listens there."""
    return msgspec.json.encode({"relay": {name: at for name, at in (("unix", unix), ("tcp", tcp)) if at}})


class Peers:
    """The nodes that there are, by their labels."""

    def __init__(self, nodes: Nodes, tasks: Tasks) -> None:
        self.looks = 0
        """How often the leases were read."""
        self._nodes = nodes
        self._tasks = tasks
        self._peers: Mapping[str, Peer] = {}
        self._unknown: dict[str, float] = {}
        self._waiting: list[tuple[str, Callable[[Peer | None], None]]] = []
        self._is_looking = False

    def find(self, label: str, done: Callable[[Peer | None], None]) -> None:
        """Find a node: within the call if it is known, or known to be none."""
        peer = self._peers.get(label)
        if peer is not None:
            done(peer)
        elif self._unknown.get(label, 0.0) > asyncio.get_running_loop().time():
            done(None)
        else:
            self._look(label, done)

    def find_anew(self, tried: Peer, done: Callable[[Peer | None], None]) -> None:
        """Find a node whose address did not answer: None unless it has another one by now."""

        def found(peer: Peer | None) -> None:
            done(None if peer == tried else peer)

        peer = self._peers.get(tried.label)
        if peer is not None and peer != tried:
            done(peer)
        else:
            self._look(tried.label, found)

    def _look(self, label: str, done: Callable[[Peer | None], None]) -> None:
        self._waiting.append((label, done))
        if not self._is_looking:
            self._is_looking = True
            self._tasks.start(self._look_up(), "looking for other nodes")

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._read()
                for label, done in waiting:
                    peer = self._peers.get(label)
                    if peer is None:
                        self._note_unknown(label)
                    loop.call_soon(done, peer)  # each by itself: what goes wrong with one is no other's
                await asyncio.sleep(_BETWEEN_LOOKS_S)
        finally:
            self._is_looking = False

    async def _read(self) -> None:
        self.looks += 1
        try:
            values = await self._nodes.values()
        except EverywireError as error:
            _log.warning("the other nodes could not be looked up: %s", error)
            return
        peers = {}
        for node, value in values.items():
            try:
                relay = _decoder.decode(value).relay
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue  # another version's, which nothing can be forwarded to
            label = label_of(node)
            peers[label] = Peer(label, relay.unix, relay.tcp)
        self._peers = peers

    def _note_unknown(self, label: str) -> None:
        if len(self._unknown) >= _MAX_UNKNOWN:
            self._unknown.clear()
        self._unknown[label] = asyncio.get_running_loop().time() + _UNKNOWN_S
