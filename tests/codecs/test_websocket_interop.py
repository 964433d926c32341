"""The codec against the `websockets` package, without I/O: an independent reading of both RFCs."""

from __future__ import annotations

import random
from itertools import product

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from everywire.codecs.websocket import (
    BinaryMessage,
    CloseReceived,
    DeflateOptions,
    Event,
    PongReceived,
    Role,
    TextMessage,
    WebSocketCodec,
    accept_handshake,
    check_response,
    make_key,
    request_headers,
)
from tests.codecs.websocket_driving import echo

SAMPLES = [
    "",
    "Hello",
    "grüß €𝄞 " * 40,
    '{"price": 17.25, "name": "everywire"}' * 100,
    b"",
    bytes(100_000),
    random.Random(6455).randbytes(70_000),
]


def head(start: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    return start + b"\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"


def frames(protocol: ClientProtocol | ServerProtocol) -> list[Frame]:
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


def bytes_of(protocol: ClientProtocol | ServerProtocol) -> bytes:
    return b"".join(protocol.data_to_send())


def connect_their_client(
    factory: ClientPerMessageDeflateFactory | None,
) -> tuple[ClientProtocol, WebSocketCodec]:
    theirs = ClientProtocol(
        parse_uri("ws://localhost:1/x"), extensions=[factory] if factory else None, subprotocols=["a", "b"]
    )
    request = theirs.connect()
    theirs.send_request(request)
    theirs.data_to_send()
    headers = {name.lower().encode(): value.encode() for name, value in request.headers.raw_items()}
    ours = accept_handshake(b"GET", "1.1", headers, subprotocols=["b"], deflate=DeflateOptions())
    theirs.receive_data(head(b"HTTP/1.1 101 Switching Protocols", ours.headers))
    assert theirs.handshake_exc is None
    assert theirs.state is State.OPEN
    assert theirs.subprotocol == "b"
    assert (ours.deflate is not None) == (factory is not None) == bool(theirs.extensions)
    theirs.events_received()
    return theirs, WebSocketCodec(Role.SERVER, deflate=ours.deflate)


def connect_our_client(
    factory: ServerPerMessageDeflateFactory | None, options: DeflateOptions | None
) -> tuple[ServerProtocol, WebSocketCodec]:
    theirs = ServerProtocol(extensions=[factory] if factory else None, subprotocols=["b"])
    key = make_key()
    theirs.receive_data(
        head(b"GET / HTTP/1.1", request_headers("localhost", key, subprotocols=["a", "b"], deflate=options))
    )
    [request] = theirs.events_received()
    assert isinstance(request, Request)
    response = theirs.accept(request)
    theirs.send_response(response)
    theirs.data_to_send()
    assert theirs.state is State.OPEN
    headers = {name.lower().encode(): value.encode() for name, value in response.headers.raw_items()}
    ours = check_response(101, headers, key=key, subprotocols=["a", "b"], deflate=options)
    assert ours.subprotocol == theirs.subprotocol == "b"
    assert (ours.deflate is not None) == bool(theirs.extensions)
    return theirs, WebSocketCodec(Role.CLIENT, max_message_bytes=1 << 20, deflate=ours.deflate)


def send_both_ways(theirs: ClientProtocol | ServerProtocol, ours: WebSocketCodec) -> None:
    for sample in SAMPLES * 2:  # twice: a context that was kept shows itself
        data = sample.encode() if isinstance(sample, str) else sample
        is_text = isinstance(sample, str)
        # From them to us, in two fragments.
        first = theirs.send_text if is_text else theirs.send_binary
        first(data[: len(data) // 2], fin=False)
        theirs.send_continuation(data[len(data) // 2 :], fin=True)
        message: Event = TextMessage(data) if is_text else BinaryMessage(data)
        assert list(ours.receive_data(bytes_of(theirs))) == [message]
        # From us to them.
        assert ours.send_text(data) if is_text else ours.send_binary(data)
        theirs.receive_data(ours.data_to_send())
        [frame] = frames(theirs)
        assert bytes(frame.data) == data
        assert frame.opcode is (Opcode.TEXT if is_text else Opcode.BINARY)
        assert theirs.parser_exc is None


def close_both_ways(theirs: ClientProtocol | ServerProtocol, ours: WebSocketCodec) -> None:
    theirs.send_ping(b"alive?")
    theirs.receive_data(echo(ours, [bytes_of(theirs)]))
    assert [frame.opcode for frame in frames(theirs)] == [Opcode.PONG]
    ours.send_ping(b"and you?")
    theirs.receive_data(ours.data_to_send())
    theirs.events_received()
    assert list(ours.receive_data(bytes_of(theirs))) == [PongReceived(b"and you?")]
    ours.send_close(1001, "going")
    theirs.receive_data(ours.data_to_send())
    assert theirs.close_rcvd is not None
    assert (theirs.close_rcvd.code, theirs.close_rcvd.reason) == (1001, "going")
    assert list(ours.receive_data(bytes_of(theirs))) == [CloseReceived(1001, "going")]
    assert ours.closed


CLIENT_OFFERS = [
    None,
    ClientPerMessageDeflateFactory(),
    ClientPerMessageDeflateFactory(client_max_window_bits=True),
    *(
        ClientPerMessageDeflateFactory(
            server_no_context_takeover=server_reset,
            client_no_context_takeover=client_reset,
            server_max_window_bits=bits,
            client_max_window_bits=bits,
        )
        for server_reset, client_reset, bits in product([True, False], [True, False], [9, 12, 15])
    ),
]


@pytest.mark.parametrize("factory", CLIENT_OFFERS)
def test_their_client_with_our_server(factory: ClientPerMessageDeflateFactory | None) -> None:
    theirs, ours = connect_their_client(factory)
    send_both_ways(theirs, ours)
    close_both_ways(theirs, ours)


SERVER_ANSWERS = [
    None,
    ServerPerMessageDeflateFactory(),
    *(
        ServerPerMessageDeflateFactory(
            server_no_context_takeover=server_reset,
            client_no_context_takeover=client_reset,
            server_max_window_bits=bits,
            client_max_window_bits=bits,
        )
        for server_reset, client_reset, bits in product([True, False], [True, False], [9, 15])
    ),
]


@pytest.mark.parametrize("options", [None, DeflateOptions(), DeflateOptions(max_window_bits=10)])
@pytest.mark.parametrize("factory", SERVER_ANSWERS)
def test_our_client_with_their_server(
    factory: ServerPerMessageDeflateFactory | None, options: DeflateOptions | None
) -> None:
    theirs, ours = connect_our_client(factory, options)
    send_both_ways(theirs, ours)
    close_both_ways(theirs, ours)


def test_their_client_closes_first() -> None:
    theirs, ours = connect_their_client(None)
    theirs.send_close(3000, "bye")
    assert list(ours.receive_data(bytes_of(theirs))) == [CloseReceived(3000, "bye")]
    theirs.receive_data(ours.data_to_send())
    assert ours.closed
    assert theirs.close_sent is not None
    assert theirs.close_rcvd is not None
    assert theirs.close_rcvd.code == 3000
