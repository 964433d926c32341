"""What a handler sees of whoever calls it: a session, or the publisher of a plain transport.

All methods do at once what they say when they are called in the event loop, and what they return need
not be awaited there; in a thread they wait until the event loop has done it. None waits for the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from everywire.access.hooks import Caller, SubscribeDecision
from everywire.access.identity import AuthRequest, Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.names import check_name
from everywire.core.position import Place
from everywire.handlers.payloads import encode
from everywire.handlers.refused import code_of

__all__ = ["DONE", "Done", "Reachable", "Session"]

_THREAD_TIMEOUT_S: Final = 10.0


@runtime_checkable
class Reachable(Protocol):
    """A caller that something can be told to: a `everywire.sessions.session.Session`."""

    memo: Any

    def message(self, data: bytes) -> None:
        """Push a message."""

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        """Begin a server-side subscription."""

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End a subscription."""

    def disconnect(self, code: Code, reason: str = "") -> None:
        """End it."""


class Done:
    """What need not be awaited: it is done."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # an awaitable must be a generator


DONE: Final = Done()


class Session:
    """Who calls, and what can be done to it.

    Methods that only sessions have raise an error with code 108 (``not_available``) for the publisher of a
    plain transport.
    """

    __slots__ = ("_caller", "_loop", "request")

    def __init__(
        self, caller: Caller, loop: asyncio.AbstractEventLoop, request: AuthRequest | None = None
    ) -> None:
        self._caller = caller
        self._loop = loop
        self.request = request
        """What it brought to be known: headers, cookies, query. In `Everywire.on_connect` only."""

    @property
    def identity(self) -> Identity:
        """Whom its credential proved."""
        return self._caller.identity

    @property
    def user(self) -> str:
        """The user id; empty is nobody."""
        return self._caller.identity.user

    @property
    def client(self) -> str:
        """The client id, another for every connection; empty on plain transports."""
        return self._caller.client

    @property
    def info(self) -> Any:
        """What others see of it, or None."""
        info = self._caller.identity.info
        return None if info is None else msgspec.json.decode(info)

    @property
    def claims(self) -> Mapping[str, Any]:
        """All that its credential says; never shown to others."""
        return self._caller.identity.claims

    @property
    def transport(self) -> str:
        """The wire that carries it, such as ``websocket``, ``http_stream`` or ``poll``."""
        return self._caller.transport

    @property
    def peer(self) -> str:
        """Its address."""
        return self._caller.peer

    @property
    def memo(self) -> Any:
        """What the application keeps with this session, to its end; None at first. On plain transports
        there is nothing to keep it with."""
        return getattr(self._caller, "memo", None)

    @memo.setter
    def memo(self, value: Any) -> None:
        self._reachable().memo = value

    def send(self, data: Any) -> Done:
        """Send a message to this session; what JSON can say, structs and dataclasses included."""
        text = encode(data)
        return self._do(lambda reachable: reachable.message(text))

    def disconnect(self, code: Code | int = codes.DISCONNECTED, reason: str = "") -> Done:
        """End it. Applications use codes from 4000 to 4999; from 4500 on clients do not come back."""
        row = code_of(code, reason)
        return self._do(lambda reachable: reachable.disconnect(row, reason or row.sentence))

    def subscribe(self, channel: str, *, data: Any = None, since: Place | None = None) -> Done:
        """Subscribe it to a channel, from now on or after a place; the rules are not asked."""
        check_name(channel)
        decision = SubscribeDecision(data=None if data is None else encode(data))
        return self._do(lambda reachable: reachable.subscribe(channel, decision, since))

    def unsubscribe(self, channel: str) -> Done:
        """End its subscription to a channel, if it has one."""
        return self._do(lambda reachable: reachable.unsubscribe(channel, codes.UNSUBSCRIBED))

    def _do(self, act: Callable[[Reachable], object]) -> Done:
        caller = self._reachable()
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False
        if is_here:
            act(caller)
            return DONE
        future: Future[None] = Future()

        def run() -> None:
            try:
                act(caller)
                future.set_result(None)
            except Exception as error:  # handed over to the thread that waits
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        future.result(_THREAD_TIMEOUT_S)
        return DONE

    def _reachable(self) -> Reachable:
        if not isinstance(self._caller, Reachable):
            raise EverywireError("a plain transport has no session to do this to", code=codes.NOT_AVAILABLE)
        return self._caller

    def __repr__(self) -> str:
        return f"Session(user={self.user!r}, client={self.client!r}, transport={self.transport!r})"
