"""Processes that are measured: started on a core of their own, looked at in /proc, ended by pid."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

__all__ = [
    "NotRunning",
    "cpu_s",
    "end",
    "free_port",
    "last_words",
    "lines_of",
    "memory_bytes",
    "raise_file_limit",
    "start",
    "wait_until_it_listens",
]

PRIORITY = -12
"""Above the other work of the machine, where we may (root); a measurement wants no company."""

TERMINATE_TIMEOUT_S = 10.0
MAX_LINE_BYTES = 64 * 1024
LAST_WORDS_LINES, LAST_WORDS_CHARACTERS = 10, 1_000


class NotRunning(Exception):
    """A process that we started has failed, or did not do its work in time."""


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, for us and what we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle(core: int) -> None:
    """Run in the child, before its program: on its core, above other work."""
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        # Where the kernel groups by session, the first priority counts within the group only.
        Path("/proc/self/autogroup").write_text(str(PRIORITY))


def start(
    command: Sequence[str | Path],
    *,
    core: int | None,
    log: Path,
    environ: Mapping[str, str] | None = None,
    piped: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program, on one core if one is given; what it writes goes to the log.

    With `piped`, standard output is a pipe and only standard error goes to the log. The program is
    started without a shell, so the pid is its own.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else output,
            stderr=output,
            env=environ,
            # A session of its own: Ctrl-C reaches us alone, and we end them in order.
            start_new_session=True,
            preexec_fn=None if core is None else partial(_settle, core),
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, by its pid: politely, then for sure."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(TERMINATE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def lines_of(output: IO[bytes], deadline_s: float) -> Iterator[str]:
    """Yield lines as they come, until the end; raise `NotRunning` at the deadline."""
    rest = b""
    give_up = time.monotonic() + deadline_s
    while True:
        ready, _, _ = select.select([output], [], [], max(0.0, give_up - time.monotonic()))
        if not ready:
            raise NotRunning(f"nothing more came within {deadline_s:.0f} s")
        data = os.read(output.fileno(), MAX_LINE_BYTES)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise NotRunning("a line has no end")
        for line in whole:
            yield line.decode("utf-8", "replace")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody held a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, timeout_s: float) -> None:
    """Return when somebody accepts at the port; raise `NotRunning` if the process ends before."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise NotRunning(f"the server ended at once with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.05)
    raise NotRunning(f"the server does not listen after {timeout_s:.0f} s")


def last_words(log: Path) -> str:
    """Return the last lines of a log, as one."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    return " / ".join(lines[-LAST_WORDS_LINES:])[-LAST_WORDS_CHARACTERS:] or "it said nothing"


# -- what /proc tells ---------------------------------------------------------


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, its threads and its children, to the nanosecond."""
    total = 0.0
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total + sum(cpu_s(child) for child in _children(pid))


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children; shared pages count in part (Pss)."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
    return total + sum(memory_bytes(child) for child in _children(pid))


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            found.extend(map(int, (task / "children").read_text().split()))
    return found
