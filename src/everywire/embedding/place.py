"""The place of an embedded server among the processes of its application.

Where no broker is named, all processes of one manager share one SQLite file in the state directory, in a
directory that is named after the manager; those of managers that are gone are removed. A process without a
manager keeps its channels in its own memory, and holds a lock that says so: a second one with the same
command line (but for the port), directory and parent is refused, because nobody said how the two share.

Where a memory broker is named, a process that is one of several is refused. Locks are flock(2): they end with
their process, however it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import quote

from everywire.brokers.base import Broker
from everywire.brokers.memory import MemoryBroker
from everywire.brokers.state import state_dir
from everywire.core.errors import SettingsError
from everywire.embedding.manager import Manager, find_manager, server_of, started_at

__all__ = ["Place", "take_place"]

_ADDRESSES: Final = frozenset(
    {"--bind", "--fd", "--host", "--port", "--uds", "--unix-socket", "-b", "-h", "-p", "-u"}
)
"""Options that say where a server listens; whatever else two command lines have in common makes them one
application."""
_WAIT_S: Final = 10.0
"""For a process that this one replaces to be gone."""
_POLL_S: Final = 0.05
_PREFIX: Final = "embedded-"
_log = logging.getLogger("everywire.embedding")
_taken: Final[set[int]] = set()
"""Numbers of the servers in this process; in every process of an application they start in the same order."""


class Place:
    """What a running server holds. ``url`` is the address of the broker that it is to use; "" is its own."""

    def __init__(self) -> None:
        self.url = ""
        self.number = next(number for number in count() if number not in _taken)
        self._locks: list[int] = []
        _taken.add(self.number)

    def hold(self, lock: int) -> None:
        """Hold a lock until the end."""
        self._locks.append(lock)

    def leave(self) -> None:
        """Let go of the locks."""
        _taken.discard(self.number)
        locks, self._locks = self._locks, []
        for lock in locks:
            os.close(lock)


async def take_place(named: Broker | None, given_dir: str = "") -> Place:
    """Find out how this process shares its channels with others of its application.

    ``named`` is the broker that the application named. Raises `SettingsError` where processes would share
    nothing, or have no place to share in.
    """
    manager = find_manager()
    place = Place()
    try:
        if named is None and manager is not None:
            _share(place, manager, given_dir)
        elif named is None:
            _be_the_only_one(place, given_dir)
        elif manager is not None and isinstance(named, MemoryBroker):
            await _be_alone(place, manager, given_dir)
    except BaseException:
        place.leave()
        raise
    return place


# -- with a manager ---------------------------------------------------------------------


def _share(place: Place, manager: Manager, given_dir: str) -> None:
    try:
        _clear(state_dir(given_dir))
        directory = state_dir(given_dir, name=_name(place, manager))
    except SettingsError as error:
        raise SettingsError(
            f"this process is one of several of process {manager.pid}, and there is no place where they"
            f" could share their channels; name a broker ({error.sentence})"
        ) from None
    lock = _lock(directory / "lock", fcntl.LOCK_SH)
    if lock is not None:
        place.hold(lock)
    place.url = f"sqlite://{quote(str(directory))}"
    _log.info("channels are shared by all processes of %d in %s", manager.pid, directory)


async def _be_alone(place: Place, manager: Manager, given_dir: str) -> None:
    """Refuse more than one process; one that replaces another waits for it to go."""
    lock = None
    if manager.workers < 2:
        path = state_dir(given_dir) / f"{_name(place, manager)}.lock"
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _WAIT_S
        # Another process cannot wake this one up.
        while (lock := _lock(path, fcntl.LOCK_EX)) is None and loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
    if lock is None:
        raise SettingsError(
            f"process {manager.pid} runs this application in several processes, and a memory broker keeps"
            " the channels of each apart: name no broker, and they share them in a file of SQLite; or name"
            " redis:// or nats://; or run one worker"
        )
    place.hold(lock)


def _name(place: Place, manager: Manager) -> str:
    return f"{_PREFIX}{manager.pid}-{manager.started}-{place.number}"


def _clear(state: Path) -> None:
    """Remove what managers left behind that are gone, unless a process of theirs still uses it."""
    for found in state.glob(f"{_PREFIX}*"):
        parts = found.name.removeprefix(_PREFIX).removesuffix(".lock").split("-")
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            continue
        if started_at(int(parts[0])) == int(parts[1]):
            continue
        is_lock = found.suffix == ".lock"
        lock = _lock(found if is_lock else found / "lock", fcntl.LOCK_EX)
        if lock is None:
            continue
        if is_lock:
            found.unlink(missing_ok=True)
        else:
            shutil.rmtree(found, ignore_errors=True)
        os.close(lock)


# -- without ------------------------------------------------------------------------------


def _be_the_only_one(place: Place, given_dir: str) -> None:
    """Refuse a second process of a server's command line. Programs and tests are nobody's business here."""
    if place.number or not server_of(sys.argv):
        return
    parent = os.getppid()
    same = [os.getcwd(), str(parent), str(started_at(parent)), *_without_addresses(sys.argv)]
    digest = hashlib.blake2b("\0".join(same).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    try:
        path = state_dir(given_dir) / f"alone-{digest}.lock"
    except SettingsError:
        return  # it needs no such directory otherwise
    lock = _lock(path, fcntl.LOCK_EX)
    if lock is None:
        raise SettingsError(
            "another process of this application runs beside this one, and nobody said whether they share"
            " their channels: name a broker, 'sqlite:' (or redis://, nats://) to share them, 'memory:' to"
            " keep them apart"
        )
    place.hold(lock)


def _without_addresses(command: Sequence[str]) -> list[str]:
    kept: list[str] = []
    is_value = False
    for word in command:
        name = word.partition("=")[0]
        if not is_value and name not in _ADDRESSES:
            kept.append(word)
        is_value = word in _ADDRESSES
    return kept


# -- locks ----------------------------------------------------------------------------------


def _lock(path: Path, kind: int) -> int | None:
    """Return a descriptor that holds the lock; None when somebody else does."""
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SettingsError(f"the lock {path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            held, named = os.fstat(lock), os.stat(path)
        except FileNotFoundError:
            os.close(lock)  # removed meanwhile: it is nobody's lock any more
            continue
        except OSError:
            os.close(lock)
            return None
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return lock
        os.close(lock)
