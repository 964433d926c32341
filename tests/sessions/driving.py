"""Sessions over a real hub, with a clock turned by hand and carriers in memory.

`World` holds the parts that all sessions share; presence is a fake that writes down what it is told. A
`Client` is a carrier and what is at its other end: it reads what the session writes as a client would, and
checks what every client may rely on: nothing of a channel before its subscribe reply or after its
unsubscribe, no publication doubled, left out or out of order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jwt

from everywire.access.authority import Authority
from everywire.access.hooks import Hooks
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.access.publishing import Publishing
from everywire.access.quotas import Admission, Quotas
from everywire.access.rules import Rules
from everywire.access.tokens import Tokens
from everywire.brokers.base import Broker
from everywire.brokers.memory import MemoryBroker
from everywire.codecs.centrifuge.messages import ClientInfo, Pub, Reply
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import SettingsTable
from everywire.hub.hub import Hub
from everywire.sessions.dialect import Dialect
from everywire.sessions.dialects import HTTP_STREAM_JSON, POLL_JSON, UNI_SSE, WEBSOCKET_JSON
from everywire.sessions.presence import JoinLeaveListener, Members
from everywire.sessions.registry import Registry
from everywire.sessions.session import Session
from everywire.sessions.shared import Shared
from everywire.testing.clock import ManualScheduler
from everywire.testing.delayed_broker import DelayedBroker, Faults

SECRET = "a secret that is long enough for tests"
READ, PUBLISH, PRESENCE = Action.READ, Action.PUBLISH, Action.PRESENCE


class RecordedPresence:
    """Who is in which channel, as sessions say."""

    def __init__(self) -> None:
        self.entered: dict[tuple[str, str], ClientInfo] = {}
        self.touched: list[tuple[str, str, float]] = []
        self.listeners: dict[str, list[JoinLeaveListener]] = {}
        self.error: EverywireError | None = None

    def enter(self, channel: str, client: str, info: ClientInfo) -> None:
        assert (channel, client) not in self.entered, "entered twice"
        self.entered[channel, client] = info

    def leave(self, channel: str, client: str) -> None:
        self.entered.pop((channel, client), None)

    def touch(self, channel: str, client: str, info: ClientInfo, wait_s: float = 0.0) -> None:
        self.touched.append((channel, client, wait_s))

    async def members(self, channel: str, limit: int | None = None) -> Members:
        if self.error is not None:
            raise self.error
        found = {client: info for (name, client), info in self.entered.items() if name == channel}
        return Members(found, {}, len(found), len({info.user for info in found.values()}), False)

    async def stats(self, channel: str) -> tuple[int, int]:
        members = await self.members(channel)
        return members.num_clients, members.num_users

    def listen(self, channel: str, listener: JoinLeaveListener) -> None:
        self.listeners.setdefault(channel, []).append(listener)

    def unlisten(self, channel: str, listener: JoinLeaveListener) -> None:
        self.listeners[channel].remove(listener)

    def join(self, channel: str, info: ClientInfo) -> None:
        for listener in tuple(self.listeners.get(channel, ())):
            listener.joined(channel, info)

    def left(self, channel: str, info: ClientInfo) -> None:
        for listener in tuple(self.listeners.get(channel, ())):
            listener.left(channel, info)


class CountingQuotas(Quotas):
    """Counts who is in, and refuses on demand."""

    inside = 0
    error: EverywireError | None = None

    def admit(self, identity: Identity, peer: str) -> Admission:
        if self.error is not None:
            raise self.error
        self.inside += 1
        return _Place(self)


class _Place(Admission):
    def __init__(self, quotas: CountingQuotas) -> None:
        super().__init__(None, "", "")
        self._counting = quotas

    def release(self) -> None:
        self._counting.inside -= 1


class Whole:
    """A framing that leaves payloads as they are; ``framed`` counts."""

    def __init__(self) -> None:
        self.framed = 0

    def frame(self, payload: Any) -> Any:
        self.framed += 1
        return payload


class World:
    """The shared parts of one server."""

    def __init__(
        self,
        *,
        hooks: Hooks | None = None,
        limits: Limits | None = None,
        table: SettingsTable | None = None,
        public: Mapping[Action, Iterable[str]] | None = None,
        dev: bool = False,
        delayed: Faults | None = None,
        seed: int = 0,
        clock: ManualScheduler | None = None,
        broker: Broker | None = None,
    ) -> None:
        self.clock = clock or ManualScheduler()
        self.limits = limits or Limits()
        self.hooks = hooks or Hooks()
        table = table or SettingsTable()
        self.broker: Broker
        if broker is not None:
            self.broker = broker
        elif delayed is None:
            self.broker = MemoryBroker(self.limits, table, clock_ms=self.clock.unix_ms)
        else:
            self.broker = DelayedBroker(
                self.clock,
                seed=seed,
                faults=delayed,
                limits=self.limits,
                settings=table,
                store_clock_ms=self.clock.unix_ms,
            )
        self.hub = Hub(self.broker, self.clock, limits=self.limits, settings=table)
        if public is None:
            public = {action: ["open*"] for action in (READ, PUBLISH, PRESENCE)}
        user_rules = {READ: ["user*"], PUBLISH: ["user*"], PRESENCE: ["user*"]}
        self.rules = Rules(dev=dev, public=public, user_rules=user_rules)
        self.authority = Authority(
            self.rules,
            self.hooks,
            tokens=Tokens(secret=SECRET, clock=self.unix_s, limits=self.limits),
            limits=self.limits,
            clock=self.clock.time,
            unix_s=self.unix_s,
        )
        self.quotas = CountingQuotas(self.limits, self.clock.time)
        self.presence = RecordedPresence()
        self.registry = Registry(self.hub, forget=self.authority.forget)
        self.shared = Shared(
            self.hub,
            self.authority,
            self.hooks,
            Publishing(self.hub, self.authority, self.quotas, self.hooks, self.limits),
            self.quotas,
            self.presence,  # type: ignore[arg-type]  # a fake
            self.registry,
            self.limits,
            version="1.2.3",
            unix_s=self.unix_s,
        )
        self.framings: dict[Dialect, Whole] = {}
        self.clients: list[Client] = []
        self.count = 0

    async def __aenter__(self) -> World:
        await self.hub.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shared.tasks.close()
        await self.authority.close()
        await self.hub.close()

    def unix_s(self) -> float:
        return self.clock.unix_ms() / 1000

    async def settle(self, seconds: float = 0.0) -> None:
        """Let everything come to rest, and time pass in small steps."""
        end_s = self.clock.time() + seconds
        while True:
            for _ in range(30):
                self.clock.run()
                await asyncio.sleep(0)
            left_s = end_s - self.clock.time()
            if left_s <= 0:
                return
            self.clock.advance(min(left_s, 0.5))

    def token(self, user: str = "ann", lasts_s: float | None = None, **claims: Any) -> str:
        if lasts_s is not None:
            claims["exp"] = int(self.unix_s() + lasts_s)
        return jwt.encode({"sub": user, **claims}, SECRET, "HS256")

    def publish(self, channel: str, *data: Any) -> None:
        for one in data:
            self.publish_bytes(channel, json.dumps(one).encode())

    def publish_bytes(self, channel: str, data: bytes) -> None:
        results: list[Any] = []
        self.hub.publish(Draft(channel, data), results.append)

    def client(self, **more: Any) -> Client:
        client = Client(self, **more)
        self.clients.append(client)
        return client

    async def connected(
        self, *, token: str = "", connect: dict[str, Any] | None = None, **more: Any
    ) -> Client:
        """Return a client that is connected."""
        client = self.client(**more)
        client.send_commands({"id": 1, "connect": ({"token": token} if token else {}) | (connect or {})})
        await self.settle()
        assert client.end is None, client.end
        assert client.of("connect") or client.dialect.is_one_way, client.told
        return client


class Client:
    """A carrier in memory, and the client at its end."""

    def __init__(
        self,
        world: World,
        *,
        transport: str = "websocket",
        dialect: Dialect | None = None,
        room: int | None = None,
        can_pause: bool = True,
        answers_pings: bool = True,
        request: AuthRequest | None = None,
    ) -> None:
        self.world = world
        self.transport = transport
        dialects: dict[str, Dialect] = {
            "websocket": WEBSOCKET_JSON,
            "http_stream": HTTP_STREAM_JSON,
            "poll": POLL_JSON,
            "uni_sse": UNI_SSE,
        }
        self.dialect = dialect or dialects[transport]
        self.framing = world.framings.setdefault(self.dialect, Whole())
        self.is_emulated = transport == "http_stream"
        self.room = room
        """Bytes that the socket still takes; None when it takes all."""
        self.can_pause = can_pause
        self.answers_pings = answers_pings
        self.is_paused = False
        self.pauses = 0
        self.beats = 0
        self.end: tuple[int, str] | None = None
        self.noted: tuple[int, Code | None] | None = None
        self.writes: list[list[dict[str, Any]]] = []
        self.told: list[dict[str, Any]] = []
        """Replies and pushes in their order."""
        self.unread_bytes = 0
        self.waiting: list[bytes] = []
        """What a paused carrier has not brought yet."""
        self.positions: dict[str, tuple[str, int]] = {}
        self.subscribed: set[str] = set()
        self.asked: dict[int, tuple[str, str]] = {}
        """What was asked for by an id: the method and its channel."""
        self.session = Session(
            world.shared, self, request or AuthRequest(transport=transport, peer="192.0.2.1")
        )

    # -- as the session sees it (Carrier) ------------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        return self._send

    def _send(self, framed: Any) -> int:
        assert not self.session.is_stalled, "the hub wrote while bytes were waiting"
        if self.room is not None and self.room <= 0:
            raise BlockingIOError
        self.write(framed)
        return len(framed)

    def write(self, framed: Any, /) -> None:
        assert self.end is None, "written to after its end"
        self._read(framed)
        if self.room is not None:
            size = sum(len(data) for _, data in framed) if isinstance(framed, list) else len(framed)
            self.room -= size
            if self.room < 0:
                self.unread_bytes += size
                if not self.session.is_stalled:
                    self.session.stalled()

    def beat(self) -> None:
        self.beats += 1

    def close(self, code: Code, reason: str) -> None:
        assert self.end is None, "closed twice"
        self.end = (code.number, reason)

    def note(self, messages_out: int, code: Code | None = None) -> None:
        assert self.noted is None, "noted twice"
        self.noted = (messages_out, code)

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False
        while self.waiting and not self.is_paused and self.end is None:
            self.session.receive_bytes(self.waiting.pop(0))

    # -- as a client reads -----------------------------------------------------------------

    def _read(self, framed: Any) -> None:
        text = b"\n".join(data for _, data in framed) if isinstance(framed, list) else bytes(framed)
        lines = [line.removeprefix(b"data: ") for line in text.split(b"\n") if line]
        replies = [json.loads(line) for line in lines]
        self.writes.append(replies)
        for reply in replies:
            self.told.append(reply)
            if not reply and self.answers_pings and not self.dialect.is_one_way:
                self.world.clock.call_soon(lambda: self.send_commands({}))
            self._take({"push": reply} if self.dialect.is_one_way and reply else reply)

    def _take(self, reply: dict[str, Any]) -> None:
        push = reply.get("push")
        if push is not None:
            self._take_push(push)
            return
        method, channel = self.asked.get(reply.get("id", 0), ("", ""))
        if "error" in reply:
            return
        if method == "subscribe":
            assert channel not in self.subscribed
            self._begin(channel, reply["subscribe"])
        elif method == "unsubscribe":
            self.subscribed.discard(channel)
        elif method == "connect":
            for name, result in reply["connect"].get("subs", {}).items():
                self._begin(name, result)

    def _begin(self, channel: str, result: dict[str, Any]) -> None:
        assert result.get("recoverable") and result.get("positioned")
        self.subscribed.add(channel)
        publications = result.get("publications", [])
        if result.get("recovered"):
            before = self.positions.get(channel)
            offset = result.get("offset", 0)
            if before is not None and before != ("", 0):
                assert (result["epoch"], offset) == before, "recovered from another place"
        else:
            assert not publications, "publications that were not recovered"
        self.positions[channel] = (result["epoch"], result.get("offset", 0))
        for pub in publications:
            self._publication(channel, pub)

    def _take_push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            assert channel in self.subscribed, f"a publication of {channel} outside of its subscription"
            self._publication(channel, push["pub"])
        elif "join" in push or "leave" in push:
            assert channel in self.subscribed
        elif "unsubscribe" in push:
            self.subscribed.discard(channel)
        elif "subscribe" in push:
            self._begin(channel, push["subscribe"])
        elif "connect" in push:
            for name, result in push["connect"].get("subs", {}).items():
                self._begin(name, result)

    def _publication(self, channel: str, pub: dict[str, Any]) -> None:
        epoch, offset = self.positions[channel]
        assert pub["offset"] == offset + 1, f"{channel}: {pub['offset']} after {offset}"
        self.positions[channel] = (epoch, pub["offset"])

    # -- as a client writes -------------------------------------------------------------------

    def send_commands(self, *commands: dict[str, Any]) -> None:
        """Send commands in one message."""
        for command in commands:
            for method, request in command.items():
                if method != "id" and "id" in command:
                    self.asked[command["id"]] = (method, (request or {}).get("channel", ""))
        self.send_text(b"\n".join(json.dumps(command).encode() for command in commands))

    def send_text(self, data: bytes) -> None:
        if self.is_paused and self.can_pause:
            self.waiting.append(data)
        else:
            self.session.receive_bytes(data)

    async def ask(
        self, method: str, request: dict[str, Any] | None = None, *, within_s: float = 0
    ) -> dict[str, Any]:
        """Send one command and return its reply."""
        self.world.count += 1
        number = 1000 + self.world.count
        self.send_commands({"id": number, method: request or {}})
        await self.world.settle(within_s)
        return self.answer(number)

    def answer(self, number: int) -> dict[str, Any]:
        found = [reply for reply in self.told if reply.get("id") == number]
        assert len(found) == 1, (found, self.end)
        return found[0]

    async def subscribe(self, channel: str, *, within_s: float = 0, **more: Any) -> dict[str, Any]:
        """Subscribe, and return the result."""
        reply = await self.ask("subscribe", {"channel": channel, **more}, within_s=within_s)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["subscribe"]
        return result

    def drain(self, room: int | None = None) -> None:
        """Read all; then there is this much room again."""
        self.room = room
        self.unread_bytes = 0
        self.session.writable()

    def cut(self) -> None:
        """Go without a word."""
        self.session.gone("cut")

    # -- as the test sees it --------------------------------------------------------------------

    def of(self, kind: str) -> list[Any]:
        """Return the replies of one method, and the pushes of one kind, in order."""
        found = []
        for one in self.told:
            message = one.get("push", one)
            if kind in message:
                found.append(message[kind])
        return found

    def pushed(self, channel: str = "") -> list[dict[str, Any]]:
        pushes = [one["push"] for one in self.told if "push" in one]
        return [push for push in pushes if push.get("channel", "") == channel]

    def data(self, channel: str) -> list[Any]:
        """Return the data of all publications of a channel, recovered ones too."""
        found: list[Any] = []
        for one in self.told:
            if self.dialect.is_one_way:
                one = {"push": one}
            push = one.get("push", {})
            if push.get("channel") == channel and "pub" in push:
                found.append(push["pub"]["data"])
            is_its = self.asked.get(one.get("id", 0), ("", ""))[1] == channel
            results = [one.get("subscribe")] if is_its else []
            connected = one.get("connect") or push.get("connect") or {}
            results.append(connected.get("subs", {}).get(channel))
            for result in results:
                found += [pub["data"] for pub in (result or {}).get("publications", [])]
        return found

    def errors(self) -> list[int]:
        return [one["error"]["code"] for one in self.told if "error" in one]


__all__ = [
    "PRESENCE",
    "PUBLISH",
    "READ",
    "SECRET",
    "Client",
    "Pub",
    "RecordedPresence",
    "Reply",
    "World",
]
