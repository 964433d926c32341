"""All SockJS mounts of a server: which prefix is whose. They are added before it starts, or while it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from everywire.core.errors import SettingsError
from everywire.sessions.shared import Shared
from everywire.sockets.sockjs_link import Accept, SockJsOptions
from everywire.transports.relay import NOWHERE, Relay
from everywire.transports.service import Service
from everywire.transports.sockjs import SockJs

__all__ = ["SockJsMounts"]

_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_.~-]+)+")


class _Wanted(NamedTuple):
    accept: Callable[[Shared], Accept]
    options: SockJsOptions
    wants_identity: bool


class SockJsMounts:
    """The mounts of one server. Where one prefix begins with another, the longer one counts."""

    __slots__ = ("_mounts", "_relay", "_service", "_wanted")

    def __init__(self) -> None:
        self._wanted: dict[str, _Wanted] = {}
        self._mounts: list[SockJs] = []
        self._service: Service | None = None
        self._relay = NOWHERE

    def add(
        self,
        prefix: str,
        accept: Callable[[Shared], Accept],
        options: SockJsOptions | None = None,
        *,
        wants_identity: bool = True,
    ) -> None:
        """Serve SockJS below a prefix such as ``/echo``; arguments as those of `SockJs`, ``accept`` for each
        start of the server.

        Raises `SettingsError` when the prefix is taken, or no plain path without a slash at its end.
        """
        if _PREFIX.fullmatch(prefix) is None:
            raise SettingsError(f"{prefix!r} is no prefix for SockJS; expected a path such as /echo")
        if prefix in self._wanted:
            raise SettingsError(f"SockJS is served at {prefix!r} already")
        self._wanted[prefix] = wanted = _Wanted(accept, options or SockJsOptions(), wants_identity)
        if self._service is not None:
            self._mount(self._service, prefix, wanted)

    def start(self, service: Service, relay: Relay = NOWHERE) -> None:
        """Begin to serve; ``relay`` takes requests for sessions of other nodes there."""
        self._service = service
        self._relay = relay
        for prefix, wanted in self._wanted.items():
            self._mount(service, prefix, wanted)

    def _mount(self, service: Service, prefix: str, wanted: _Wanted) -> None:
        accept = wanted.accept(service.shared)
        mount = SockJs(
            service,
            prefix,
            accept,
            wanted.options,
            wants_identity=wanted.wants_identity,
            relay=self._relay,
        )
        self._mounts.append(mount)
        self._mounts.sort(key=lambda one: len(one.prefix), reverse=True)

    def close(self) -> None:
        """End all sessions; before the hub is closed, and before the tasks of handlers are."""
        mounts, self._mounts = self._mounts, []
        self._service = None
        for mount in mounts:
            mount.close()

    def find(self, path: str) -> SockJs | None:
        """Return the mount that an address belongs to, if any."""
        for mount in self._mounts:
            if mount.serves(path):
                return mount
        return None

    def __len__(self) -> int:
        """How many sessions over HTTP there are."""
        return sum(len(mount.table) for mount in self._mounts)
