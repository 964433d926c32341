"""Calling an application's functions: what they raise is told, and disturbs nobody."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from everywire.client.errors import ClientError, ConnectionLost

__all__ = ["fetch", "tell"]

_log: Final = logging.getLogger("everywire.client")


async def fetch(get_token: Callable[[], Awaitable[str]]) -> str:
    """Return a token. A `ClientError` that ``get_token`` raises says what is to become of it (`Refused`: no
    more attempts); whatever else goes wrong in it is `ConnectionLost`, after which it is asked again."""
    try:
        return await get_token()
    except ClientError:
        raise
    except Exception as error:
        _log.warning("get_token failed: %r", error)
        raise ConnectionLost(f"get_token failed: {error!r}") from error


def tell(listener: Callable[..., object], *arguments: Any) -> None:
    """Call a listener."""
    try:
        listener(*arguments)
    except Exception:
        _log.exception("a listener of a client failed")
