"""Small clients of Socket.IO and SockJS for tests, written by hand.

They can be cut at any moment, and resume by whatever they are told to. They know nothing of the code under
test; the official clients have tests of their own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import websockets

from tests.serving import DEADLINE_S

__all__ = ["SOCKJS_TRANSPORTS", "Ended", "Session", "SockJs", "SocketIo"]

_ATTACHMENTS: Final = re.compile(r"([0-9]+)-")
_JSONP: Final = re.compile(r'/\*\*/callback\("(.*)"\);', re.DOTALL)
_HTML: Final = re.compile(r'p\("(.*)"\);')

SOCKJS_TRANSPORTS: Final = ("xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp", "websocket")


class Ended(Exception):
    """The server ended the connection, or refused it."""


class _Carried:
    """What all of them are: something that a task reads, and a queue of what it read."""

    def __init__(self, url: str) -> None:
        self.url = url
        # A connection for each request: whatever balances load may send each one elsewhere.
        never_kept = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False, limits=never_kept)
        self.socket: websockets.ClientConnection | None = None
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self._expected: list[asyncio.Future[Any]] = []

    def _read_by(self, work: Any) -> None:
        self._reading = asyncio.create_task(self._until_ended(work))

    async def _until_ended(self, work: Any) -> None:
        why = "the server ended it"
        try:
            await work
        except (websockets.WebSocketException, httpx.HTTPError, OSError, Ended) as error:
            why = repr(error)
        self.incoming.put_nowait(Ended(why))
        for future in self._expected:
            if not future.done():
                future.set_result(Ended(why))

    def expect(self) -> asyncio.Future[Any]:
        """Return a future for something that the connection has to bring; see `come`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected.append(future)
        return future

    async def come(self, future: asyncio.Future[Any]) -> Any:
        """Wait for what is expected; raise `Ended` when it will not come."""
        async with asyncio.timeout(DEADLINE_S):
            found = await future
        if isinstance(found, Ended):
            raise found
        return found

    async def connect_socket(self, target: str) -> websockets.ClientConnection:
        """Open a WebSocket at a path of the server."""
        address = "ws" + self.url.removeprefix("http") + target
        self.socket = await websockets.connect(address, proxy=None, max_size=None, open_timeout=DEADLINE_S)
        return self.socket

    async def take(self) -> Any:
        """Wait for the next thing that came; raise `Ended` when nothing more will."""
        async with asyncio.timeout(DEADLINE_S):
            item = await self.incoming.get()
        if isinstance(item, Ended):
            self.incoming.put_nowait(item)
            raise item
        return item

    async def abort(self) -> None:
        """Cut it, without a word to the server."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self.socket is not None:
            self.socket.transport.abort()
        await self.http.aclose()


class SocketIo(_Carried):
    """One Socket.IO client in the namespace ``/``.

    ``protocol`` is that of Engine.IO: 4, or 3. An event is a list of its name and its arguments; the
    position at the end, where there is one, is kept as `offset`.
    """

    def __init__(self, url: str, transport: str, protocol: int = 4) -> None:
        super().__init__(url)
        self.transport = transport
        self.protocol = protocol
        self.sid = ""
        self.pid = ""
        self.offset = ""
        self.is_recovered = False
        self._target = f"/socket.io/?EIO={protocol}&transport={transport}"
        if protocol == 3 and transport == "polling":
            self._target += "&b64=1"  # polls are text, whatever is in them
        self._acks: dict[int, asyncio.Future[Any]] = {}
        self._half: tuple[str, int, list[bytes]] | None = None
        self._connected = self.expect()

    async def connect(self, pid: str = "", offset: str = "") -> None:
        """Connect, with what it takes to recover."""
        if self.transport == "polling":
            opened, *more = await self._get()
            self._target += f"&sid={json.loads(opened[1:])['sid']}"
            self._read_by(self._poll(more))
        else:
            socket = await self.connect_socket(self._target)
            opened = await socket.recv()
            assert isinstance(opened, str) and opened.startswith("0"), opened
            self._read_by(self._listen(socket))
        asked = {"pid": pid, "offset": offset} if pid else {}
        if self.protocol == 4:
            await self._send("40" + json.dumps(asked))
        answer: dict[str, Any] = await self.come(self._connected)
        self.sid = answer.get("sid", "")
        self.is_recovered = bool(pid) and answer.get("pid") == pid
        self.pid = answer.get("pid", "")
        self.offset = offset if self.is_recovered else ""

    async def call(self, event: str, *arguments: Any) -> list[Any]:
        """Emit an event and wait for its acknowledgement."""
        number = len(self._acks)
        self._acks[number] = self.expect()
        await self._send(f"42{number}" + json.dumps([event, *arguments]))
        answer: list[Any] = await self.come(self._acks[number])
        return answer

    async def event(self) -> list[Any]:
        """Wait for the next event: its name and arguments."""
        event: list[Any] = await self.take()
        if self.pid:
            assert isinstance(event[-1], str), event
            self.offset = event.pop()
        return event

    # -- Engine.IO --------------------------------------------------------------------------------------

    async def _get(self) -> list[str | bytes]:
        answer = await self.http.get(self._target)
        if answer.status_code != 200:
            raise Ended(answer.text)
        return _payload(answer.text, self.protocol)

    async def _poll(self, packets: list[str | bytes]) -> None:
        while True:
            for packet in packets:
                if packet == "1":
                    raise Ended("the server closed it")
                await self._take_packet(packet)
            packets = await self._get()

    async def _listen(self, socket: websockets.ClientConnection) -> None:
        async for packet in socket:
            # Version 3 writes the type of a packet before its bytes.
            has_type = isinstance(packet, bytes) and self.protocol == 3
            await self._take_packet(packet[1:] if has_type else packet)

    async def _send(self, packet: str) -> None:
        if self.socket is not None:
            await self.socket.send(packet)
            return
        body = packet if self.protocol == 4 else f"{len(packet)}:{packet}"
        answer = await self.http.post(self._target, content=body, headers={"Content-Type": "text/plain"})
        if answer.text != "ok":
            raise Ended(answer.text)

    async def _take_packet(self, packet: str | bytes) -> None:
        if packet == "2":
            await self._send("3")
        elif isinstance(packet, bytes):
            self._attach(packet)
        elif packet[0] == "4":
            self._take_message(packet[1:])

    # -- Socket.IO ----------------------------------------------------------------------------------------

    def _take_message(self, text: str) -> None:
        kind, rest = text[0], text[1:]
        if kind == "0":
            self._connected.set_result(json.loads(rest) if rest else {})
        elif kind in "23":
            self._take_values(kind, rest, [])
        elif kind in "56":
            found = _ATTACHMENTS.match(rest)
            assert found is not None
            self._half = "23"[kind == "6"] + rest[found.end() :], int(found[1]), []
        else:
            raise Ended(text)

    def _attach(self, data: bytes) -> None:
        assert self._half is not None
        text, number, attached = self._half
        attached.append(data)
        if len(attached) == number:
            self._half = None
            self._take_values(text[0], text[1:], attached)

    def _take_values(self, kind: str, text: str, attached: list[bytes]) -> None:
        start = text.index("[")
        values: list[Any] = _filled(json.loads(text[start:]), attached)
        if kind == "3":
            self._acks[int(text[:start])].set_result(values)
        else:
            self.incoming.put_nowait(values)


def _payload(text: str, protocol: int) -> list[str | bytes]:
    """Split the body of a poll. What tests publish has no characters beyond the first plane."""
    parts = []
    if protocol == 4:
        parts = text.split("\x1e")
    while protocol == 3 and text:
        length, _, text = text.partition(":")
        parts.append(text[: int(length)])
        text = text[int(length) :]
    mark = "b" if protocol == 4 else "b4"
    return [base64.b64decode(part[len(mark) :]) if part.startswith(mark) else part for part in parts]


def _filled(value: Any, attached: list[bytes]) -> Any:
    """Put attachments in their places."""
    if isinstance(value, dict):
        if value.get("_placeholder"):
            return attached[value["num"]]
        return {name: _filled(inner, attached) for name, inner in value.items()}
    return [_filled(inner, attached) for inner in value] if isinstance(value, list) else value


class SockJs(_Carried):
    """One SockJS session, over one of its transports; `take` gives its messages."""

    def __init__(self, url: str, transport: str, prefix: str = "/sockjs") -> None:
        super().__init__(url)
        self.transport = transport
        self._base = f"{prefix}/000/{uuid4().hex}"
        self._opened = self.expect()

    async def connect(self) -> None:
        """Open it."""
        if self.transport == "websocket":
            self._read_by(self._listen(await self.connect_socket(f"{self._base}/websocket")))
        elif self.transport in ("xhr", "jsonp"):
            self._read_by(self._poll())
        else:
            self._read_by(self._stream())
        await self.come(self._opened)

    async def send(self, message: str) -> None:
        """Send a message."""
        body = json.dumps([message])
        if self.socket is not None:
            await self.socket.send(body)
            return
        if self.transport == "jsonp":
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await self.http.post(
                f"{self._base}/jsonp_send", content=f"d={quote(body, safe='')}", headers=form
            )
        else:
            answer = await self.http.post(f"{self._base}/xhr_send", content=body)
        if answer.status_code not in (200, 204):
            raise Ended(f"{answer.status_code} {answer.text}")

    async def _listen(self, socket: websockets.ClientConnection) -> None:
        async for frame in socket:
            assert isinstance(frame, str)
            self._take_frame(frame)

    async def _poll(self) -> None:
        while True:
            if self.transport == "xhr":
                answer = await self.http.post(f"{self._base}/xhr")
                frame = answer.text.removesuffix("\n")
            else:
                answer = await self.http.get(f"{self._base}/jsonp?c=callback")
                found = _JSONP.match(answer.text)
                frame = json.loads(f'"{found[1]}"') if found else ""
            if answer.status_code != 200:
                raise Ended(f"{answer.status_code} {answer.text}")
            self._take_frame(frame)

    async def _stream(self) -> None:
        method = "POST" if self.transport == "xhr_streaming" else "GET"
        target = f"{self._base}/{self.transport}" + ("?c=callback" if self.transport == "htmlfile" else "")
        while True:
            async with self.http.stream(method, target) as answer:
                if answer.status_code != 200:
                    raise Ended(f"{answer.status_code} {await answer.aread()!r}")
                async for line in answer.aiter_lines():
                    self._take_line(line)

    def _take_line(self, line: str) -> None:
        if self.transport == "eventsource":
            if line.startswith("data: "):
                self._take_frame(line.removeprefix("data: ").replace("%25", "%"))
        elif self.transport == "htmlfile":
            found = _HTML.search(line)
            if found and self._base not in line and not line.startswith(" "):
                self._take_frame(json.loads(f'"{found[1]}"'))
        elif line and line.strip("h"):
            self._take_frame(line)

    def _take_frame(self, frame: str) -> None:
        if frame == "o":
            if self._opened.done():
                raise Ended("the server lost this session, and began another")
            self._opened.set_result(True)
        elif frame.startswith("a"):
            for message in json.loads(frame[1:]):
                self.incoming.put_nowait(message)
        elif frame.startswith("c"):
            raise Ended(frame)


class Session:
    """The session protocol inside SockJS messages: one subscription."""

    def __init__(self, carrier: SockJs) -> None:
        self.carrier = carrier
        self._ready: list[dict[str, Any]] = []

    async def subscribe(self, channel: str, epoch: str = "", offset: int | None = None) -> dict[str, Any]:
        """Connect and subscribe; go on from a place, if there is one. Returns the reply."""
        await self.carrier.connect()
        await self.carrier.send(json.dumps({"id": 1, "connect": {}}))
        await self._reply(1)
        since = {} if offset is None else {"recover": True, "epoch": epoch, "offset": offset}
        await self.carrier.send(json.dumps({"id": 2, "subscribe": {"channel": channel, **since}}))
        reply: dict[str, Any] = (await self._reply(2))["subscribe"]
        self._ready += reply.get("publications", [])
        return reply

    async def publication(self) -> dict[str, Any]:
        """Wait for the next publication."""
        while not self._ready:
            self._take(await self._replies())
        return self._ready.pop(0)

    async def _reply(self, number: int) -> dict[str, Any]:
        while True:
            replies = await self._replies()
            self._take(replies)
            for reply in replies:
                if reply.get("id") == number:
                    assert "error" not in reply, reply
                    return reply

    async def _replies(self) -> list[dict[str, Any]]:
        replies = [json.loads(line) for line in (await self.carrier.take()).splitlines()]
        if {} in replies:
            await self.carrier.send("{}")
        return replies

    def _take(self, replies: list[dict[str, Any]]) -> None:
        for reply in replies:
            push = reply.get("push", {})
            if "pub" in push:
                self._ready.append(push["pub"])
            assert "disconnect" not in push, push
