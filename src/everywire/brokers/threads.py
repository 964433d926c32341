"""When a thread is over: later than `threading.Thread.join` says.

A thread's last destructors run after it was joined. What one of them locks in the moment of a fork (as
OpenSSL's do) is locked for ever in the child, which then cannot end; and newer Pythons warn of a fork while
the kernel still counts the thread.
"""

from __future__ import annotations

import os
import threading
from typing import Final

__all__ = ["LOOK_S", "has_exited"]

LOOK_S: Final = 0.0005
"""How long whoever waits for it sleeps between two looks."""


def has_exited(thread: threading.Thread) -> bool:
    """Say whether a thread is gone from the kernel, too, where that can be seen."""
    return not thread.is_alive() and not os.path.exists(f"/proc/self/task/{thread.native_id}")
