"""The decorators by which an application registers its functions.

`Registrar` is the base of `everywire.application.Everywire`. A function takes as many of the arguments that
are offered to it as it likes, from the left; it may be a coroutine function, or a synchronous one, which
then runs in a thread (`everywire.handlers.functions`). To refuse something it raises
`everywire.handlers.refused.Refused`, or any other `EverywireError`; what else it raises is logged, and the
client is told code 100. Where a pattern of channel names is taken, the first that fits counts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import fields
from typing import Any, Final, TypeAlias, TypeVar, overload

from everywire.access.hooks import Hooks, Lane
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.handlers.answering import MESSAGES, Answering, Handler
from everywire.handlers.functions import Function
from everywire.handlers.lanes import lane_of
from everywire.handlers.patterns import Patterns
from everywire.handlers.payloads import Payload, payload_of
from everywire.handlers.producers import Producers
from everywire.handlers.run import Run
from everywire.handlers.runs import Source
from everywire.handlers.session import Session
from everywire.hub.hub import Hub

__all__ = ["Registrar"]

AnyFunction: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=AnyFunction)
Key: TypeAlias = Callable[[Session, Any], Hashable]

_MAX_METHOD_CHARACTERS: Final = 255


class Registrar:
    """Fills a table of hooks with an application's functions."""

    def __init__(self, limits: Limits, hooks: Hooks | None = None, webhooks: Hooks | None = None) -> None:
        self.hooks = hooks or Hooks()
        """The table; what is registered here takes the place of what it had."""
        self._webhooks = webhooks
        self._answering = Answering(limits)
        self.producers: Final = Producers(limits)
        """The runs of this node, and what is counted of them."""

    def _fill_hooks(self) -> None:
        """Ask webhooks where no function is registered; before the start."""
        webhooks = self._webhooks
        if webhooks is None:
            return
        if self._answering.methods:
            self._answering.rpc_elsewhere = webhooks.rpc
        for entry in fields(Hooks):
            if getattr(self.hooks, entry.name) is None:
                setattr(self.hooks, entry.name, getattr(webhooks, entry.name))

    def _start_handlers(self, hub: Hub) -> None:
        """Begin; after the hub."""
        self.producers.start(hub)

    async def _close_handlers(self) -> None:
        """End all producers, telling their readers; before the hub."""
        await self.producers.close()

    def _close_threads(self) -> None:
        """Begin no more synchronous functions; when no session is left that asks for one."""
        self._answering.close()

    # -- calls and messages ---------------------------------------------------------

    def rpc(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        key: Key | None = None,
        cancel: bool = False,
        payload: Any = None,
    ) -> Callable[[F], F]:
        """Answer the calls of a method: ``function(session, data)`` returns what JSON can say.

        Calls and messages of one session are handled one after the other. ``concurrency=N`` lets N calls
        of this method run at once, and behind no others; ``key=function(session, data)`` keeps only those
        with equal keys in order. With ``cancel`` the work is cancelled when its session ends.

        ``payload`` is the type of the data, by default the annotation of the argument: structs of msgspec,
        dataclasses and the plain types. What does not fit is refused with code 107, naming the field.
        Returned bytes are JSON text already; to a client of the Protobuf form they may be anything.
        """
        if not 0 < len(name) <= _MAX_METHOD_CHARACTERS:
            raise SettingsError(f"a method's name has 1 to {_MAX_METHOD_CHARACTERS} characters")
        lane = lane_of(name, concurrency, key, cancel)

        def register(function: F) -> F:
            if name in self._answering.methods:
                raise SettingsError(f"method {name!r} is registered already")
            self._handle(name, function, f"rpc {name!r}", lane, key, payload)
            self.hooks.rpc = self._answering.rpc
            return function

        return register

    def on_message(
        self,
        function: F | None = None,
        *,
        concurrency: int | None = None,
        key: Key | None = None,
        cancel: bool = False,
        payload: Any = None,
    ) -> Any:
        """Take the messages that clients send: ``function(session, data)``; options as for `rpc`."""
        lane = lane_of(MESSAGES, concurrency, key, cancel)

        def register(function: F) -> F:
            self._handle(MESSAGES, function, "on_message", lane, key, payload)
            self.hooks.message = self._answering.message
            return function

        return register if function is None else register(function)

    def _handle(
        self, method: str, function: AnyFunction, name: str, lane: Lane, key: Key | None, payload: Any
    ) -> None:
        wrapped = Function(function, ("session", "data"), name)
        self._answering.methods[method] = Handler(wrapped, payload_of(function, 1, payload), lane, key)
        self.hooks.lane = self._answering.lane

    # -- who it is, and what it may ----------------------------------------------------

    def authenticate(self, function: F) -> F:
        """Say who somebody is: ``function(request)`` gets an `everywire.AuthRequest`.

        It returns an `everywire.Identity` or a user id; or None, and the built-in ways go on: API keys,
        tokens, tickets. Asked on every transport; the answer counts for at most 30 seconds.
        """
        self._answering.authenticates = Function(function, ("request",), "authenticate")
        self.hooks.authenticate = self._answering.authenticate
        return function

    def authorize(self, function: F) -> F:
        """Say whether something is allowed: ``function(identity, action, channel)``.

        It returns True or False; or None, and the other rules decide. Asked on every transport, once in 30
        seconds for an identity, action and channel.
        """
        self._answering.authorizes = Function(function, ("identity", "action", "channel"), "authorize")
        self.hooks.authorize = self._answering.authorize
        return function

    # -- a session's life ----------------------------------------------------------------

    def on_connect(self, function: F) -> F:
        """Hear that a session begins: ``function(session, data)``, with what the connect command says.

        ``session.request`` has headers, cookies and query. It returns None, an `everywire.ConnectDecision`,
        or what JSON can say: that is given to the client.
        """
        wrapped = Function(function, ("session", "data"), "on_connect")
        self._answering.connects = Handler(wrapped, payload_of(function, 1))
        self.hooks.connect = self._answering.connect
        return function

    def on_refresh(self, function: F) -> F:
        """Hear that a session goes on with a new token: ``function(session, token)`` returns an
        `everywire.Identity`, or None to let the built-in way judge the token."""
        self._answering.refreshes = Function(function, ("session", "token"), "on_refresh")
        self.hooks.refresh = self._answering.refresh
        return function

    def on_disconnect(self, function: F) -> F:
        """Hear that a session ended: ``function(session, code)``; None when its connection broke."""
        self._answering.disconnects = Function(function, ("session", "code"), "on_disconnect")
        self.hooks.disconnect = self._answering.disconnect
        return function

    # -- channels ----------------------------------------------------------------------------

    def on_subscribe(self, pattern: str) -> Callable[[F], F]:
        """Hear of subscriptions that the rules allow: ``function(session, channel, data)``.

        It returns None, an `everywire.SubscribeDecision`, or what JSON can say: that is given to the client.
        """

        def register(function: F) -> F:
            wrapped = Function(function, ("session", "channel", "data"), f"on_subscribe {pattern!r}")
            self._answering.subscribes.add(pattern, Handler(wrapped, payload_of(function, 2)))
            self.hooks.subscribe = self._answering.subscribe
            return function

        return register

    def snapshot(self, pattern: str) -> Callable[[F], F]:
        """Give subscribers a channel's state to begin with: ``function(session, channel)`` returns it.

        The channel's position is read first, then the function is called, and its state is sent with that
        position; after it only what is newer. So what was published while it ran may be in the state and
        follow as well: let publications say what is (and not by how much it changed), and change the
        state before publishing.
        """

        def register(function: F) -> F:
            wrapped = Function(function, ("session", "channel"), f"snapshot {pattern!r}")
            self._answering.snapshots.add(pattern, wrapped)
            self.hooks.subscribe = self._answering.subscribe
            return function

        return register

    def on_publish(self, pattern: str, *, payload: Any = None) -> Callable[[F], F]:
        """Judge what clients publish on any transport: ``function(session, channel, data)``.

        It returns None to let it pass, other data to publish instead, or raises. ``payload``, or the
        annotation, is the type of the data. What the server publishes itself is not asked about.
        """

        def register(function: F) -> F:
            wrapped = Function(function, ("session", "channel", "data"), f"on_publish {pattern!r}")
            self._answering.publishes.add(pattern, Handler(wrapped, payload_of(function, 2, payload)))
            self.hooks.publish = self._answering.publish
            return function

        return register

    def channel_type(self, pattern: str, type_: Any) -> None:
        """Take only data of a type from clients that publish to channels of a pattern (else code 107)."""
        self._answering.types.add(pattern, Payload(type_))
        self.hooks.publish = self._answering.publish

    def on_occupied(self, pattern: str) -> Callable[[F], F]:
        """Hear that a channel has its first member: ``function(channel)``."""

        def register(function: F) -> F:
            _tell(self._answering.occupies, pattern, function, "on_occupied")
            self.hooks.occupied = self._answering.occupied
            return function

        return register

    def on_vacated(self, pattern: str) -> Callable[[F], F]:
        """Hear that a channel has lost its last member: ``function(channel)``."""

        def register(function: F) -> F:
            _tell(self._answering.vacates, pattern, function, "on_vacated")
            self.hooks.vacated = self._answering.vacated
            return function

        return register

    # -- producers -----------------------------------------------------------------------------

    @overload
    def produce(self, channel: str) -> Callable[[F], F]: ...

    @overload
    def produce(
        self, channel: str, source: Source, *, restart: bool = False, grace_s: float | None = None
    ) -> Coroutine[Any, Any, Run]: ...

    def produce(
        self,
        channel: str,
        source: Source | None = None,
        *,
        restart: bool = False,
        grace_s: float | None = None,
    ) -> Any:
        """Publish what an asynchronous generator yields, once, whoever reads it.

        ``run = await wire.produce("answer:42", generator)`` begins a run, or returns the one that the channel
        has: also when several ask at the same time, on several nodes. ``source`` is the generator, or a
        function that returns it, which is called only if the run begins. With ``restart`` a run that has
        ended is dropped for a new one. As a decorator, ``@wire.produce("answer:*")`` registers an
        asynchronous generator ``function(channel)`` that begins with the first reader of a channel.

        A run's channel is its own: it is emptied at the beginning, kept whole (4 MiB) until the end and
        ``grace_s`` (5 minutes), and emptied then. So readers get all of it whenever they come, who read
        from ``earliest`` or from their position. Slow readers do not slow it, and it goes on without any.

        Each item is what JSON can say, bytes, or an `everywire.Produced`. The end is a publication with the
        event ``end`` and data whose ``status`` is ``done``, ``failed`` (with an ``error``: what was raised
        if it is an `EverywireError`, else code 100; also when the run is larger or longer than it may be)
        or ``cancelled`` (with the ``reason`` of `everywire.Run.cancel`).

        Raises `BrokerError`, or code 124 when too many producers run here.
        """
        if source is not None:
            return self.producers.run(channel, source, restart=restart, grace_s=grace_s)

        def register(function: F) -> F:
            self.producers.add(channel, function)
            return function

        return register

    async def find_run(self, channel: str) -> Run | None:
        """Return the run that a channel has, running or ended and still kept, on whatever node; or None."""
        return await self.producers.find(channel)


def _tell(table: Patterns[Function], pattern: str, function: AnyFunction, name: str) -> None:
    table.add(pattern, Function(function, ("channel",), f"{name} {pattern!r}"))
