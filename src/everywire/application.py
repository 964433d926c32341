"""The application's way in: one server, its channels, and the functions that stand behind them.

Hosts get `Everywire.handle`, applications get `Everywire.asgi`, `Everywire.publish` and the decorators of
`everywire.handlers.registrar.Registrar`. How to use them is in docs/application.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from everywire.access.hooks import Hooks
from everywire.access.identity import Action
from everywire.access.rules import Rules
from everywire.api.figures import hub_figures
from everywire.api.operations import Operations
from everywire.asgi.application import AsgiApplication
from everywire.brokers.base import Appended, Broker, Health
from everywire.brokers.memory import MemoryBroker
from everywire.console.pages import Page, load_pages
from everywire.core import codes
from everywire.core.errors import EverywireError, RequestError, SettingsError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.names import check_name
from everywire.core.position import Place, encode_position
from everywire.core.settings import SettingsTable
from everywire.handlers.called import called
from everywire.handlers.outside import Outside, Receipt
from everywire.handlers.payloads import encode
from everywire.handlers.reaching import Reaching
from everywire.handlers.registrar import Registrar
from everywire.hub.hub import Hub
from everywire.sessions.shared import Shared
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Gate, Refusal
from everywire.transports.plain import Plain
from everywire.transports.publish import make_draft
from everywire.transports.service import Service, WholeAnswer, refuse
from everywire.transports.target import PREFIX, check_event, check_tags

__all__ = ["Everywire", "Published", "publish"]

BINARY_TYPE: Final = "application/octet-stream"


class Published(NamedTuple):
    """Where a publication came to stand."""

    offset: int
    epoch: str
    position: str
    replayed: bool


_running: Final[list[Everywire]] = []
"""The servers that run in this process, newest last."""


def publish(channel: str, data: Any, **more: Any) -> Receipt[Published]:
    """Publish from anywhere in a process in which a server runs: a coroutine, a thread, another event loop.

    Takes what `Everywire.publish` takes. In a coroutine the result may be awaited or not; publications keep
    the order of the calls. In a thread without an event loop it returns when the publication stands, or
    raises; what it returns has it as ``result()``. With several servers it is the one that started last.

    Raises an error with code 108 when no server runs in this process.
    """
    if not _running:
        raise EverywireError("no server runs in this process", code=codes.NOT_AVAILABLE)
    return _running[-1].publish_outside(channel, data, **more)


class Everywire(Registrar, Reaching):
    """One real-time server: channels, and every wire to them.

    Give it to an ASGI server (``wire.asgi``), or let ``everywire serve`` run it. With
    ``dev=True`` anyone may read and publish; without it nothing may be done unless a rule
    allows it.

    Args:
        broker: where the logs live; by default this process (`MemoryBroker`).
        dev: everybody may do everything.
        limits: bounds and deadlines, by default those of `Limits`.
        channels: settings by channel name pattern.
        api_keys: name to key; a key may do everything.
        public: patterns of channel names that anyone may read, publish to, and so on.
        allowed_origins: origins besides the own one whose pages may use this server, or ``*``.
        allow_credentials: whether those pages may send cookies.
        allowed_hosts: host names that are served; on loopback its own names are by default.
        is_loopback: whether only this machine can reach the server.
        hooks: what the application is asked and told, as a table; decorators fill it, too.
    """

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        dev: bool = False,
        limits: Limits | None = None,
        channels: SettingsTable | None = None,
        api_keys: Mapping[str, str] | None = None,
        public: Mapping[Action, Iterable[str]] | None = None,
        allowed_origins: Sequence[str] = (),
        allow_credentials: bool = False,
        allowed_hosts: Sequence[str] = (),
        is_loopback: bool = False,
        hooks: Hooks | None = None,
    ) -> None:
        self.limits = limits or Limits()
        super().__init__(self.limits, hooks)
        self.settings = channels or SettingsTable()
        self._budget = Budget(self.limits.log_budget_bytes)
        self.broker = broker or MemoryBroker(self.limits, self.settings, budget=self._budget)
        self.rules = Rules(dev=dev, api_keys=api_keys, public=public)
        self.gate = Gate(allowed_origins, allow_credentials, allowed_hosts, is_loopback)
        self.asgi = AsgiApplication(self.handle, self, self.limits)
        self.operations = Operations(self.rules, self._health)
        self.operations.figures.add(lambda: hub_figures(self.hub))
        self._pages = load_pages()
        self._hub: Hub | None = None
        self._plain: Plain | None = None
        self._outside: Outside | None = None

    # -- life -----------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The hub; there is one between `start` and `close`."""
        if self._hub is None:
            raise EverywireError("this server was not started", code=codes.NOT_AVAILABLE)
        return self._hub

    async def start(self) -> None:
        """Start in the running event loop. A server starts once."""
        if self._hub is not None:
            raise SettingsError("this server was started already")
        hub = Hub(
            self.broker,
            asyncio.get_running_loop(),
            limits=self.limits,
            settings=self.settings,
            budget=self._budget,
        )
        self._hub = hub
        self._plain = Plain(Service(hub, self.rules, self.gate, self.limits))
        await hub.start()
        self._start_handlers(hub)
        self._outside = Outside(asyncio.get_running_loop())
        _running.append(self)

    async def close(self) -> None:
        """Stop."""
        if self._outside is not None:
            _running.remove(self)
            await self._outside.close()
            self._outside = None
        await self._close_handlers()
        hub, self._hub, self._plain = self._hub, None, None
        if hub is not None:
            await hub.close()

    @property
    def shared(self) -> Shared:
        """The parts that sessions and transports share; between `start` and `close`."""
        raise EverywireError("this server was not started", code=codes.NOT_AVAILABLE)

    def _health(self) -> Health:
        return Health(False, "not started") if self._hub is None else self.broker.health()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Return what starts and stops this server with another application's life."""
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> Any:
        await self.start()
        try:
            yield
        finally:
            await self.close()

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
        check_name(channel)
        limits = self.limits
        is_binary = isinstance(data, bytes | bytearray | memoryview)
        draft = make_draft(
            channel,
            bytes(data) if is_binary else encode(data),
            limits,
            content_type=content_type if is_binary else "",
            event=None if event is None else check_event(event, limits),
            tags=None if tags is None else check_tags(dict(tags), limits),
            key=None if key is None else f"\0{key}",
        )
        appended: Appended = await called(partial(self.hub.publish, draft))
        position = encode_position([(channel, Place(appended.epoch, appended.offset))])
        return Published(appended.offset, appended.epoch, position, appended.replayed)

    def publish_outside(self, channel: str, data: Any, **more: Any) -> Receipt[Published]:
        """Publish from anywhere: see `everywire.publish`."""
        if self._outside is None:
            raise EverywireError("this server is not running", code=codes.NOT_AVAILABLE)
        return self._outside.begin(partial(self.publish, channel, data, **more))

    # -- requests -----------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, from whatever host it comes."""
        path = exchange.request.path
        if path.startswith(PREFIX) and self._plain is not None:
            self._plain(exchange)
            return
        admitted = self.gate.admit(exchange.request, is_page=path in self._pages)
        if isinstance(admitted, Refusal):
            refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
        elif path in self._pages:
            _serve_page(exchange, self._pages[path])
        elif not self.operations.serve(exchange):
            refuse(exchange, RequestError("there is nothing here", code=codes.UNKNOWN_CHANNEL), admitted)


def _serve_page(exchange: Exchange, page: Page) -> None:
    request = exchange.request
    exchange.attend(WholeAnswer(), "page")
    if request.method not in ("GET", "HEAD"):
        error = RequestError("a page is only read", code=codes.METHOD_NOT_FOUND)
        refuse(exchange, error, (), [(b"allow", b"GET, HEAD")])
        return
    headers = [*page.headers, (b"etag", page.etag.encode()), (b"cache-control", b"no-cache")]
    if request.header(b"if-none-match") == page.etag:
        exchange.respond(304, headers)
    else:
        exchange.respond(200, [(b"content-type", page.content_type.encode()), *headers], page.body)
