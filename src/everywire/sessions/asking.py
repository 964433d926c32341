"""Asking the application: one answer within its time, or an error that a client may be told.

An `EverywireError` is the application's answer. Anything else that goes wrong is logged, and becomes
code 100: nothing of it may leak to a client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from everywire.core import codes
from everywire.core.errors import EverywireError

__all__ = ["asked"]

_Answer = TypeVar("_Answer")
_log = logging.getLogger("everywire.sessions")


async def asked(what: str, answer: Awaitable[_Answer], timeout_s: float) -> _Answer | EverywireError:
    """Return the answer, or the error that takes its place. ``what`` names it in the log."""
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except EverywireError as error:
        return error
    except TimeoutError:
        _log.warning("%s was not done within %g s", what, timeout_s)
        return EverywireError("the application did not answer in time", code=codes.INTERNAL)
    except Exception:  # the top of the application's work
        _log.exception("%s failed", what)
        return EverywireError(code=codes.INTERNAL)
