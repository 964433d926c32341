"""The assembly: puts the rooms together as one server, and routes requests to them.

The only place that knows all parts. `everywire.application.Everywire` is its public face.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from everywire.access.authority import Authority
from everywire.access.hooks import Hooks
from everywire.access.publishing import Publishing
from everywire.access.quotas import Quotas
from everywire.access.revocations import TOPIC as REVOCATIONS
from everywire.access.revocations import Revocations
from everywire.access.rules import Rules
from everywire.access.tickets import Tickets
from everywire.access.tokens import Tokens
from everywire.api.figures import broker_figures, hub_figures, relay_figures, session_figures, socket_figures
from everywire.api.operations import Operations
from everywire.api.server_api import ServerApi
from everywire.brokers.base import Broker, Health
from everywire.brokers.memory import MemoryBroker
from everywire.brokers.opening import open_broker, place_address
from everywire.brokers.state import state_dir
from everywire.console.pages import Page, load_pages
from everywire.core import codes
from everywire.core.errors import EverywireError, RequestError, SettingsError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.settings import SettingsTable
from everywire.hub.hub import Hub
from everywire.server.relaying import Relaying
from everywire.sessions.presence import Presence
from everywire.sessions.registry import Registry
from everywire.sessions.shared import Shared
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.engines import Accept
from everywire.sockets.handling import Handling
from everywire.sockets.settings import SocketSettings
from everywire.sockets.sockets import Sockets
from everywire.transports.connection import Connections
from everywire.transports.engineio_mounts import EngineMounts
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors, Gate, Refusal
from everywire.transports.plain import Plain
from everywire.transports.relay import NOWHERE
from everywire.transports.service import Service, WholeAnswer, refuse
from everywire.transports.sockjs_mounts import SockJsMounts
from everywire.transports.target import PREFIX
from everywire.transports.ticket import serve_ticket

__all__ = ["Assembly"]

_CONNECTION: Final = "/connection/"
_EMULATION: Final = "/emulation"
_TICKET: Final = "/ticket"
_API: Final = "/api/"
_SOCKETIO: Final = "/socket.io"
_RELAY_DIR: Final = "relay"
_NOT_STARTED: Final = "this server is not started; an application has to run wire.lifespan()"
_log = logging.getLogger("everywire")


class Assembly:
    """All parts of one server; those that need an event loop are made by `start`."""

    def __init__(
        self,
        broker: Broker | str | None,
        rules: Rules,
        *,
        node: str | None = None,
        limits: Limits | None = None,
        channels: SettingsTable | None = None,
        allowed_origins: Sequence[str] = (),
        allow_credentials: bool = False,
        allowed_hosts: Sequence[str] = (),
        is_loopback: bool = False,
        tokens: Tokens | None = None,
        cookie_name: str = "",
        hooks: Hooks | None = None,
        socketio: SocketSettings | None = None,
        handling: Handling | None = None,
        version: str = "",
        state_dir: str = "",
        advertise: str = "",
        log_fd: int | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.settings = channels or SettingsTable()
        self.budget = Budget(self.limits.log_budget_bytes)
        self._node = node
        self._state_dir = state_dir
        self.broker_url = ""
        """The broker's address, if it has one that others can use; it may hold a password."""
        self.broker = (
            self._open(broker or "memory:") if broker is None or isinstance(broker, str) else broker
        )
        self.rules = rules
        self.gate = Gate(allowed_origins, allow_credentials, allowed_hosts, is_loopback)
        self.hooks = hooks or Hooks()
        self.operations = Operations(self.rules, self._health)
        self.operations.figures.add(lambda: hub_figures(self.hub))
        self.operations.figures.add(lambda: broker_figures(self.broker))
        self.operations.figures.add(lambda: session_figures(self.shared))
        self._tokens = tokens
        self._cookie_name = cookie_name
        self._version = version
        self._pages = load_pages()
        self.engine_mounts = EngineMounts()
        self.sockjs_mounts = SockJsMounts()
        self.operations.figures.add(
            lambda: socket_figures(self.engine_mounts.engines(), self._sockets, len(self.sockjs_mounts))
        )
        self._handling = handling
        self._socket_settings = socketio
        self._sockets: Sockets | None = None
        if socketio is not None:
            self.engine_mounts.add(_SOCKETIO, self._accept_sockets, _options_of(socketio))
        self._shared: Shared | None = None
        self._relaying = relaying = Relaying(self.handle, advertise, log_fd)
        self.operations.figures.add(lambda: relay_figures(relaying.relay, relaying.private))

    @property
    def shared(self) -> Shared:
        """The parts that sessions and transports share; between `start` and `close`."""
        if self._shared is None:
            raise EverywireError("this server was not started", code=codes.NOT_AVAILABLE)
        return self._shared

    @property
    def hub(self) -> Hub:
        """The hub; there is one between `start` and `close`."""
        return self.shared.hub

    @property
    def has_sockets(self) -> bool:
        """Whether Socket.IO is served now."""
        return self._sockets is not None

    @property
    def sockets(self) -> Sockets:
        """The Socket.IO clients; between `start` and `close`, unless it is switched off."""
        if self._sockets is None:
            raise EverywireError("Socket.IO is not served", code=codes.NOT_AVAILABLE)
        return self._sockets

    def _accept_sockets(self, shared: Shared) -> Accept:
        self._sockets = sockets = Sockets(shared, self._handling, self._socket_settings)
        return sockets.accept

    def _open(self, url: str) -> Broker:
        url = place_address(url, self._state_dir)
        broker = open_broker(url, self.limits, self.settings, budget=self.budget, node=self._node)
        self.broker_url = "" if isinstance(broker, MemoryBroker) else url
        return broker

    def use_broker(self, url: str) -> None:
        """Take another broker, before the start."""
        self._check_not_started()
        self.broker = self._open(url)

    def _check_not_started(self) -> None:
        if self._shared is not None:
            raise SettingsError("this server was started already")

    async def start(self) -> None:
        """Start in the running event loop. A server starts once."""
        self._check_not_started()
        hub = Hub(
            self.broker,
            asyncio.get_running_loop(),
            limits=self.limits,
            settings=self.settings,
            budget=self.budget,
        )
        self._shared = shared = self._share(hub)
        self._service = service = Service(shared, self.gate)
        self._plain = Plain(service)
        self._connections = Connections(service)
        self._api = ServerApi(shared, gate=self.gate)
        await hub.start()
        await shared.passes.agree(self.broker.store)
        relay = NOWHERE if self._is_alone else await self._relaying.start(shared, self._relay_dir())
        await shared.registry.start()
        await shared.presence.start()
        self.engine_mounts.start(service, relay)
        self.sockjs_mounts.start(service, relay)

    @property
    def _is_alone(self) -> bool:
        """Whether the store is this process's alone, so that there are no other nodes."""
        return isinstance(self.broker, MemoryBroker)

    def _relay_dir(self) -> Path | None:
        try:
            return state_dir(self._state_dir, name=_RELAY_DIR)
        except SettingsError as error:
            if self._state_dir:
                raise
            # With a broker elsewhere a server may do without one, as in a container that is read-only.
            _log.warning("other workers of this machine cannot reach this one: %s", error)
            return None

    def _share(self, hub: Hub) -> Shared:
        """Make what sessions and transports share."""
        revocations = Revocations(self.broker, self.limits, is_alone=self._is_alone)
        hub.on_broadcast(REVOCATIONS, revocations.heard)
        authority = Authority(
            self.rules,
            self.hooks,
            tokens=self._tokens,
            tickets=Tickets(self.broker.store, self.limits),
            revocations=revocations,
            limits=self.limits,
            cookie_name=self._cookie_name,
        )
        registry = Registry(hub, forget=authority.forget)
        registry.follow(revocations)  # after the authority, which forgets what it knew
        quotas = Quotas(self.limits, hub.time, is_dev=self.rules.is_dev)
        return Shared(
            hub,
            authority,
            self.hooks,
            Publishing(hub, authority, quotas, self.hooks, self.limits),
            quotas,
            Presence(hub, self.hooks, registry.nodes),
            registry,
            self.limits,
            version=self._version,
        )

    async def close(self) -> None:
        """Stop."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        self._relaying.leave()
        self.engine_mounts.close()
        self.sockjs_mounts.close()
        await self._relaying.close(self.limits.close_timeout_s)
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            await sockets.close(self.limits.close_timeout_s)
        await shared.tasks.close()
        await shared.publishing.close()
        await shared.presence.close()
        await shared.registry.close()
        await shared.authority.close()
        await shared.hub.close()

    def node_ended(self, node: str) -> None:
        """Hear for certain that another node has ended."""
        shared = self._shared
        if shared is not None:
            shared.tasks.start(shared.presence.node_ended(node), "let a node's members leave")

    def _health(self) -> Health:
        return Health(False, "not started") if self._shared is None else self.broker.health()

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, from whatever host it comes."""
        path = exchange.request.path
        if self._shared is not None and path.startswith("/"):
            if path.startswith(PREFIX):
                self._plain(exchange)
                return
            if path.startswith(_CONNECTION) or path == _EMULATION:
                self._connections(exchange)
                return
            if path.startswith(_API):
                self._api(exchange)
                return
            if path == _TICKET:
                serve_ticket(self._service, exchange)
                return
            mount = self.engine_mounts.find(path) or self.sockjs_mounts.find(path)
            if mount is not None:
                mount(exchange)
                return
        self._serve_rest(exchange, path)

    def _serve_rest(self, exchange: Exchange, path: str) -> None:
        admitted = self.gate.admit(exchange.request, is_page=path in self._pages)
        if isinstance(admitted, Refusal):
            refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
        elif path in self._pages:
            _serve_page(exchange, self._pages[path], admitted)
        elif not self.operations.serve(exchange):
            if self._shared is None:
                refuse(exchange, EverywireError(_NOT_STARTED, code=codes.BUSY), admitted)
            else:
                refuse(exchange, RequestError("there is nothing here", code=codes.UNKNOWN_CHANNEL), admitted)


def _options_of(settings: SocketSettings) -> EngineOptions:
    return EngineOptions(
        ping_interval_s=settings.ping_interval_s,
        ping_timeout_s=settings.ping_timeout_s,
        max_payload=settings.max_payload,
    )


def _serve_page(exchange: Exchange, page: Page, cors: Cors) -> None:
    request = exchange.request
    exchange.attend(WholeAnswer(), "page")
    if request.method not in ("GET", "HEAD"):
        error = RequestError("a page is only read", code=codes.METHOD_NOT_FOUND)
        refuse(exchange, error, (), [(b"allow", b"GET, HEAD")])
        return
    headers = [*page.headers, (b"etag", page.etag.encode()), (b"cache-control", b"no-cache"), *cors]
    if cors:  # a module that a page of a listed origin imports
        headers.append((b"vary", b"Origin"))
    if request.header(b"if-none-match") == page.etag:
        exchange.respond(304, headers)
    else:
        exchange.respond(200, [(b"content-type", page.content_type.encode()), *headers], page.body)
