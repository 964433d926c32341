"""What stands behind the table of hooks when the application is in Python: the registered functions.

Each method here is one entry of `everywire.access.hooks.Hooks`. It decodes what came into the type that
the function asks for, calls it, and makes of what it returns what the entry promises. Nothing but
`EverywireError`s leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any, Final, NamedTuple

from everywire.access.hooks import IN_ORDER, Caller, ConnectDecision, Lane, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import JSON, Draft
from everywire.handlers.functions import Function, Threads
from everywire.handlers.patterns import Patterns
from everywire.handlers.payloads import ANYTHING, Payload, encode
from everywire.handlers.session import Session
from everywire.sessions.line import Line

__all__ = ["Answering", "Handler"]

MESSAGES: Final = ""
"""The method that stands for messages, which have none."""


class Handler(NamedTuple):
    """A function with the type of its data; for calls and messages also where they wait for their turn."""

    function: Function
    payload: Payload = ANYTHING
    lane: Lane = IN_ORDER
    key: Callable[[Session, Any], Hashable] | None = None


class Answering:
    """The registered functions, and how they answer."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.threads = Threads(limits)
        self.methods: dict[str, Handler] = {}
        """By the name of the rpc; `MESSAGES` for messages."""
        self.rpc_elsewhere: Callable[[Caller, str, bytes], Awaitable[bytes]] | None = None
        """What answers calls of other methods."""
        self.connects: Handler | None = None
        self.refreshes: Function | None = None
        self.authenticates: Function | None = None
        self.authorizes: Function | None = None
        self.disconnects: Function | None = None
        self.subscribes: Patterns[Handler] = Patterns()
        self.snapshots: Patterns[Function] = Patterns()
        self.publishes: Patterns[Handler] = Patterns()
        self.types: Patterns[Payload] = Patterns()
        self.occupies: Patterns[Function] = Patterns()
        self.vacates: Patterns[Function] = Patterns()

    def close(self) -> None:
        """Let go of the threads."""
        self.threads.close()

    def _session(self, caller: Caller, request: AuthRequest | None = None) -> Session:
        return Session(caller, asyncio.get_running_loop(), request)

    def _ask(self, function: Function, *arguments: Any) -> Awaitable[Any]:
        return function(self.threads, self.limits.hook_timeout_s, *arguments)

    # -- who it is, and what it may --------------------------------------------------

    async def authenticate(self, request: AuthRequest) -> Identity | None:
        """Ask who it is; a text is the id of a user."""
        assert self.authenticates is not None
        found = await self._ask(self.authenticates, request)
        if found is None or isinstance(found, Identity):
            return found
        if isinstance(found, str) and 0 < len(found) <= 255:
            return Identity(user=found, kind="hook")
        raise _wrong(self.authenticates, "an Identity, a user id of 1 to 255 characters, or None", found)

    async def authorize(self, identity: Identity, action: Action, channel: str) -> bool | None:
        """Ask whether this is allowed."""
        assert self.authorizes is not None
        found = await self._ask(self.authorizes, identity, action, channel)
        if found is None or isinstance(found, bool):
            return found
        raise _wrong(self.authorizes, "True, False or None", found)

    # -- a session's life --------------------------------------------------------------

    async def connect(self, caller: Caller, request: AuthRequest) -> ConnectDecision | None:
        """Tell that a session begins."""
        assert self.connects is not None
        function, payload, _, _ = self.connects
        session = self._session(caller, request)
        found = await self._ask(function, session, payload.decode(request.data or b""))
        if found is None or isinstance(found, ConnectDecision):
            return found
        return ConnectDecision(data=_encode(function, found))

    async def refresh(self, caller: Caller, token: str) -> Identity | None:
        """Tell that a session brings a new token."""
        assert self.refreshes is not None
        found = await self._ask(self.refreshes, self._session(caller), token)
        if found is None or isinstance(found, Identity):
            return found
        raise _wrong(self.refreshes, "an Identity or None", found)

    async def disconnect(self, caller: Caller, code: Code | None) -> None:
        """Tell that a session ended."""
        assert self.disconnects is not None
        await self._ask(self.disconnects, self._session(caller), code)

    # -- channels ------------------------------------------------------------------------

    async def subscribe(self, caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        """Tell of a subscription, and name the snapshot that it gets."""
        decision: SubscribeDecision | None = None
        handler = self.subscribes.find(channel)
        if handler is not None:
            value = handler.payload.decode(data or b"")
            found = await self._ask(handler.function, self._session(caller), channel, value)
            if found is None or isinstance(found, SubscribeDecision):
                decision = found
            else:
                decision = SubscribeDecision(data=_encode(handler.function, found))
        function = self.snapshots.find(channel)
        if function is None or (decision is not None and decision.snapshot is not None):
            return decision
        decision = decision or SubscribeDecision()
        return SubscribeDecision(
            info=decision.info,
            data=decision.data,
            expires_s=decision.expires_s,
            snapshot=partial(self._snapshot, function),
            join_leave=decision.join_leave,
        )

    async def _snapshot(self, function: Function, caller: Caller, channel: str) -> bytes:
        return _encode(function, await self._ask(function, self._session(caller), channel))

    async def publish(self, caller: Caller, draft: Draft) -> Draft | None:
        """Check what a client publishes, and let the application change or refuse it."""
        channel = draft.channel
        handler = self.publishes.find(channel)
        declared = self.types.find(channel)
        if declared is not None:
            # Also where a handler asks for a type of its own: both have to fit.
            _value(declared, draft)
        if handler is None:
            return None
        value = _value(handler.payload if not handler.payload.is_anything else declared or ANYTHING, draft)
        found = await self._ask(handler.function, self._session(caller), channel, value)
        if found is None or isinstance(found, Draft):
            return found
        if isinstance(found, bytes) and draft.content_type != JSON:
            return draft._replace(data=found)
        return draft._replace(data=_encode(handler.function, found), content_type=JSON)

    async def occupied(self, channel: str) -> None:
        """Tell that a channel has its first member."""
        function = self.occupies.find(channel)
        if function is not None:
            await self._ask(function, channel)

    async def vacated(self, channel: str) -> None:
        """Tell that a channel has lost its last member."""
        function = self.vacates.find(channel)
        if function is not None:
            await self._ask(function, channel)

    # -- calls and messages ----------------------------------------------------------------

    def lane(self, caller: Caller, method: str, data: bytes) -> Lane:
        """Say where a call or a message waits for its turn."""
        handler = self.methods.get(method)
        if handler is None:
            return IN_ORDER
        if handler.key is None:
            return handler.lane
        try:
            key = handler.key(self._session(caller), handler.payload.decode(data))
            hash(key)
        except Exception:
            # The call itself is going to be refused for its data, or to fail: in its order.
            return handler.lane
        return handler.lane._replace(key=(method, key))

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        """Answer a call."""
        handler = self.methods.get(method) if method != MESSAGES else None
        if handler is None:
            if self.rpc_elsewhere is not None:
                return await self.rpc_elsewhere(caller, method, data)
            raise EverywireError(f"there is no method {method[:64]!r}", code=codes.METHOD_NOT_FOUND)
        result = await self._call(handler, caller, data)
        if not isinstance(result, bytes):
            return _encode(handler.function, result)
        if not (isinstance(caller, Line) and caller.carrier.dialect.is_binary):
            try:
                check_json(result)
            except ValueError as error:
                raise handler.function.blame(error) from None
        return result

    async def message(self, caller: Caller, data: bytes) -> None:
        """Take a message."""
        await self._call(self.methods[MESSAGES], caller, data)

    async def _call(self, handler: Handler, caller: Caller, data: bytes) -> Any:
        value = handler.payload.decode(data)
        session = self._session(caller)
        return await handler.function(self.threads, self.limits.call_timeout_s, session, value)


def _encode(function: Function, value: Any) -> bytes:
    """Encode what a function returned; that JSON cannot say it is the application's fault."""
    try:
        return encode(value)
    except BadRequest as error:
        raise function.blame(error) from None


def _value(payload: Payload, draft: Draft) -> Any:
    """Return what a client publishes as the type that is wanted."""
    if draft.content_type == JSON:
        return payload.decode(draft.data)
    if payload.is_anything or payload.type is bytes:
        return draft.data
    raise BadRequest(f"channel {draft.channel} takes JSON")


def _wrong(function: Function, wanted: str, found: object) -> EverywireError:
    return function.blame(TypeError(f"it is to return {wanted}, not {type(found).__name__}"))
