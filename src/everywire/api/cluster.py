"""What the server API asks of all nodes: which channels are read, and how the nodes are."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from time import monotonic, process_time
from typing import Final

import msgspec
from msgspec import Struct

from everywire.core.errors import BadRequest
from everywire.core.names import MAX_NAME_CHARACTERS
from everywire.sessions.shared import Shared

__all__ = ["ChannelsFound", "Cluster", "NodeInfo", "NodesFound"]

CHANNELS: Final = "api.channels"
INFO: Final = "api.info"
VERSION: Final = 1
_log = logging.getLogger("everywire.api")


class _Pattern(Struct):
    v: int
    pattern: str


class _Channels(Struct):
    v: int
    channels: dict[str, int]
    is_cut: bool


class ChannelsFound(Struct):
    """Channels that have readers, with how many; and what is missing from it."""

    channels: Mapping[str, int]
    is_cut: bool
    """Whether a node has more than it lists."""
    silent: list[str]
    """Nodes that did not answer in time."""


class Metrics(Struct):
    """Numbers of a node as they are at this moment."""

    interval: float
    items: dict[str, float]


class Process(Struct):
    """A node's process: CPU time in percent since it began, resident memory in bytes."""

    cpu: float
    rss: int


class NodeInfo(Struct):
    """One node."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int
    metrics: Metrics
    process: Process


class _Info(Struct):
    v: int
    node: NodeInfo


class NodesFound(Struct):
    """The nodes that answered, and the names of those that did not in time."""

    nodes: list[NodeInfo]
    silent: list[str]


_encode = msgspec.json.Encoder().encode
_decode_pattern = msgspec.json.Decoder(_Pattern).decode
_decode_channels = msgspec.json.Decoder(_Channels).decode
_decode_info = msgspec.json.Decoder(_Info).decode


class Cluster:
    """Asks all nodes, and answers for this one."""

    def __init__(self, shared: Shared, name: str, version: str) -> None:
        self._shared = shared
        self._nodes = shared.registry.nodes
        self._name = name or self._nodes.own
        self._version = version
        self._began_s = monotonic()
        shared.hub.on_ask(CHANNELS, self._list_channels)
        shared.hub.on_ask(INFO, self._tell_info)

    async def channels(self, pattern: str) -> ChannelsFound:
        """Return the channels that have readers on any node and fit a glob pattern (``*``, ``?``, ``[ab]``;
        empty for all). Raises `BadRequest` for no pattern."""
        _compiled(pattern)
        answers, silent = await self._nodes.ask_all(CHANNELS, _encode(_Pattern(VERSION, pattern)))
        counts: dict[str, int] = {}
        is_cut = False
        for node, answer in answers.items():
            try:
                found = _decode_channels(answer)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                _log.warning("what node %s answers is not understood: %s", node, error)
                silent.append(node)
                continue
            is_cut |= found.is_cut
            for channel, count in found.channels.items():
                counts[channel] = counts.get(channel, 0) + count
        return ChannelsFound(counts, is_cut, sorted(silent))

    async def info(self) -> NodesFound:
        """Return how the nodes are."""
        answers, silent = await self._nodes.ask_all(INFO, b"{}")
        nodes: list[NodeInfo] = []
        for node, answer in answers.items():
            try:
                nodes.append(_decode_info(answer).node)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                _log.warning("what node %s answers is not understood: %s", node, error)
                silent.append(node)
        return NodesFound(sorted(nodes, key=lambda node: node.uid), sorted(silent))

    async def _list_channels(self, payload: bytes, node: str) -> bytes:
        try:
            pattern = _compiled(_decode_pattern(payload).pattern)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"this question is not understood: {error}") from None
        most = self._shared.limits.max_listed_channels
        found: dict[str, int] = {}
        for channel, count in self._shared.hub.channels_read().items():
            if pattern is None or pattern.match(channel) is not None:
                if len(found) >= most:
                    return _encode(_Channels(VERSION, found, True))
                found[channel] = count
        return _encode(_Channels(VERSION, found, False))

    async def _tell_info(self, payload: bytes, node: str) -> bytes:
        shared = self._shared
        read = shared.hub.channels_read()
        known = shared.registry.statistics()
        uptime_s = monotonic() - self._began_s
        items = {**shared.hub.statistics(), **shared.presence.statistics()}
        info = NodeInfo(
            uid=self._nodes.own,
            name=self._name,
            version=self._version,
            num_clients=known["visitors"],
            num_users=known["users"],
            num_subs=sum(read.values()),
            num_channels=len(read),
            uptime=int(uptime_s),
            metrics=Metrics(0.0, {name: float(value) for name, value in items.items()}),
            process=Process(round(100 * process_time() / max(uptime_s, 1.0), 2), _resident_bytes()),
        )
        return _encode(_Info(VERSION, info))


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Return what a glob pattern matches; None for the empty one, which is everything.

    `fnmatch` makes no expression that could take long: what stands between stars is tried once.
    """
    if len(pattern) > MAX_NAME_CHARACTERS:
        raise BadRequest(f"a pattern is at most {MAX_NAME_CHARACTERS} characters")
    return re.compile(fnmatch.translate(pattern)) if pattern else None


def _resident_bytes() -> int:
    """Return the memory that the process occupies; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
