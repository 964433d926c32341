"""The wires that carry a session: WebSocket, HTTP streaming, SSE, long polling and polling.

A link is one connection of a session to one server: commands go in, replies and pushes come out, in
the JSON form of the Centrifuge client protocol (version 2). It knows nothing of channels, and ends
with `ConnectionLost` (worth another attempt) or `Refused` (never again). On HTTP streaming and SSE the
client's commands go to ``/emulation``; polling is a request for each exchange, which says again what
the session follows (docs/protocol-sessions.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from everywire.client.errors import Busy, ConnectionLost, Refused, TokenExpired
from everywire.client.http import HttpClient, HttpResponse
from everywire.client.websocket import ended, shake_hands
from everywire.client.wires import MAX_ERROR_BYTES, failure
from everywire.codecs.centrifuge.messages import Command, ConnectRequest, Empty, ErrorReply, Reply
from everywire.codecs.lines import LineSplitter
from everywire.codecs.sse_decoder import SseDecoder
from everywire.codecs.websocket import BinaryMessage, CloseReceived, Failed, TextMessage, WebSocketCodec
from everywire.core import codes
from everywire.core.errors import TooLarge

__all__ = ["LINKS", "Link", "LinkOptions", "StateOfSession", "check_disconnect", "connect_failure"]

OPEN_TIMEOUT_S: Final = 5.0
SUBPROTOCOL: Final = "centrifuge-json"
WAIT_S: Final = 25
POLL_INTERVAL_S: Final = 1.0
TICKS: Final = 2
"""Ticks that a streamed answer is to bring: see the module `everywire.client.choosing`."""

_DECODER: Final = msgspec.json.Decoder(Reply)
_ENCODER: Final = msgspec.json.Encoder()


class StateOfSession(Protocol):
    """What a polling link asks of its client, since each request says again what the session follows."""

    def next_id(self) -> int:
        """Return a fresh command id."""

    def connect_request(self) -> ConnectRequest:
        """Return what is said to connect."""

    def subscriptions(self) -> list[Command]:
        """Return a subscribe command for each channel that is followed, from where it stands."""

    def forget(self, commands: Sequence[Command]) -> None:
        """Hear that these commands will get no reply: they were not sent, or are asked again."""


class LinkOptions(Protocol):
    """Makes the HTTP clients of a link."""

    def http(self) -> HttpClient:
        """Return a client with a connection of its own."""


class Link(Protocol):
    """One connection of a session."""

    name: str
    ticks: int
    """How many ticks its connect command is to ask for."""

    async def open(self, connect: Command) -> None:
        """Connect and send the first command; return when the wire stands."""

    async def receive(self) -> list[Reply]:
        """Return the next replies; at least one."""

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands."""

    async def close(self) -> None:
        """Let go of the connection."""


def encode(commands: Sequence[Command]) -> bytes:
    """Encode commands as lines."""
    return b"\n".join([_ENCODER.encode(command) for command in commands])


def decode(text: bytes | str) -> Reply:
    """Decode one reply; `ConnectionLost` when it is none."""
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConnectionLost(f"the server sent what is not the protocol's: {error}") from None


def check_disconnect(replies: Sequence[Reply]) -> None:
    """Raise what the server's last words mean, if they are there: on streams and polls they are a push."""
    for reply in replies:
        if reply.push is not None and reply.push.disconnect is not None:
            raise ended(reply.push.disconnect.code, reply.push.disconnect.reason)


def connect_failure(error: ErrorReply) -> ConnectionLost | Refused:
    """Make the error of a connect command that failed: whether another attempt is worth it."""
    sentence = f"the server answered {error.code} to connect: {error.message}"
    if error.code == codes.TOKEN_EXPIRED.number:
        return TokenExpired(sentence)
    if error.code < 100 or error.temporary is True:
        return ConnectionLost(sentence)
    return Refused(sentence, error.code)


class WebSocketLink:
    """``/connection/websocket``."""

    name = "websocket"
    ticks = 0

    def __init__(self, options: LinkOptions, state: StateOfSession, idle_timeout_s: float) -> None:
        self._http = options.http()
        self._idle_timeout_s = idle_timeout_s
        self._codec: WebSocketCodec | None = None
        self._data = b""

    async def open(self, connect: Command) -> None:
        """Shake hands and send the first command."""
        target = f"{self._http.address.prefix}/connection/websocket"
        self._codec, self._data = await shake_hands(self._http, target, SUBPROTOCOL, OPEN_TIMEOUT_S)
        await self.send([connect])

    async def receive(self) -> list[Reply]:
        """Read messages until there is a reply."""
        assert self._codec is not None
        connection = self._http.connection
        while True:
            data, self._data = self._data, b""
            data = data or await connection.read_some(self._idle_timeout_s)
            if not data:
                raise connection.lost("the server went away")
            replies: list[Reply] = []
            end: ConnectionLost | Refused | None = None
            for event in self._codec.receive_data(data):
                if isinstance(event, TextMessage):
                    replies += [decode(line) for line in event.data.split(b"\n") if line]
                elif isinstance(event, BinaryMessage):
                    end = ConnectionLost("the server sent a binary message")
                elif isinstance(event, CloseReceived | Failed):
                    end = ended(event.code, event.reason)
            if answers := self._codec.data_to_send():
                await connection.write(answers)
            if end is not None and not replies:
                raise end
            if replies:
                return replies

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands as one message."""
        assert self._codec is not None
        self._codec.send_text(encode(commands))
        await self._http.connection.write(self._codec.data_to_send())

    async def close(self) -> None:
        """Close with a close frame."""
        last = b""
        if self._codec is not None:
            self._codec.send_close()
            last = self._codec.data_to_send()
        await self._http.end(last)


class StreamLink:
    """``/connection/http_stream``: replies come as lines of an answer that does not end."""

    name = "http_stream"
    ticks = TICKS
    path = "/connection/http_stream"
    accept = "application/json"

    def __init__(self, options: LinkOptions, state: StateOfSession, idle_timeout_s: float) -> None:
        self._http = options.http()
        self._up = options.http()
        self._up_lock = asyncio.Lock()
        self._idle_timeout_s = idle_timeout_s
        self._response: HttpResponse | None = None
        self._lines = LineSplitter()
        self._session = self._node = ""

    async def open(self, connect: Command) -> None:
        """Ask for the stream; the body is the first command."""
        self._response = await _post(self._http, self.path, self.accept, encode([connect]), OPEN_TIMEOUT_S)

    async def receive(self) -> list[Reply]:
        """Read until there is a reply."""
        assert self._response is not None
        while True:
            data = await self._response.read_some(self._idle_timeout_s)
            if not data:
                raise ConnectionLost("the server ended the answer")
            replies = [decode(text) for text in self._texts(data)]
            for reply in replies:
                if reply.connect is not None:
                    self._session, self._node = reply.connect.session, reply.connect.node
            if replies:
                return replies

    def _texts(self, data: bytes) -> Sequence[bytes | str]:
        try:
            return self._lines.receive_data(data)
        except TooLarge as error:
            raise ConnectionLost(error.sentence) from None

    async def send(self, commands: Sequence[Command]) -> None:
        """Hand commands to the session by another request; one at a time, so that they keep their order."""
        body = {"session": self._session, "node": self._node, "data": encode(commands).decode()}
        async with self._up_lock:
            answer = await self._up.exchange(
                "POST",
                f"{self._up.address.prefix}/emulation",
                {"Content-Type": "application/json"},
                _ENCODER.encode(body),
            )
        if answer.status not in (200, 204):
            raise failure(answer.status, answer.headers, answer.body, self._up.address)

    async def close(self) -> None:
        """Drop both connections."""
        await self._http.end()
        await self._up.end()


class SseLink(StreamLink):
    """``/connection/sse``: the same as server-sent events."""

    name = "sse"
    path = "/connection/sse"
    accept = "text/event-stream"

    def __init__(self, options: LinkOptions, state: StateOfSession, idle_timeout_s: float) -> None:
        super().__init__(options, state, idle_timeout_s)
        self._events = SseDecoder()

    def _texts(self, data: bytes) -> Sequence[bytes | str]:
        try:
            return [event.data for event in self._events.receive_data(data)]
        except TooLarge as error:
            raise ConnectionLost(error.sentence) from None


class PollLink:
    """``/connection/poll``, each question held by the server until there is something to tell."""

    name = "long-poll"
    ticks = 0
    wait_s = WAIT_S

    def __init__(self, options: LinkOptions, state: StateOfSession, idle_timeout_s: float) -> None:
        self._http = options.http()
        self._up = options.http()
        self._up_lock = asyncio.Lock()
        self._state = state
        self._session = ""
        self._inbox: asyncio.Queue[list[Reply] | Exception] = asyncio.Queue(16)
        self._is_read = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self, connect: Command) -> None:
        """Ask once; what is followed is asked for from then on."""
        replies, _ = await self._ask(self._http, [connect], 0)
        await self._inbox.put(replies)

    async def receive(self) -> list[Reply]:
        """Return the replies of the next answer."""
        if self._task is None and self._session:
            self._task = asyncio.create_task(self._poll_on())
        if self._is_read:
            # Only now is what came last taken in: what is asked next begins behind it.
            self._inbox.task_done()
            self._is_read = False
        found = await self._inbox.get()
        self._is_read = True
        if isinstance(found, Exception):
            raise found
        return found

    async def send(self, commands: Sequence[Command]) -> None:
        """Subscribing and leaving is a matter of the next question; everything else is asked at once."""
        left = [command for command in commands if command.unsubscribe is not None]
        if left:
            await self._inbox.put([Reply(id=command.id, unsubscribe=Empty()) for command in left])
        subscribed = [command for command in commands if command.subscribe is not None]
        if subscribed:
            self._state.forget(subscribed)
        if left or subscribed:
            self._changed.set()
        rest = [command for command in commands if command not in left and command not in subscribed]
        rest = [command for command in rest if command.id or command.send is not None]
        if rest:
            async with self._up_lock:
                replies, _ = await self._ask(self._up, [self._connect(), *rest], 0)
            await self._inbox.put(replies)

    def _connect(self) -> Command:
        request = self._state.connect_request()
        request.session = self._session
        return Command(id=self._state.next_id(), connect=request)

    async def _poll_on(self) -> None:
        try:
            while True:
                await self._poll_once()
        except (ConnectionLost, Refused) as error:
            await self._inbox.put(error)

    async def _poll_once(self) -> None:
        """Ask, held by the server, unless what is followed changes meanwhile: then ask anew."""
        await self._inbox.join()
        self._changed.clear()
        subscriptions = self._state.subscriptions()
        if not subscriptions and not self.wait_s:
            await self._changed.wait()
            return
        asking = asyncio.ensure_future(
            self._ask(self._http, [self._connect(), *subscriptions], self.wait_s)
        )
        changing = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([asking, changing], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                self._state.forget(subscriptions)
                return
            replies, hint_s = asking.result()
        finally:
            asking.cancel()
            changing.cancel()
            # What is called off closes its connection first.
            await asyncio.gather(asking, changing, return_exceptions=True)
        await self._inbox.put(replies)
        if not self.wait_s or hint_s:
            await _first(self._changed, POLL_INTERVAL_S if hint_s is None else hint_s)

    async def _ask(
        self, http: HttpClient, commands: Sequence[Command], wait_s: int
    ) -> tuple[list[Reply], float | None]:
        path = f"/connection/poll?wait={wait_s}" if wait_s else "/connection/poll"
        try:
            body = encode(commands)
            response = await _post(http, path, "application/x-ndjson", body, wait_s + OPEN_TIMEOUT_S)
            text = await response.read_all()
        except BaseException:
            await http.close()
            raise
        replies = [decode(line) for line in text.split(b"\n") if line]
        for reply in replies:
            if reply.connect is not None:
                self._session = reply.connect.session or self._session
            elif reply.error is not None and reply.id == commands[0].id and self._session:
                raise connect_failure(reply.error)
        hint = response.headers.get("retry-after", "")
        return replies, float(hint) if hint.isascii() and hint.isdigit() and len(hint) < 6 else None

    async def close(self) -> None:
        """Stop asking; whoever waits to receive hears of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(ConnectionLost("this connection was closed"))
        await self._http.end()
        await self._up.end()


class PlainPollLink(PollLink):
    """``/connection/poll`` without holding: asked again when the server says so."""

    name = "poll"
    wait_s = 0


async def _first(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, but no longer."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


async def _post(http: HttpClient, path: str, accept: str, body: bytes, timeout_s: float) -> HttpResponse:
    fields = {"Content-Type": "application/json", "Accept": accept}
    response = await http.start("POST", http.address.prefix + path, fields, body, timeout_s)
    if response.status != 200:
        said = await response.read_all(MAX_ERROR_BYTES)
        error = failure(response.status, response.headers, said, http.address)
        if response.status == codes.BUSY.status and isinstance(error, ConnectionLost):
            raise Busy(error.sentence, retry_after_s=error.retry_after_s)
        raise error
    return response


LinkClass = Callable[[LinkOptions, StateOfSession, float], Any]

LINKS: Final[Mapping[str, LinkClass]] = {
    "websocket": WebSocketLink,
    "http_stream": StreamLink,
    "sse": SseLink,
    "long-poll": PollLink,
    "poll": PlainPollLink,
}
"""By name, the best first."""
