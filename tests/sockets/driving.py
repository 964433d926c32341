"""Socket.IO over a real hub, with a clock turned by hand and links in memory.

`SocketWorld` holds the parts that all sockets share. A `Peer` is a link and the client at its other end: it
reads what the server writes with the decoder of the codec, acknowledges nothing by itself, and checks what
every client may rely on: nothing of a namespace before it is connected there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from everywire.access.hooks import IN_ORDER, Lane
from everywire.access.identity import AuthRequest
from everywire.codecs.socketio import msgpack_form
from everywire.codecs.socketio.decoder import Decoder
from everywire.codecs.socketio.packet import PacketType, SocketPacket, encode
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.sockets.link import FORCED, TRANSPORT_CLOSE, Packets
from everywire.sockets.settings import SocketSettings
from everywire.sockets.socket import Socket
from everywire.sockets.sockets import Sockets
from tests.sessions.driving import World

MAX_BYTES: Final = 100 * 1024 * 1024


class Application:
    """The application: functions by namespace and event, and what it was told."""

    def __init__(self) -> None:
        self.namespaces = {"/"}
        self.functions: dict[tuple[str, str], Callable[..., Awaitable[Any]]] = {}
        self.on_connect: Callable[[Socket, Any], Awaitable[None]] | None = None
        self.lane_of: Callable[[Socket, str, Sequence[Any]], Lane] = lambda socket, event, args: IN_ORDER
        self.told: list[tuple[str, str, Any]] = []
        """connect with auth, disconnect with the reason; by the id of the socket."""
        self.sockets: list[Socket] = []

    def on(self, event: str, function: Callable[..., Awaitable[Any]], namespace: str = "/") -> None:
        self.namespaces.add(namespace)
        self.functions[namespace, event] = function

    def has_namespace(self, namespace: str) -> bool:
        return namespace in self.namespaces

    def has_event(self, namespace: str, event: str) -> bool:
        return (namespace, event) in self.functions

    def lane(self, socket: Socket, event: str, args: Sequence[Any]) -> Lane:
        return self.lane_of(socket, event, args)

    async def connect(self, socket: Socket, auth: Any) -> None:
        self.sockets.append(socket)
        self.told.append(("connect", socket.sid, auth))
        if self.on_connect is not None:
            await self.on_connect(socket, auth)

    async def event(self, socket: Socket, event: str, args: Sequence[Any]) -> Sequence[Any]:
        result = await self.functions[socket.namespace, event](socket, *args)
        return () if result is None else list(result) if isinstance(result, tuple) else [result]

    async def disconnect(self, socket: Socket, reason: str) -> None:
        self.told.append(("disconnect", socket.sid, reason))


class SocketWorld(World):
    """The shared parts of one server with Socket.IO."""

    def __init__(
        self, *, settings: SocketSettings | None = None, has_tokens: bool = False, **more: Any
    ) -> None:
        super().__init__(**more)
        if not has_tokens:
            self.authority.tokens = None
        self.app = Application()
        self.settings = settings or SocketSettings(recovery_window_s=0)
        self.sockets = Sockets(self.shared, self.app, self.settings)
        self.peers: list[Peer] = []

    async def __aenter__(self) -> SocketWorld:
        await super().__aenter__()
        return self

    async def __aexit__(self, *exit_: object) -> None:
        for peer in self.peers:
            peer.drop()
        await self.settle()
        await self.sockets.close()
        await super().__aexit__(*exit_)

    def peer(self, **more: Any) -> Peer:
        peer = Peer(self, **more)
        self.peers.append(peer)
        return peer

    async def connected(  # type: ignore[override]  # a client of Socket.IO, not a session's
        self, namespace: str = "/", auth: Any = None, **more: Any
    ) -> Peer:
        """Return a client that is connected to a namespace."""
        peer = self.peer(**more)
        if peer.protocol == 4:
            peer.connect(namespace, auth)
        elif namespace != "/":
            peer.connect(namespace)
        await self.settle()
        assert peer.closed is None, peer.closed
        assert namespace in peer.sids, peer.packets
        return peer

    def inside_nothing(self) -> bool:
        """Check that nobody is connected, and that nothing was kept of those who were."""
        found = self.sockets.statistics()
        assert (found["sockets"], found["namespaces"], found["rooms"]) == (0, 0, 0), found
        assert self.quotas.inside == 0
        assert not self.presence.entered
        registry = self.registry.statistics()
        assert (registry["visitors"], registry["sessions"], registry["users"]) == (0, 0, 0), registry
        assert self.hub.statistics()["readers"] == 0
        assert len(self.sockets._local.tasks) == 0 and not self.sockets._local.farewells
        assert len(self.shared.tasks) == 0 and self.shared.tasks.held_bytes == 0
        return True

    async def emit(self, event: str | None, *args: Any, **more: Any) -> None:
        """Emit, and wait until the log has it."""
        done: list[EverywireError | None] = []
        self.sockets.emit(event, args, done=done.append, **more)
        await self.settle()
        assert done == [None], done


class Bare:
    """A framing that leaves packets as they are."""

    def frame(self, payload: Any) -> Any:
        return payload


_BARE: Final = Bare()


class Peer:
    """A link in memory, and the client at its end."""

    def __init__(
        self,
        world: SocketWorld,
        *,
        protocol: int = 4,
        transport: str = "websocket",
        request: AuthRequest | None = None,
        query: dict[str, str] | None = None,
    ) -> None:
        self.world = world
        self.protocol = protocol
        self.transport = transport
        self.sid = f"node.connection{len(world.peers)}"
        self.request = request or AuthRequest(transport="socketio", peer="192.0.2.1", query=query or {})
        self.peer = self.request.peer
        self.is_stalled = False
        self.framing = _BARE
        self.room: int | None = None
        """Packets that the carrier still takes; None when it takes all."""
        self.queue: list[tuple[bool, bytes]] = []
        """What was posted while it took nothing."""
        self.raw: list[tuple[bool, bytes]] = []
        self.packets: list[SocketPacket] = []
        self.sids: dict[str, str] = {}
        self.connects: dict[str, Any] = {}
        self.closed: tuple[Code | None, str] | None = None
        self.gone_reason: str | None = None
        self.is_paused = False
        self.waiting: list[tuple[bytes, bool]] = []
        self.noted: list[tuple[int, Code | None]] = []
        self.decoder = Decoder(max_bytes=MAX_BYTES, max_attachments=1000)
        self.upper = world.sockets.accept(self)

    # -- as the server sees it (Link) ----------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        return sum(len(data) for _, data in self.queue)

    @property
    def send(self) -> Callable[[Any], int]:
        return self._send

    def _send(self, framed: Any) -> int:
        assert not self.is_stalled, "the hub wrote while the link was stalled"
        self.write(framed)
        return len(framed)

    def write(self, framed: Any, /) -> None:
        assert not self.is_stalled, "the hub wrote while the link was stalled"
        self._read(framed)
        if self.room is not None:
            self.room -= len(framed)
            if self.room <= 0:
                self.stall()

    def post(self, packets: Packets) -> None:
        if self.gone_reason is not None:
            return
        if self.is_stalled:
            if self.queued_bytes > 2 * self.world.limits.max_session_queue_bytes:
                self.close(None, "slow")
                return
            self.queue.extend(packets)
        else:
            self._read(packets)

    def close(self, code: Code | None = None, reason: str = "") -> None:
        if self.closed is None and self.gone_reason is None:
            self.closed = (code, reason or FORCED)
            if not self.is_stalled:
                self._read(self.queue)
            self._end(reason or FORCED)

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False
        self.world.clock.call_soon(self._bring)

    def _bring(self) -> None:
        while self.waiting and not self.is_paused and self.gone_reason is None:
            self.upper.message(*self.waiting.pop(0))

    def note(self, messages_out: int, code: Code | None = None) -> None:
        self.noted.append((messages_out, code))

    def _end(self, reason: str) -> None:
        self.gone_reason = reason
        self.upper.gone(reason)

    # -- what a test does to the carrier --------------------------------------------------

    def stall(self) -> None:
        """Take nothing any more."""
        if not self.is_stalled:
            self.is_stalled = True
            self.upper.stalled()

    def take(self, room: int | None = None) -> None:
        """Take again: what was posted, then what readers have."""
        self.room = room
        queue, self.queue = self.queue, []
        self._read(queue)
        if self.is_stalled:
            self.is_stalled = False
            self.upper.writable()

    def move(self) -> None:
        """Go on over another carrier."""
        self.transport = "websocket"
        self.framing = Bare()
        self.upper.moved()

    def drop(self, reason: str = TRANSPORT_CLOSE) -> None:
        """Be cut off."""
        if self.gone_reason is None:
            self._end(reason)

    def is_closed(self) -> bool:
        """Whether the server closed the link."""
        return self.closed is not None

    def is_held(self) -> bool:
        """Whether the server wants no messages now."""
        return self.is_paused

    # -- as a client reads -------------------------------------------------------------------

    def _read(self, packets: Packets) -> None:
        for is_binary, data in packets:
            assert self.gone_reason is None
            self.raw.append((is_binary, data))
            if self.world.settings.parser == "msgpack":
                assert is_binary
                self._take(msgpack_form.decode(data))
                continue
            if is_binary:
                packet = self.decoder.feed_binary(data)
            else:
                assert data[:1] == b"4", data
                packet = self.decoder.feed_text(data[1:])
            if packet is not None:
                self._take(packet)

    def _take(self, packet: SocketPacket) -> None:
        namespace = packet.namespace
        if packet.type is PacketType.CONNECT:
            assert namespace not in self.sids, "connected twice"
            self.connects[namespace] = packet.data
            self.sids[namespace] = (packet.data or {}).get("sid", "")
        elif packet.type is PacketType.DISCONNECT:
            del self.sids[namespace]
        elif packet.type is not PacketType.CONNECT_ERROR:
            assert namespace in self.sids, f"told of {namespace} before it is connected: {packet}"
        self.packets.append(packet)

    def events(self, namespace: str = "/") -> list[list[Any]]:
        """Return the events that came: name and arguments."""
        return [
            list(packet.data)
            for packet in self.packets
            if packet.type is PacketType.EVENT and packet.namespace == namespace
        ]

    def named(self, event: str, namespace: str = "/") -> list[list[Any]]:
        """Return the arguments of the events of one name."""
        return [data[1:] for data in self.events(namespace) if data[0] == event]

    def acks(self) -> dict[int, Any]:
        """Return the acknowledgements that came."""
        return {
            packet.id: packet.data
            for packet in self.packets
            if packet.type is PacketType.ACK and packet.id is not None
        }

    def errors(self) -> list[tuple[str, Any]]:
        """Return the refusals that came: namespace and data."""
        return [
            (packet.namespace, packet.data)
            for packet in self.packets
            if packet.type is PacketType.CONNECT_ERROR
        ]

    def of(self, packet_type: PacketType) -> list[SocketPacket]:
        """Return the packets of a type."""
        return [packet for packet in self.packets if packet.type is packet_type]

    # -- as a client writes ------------------------------------------------------------------

    def text(self, data: str | bytes) -> None:
        """Send one text message, without the digit of Engine.IO."""
        self._message(data.encode() if isinstance(data, str) else data, False)

    def binary(self, data: bytes) -> None:
        """Send one binary message."""
        self._message(data, True)

    def _message(self, data: bytes, binary: bool) -> None:
        if self.gone_reason is not None:
            return
        if self.is_paused:
            self.waiting.append((data, binary))
        else:
            self.upper.message(data, binary)

    def send_packet(self, packet: SocketPacket) -> None:
        """Send a packet, with its attachments."""
        if self.world.settings.parser == "msgpack":
            for _, data in msgpack_form.encode(packet):
                self.binary(data)
            return
        for is_binary, data in encode(packet):
            if is_binary:
                self.binary(data)
            else:
                self.text(data[1:])

    def connect(self, namespace: str = "/", auth: Any = None) -> None:
        self.send_packet(SocketPacket(PacketType.CONNECT, namespace, auth))

    def emit(self, event: str, *args: Any, namespace: str = "/", ack_id: int | None = None) -> None:
        self.send_packet(SocketPacket(PacketType.EVENT, namespace, [event, *args], ack_id))

    def acknowledge(self, ack_id: int, *args: Any, namespace: str = "/") -> None:
        self.send_packet(SocketPacket(PacketType.ACK, namespace, list(args), ack_id))

    async def ask(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        """Emit with an acknowledgement, and return it."""
        self.world.count += 1
        ack_id = 1000 + self.world.count
        self.emit(event, *args, namespace=namespace, ack_id=ack_id)
        await self.world.settle()
        assert ack_id in self.acks(), f"{event} was not acknowledged"
        found: list[Any] = self.acks()[ack_id]
        return found

    @property
    def socket(self) -> Socket:
        """The server's side of this client in ``/``."""
        found = self.world.sockets.find(self.sids["/"] or self.sid)
        assert found is not None
        return found


def json_of(text: bytes) -> Any:
    """Return the value of JSON text."""
    return json.loads(text)


async def start(work: Awaitable[Any], world: SocketWorld) -> asyncio.Future[Any]:
    """Begin something, and let it come to rest."""
    task = asyncio.ensure_future(work)
    await world.settle()
    return task
