"""Programs that are started here, and ended whatever happens, also when a signal comes while they start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["running", "stop"]

_late: list[int] | None = None
"""Signals that came while a program was being started; None when none is."""


def stop(number: int, frame: object) -> None:
    """Handle a signal: leave, and end what was started on the way out."""
    if _late is None:
        sys.exit(128 + number)
    _late.append(number)


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program; kill it at the end, unless it has ended."""
    global _late
    process: subprocess.Popen[Any] | None = None
    try:
        _late = []
        try:
            # An exception in the middle of this would leave behind a program that nobody knows.
            process = subprocess.Popen(command, **options)
        finally:
            came, _late = _late, None
        if came:
            stop(came[0], None)
        yield process
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
