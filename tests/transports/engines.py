"""A server with Engine.IO on it, and what a client of it does step by step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from everywire import Everywire
from everywire.asgi.application import AsgiApplication
from everywire.core.codes import Code
from everywire.core.position import Place, Position, encode_position
from everywire.core.publication import Gap, Publication
from everywire.hub.hub import Hub
from everywire.hub.interfaces import Item
from everywire.hub.recovery import LATEST, Start
from everywire.sockets.engine import Engine
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.engines import Engines
from everywire.sockets.link import Packets, Upper
from everywire.transports.engineio import EngineIo
from everywire.transports.exchange import Exchange
from everywire.transports.relay import NOWHERE, Relay
from everywire.transports.service import Service
from tests.serving import DEADLINE_S, Site

QUICK = EngineOptions("engineio", ping_interval_s=0.3, ping_timeout_s=0.2)
"""The times of the protocol's own suites."""
PATIENT = EngineOptions("engineio", ping_interval_s=60.0, ping_timeout_s=60.0)
"""Times so long that nothing ends by them: what should be answered has to be."""
PATH = "/engine.io/"


class Talker:
    """An upper that notes all it hears."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.heard: list[tuple[bool, bytes]] = []
        self.told: list[str] = []
        self.reasons: list[str] = []

    def message(self, data: bytes, binary: bool) -> None:
        """Note a message."""
        self.heard.append((binary, data))

    def stalled(self) -> None:
        """Note it."""
        self.told.append("stalled")

    def writable(self) -> None:
        """Note it."""
        self.told.append("writable")

    def moved(self) -> None:
        """Note it."""
        self.told.append("moved")

    def gone(self, reason: str) -> None:
        """Note it."""
        self.reasons.append(reason)

    def drain(self, retry_ms: int) -> None:
        """Note it."""
        self.told.append("drain")

    def say(self, *texts: str) -> None:
        """Post messages."""
        self.engine.post([(False, b"4" + text.encode()) for text in texts])


class Echo(Talker):
    """An upper that says again what it hears."""

    def message(self, data: bytes, binary: bool) -> None:
        """Say it again."""
        super().message(data, binary)
        self.engine.post([(binary, data if binary else b"4" + data)])


class EngineWire(Everywire):
    """A server whose ``/engine.io/`` is given to uppers of the test's own."""

    def __init__(
        self,
        options: EngineOptions = PATIENT,
        upper: Callable[[Engine], Upper] = Echo,
        *,
        relay: Relay = NOWHERE,
        **settings: Any,
    ) -> None:
        super().__init__(**{"dev": True, "is_loopback": True, **settings})
        self.options = options
        self.relay = relay
        self.uppers: list[Any] = []
        self._make_upper = upper
        self.asgi = AsgiApplication(self._route, self, self.limits)
        self.handle = self._route  # type: ignore[misc]

    @property
    def engines(self) -> Engines:
        """All connections."""
        return self._engineio.engines

    @property
    def upper(self) -> Any:
        """The last upper that was made."""
        return self.uppers[-1]

    async def start(self) -> None:
        """Start, and the mount with it."""
        await super().start()
        service = Service(self.shared, self.gate)
        Listener.hub = self.hub
        self._engineio = EngineIo(service, self._accept, self.options, relay=self.relay)

    async def close(self) -> None:
        """Stop, the mount first."""
        self.engines.close()
        await super().close()

    def _accept(self, engine: Engine) -> Upper:
        upper = self._make_upper(engine)
        self.uppers.append(upper)
        return upper

    def _route(self, exchange: Exchange) -> None:
        if exchange.request.path.startswith(PATH):
            self._engineio(exchange)
        else:
            self._assembly.handle(exchange)


class Polling:
    """A client that polls."""

    def __init__(self, site: Site, opened: dict[str, Any], version: int = 4) -> None:
        self.site = site
        self.opened = opened
        self.sid: str = opened["sid"]
        self.target = f"{PATH}?EIO={version}&transport=polling&sid={self.sid}"

    async def poll(self) -> str:
        """Poll once; return the payload."""
        answer = await self.get()
        assert answer.status_code == 200, answer.text
        return answer.text

    async def get(self, more: str = "") -> httpx.Response:
        """Poll once; return the answer."""
        return await self.site.http.get(self.target + more)

    async def post(self, body: bytes | str, **headers: str) -> httpx.Response:
        """Send a payload."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body.encode() if isinstance(body, str) else body
        return await self.site.http.post(self.target, content=content, headers=fields)

    async def send(self, body: bytes | str, **headers: str) -> None:
        """Send a payload, which is taken."""
        answer = await self.post(body, **headers)
        assert (answer.status_code, answer.text) == (200, "ok")

    async def is_gone(self) -> bool:
        """Whether the server knows nothing of it any more, and says so in the protocol's form."""
        answer = await self.get()
        return answer.status_code == 400 and answer.json() == {"code": 1, "message": "Session ID unknown"}

    def socket(self, more: str = "", **options: Any) -> Any:
        """Connect a WebSocket that is to take over."""
        return self.site.websocket(self.target.replace("=polling", "=websocket") + more, **options)


async def open_polling(site: Site, more: str = "") -> Polling:
    """Open a connection of version 4 that polls."""
    answer = await site.http.get(f"{PATH}?EIO=4&transport=polling{more}")
    assert answer.status_code == 200, answer.text
    assert answer.text.startswith("0")
    return Polling(site, json.loads(answer.text[1:]))


def open_socket(site: Site, more: str = "", version: int = 4, **options: Any) -> Any:
    """Connect over WebSocket only; use as an asynchronous context manager."""
    return site.websocket(f"{PATH}?EIO={version}&transport=websocket{more}", **options)


class _Texts:
    """An encoder: each publication is a message."""

    once = False
    tells_gaps = True
    wants_positions = False
    beats_always = False

    def encode(self, items: Sequence[Item], position: str) -> Packets:
        """Return the messages."""
        return [(False, b"4" + _data_of(item)) for item in items]


def _data_of(item: Item) -> bytes:
    return item.content.data if isinstance(item.content, Publication) else b"gap"


_TEXTS = _Texts()


class Listener(Talker):
    """An upper that reads the channel ``news``, as a Socket.IO client reads its rooms."""

    hub: Hub
    """The server's, set before the first one is made."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._open(LATEST)

    def _open(self, start: Start) -> None:
        self.reader = self.hub.reader(("news",), _TEXTS, self.engine.framing, self)
        if self.engine.is_stalled:
            self.reader.stalled()
        self.hub.open(self.reader, start)

    def stalled(self) -> None:
        """Tell the reader."""
        super().stalled()
        self.reader.stalled()

    def writable(self) -> None:
        """Tell the reader."""
        super().writable()
        self.reader.writable()

    def moved(self) -> None:
        """Read on where the reader stands, by the new carrier."""
        super().moved()
        reader = self.reader
        cohort = reader.cohort
        offsets, epochs = (
            (reader.offsets, reader.epochs) if cohort is None else (cohort.offsets, reader.group.epochs)
        )
        reader.close()
        place = encode_position([("news", Place(epochs[0], offsets[0]))])
        self._open(Start(Position.decode(place)))

    def gone(self, reason: str) -> None:
        """Read no more."""
        super().gone(reason)
        self.reader.close()

    # -- what the hub asks (Subscriber) ------------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """The link's."""
        return self.engine.send

    def write(self, framed: Any, /) -> None:
        """Write by the link."""
        self.engine.write(framed)

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Hear nothing of interest."""

    def beat(self) -> None:
        """Do nothing: the link has its own."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Close."""
        self.engine.close(code)


class Upgrader:
    """A client that polls, and moves to WebSocket as the official ones do."""

    def __init__(self, client: Polling) -> None:
        self.client = client
        self.heard: list[str] = []
        self.socket: Any = None
        self._is_pausing = False
        self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while not self._is_pausing:
            self._take((await self.client.poll()).split("\x1e"))

    def _take(self, packets: Sequence[str]) -> None:
        self.heard += [packet[1:] for packet in packets if packet.startswith("4")]

    async def upgrade(self) -> None:
        """Move; what is sent afterwards goes by the socket."""
        socket = await self.client.socket().__aenter__()
        await socket.send("2probe")
        assert await socket.recv() == "3probe"
        self._is_pausing = True
        await self._polling
        await socket.send("5")
        self.socket = socket

    async def send(self, text: str) -> None:
        """Send a message by what carries the connection now."""
        if self.socket is None:
            await self.client.send("4" + text)
        else:
            await self.socket.send("4" + text)

    async def hear(self, most: int) -> list[str]:
        """Hear messages until there are so many."""
        while len(self.heard) < most:
            self._take([await asyncio.wait_for(self.socket.recv(), DEADLINE_S)])
        return self.heard

    async def close(self) -> None:
        """Leave."""
        self._polling.cancel()
        if self.socket is not None:
            await self.socket.close()
