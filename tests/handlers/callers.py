"""Fakes of whoever calls a handler: a session that remembers what it is told, and a plain publisher."""

from __future__ import annotations

from typing import Any

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import NOBODY, Identity
from everywire.core.codes import Code
from everywire.core.position import Place

__all__ = ["FakeSession", "Plain"]


class Plain:
    """The publisher of a plain transport."""

    def __init__(self, user: str = "ann", **more: Any) -> None:
        self.identity = Identity(user=user, **more) if user else NOBODY
        self.client = ""
        self.transport = "publish"
        self.peer = "192.0.2.1"


class FakeSession(Plain):
    """A session."""

    def __init__(self, user: str = "ann", **more: Any) -> None:
        super().__init__(user, **more)
        self.client = f"client-of-{user}"
        self.transport = "websocket"
        self.memo: Any = None
        self.told: list[tuple[Any, ...]] = []

    def message(self, data: bytes) -> None:
        self.told.append(("message", data))

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        self.told.append(("subscribe", channel, decision.data, since))

    def unsubscribe(self, channel: str, code: Code) -> None:
        self.told.append(("unsubscribe", channel, code.number))

    def disconnect(self, code: Code, reason: str = "") -> None:
        self.told.append(("disconnect", code.number, reason))
