"""Driving a WebSocket codec in tests: feed bytes, collect events, echo, gather what is owed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everywire.codecs.websocket import (
    BinaryMessage,
    CloseReceived,
    Deflate,
    Event,
    Failed,
    Opcode,
    PingReceived,
    PongReceived,
    Role,
    TextMessage,
    WebSocketCodec,
    encode_frame,
)

MASK = b"\x1f\x8c\x00\xe7"


def server(**options: int) -> WebSocketCodec:
    return WebSocketCodec(Role.SERVER, **options)


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as a client sends it."""
    return encode_frame(opcode, payload, fin=fin, rsv1=rsv1, mask=MASK)


def read_all(codec: WebSocketCodec, chunks: Iterable[bytes]) -> list[Event]:
    return [event for chunk in chunks for event in codec.receive_data(chunk)]


def read(codec: WebSocketCodec, data: bytes) -> list[Event]:
    return read_all(codec, [data])


def echo(codec: WebSocketCodec, chunks: Iterable[bytes]) -> bytes:
    """Do as an echo server does, and return all it writes."""
    written = b""
    for chunk in chunks:
        for event in codec.receive_data(chunk):
            if isinstance(event, TextMessage):
                codec.send_text(event.data)
            elif isinstance(event, BinaryMessage):
                codec.send_binary(event.data)
        written += codec.data_to_send()
    return written


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def frames_of_server(data: bytes, deflate: Deflate | None = None) -> list[Event]:
    """What a client reads from what a server wrote."""
    return read(WebSocketCodec(Role.CLIENT, deflate=deflate), data)


def verdict(events: Iterable[Event]) -> list[object]:
    """Events for comparing, without the sentence of a failure, which may name another of several faults."""
    return [("failed", int(event.code)) if isinstance(event, Failed) else event for event in events]


def send(codec: WebSocketCodec, event: Event) -> None:
    """Send what the other end will read as this event."""
    match event:
        case TextMessage(data):
            codec.send_text(data)
        case BinaryMessage(data):
            codec.send_binary(data)
        case PingReceived(payload):
            codec.send_ping(payload)
        case PongReceived(payload):
            codec.send_pong(payload)
        case CloseReceived(code, reason):
            codec.send_close(None if code == 1005 else code, reason)
        case Failed():
            raise AssertionError("a failure is not sent")


__all__ = [
    "MASK",
    "Opcode",
    "echo",
    "frames_of_server",
    "masked",
    "one_by_one",
    "read",
    "read_all",
    "send",
    "server",
    "verdict",
]
