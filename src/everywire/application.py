"""The application's way in: one server, its channels, and the functions that stand behind them.

Hosts get `Everywire.handle`, applications get `Everywire.asgi`, `Everywire.publish` and the decorators of
`everywire.handlers.registrar.Registrar`. How to use them is in docs/application.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from everywire.access.hooks import Hooks
from everywire.access.identity import Action
from everywire.access.rules import Rules
from everywire.access.tokens import Tokens
from everywire.access.webhooks import Webhooks, WebhookSettings
from everywire.api.figures import Figure, webhook_figures
from everywire.asgi.application import AsgiApplication
from everywire.assembly import Assembly
from everywire.brokers.base import Appended, Broker
from everywire.core import codes
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import SettingsTable
from everywire.core.version import __version__
from everywire.embedding.place import Place, take_place
from everywire.handlers.engineio import EngineHandler
from everywire.handlers.outside import Outside, Receipt, failed
from everywire.handlers.producers import Producers
from everywire.handlers.reaching import Reaching
from everywire.handlers.registrar import Registrar
from everywire.handlers.socketio import SocketIO
from everywire.handlers.sockjs import SockJsHandler
from everywire.hub.called import called
from everywire.hub.hub import Hub
from everywire.publishing import process
from everywire.publishing.channels import keep_channels
from everywire.publishing.destination import Destination
from everywire.publishing.order import BINARY_TYPE, Published, draft_of, published_at
from everywire.sessions.shared import Shared
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.settings import SocketSettings
from everywire.sockets.sockjs_carrier import accept_session
from everywire.sockets.sockjs_link import SockJsOptions

__all__ = ["Everywire"]

F = TypeVar("F", bound=Callable[..., Any])

_SOCKETIO: Final = SocketSettings()


class Everywire(Registrar, Reaching):
    """One real-time server: channels, and every wire to them.

    Give it to an ASGI server (``wire.asgi``), or let ``everywire serve`` run it. With
    ``dev=True`` anyone may read and publish; without it nothing may be done unless a rule
    allows it.

    Args:
        broker: where the logs live, as a broker or as its address such as ``redis://localhost``; by default
            this process (`MemoryBroker`), or a file of SQLite where an ASGI server runs several processes.
            See docs/workers.md and docs/embedding.md.
        node: this node's name among others of the same broker, where it has an address; random by default.
        dev: everybody may do everything.
        limits: bounds and deadlines, by default those of `Limits`.
        channels: settings by channel name pattern.
        api_keys: name to key; a key may do everything.
        public: patterns of channel names that anyone may read, publish to, and so on.
        allowed_origins: origins besides the own one whose pages may use this server, or ``*``.
        allow_credentials: whether those pages may send cookies.
        allowed_hosts: host names that are served; on loopback its own names are by default.
        is_loopback: whether only this machine can reach the server.
        tokens: how JSON web tokens are verified; without them none is valid.
        cookie_name: the cookie that holds such a token; no cookie counts if empty.
        user_rules: as ``public``, for whoever is known; ``{user}`` in a pattern is the user's own id.
        hooks: what the application is asked and told, as a table; decorators fill it, too.
        webhooks: where an application is asked over HTTP, where no function is registered.
        socketio: what Socket.IO at ``/socket.io/`` is set to (`SocketSettings`, or a dictionary of what
            differs from its defaults); None serves none.
        sockjs: where SockJS carries the session protocol; empty is nowhere.
        sockjs_client_url: where its page for iframes has the client from; empty is no such page.
        state_dir: the directory for what the processes of this machine share; see docs/workers.md.
        advertise: ``HOST:PORT`` at which nodes on other machines reach this one; see docs/workers.md.
        log_fd: where requests are logged that other nodes forward to this one; None logs none.
    """

    _outside: Outside | None = None

    def __init__(
        self,
        broker: Broker | str | None = None,
        *,
        node: str | None = None,
        dev: bool = False,
        limits: Limits | None = None,
        channels: SettingsTable | None = None,
        api_keys: Mapping[str, str] | None = None,
        public: Mapping[Action, Iterable[str]] | None = None,
        allowed_origins: Sequence[str] = (),
        allow_credentials: bool = False,
        allowed_hosts: Sequence[str] = (),
        is_loopback: bool = False,
        tokens: Tokens | None = None,
        cookie_name: str = "",
        user_rules: Mapping[Action, Iterable[str]] | None = None,
        hooks: Hooks | None = None,
        webhooks: WebhookSettings | None = None,
        socketio: SocketSettings | Mapping[str, Any] | None = _SOCKETIO,
        sockjs: str = "/sockjs",
        sockjs_client_url: str = "",
        state_dir: str = "",
        advertise: str = "",
        log_fd: int | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.rules = Rules(dev=dev, api_keys=api_keys, public=public, user_rules=user_rules)
        asked = webhooks or WebhookSettings()
        self._application_hooks = Webhooks(asked, self.rules, knows_tokens=tokens is not None)
        super().__init__(self.limits, hooks, self._application_hooks.hooks)
        self.socketio: Final = SocketIO(self.limits, self._answering.threads)
        """Functions for events of Socket.IO clients, and the way to them."""
        self._assembly = assembly = Assembly(
            broker,
            self.rules,
            node=node,
            limits=self.limits,
            channels=channels,
            allowed_origins=allowed_origins,
            allow_credentials=allow_credentials,
            allowed_hosts=allowed_hosts,
            is_loopback=is_loopback,
            tokens=tokens,
            cookie_name=cookie_name,
            hooks=self.hooks,
            socketio=_socket_settings(socketio),
            handling=self.socketio.functions,
            version=__version__,
            state_dir=state_dir,
            advertise=advertise,
            log_fd=log_fd,
        )
        self._complete(sockjs, sockjs_client_url)
        self.settings = assembly.settings
        self.gate = assembly.gate
        self.operations = assembly.operations
        self.handle: Final = assembly.handle
        self._embedded = _Embedded(self, assembly, None if broker is None else assembly.broker, state_dir)
        self.asgi = AsgiApplication(self.handle, self._embedded, self.limits)

    def _complete(self, sockjs: str, sockjs_client_url: str) -> None:
        """Add what is served and counted besides."""
        if sockjs:
            options = SockJsOptions(client_url=sockjs_client_url)
            self._assembly.sockjs_mounts.add(sockjs, accept_session, options, wants_identity=False)
        figures = self._assembly.operations.figures
        figures.add(lambda: webhook_figures(self._application_hooks))
        figures.add(partial(_run_figures, self.producers))

    # -- life -----------------------------------------------------------------

    @property
    def shared(self) -> Shared:
        """The parts that sessions and transports share; between `start` and `close`."""
        return self._assembly.shared

    @property
    def broker(self) -> Broker:
        """Where the logs live."""
        return self._assembly.broker

    @property
    def hub(self) -> Hub:
        """The hub; there is one between `start` and `close`."""
        return self._assembly.shared.hub

    def node_ended(self, node: str) -> None:
        """Hear for certain that another node has ended: who was connected to it is no member any more."""
        self._assembly.node_ended(node)

    async def start(self) -> None:
        """Start in the running event loop. A server starts once."""
        self._fill_hooks()
        self._application_hooks.begin(self.hooks)
        await self._assembly.start()
        if not self.broker.log.is_local:
            await keep_channels(self.broker.store, self.settings)
        self._start_handlers(self.hub)
        self._listen(self.shared)
        self._outside = Outside(asyncio.get_running_loop())
        if self._assembly.has_sockets:
            self.socketio.start(self._assembly.sockets, self._outside)
        url = self._assembly.broker_url
        process.attach(self, Destination(url, "", self.limits, self.settings) if url else None)

    async def close(self) -> None:
        """Stop."""
        if self._outside is not None:
            process.detach(self)
            await self._outside.close()
            self._outside = None
        await self._close_handlers()
        await self._assembly.close()
        self.socketio.close()
        self._close_threads()
        await self._application_hooks.close()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Return what starts and stops this server with another application's life."""
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> Any:
        await self._embedded.start()
        try:
            yield
        finally:
            await self._embedded.close()

    # -- SockJS and Engine.IO ---------------------------------------------------

    def sockjs(
        self,
        prefix: str,
        *,
        on_open: Callable[..., Any] | None = None,
        on_close: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Serve clients of SockJS below a prefix such as ``/echo``: ``function(connection)`` lives with one
        of them, ``function(connection, message)`` is called for each message. See docs/sockjs.md.

        ``on_open(connection)`` may refuse, ``on_close(connection, reason)`` hears the end; the other options
        are those of `everywire.sockets.sockjs_link.SockJsOptions`.
        """

        def register(function: F) -> F:
            threads = self._answering.threads
            handler = SockJsHandler(
                function, self.limits, threads=threads, on_open=on_open, on_close=on_close
            )
            self._assembly.sockjs_mounts.add(prefix, handler.accept, SockJsOptions(**options))
            return function

        return register

    def engineio(
        self,
        path: str,
        *,
        on_open: Callable[..., Any] | None = None,
        on_close: Callable[..., Any] | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Serve clients of bare Engine.IO at a path such as ``/engine.io``; as `sockjs`, with the options of
        `everywire.sockets.engine_options.EngineOptions`. See docs/socketio.md."""

        def register(function: F) -> F:
            threads = self._answering.threads
            handler = EngineHandler(
                function, self.limits, threads=threads, on_open=on_open, on_close=on_close
            )
            wanted = EngineOptions(**{"name": "engineio", **options})
            self._assembly.engine_mounts.add(path, handler.accept, wanted)
            return function

        return register

    # -- publishing -------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        event: str | None = None,
        tags: Mapping[str, str] | None = None,
        content_type: str = BINARY_TYPE,
        key: str | None = None,
    ) -> Published:
        """Publish to a channel and return where it stands.

        ``data`` is anything that JSON can say, structs and dataclasses included, or bytes, which are of
        ``content_type``. A ``key`` makes it safe to try again: the same publication under the same key
        within five minutes stands once. From the event loop that `start` ran in; from elsewhere there is
        `everywire.publish`.

        Raises `BadRequest`, `TooLarge`, `KeyReused` or `BrokerError`.
        """
        draft = draft_of(
            self.limits, channel, data, event=event, tags=tags, content_type=content_type, key=key
        )
        return await self._append(draft)

    async def _append(self, draft: Draft) -> Published:
        appended: Appended = await called(partial(self.hub.publish, draft))
        return published_at(draft.channel, appended)

    def publish_outside(self, channel: str, data: Any, **more: Any) -> Receipt[Published]:
        """Publish from anywhere: see `everywire.publish`."""
        if self._outside is None:
            raise EverywireError("this server is not running", code=codes.NOT_AVAILABLE)
        try:
            # Made now: what is published is the data as it was when it was given.
            draft = draft_of(self.limits, channel, data, **more)
        except EverywireError as error:
            return failed(error)
        return self._outside.begin(partial(self._append, draft), self.limits.publish_timeout_s)


class _Embedded:
    """A server's life in another server's process, which may be one of several."""

    __slots__ = ("_assembly", "_named", "_place", "_state_dir", "_wire")

    def __init__(
        self, wire: Everywire, assembly: Assembly, named: Broker | None, state_dir: str
    ) -> None:
        self._wire = wire
        self._assembly = assembly
        self._named = named
        self._state_dir = state_dir
        self._place: Place | None = None

    async def start(self) -> None:
        """Find out how this process shares its channels with others, and start."""
        self._place = place = await take_place(self._named, self._state_dir)
        try:
            if place.url:
                self._assembly.use_broker(place.url)
            await self._wire.start()
        except BaseException:
            place.leave()
            raise

    async def close(self) -> None:
        """Stop."""
        await self._wire.close()
        if self._place is not None:
            self._place.leave()


def _socket_settings(given: SocketSettings | Mapping[str, Any] | None) -> SocketSettings | None:
    if given is None or isinstance(given, SocketSettings):
        return given
    try:
        if unknown := given.keys() - {one.name for one in fields(SocketSettings)}:
            raise SettingsError(f"socketio: {min(unknown)!r} is no setting of it")
        return msgspec.convert(dict(given), SocketSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"socketio: {error}") from None


def _run_figures(producers: Producers) -> Iterator[Figure]:
    """Tell what is counted of the runs of producers."""
    yield Figure("everywire_runs_begun_total", "Runs of producers begun", producers.begun)
    for status, count in producers.ended.items():
        yield Figure("everywire_runs_ended_total", "Runs of producers ended, by how", count, "status", status)
    statistics = producers.statistics()
    yield Figure("everywire_runs", "Producers that run", statistics["running"])
    yield Figure("everywire_runs_kept", "Runs kept, those that ended included", statistics["kept"])
    yield Figure("everywire_run_bytes", "Bytes that runs hold", statistics["kept_bytes"])
