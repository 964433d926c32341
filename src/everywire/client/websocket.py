"""Reading a channel over WebSocket with the subprotocol ``everywire.json``, one attempt.

RFC 6455 by `everywire.codecs.websocket`. Pings are answered by the codec; messages are envelopes as
`everywire.client.items` reads them. Compression is not offered.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Final

from everywire.client.errors import ConnectionLost, Refused
from everywire.client.http import ANSWER_TIMEOUT_S, HttpClient
from everywire.client.items import Item
from everywire.client.wires import MAX_ERROR_BYTES, Attempt, failure, is_final
from everywire.codecs.websocket import (
    BinaryMessage,
    CloseReceived,
    Failed,
    HandshakeError,
    Role,
    TextMessage,
    WebSocketCodec,
    check_response,
    make_key,
    request_headers,
)

__all__ = ["SUBPROTOCOL", "ended", "shake_hands", "websocket"]

SUBPROTOCOL: Final = "everywire.json"
_COME_BACK: Final = re.compile(r"in ([0-9]{1,7}) ms")
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


async def websocket(attempt: Attempt) -> AsyncGenerator[Item, None]:
    """Read envelopes until the connection ends."""
    codec, data = await _open(attempt)
    connection = attempt.http.connection
    try:
        while True:
            for event in codec.receive_data(data):
                if isinstance(event, TextMessage):
                    item = attempt.take(event.data)
                    if item is not None:
                        yield item
                elif isinstance(event, BinaryMessage):
                    raise ConnectionLost("the server sent a binary message")
                elif isinstance(event, CloseReceived | Failed):
                    raise ended(event.code, event.reason)
            if answers := codec.data_to_send():
                await connection.write(answers)
            data = await connection.read_some(attempt.idle_timeout_s)
            if not data:
                raise connection.lost("the server went away")
    finally:
        codec.send_close()
        await attempt.http.close(codec.data_to_send())


async def _open(attempt: Attempt) -> tuple[WebSocketCodec, bytes]:
    """Do the opening handshake; return the codec and the bytes that came with the answer."""
    http = attempt.http
    target = http.address.target(attempt.channels, attempt.query())
    codec, data = await shake_hands(http, target, SUBPROTOCOL)
    attempt.succeeded()
    return codec, data


async def shake_hands(
    http: HttpClient, target: str, subprotocol: str, timeout_s: float = ANSWER_TIMEOUT_S
) -> tuple[WebSocketCodec, bytes]:
    """Do the opening handshake (RFC 6455 §4.1); return the codec and the bytes that came with the answer."""
    key = make_key()
    fields = request_headers(http.address.host_header, key, subprotocols=[subprotocol])
    await http.close()
    response = await http.start(
        "GET",
        target,
        {name.decode("ascii"): value.decode("ascii") for name, value in fields},
        timeout_s=timeout_s,
    )
    if response.status != 101:
        body = await response.read_all(MAX_ERROR_BYTES)
        raise failure(response.status, response.headers, body, http.address)
    answered = {name.encode(): value.encode("latin-1") for name, value in response.headers.items()}
    try:
        handshake = check_response(response.status, answered, key=key, subprotocols=[subprotocol])
    except HandshakeError as error:
        raise Refused(f"{http.address}: {error.message}", response.status) from None
    if handshake.subprotocol != subprotocol:
        raise Refused(f"{http.address}: the server does not speak {subprotocol}", response.status)
    return WebSocketCodec(Role.CLIENT, max_message_bytes=MAX_MESSAGE_BYTES), response.upgraded or b""


def ended(code: int, reason: str) -> ConnectionLost | Refused:
    """Make the error of a close: whether to come back is in the code, and maybe when in the reason."""
    sentence = f"the server closed with {code}" + (f": {reason}" if reason else "")
    if is_final(code):
        return Refused(sentence, code)
    hint = _COME_BACK.search(reason)
    return ConnectionLost(sentence, retry_after_s=int(hint[1]) / 1000 if hint else None)
