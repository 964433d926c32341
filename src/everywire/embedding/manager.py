"""Who runs this process: a manager that runs several of it, or nobody of that kind.

A manager is known by what it shares with its workers: the socket it listens on (as uvicorn and gunicorn do;
seen in ``/proc``, proc_pid_fd(5)), `multiprocessing`, or by the workers that its command line and
``WEB_CONCURRENCY`` ask for. A process that was started by hand, by a test or by a shell has none.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Final, NamedTuple

import psutil

__all__ = ["SERVERS", "Manager", "find_manager", "server_of", "started_at"]

SERVERS: Final = frozenset({"daphne", "fastapi", "granian", "gunicorn", "hypercorn", "uvicorn"})
"""Command lines that run ASGI applications."""
_MAX_WORDS: Final = 8
"""Among the first words of a command line is what it runs: Python's own options stand before."""


class Manager(NamedTuple):
    """The parent of this process; ``started`` makes its id unique, ``workers`` is 0 when nobody said."""

    pid: int
    started: int
    workers: int


def find_manager() -> Manager | None:
    """Return the manager of this process, if it has one."""
    pid = os.getppid()
    if pid <= 1:
        return None
    workers = _workers_of(_command_line(pid), os.environ.get("WEB_CONCURRENCY", ""))
    parent = multiprocessing.parent_process()
    is_child = parent is not None and parent.pid == pid
    if not is_child and workers < 2 and not _listens_together_with(pid):
        return None
    return Manager(pid, started_at(pid), workers)


def started_at(pid: int) -> int:
    """Return when a process started, on a scale that is the same for all who ask; 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return int(fields[19])  # clock ticks after the machine's start
    except (OSError, IndexError, ValueError):
        pass
    try:
        return int(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0


def server_of(command: Sequence[str]) -> str:
    """Return which of the known servers a command line runs; "" for none."""
    # "python …/bin/uvicorn app:app", "python -m uvicorn app:app", "…/bin/uvicorn", "gunicorn: master [app]"
    for place, word in enumerate(command[:_MAX_WORDS]):
        name = PurePath(word.partition(":")[0].removesuffix(".py")).name
        if name == "__main__":
            name = PurePath(word).parent.name
        if name in SERVERS and (place == 0 or PurePath(command[0]).name.startswith("python")):
            return name
    return ""


def _command_line(pid: int) -> Sequence[str]:
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def _workers_of(command: Sequence[str], environ: str) -> int:
    if not server_of(command):
        return 0
    for option, value in zip(command, [*command[1:], ""], strict=True):
        name, equals, given = option.partition("=")
        if name == "--workers":
            return _number(given if equals else value)
        if option.startswith("-w"):
            return _number(option[2:] or value)
    return _number(environ)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _listens_together_with(pid: int) -> bool:
    """Say whether this process holds a listening socket that another one holds, too."""
    theirs = {inode for _, inode in _sockets_of(pid)}
    return any(inode in theirs and _is_listener(fd) for fd, inode in _sockets_of(os.getpid()))


def _sockets_of(pid: int) -> Iterator[tuple[int, str]]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return  # another user's process, or another system than Linux
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            yield int(name), target


def _is_listener(fd: int) -> bool:
    """Say whether a descriptor is a stream socket with an address and without a peer. Whether it listens
    already is not asked: some servers begin to only after the application has started."""
    try:
        with socket.socket(fileno=os.dup(fd)) as found:
            if found.type != socket.SOCK_STREAM:
                return False
            address = found.getsockname()
            is_bound = bool(address[1]) if isinstance(address, tuple) else bool(address)
            try:
                found.getpeername()
            except OSError:
                return is_bound
            return False
    except OSError:
        return False
