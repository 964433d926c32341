"""All mounts of Engine.IO of a server: which path is whose. They are added before it starts, or later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from everywire.core.errors import SettingsError
from everywire.sessions.shared import Shared
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.engines import Accept, Engines
from everywire.transports.engineio import EngineIo
from everywire.transports.relay import NOWHERE, Relay
from everywire.transports.service import Service

__all__ = ["EngineMounts"]

_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.~-]+)+")


class _Wanted(NamedTuple):
    accept: Callable[[Shared], Accept]
    options: EngineOptions


class EngineMounts:
    """The mounts of one server; a path answers with and without a slash at its end."""

    __slots__ = ("_mounts", "_relay", "_service", "_wanted")

    def __init__(self) -> None:
        self._wanted: dict[str, _Wanted] = {}
        self._mounts: dict[str, EngineIo] = {}
        self._service: Service | None = None
        self._relay = NOWHERE

    def add(self, path: str, accept: Callable[[Shared], Accept], options: EngineOptions) -> None:
        """Serve Engine.IO at a path such as ``/socket.io``; ``accept`` is called at each start of the server,
        and returns what takes new connections.

        Raises `SettingsError` when the path is taken, or no plain path.
        """
        path = path.rstrip("/")
        if _PATH.fullmatch(path) is None:
            raise SettingsError(f"{path!r} is no path for Engine.IO; expected one such as /engine.io")
        if path in self._wanted:
            raise SettingsError(f"Engine.IO is served at {path!r} already")
        self._wanted[path] = wanted = _Wanted(accept, options)
        if self._service is not None:
            self._mount(self._service, path, wanted)

    def start(self, service: Service, relay: Relay = NOWHERE) -> None:
        """Begin to serve; ``relay`` takes requests for connections of other nodes there."""
        self._service = service
        self._relay = relay
        for path, wanted in self._wanted.items():
            self._mount(service, path, wanted)

    def _mount(self, service: Service, path: str, wanted: _Wanted) -> None:
        mount = EngineIo(service, wanted.accept(service.shared), wanted.options, relay=self._relay)
        self._mounts[path] = self._mounts[f"{path}/"] = mount

    def close(self) -> None:
        """End all connections; before the hub is closed, and before the tasks of handlers are."""
        self._service = None
        for engines in self.engines():
            engines.close()
        self._mounts.clear()

    def find(self, path: str) -> EngineIo | None:
        """Return the mount that an address belongs to, if any."""
        return self._mounts.get(path)

    def engines(self) -> Iterator[Engines]:
        """Walk over the connections of each mount."""
        for path in self._wanted:
            mount = self._mounts.get(path)
            if mount is not None:
                yield mount.engines
