"""What a forked process inherits of a node and must let go of: files and sockets that live, and locks that
last, as long as anybody holds them."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["Inherited", "let_go_after_fork"]


class Inherited(Protocol):
    """Something with descriptors that are this process's alone."""

    def forked(self) -> None:
        """Let go of them, in the forked process."""


_all: Final[weakref.WeakSet[Inherited]] = weakref.WeakSet()


def let_go_after_fork(one: Inherited) -> None:
    """Have `Inherited.forked` called in every process that is forked from this one."""
    _all.add(one)


def _forked() -> None:
    for one in _all:
        one.forked()


os.register_at_fork(after_in_child=_forked)
