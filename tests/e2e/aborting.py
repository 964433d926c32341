"""Clients that go at any moment and in any way, and what must be left of them: nothing.

`Cycles` connects by bare sockets, many at once, gets as far as chance has it, and leaves by FIN, by RST, half
(it says that it sends no more, and waits for the other side), or silently: it stays, and neither reads nor
answers, so that the server must see to it. `census` counts what a server holds: objects that the garbage
collector knows by type, and every container that can be reached from the application, by its path.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from everywire import Everywire, Session
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from tests.serving import DEADLINE_S, Site, until
from tests.transports.known import knowing, token

__all__ = ["ENDS", "SCRIPTS", "STAGES", "Cycles", "census", "make_application", "settled"]

LIMITS: Final = Limits(
    head_timeout_s=0.5,
    body_timeout_s=0.5,
    tls_handshake_timeout_s=1.0,
    keep_alive_timeout_s=0.5,
    close_timeout_s=0.5,
    connect_timeout_s=0.5,
    ping_interval_s=1.0,
    pong_timeout_s=0.4,
    presence_ttl_s=0.5,
    leave_debounce_s=0.1,
    call_timeout_s=5.0,
    max_connections_per_user=10_000,
    publish_rate_per_user=0.0,
    publish_rate_per_channel=0.0,
    tickets_per_minute=1_000_000,
    ticket_ttl_s=1.0,
)
USERS: Final = 8
WINDOW: Final = 10
STAGES: Final = ("connected", "handshake", "sent", "answered", "busy")
ENDS: Final = ("FIN", "RST", "half", "silent")
_SILENT_SHARE: Final = 0.03
_SILENCE_S: Final = 3.0
_ANSWER_S: Final = 0.1

COMMANDS: Final[list[dict[str, Any]]] = [
    {"id": 2, "subscribe": {"channel": "a", "recover": True, "join_leave": True}},
    {"id": 3, "subscribe": {"channel": "b"}},
]
BUSY: Final[list[dict[str, Any]]] = [
    {"id": 4, "publish": {"channel": "a", "data": 1}},
    {"id": 5, "publish": {"channel": "b", "data": 2}},
    {"id": 6, "rpc": {"method": "slow", "data": 1}},
    {"id": 7, "rpc": {"method": "cancelled", "data": 1}},
    {"id": 8, "presence": {"channel": "a"}},
    {"id": 9, "history": {"channel": "a", "limit": 5}},
    {"id": 10, "unsubscribe": {"channel": "b"}},
    {"id": 11, "subscribe": {"channel": "c"}},
    {"id": 12, "ping": {}},
    {"send": {"data": 1}},
]


class Script(NamedTuple):
    """What a client sends: first, and once that was answered."""

    opening: bytes
    then: bytes = b""


def _lines(commands: Iterable[Any]) -> str:
    return "\n".join(map(json.dumps, commands))


def _frame(text: str) -> bytes:
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
    return b"\x81" + length + b"\0\0\0\0" + data  # masked by nothing


def _request(method: str, target: str, user: str, body: str = "", *fields: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: HOST", *fields]
    if user:
        lines.append(f"Authorization: Bearer {user}")
    if method == "POST":
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    return "\r\n".join([*lines, "", body]).encode()


def _handshake(target: str, user: str, *fields: str) -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"
    return _request("GET", target, user, "", *upgrade, key, *fields)


def _scripts(user: str) -> dict[str, Script]:
    """Return what a user's clients send, by the name of the wire; HOST stands for the server's."""
    connect = {"id": 1, "connect": {"ticks": 3}}
    commands = _lines([connect, *COMMANDS])
    busy = _lines(BUSY)
    # Who says that it sends no more may still wait for the answer, so these are not cancelled.
    brief = _lines(command for command in BUSY if command.get("rpc", {}).get("method") != "cancelled")
    one_way = json.dumps({"subs": {"a": {}}})
    in_url = quote(commands)
    post = _request("POST", "/channels/a", user, "1")
    return {
        "plain websocket": Script(_handshake("/channels/a,b", user), _frame("1")),
        "plain subprotocol": Script(
            _handshake("/channels/a", user, "Sec-WebSocket-Protocol: everywire.json"), _frame("1")
        ),
        "plain sse": Script(_request("GET", "/channels/a,b", user, "", "Accept: text/event-stream")),
        "plain stream": Script(_request("GET", "/channels/a", user, "", "Accept: application/x-ndjson")),
        "plain poll": Script(_request("GET", "/channels/a?after=earliest", user)),
        "plain long poll": Script(_request("GET", "/channels/quiet?wait=1", user)),
        "plain publish": Script(post, post * 20),
        "plain presence": Script(_request("GET", "/channels/a/presence", user)),
        "ticket": Script(_request("POST", "/ticket", user, "")),
        "websocket": Script(_handshake("/connection/websocket", user) + _frame(commands), _frame(busy)),
        "websocket, no command": Script(_handshake("/connection/websocket", user)),
        "http_stream": Script(_request("POST", "/connection/http_stream", user, commands)),
        "http_stream, busy": Script(_request("POST", "/connection/http_stream", user, f"{commands}\n{busy}")),
        "sse": Script(_request("GET", f"/connection/sse?cf_connect={in_url}", user)),
        "posted sse": Script(_request("POST", "/connection/sse", user, f"{commands}\n{busy}")),
        "poll": Script(_request("POST", "/connection/poll", user, f"{commands}\n{brief}")),
        "long poll": Script(
            _request("POST", "/connection/poll?wait=1", user, _lines([{"id": 1, "connect": {}}, COMMANDS[1]]))
        ),
        "uni_websocket": Script(_handshake("/connection/uni_websocket", user) + _frame(one_way)),
        "uni_http_stream": Script(_request("POST", "/connection/uni_http_stream", user, one_way)),
        "uni_sse": Script(_request("POST", "/connection/uni_sse", user, one_way)),
        "emulation": Script(_request("POST", "/connection/http_stream", user, commands)),
    }


SCRIPTS: Final = tuple(_scripts(""))


def make_application() -> Everywire:
    """Make an application whose functions take a little time, so that clients leave while they are asked."""
    settings = SettingsTable([("*", ChannelSettings(window=Window(max_publications=WINDOW)))])
    wire = Everywire(**knowing(limits=LIMITS, channels=settings, is_loopback=True))

    @wire.on_connect
    async def on_connect(session: Session, data: Any) -> None:
        await asyncio.sleep(random.random() / 200)

    @wire.on_subscribe("a")
    async def on_subscribe(session: Session, channel: str, data: Any) -> None:
        await asyncio.sleep(random.random() / 200)

    @wire.on_publish("a")
    async def on_publish(session: Session, channel: str, data: Any) -> None:
        await asyncio.sleep(random.random() / 200)

    @wire.rpc("slow")
    async def slow(session: Session, data: Any) -> Any:
        await asyncio.sleep(0.1)
        return data

    @wire.rpc("cancelled", cancel=True)
    async def cancelled(session: Session, data: Any) -> None:
        await asyncio.sleep(60)

    @wire.on_message()
    async def message(session: Session, data: Any) -> None:
        await asyncio.sleep(0.01)

    return wire


class Cycles:
    """Connect and leave, again and again."""

    def __init__(self, site: Site, seed: int = 0) -> None:
        self.site = site
        self.done: Counter[tuple[str, str, str]] = Counter()
        """How often which script was left at which stage and in which way."""
        self.answered: Counter[str] = Counter()
        """By script, how often there was an answer of success."""
        self._random = random.Random(seed)
        users = ["", *(token(f"user-{number}", 3_600) for number in range(USERS))]
        host = site.authority.encode()
        self._scripts = [
            {
                name: Script(script.opening.replace(b"HOST", host), script.then.replace(b"HOST", host))
                for name, script in _scripts(user).items()
            }
            for user in users
        ]

    async def visit(self) -> None:
        """Come once by every wire as everybody, and wait for the answer: what is remembered of heads and
        credentials is remembered then."""
        await asyncio.gather(
            *(self._visit(name, script) for scripts in self._scripts for name, script in scripts.items())
        )

    async def _visit(self, name: str, script: Script) -> None:
        reader, writer = await self.site.connect()
        writer.write(script.opening)
        said = await _read_some(reader, DEADLINE_S, 12)
        self.answered[name] += said[9:12] in (b"101", b"200", b"201")
        if name == "emulation":
            await self._emulate(said + await _read_some(reader))
        _leave(writer, is_reset=False, is_tcp=self.site.unix is None)

    async def run(self, count: int, at_once: int = 48, within_s: float = 3_600.0) -> None:
        """Do so many cycles, each combination in turn, or as many as there is time for."""
        plans = self._plans()
        left = count
        end_s = time.monotonic() + within_s

        async def work() -> None:
            nonlocal left
            while left > 0 and time.monotonic() < end_s:
                left -= 1
                await self._cycle(*next(plans))

        await asyncio.gather(*(work() for _ in range(at_once)))

    def _plans(self) -> Iterator[tuple[str, str, str]]:
        """Return scripts, stages and ends: all of them, shuffled, without end; silent ones more rarely."""
        plans = [(script, stage, end) for script in SCRIPTS for stage in STAGES for end in ENDS[:3]]
        silent = [(script, stage, "silent") for script in SCRIPTS for stage in STAGES]
        while True:
            some = self._random.sample(silent, int(len(plans) * _SILENT_SHARE))
            mixed = plans + some
            self._random.shuffle(mixed)
            yield from mixed

    async def _cycle(self, name: str, stage: str, end: str) -> None:
        self.done[name, stage, end] += 1
        scripts = self._random.choice(self._scripts)
        reader, writer = await self._open(stage)
        try:
            await self._go(name, scripts[name], stage, reader, writer)
            if end == "half":
                await _half_close(reader, writer)
            elif end == "silent":
                await _stay(reader)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the server was first
        _leave(writer, is_reset=end == "RST", is_tcp=self.site.unix is None)

    async def _open(self, stage: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if stage == "connected" and self.site.tls is not None:
            # Without TLS: it is left in the handshake of that.
            _, _, port = self.site.authority.rpartition(":")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00"[: self._random.randrange(8)])
            return reader, writer
        return await self.site.connect()

    async def _go(
        self,
        name: str,
        script: Script,
        stage: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if stage == "connected":
            return
        if stage == "handshake":
            writer.write(script.opening[: self._random.randrange(1, len(script.opening))])
            return
        writer.write(script.opening)
        if stage == "sent":
            return
        said = await _read_some(reader)
        if said[9:12] in (b"101", b"200", b"201"):
            self.answered[name] += 1
        if stage == "busy":
            if name == "emulation":
                await self._emulate(said)
            elif script.then:
                writer.write(script.then)
            if self._random.random() < 0.5:
                await _read_some(reader)

    async def _emulate(self, said: bytes) -> None:
        """Send commands by a second connection, and leave that at once, or in the middle of the request."""
        for line in said.split(b"\n"):
            if line.startswith(b"{") and b'"connect"' in line:
                connect = json.loads(line).get("connect", {})
                body = {"session": connect["session"], "node": connect["node"], "data": _lines(BUSY)}
                request = _request("POST", "/emulation", "", json.dumps(body))
                request = request.replace(b"HOST", self.site.authority.encode())
                _, writer = await self.site.connect()
                cut = self._random.choice((len(request), self._random.randrange(len(request))))
                writer.write(request[:cut])
                if self._random.random() < 0.5:
                    await asyncio.sleep(0.005)
                _leave(writer, is_reset=self._random.random() < 0.5, is_tcp=self.site.unix is None)


async def _read_some(reader: asyncio.StreamReader, wait_s: float = _ANSWER_S, enough: int = 1_000) -> bytes:
    """Return what comes, until there is a while of nothing or it was a good deal."""
    said = b""
    try:
        async with asyncio.timeout(wait_s):
            while len(said) < enough and (piece := await reader.read(65_536)):
                said += piece
    except TimeoutError:
        pass
    return said


async def _half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if writer.can_write_eof():
        writer.write_eof()
        await _stay(reader, 1.0)


async def _stay(reader: asyncio.StreamReader, stay_s: float = _SILENCE_S) -> None:
    """Wait until the other side ends it, or for so long."""
    try:
        async with asyncio.timeout(stay_s):
            while await reader.read(65_536):
                pass
    except TimeoutError:
        pass


def _leave(writer: asyncio.StreamWriter, *, is_reset: bool, is_tcp: bool) -> None:
    if not is_reset:
        writer.close()
        return
    if is_tcp:
        raw: socket.socket | None = writer.get_extra_info("socket")
        if raw is not None and not writer.transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- what is left -------------------------------------------------------------------------------------


class Census(NamedTuple):
    """What there is."""

    objects: Counter[str]
    """Those that the garbage collector knows, by type."""
    sizes: dict[str, int]
    """How much is in each container of the application, by its path from there."""
    descriptors: int
    tasks: Counter[str]
    blocks: int
    """What the allocator gave out; strings and numbers among it."""

    def grown(self, before: Census) -> dict[str, tuple[int, int]]:
        """Return what there is more of than before: types of ours, containers, descriptors, tasks."""
        found = {
            name: (before.objects[name], count)
            for name, count in self.objects.items()
            if name.startswith("everywire.") and count > before.objects[name]
        }
        found |= {
            path: (before.sizes.get(path, 0), size)
            for path, size in self.sizes.items()
            if size > before.sizes.get(path, 0)
        }
        found |= {name: (before.tasks[name], n) for name, n in self.tasks.items() if n > before.tasks[name]}
        if self.descriptors > before.descriptors:
            found["file descriptors"] = (before.descriptors, self.descriptors)
        return found

    def grown_otherwise(self, before: Census) -> tuple[int, int]:
        """Return how many more objects of others there are, dictionaries, functions and so on, and how many
        more blocks are given out."""
        more = sum(
            max(0, count - before.objects[name])
            for name, count in self.objects.items()
            if not name.startswith("everywire.")
        )
        return more, self.blocks - before.blocks


def census(wire: Everywire) -> Census:
    """Count what there is, garbage collected before."""
    gc.collect()
    objects = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    tasks = Counter(f"task {task.get_coro().__qualname__}" for task in asyncio.all_tasks())  # type: ignore[union-attr]
    descriptors = len(os.listdir("/proc/self/fd"))
    return Census(objects, dict(_sizes(wire)), descriptors, tasks, sys.getallocatedblocks())


def _sizes(wire: Everywire) -> Iterator[tuple[str, int]]:
    """Walk over attributes of objects of ours, each object once."""
    seen: set[int] = set()
    ahead: deque[tuple[str, Any]] = deque([("", wire)])
    while ahead:
        path, one = ahead.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (dict, list, set, deque)):
            yield path, _size(path, one, wire.hub.time())
        elif type(one).__module__.startswith("everywire."):
            for name in _attributes(one):
                ahead.append((f"{path}.{name}", getattr(one, name, None)))


def _size(path: str, one: Any, now_s: float) -> int:
    if path.endswith("._slots"):  # a timing wheel, whose empty slots stay until their time
        return sum(map(len, one.values()))
    if path.endswith("._full_at"):  # buckets; those that are full again say nothing
        return sum(full_at > now_s for full_at in one.values())
    return len(one)


def _attributes(one: Any) -> Iterator[str]:
    yield from getattr(one, "__dict__", ())
    for kind in type(one).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


async def settled(wire: Everywire) -> None:
    """Wait until everybody was noticed to have gone, and what polling clients left has run out."""
    shared = wire.shared
    for channel in ("a", "b"):
        for _ in range(WINDOW):  # the log is as full as it gets
            await wire.publish(channel, 0)
    await until(lambda: not shared.registry.statistics()["visitors"])
    await until(lambda: not len(shared.tasks))
    await asyncio.sleep(2 * LIMITS.presence_ttl_s + 1.5)  # leases of polls, debounced leaves, dropped groups
