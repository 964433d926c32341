"""What takes the place of a carrier in a session that has ended: nobody, who takes everything and is silent.

Session and carrier know each other; with this they are parted, so that both are freed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from everywire.core.codes import Code
from everywire.sessions.carrier import Carrier
from everywire.sessions.dialects import WEBSOCKET_JSON

__all__ = ["DEPARTED"]


class _Framing:
    """Leaves payloads as they are."""

    def frame(self, payload: Any) -> Any:
        """Return the payload."""
        return payload


class _Departed:
    """The carrier of a session that has ended."""

    transport = ""
    dialect = WEBSOCKET_JSON
    framing = _Framing()
    is_emulated = False

    @property
    def send(self) -> Callable[[Any], int]:
        """Take it and do nothing."""
        return len

    def write(self, framed: Any, /) -> None:
        """Take it and do nothing."""

    def beat(self) -> None:
        """Do nothing."""

    def close(self, code: Code, reason: str) -> None:
        """Do nothing."""

    def note(self, messages_out: int, code: Code | None = None) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


DEPARTED: Final[Carrier] = _Departed()
