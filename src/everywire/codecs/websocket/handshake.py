"""The opening handshake, both sides, without I/O (RFC 6455 §4; RFC 7692 §5 for the extension).

Takes header fields that an HTTP parser has read and checked (names in lower case, values stripped, repeated
fields joined by ", "), and gives header fields back. Checks everything §4.2.1 and §4.1 ask, but not the
Origin: who may connect is a question of policy, asked for every transport alike.
"""

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Final

from everywire.codecs.websocket.deflate import (
    Deflate,
    DeflateOptions,
    accept_answer,
    accept_offer,
    make_offer,
)
from everywire.codecs.websocket.header_values import (
    HeaderValueError,
    ParametrizedToken,
    has_token,
    is_token,
    parse_extensions,
    parse_tokens,
)

HeaderFields = tuple[tuple[bytes, bytes], ...]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_UPGRADE: Final = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
_UPGRADE_REQUIRED: Final = (*_UPGRADE, (b"Sec-WebSocket-Version", b"13"))


class HandshakeError(Exception):
    """A handshake that must not succeed.

    Server role: ``status`` and ``headers`` are what to answer, ``message`` is a sentence for the client.
    Client role: ``status`` is what the server answered.
    """

    def __init__(self, status: int, message: str, headers: HeaderFields = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


@dataclass(slots=True)
class Handshake:
    """What was agreed on. ``headers`` is what a server answers with status 101; for a client it is empty."""

    subprotocol: str | None
    deflate: Deflate | None
    headers: list[tuple[bytes, bytes]]


def accept_handshake(
    method: bytes,
    version: str,
    headers: Mapping[bytes, bytes],
    *,
    subprotocols: Sequence[str] = (),
    deflate: DeflateOptions | None = None,
) -> Handshake:
    """Check a client's opening handshake and say how to answer it (§4.2).

    Args:
        method: the request's method.
        version: the HTTP version, as ``"1.1"``.
        headers: names in lower case; repeated fields joined by ``", "``.
        subprotocols: those we speak. The first one in the client's list that we speak is chosen; none when
            there is no such, which is no error (§4.2.2).
        deflate: how to compress, or ``None`` not to.

    Raises:
        HandshakeError: 405 for another method than GET, 426 when the request asks for no WebSocket or for
            another version of it (§4.2.2, §4.4), 400 for everything else.
    """
    get = headers.get
    if method != b"GET":
        raise HandshakeError(405, "a WebSocket handshake is a GET request", ((b"Allow", b"GET"),))
    if version != "1.1":
        raise HandshakeError(400, "a WebSocket handshake needs HTTP/1.1")
    upgrade = get(b"upgrade")
    if upgrade != b"websocket" and not has_token(upgrade, b"websocket"):
        raise HandshakeError(426, "this address speaks WebSocket: send Upgrade: websocket", _UPGRADE_REQUIRED)
    connection = get(b"connection")
    if connection != b"Upgrade" and not has_token(connection, b"upgrade"):
        raise HandshakeError(400, "Connection: Upgrade is missing; a proxy may have removed it")
    if get(b"sec-websocket-version") != b"13":
        raise HandshakeError(426, "only Sec-WebSocket-Version 13 is spoken here", _UPGRADE_REQUIRED)
    if not get(b"host"):
        raise HandshakeError(400, "Host is missing")
    if b"transfer-encoding" in headers or get(b"content-length", b"0").strip(b"0"):
        raise HandshakeError(400, "a WebSocket handshake has no body")
    key = get(b"sec-websocket-key", b"")
    _check_key(key)
    answer = [*_UPGRADE, (b"Sec-WebSocket-Accept", accept_value(key))]
    subprotocol = _choose_subprotocol(get(b"sec-websocket-protocol"), subprotocols)
    if subprotocol is not None:
        answer.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
    agreed = _agree_on_deflate(get(b"sec-websocket-extensions"), deflate)
    if agreed is None:
        return Handshake(subprotocol, None, answer)
    answer.append((b"Sec-WebSocket-Extensions", agreed[1]))
    return Handshake(subprotocol, agreed[0], answer)


def accept_value(key: bytes) -> bytes:
    """The ``Sec-WebSocket-Accept`` that belongs to a ``Sec-WebSocket-Key`` (§4.2.2)."""
    return b2a_base64(sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def _check_key(key: bytes) -> None:
    # Two keys were joined by a comma, which is no base64.
    try:
        if len(key) == 24 and len(a2b_base64(key, strict_mode=True)) == 16:
            return
    except Base64Error:
        pass
    raise HandshakeError(400, "Sec-WebSocket-Key must be 16 bytes in base64, once")


def _choose_subprotocol(offered: bytes | None, spoken: Sequence[str]) -> str | None:
    if offered is None:
        return None
    try:
        tokens = parse_tokens(offered)
    except HeaderValueError as error:
        raise HandshakeError(400, f"Sec-WebSocket-Protocol: {error}") from None
    if len(set(tokens)) != len(tokens):
        raise HandshakeError(400, "Sec-WebSocket-Protocol: the same one twice")  # §4.1
    return next((name for token in tokens if (name := token.decode("ascii")) in spoken), None)


def _agree_on_deflate(offered: bytes | None, options: DeflateOptions | None) -> tuple[Deflate, bytes] | None:
    if offered is None:
        return None
    try:
        # Browsers all send the same few values; long ones are not worth the memory.
        offers = _parse_short_extensions(offered) if len(offered) < 128 else tuple(parse_extensions(offered))
    except HeaderValueError as error:
        raise HandshakeError(400, f"Sec-WebSocket-Extensions: {error}") from None
    return None if options is None else accept_offer(offers, options)


@lru_cache(maxsize=64)
def _parse_short_extensions(value: bytes) -> tuple[ParametrizedToken, ...]:
    return tuple(parse_extensions(value))


def make_key() -> bytes:
    """A new ``Sec-WebSocket-Key``: 16 random bytes in base64 (§4.1)."""
    return b2a_base64(os.urandom(16), newline=False)


def request_headers(
    host: str,
    key: bytes,
    *,
    subprotocols: Sequence[str] = (),
    deflate: DeflateOptions | None = None,
) -> list[tuple[bytes, bytes]]:
    """The header fields of a client's opening handshake, a ``GET`` over HTTP/1.1 (§4.1).

    Args:
        host: the server's authority: host, and port when it is not the scheme's own.
        key: from ``make_key``; to be used once and given to ``check_response``.
        subprotocols: in order of preference.
        deflate: offer permessage-deflate.

    Raises:
        ValueError: a host with characters that no authority has, or a subprotocol that is no token or named
            twice.
    """
    if not host or not host.isascii() or not host.isprintable() or any(byte in host for byte in " /?#@\\"):
        raise ValueError(f"not a host: {host!r}")
    names = [name.encode() for name in subprotocols]
    if len(set(names)) != len(names) or not all(map(is_token, names)):
        raise ValueError("subprotocols must be tokens, each named once")
    headers = [
        (b"Host", host.encode()),
        *_UPGRADE_REQUIRED,
        (b"Sec-WebSocket-Key", key),
    ]
    if names:
        headers.append((b"Sec-WebSocket-Protocol", b", ".join(names)))
    if deflate is not None:
        headers.append((b"Sec-WebSocket-Extensions", make_offer(deflate)))
    return headers


def check_response(
    status: int,
    headers: Mapping[bytes, bytes],
    *,
    key: bytes,
    subprotocols: Sequence[str] = (),
    deflate: DeflateOptions | None = None,
) -> Handshake:
    """Check a server's answer to ``request_headers``; arguments as there (§4.1).

    Raises:
        HandshakeError: another status than 101, or an answer that does not fit what was asked. ``status``
            is the server's, ``headers`` what it sent.
    """

    def refuse(message: str) -> HandshakeError:
        return HandshakeError(status, message, tuple(headers.items()))

    if status != 101:
        raise refuse(f"the server answered {status} instead of 101")
    if headers.get(b"upgrade", b"").lower() != b"websocket":
        raise refuse("the server did not upgrade to websocket")
    if not has_token(headers.get(b"connection"), b"upgrade"):
        raise refuse("the server's answer lacks Connection: Upgrade")
    if headers.get(b"sec-websocket-accept") != accept_value(key):
        raise refuse("the server's Sec-WebSocket-Accept does not fit the key")
    subprotocol = headers.get(b"sec-websocket-protocol")
    if subprotocol is not None and subprotocol not in [name.encode() for name in subprotocols]:
        raise refuse("the server chose a subprotocol that was not offered")
    agreed = None
    extensions = headers.get(b"sec-websocket-extensions")
    if extensions is not None:
        try:
            answer = parse_extensions(extensions)
            if deflate is None:
                raise HeaderValueError("an extension that was not offered")
            agreed = accept_answer(answer, deflate)
        except HeaderValueError as error:
            raise refuse(f"Sec-WebSocket-Extensions: {error}") from None
    return Handshake(None if subprotocol is None else subprotocol.decode("ascii"), agreed, [])
