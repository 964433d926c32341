"""Several nodes over one store, with a clock turned by hand: hubs, registries, presence.

Time passes only by `Cluster.pass_time`; what awaits the store runs in the test's own event loop, and
`Cluster.settle` lets it come to rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from msgspec import Raw

from everywire.access.hooks import Hooks, SubscribeDecision
from everywire.access.identity import NOBODY, Identity
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.codes import Code
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.core.settings import SettingsTable
from everywire.hub.hub import Hub
from everywire.sessions.presence import Presence
from everywire.sessions.registry import Registry
from everywire.testing.clock import ManualScheduler
from everywire.testing.shared_broker import SharedStore

T = TypeVar("T")


class Listener:
    """Hears of joins and leaves, and keeps the list that it makes of them, by client or by user."""

    def __init__(self, channel: str = "room", *, by_user: bool = False) -> None:
        self.channel = channel
        self.by_user = by_user
        self.told: list[tuple[str, str]] = []
        """What happened to which client."""
        self.infos: list[ClientInfo] = []
        self.present: dict[str, ClientInfo] = {}
        self.changes = 0

    def key(self, info: ClientInfo) -> str:
        return info.user or info.client if self.by_user else info.client

    def joined(self, channel: str, info: ClientInfo) -> None:
        assert channel == self.channel
        self.told.append(("joined", info.client))
        self.infos.append(info)
        self.present[self.key(info)] = info

    def left(self, channel: str, info: ClientInfo) -> None:
        assert channel == self.channel
        self.told.append(("left", info.client))
        self.infos.append(info)
        self.present.pop(self.key(info), None)

    def changed(self, channel: str) -> None:
        assert channel == self.channel
        self.changes += 1


class Node:
    """One node: hub, registry and presence."""

    def __init__(self, cluster: Cluster, name: str, hooks: Hooks | None, forget: Any) -> None:
        self.name = name
        self.broker = cluster.store.node(name)
        self.hub = Hub(self.broker, cluster.scheduler, limits=cluster.limits, settings=cluster.settings)
        self.registry = Registry(self.hub, forget=forget)
        self.presence = Presence(self.hub, hooks, self.registry.nodes)

    async def start(self) -> None:
        await self.hub.start()
        await self.registry.start()
        await self.presence.start()

    async def close(self) -> None:
        await self.presence.close()
        await self.registry.close()
        await self.hub.close()


class Cluster:
    """The nodes of a test; use as an asynchronous context manager."""

    def __init__(
        self,
        names: Iterable[str] = "a",
        *,
        limits: Limits | None = None,
        settings: SettingsTable | None = None,
        hooks: Hooks | None = None,
        forget: Any = lambda user: None,
        **faults: Any,
    ) -> None:
        self.scheduler = ManualScheduler()
        self.limits = limits or Limits()
        self.settings = settings or SettingsTable()
        self.store = SharedStore(
            self.limits, self.settings, scheduler=self.scheduler, clock_ms=self.scheduler.unix_ms, **faults
        )
        self.nodes = {name: Node(self, name, hooks, forget) for name in names}
        self.dead: list[Node] = []

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    async def __aenter__(self) -> Cluster:
        for node in self.nodes.values():
            await self.wait(node.start())
        await self.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in [*self.nodes.values(), *self.dead]:
            await self.wait(node.close())

    async def settle(self) -> None:
        """Let everything happen that waits for no time."""
        for _ in range(30):
            self.scheduler.run()
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float, step_s: float = 0.25) -> None:
        """Let time pass in steps, at each of which everything comes to rest."""
        await self.settle()
        while seconds > 1e-9:
            step = min(step_s, seconds)
            self.scheduler.advance(step)
            seconds -= step
            await self.settle()

    def kill(self, name: str) -> None:
        """Cut a node off: nothing that it does arrives any more."""
        self.store.kill(name)
        self.dead.append(self.nodes.pop(name))

    async def listed(self, name: str, channel: str = "room") -> set[str]:
        """Return the client ids that a node lists."""
        return set((await self.wait(self.nodes[name].presence.members(channel))).clients)

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Let time pass until something is done."""
        task = asyncio.ensure_future(coroutine)
        await self.settle()
        while not task.done():
            await self.pass_time(0.1)
        return task.result()


class Guest:
    """A visitor that remembers what is done to it; with a client id it is a session."""

    def __init__(
        self,
        user: str = "",
        client: str = "",
        session_id: str = "",
        channels: Iterable[str] = (),
        *,
        identity: Identity | None = None,
    ) -> None:
        self.identity = identity or (Identity(user=user, kind="token") if user else NOBODY)
        self.client = client
        self.session_id = session_id
        self.channels = list(channels)
        self.transport = "websocket"
        self.peer = "127.0.0.1"
        self.done: list[tuple[Any, ...]] = []

    def disconnect(self, code: Code, reason: str = "") -> None:
        self.done.append(("disconnect", code.number, reason))

    def unsubscribe(self, channel: str, code: Code) -> None:
        self.done.append(("unsubscribe", channel, code.number))

    def receive_bytes(self, data: bytes) -> None:
        self.done.append(("receive", data))

    def subscribe(self, channel: str, decision: SubscribeDecision, since: Place | None) -> None:
        self.done.append(("subscribe", channel, decision, since))

    def refresh(self, expires_s: float | None) -> None:
        self.done.append(("refresh", expires_s))


def info(client: str, user: str = "", state: str | None = None) -> ClientInfo:
    """Make what others see of a client; a state is a JSON string."""
    made = ClientInfo(user=user, client=client)
    if state is not None:
        made.chan_info = Raw(f'"{state}"'.encode())
    return made
