"""What a node tells another about a request that it forwards, and how it proves that it is one.

One header field, ``Everywire-Relay``: a JSON object in base64 and its code of authentication (keyed BLAKE2b,
128 bits), by a secret that the nodes of a store agree on there. The code covers method and target too, names
the node that it is for, and is good for some minutes. What clients send under this name is thrown away by the
node that forwards, and never looked at on public addresses.

It carries the client's address, scheme and host as the first node saw them through its trusted proxies, so
that gate, quotas and log of the owner see the client.
"""

from __future__ import annotations

import binascii
import hmac
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec

from everywire.brokers.base import Store
from everywire.transports.exchange import Request

__all__ = ["FIELD", "Letter", "Seal"]

FIELD: Final = b"everywire-relay"
_KEY: Final = "relay/secret"
_SECRET_BYTES: Final = 32
_SECRET_TTL_S: Final = 10 * 365 * 86_400.0
_MAC_BYTES: Final = 16
_GOOD_S: Final = 300.0
"""For how long a letter is good, and how far the clocks of two nodes may be apart."""
_MAX_BYTES: Final = 4096


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """What is told about a request."""

    to: str
    """The label of the node that it is for."""
    at_s: float
    """When it was written, UNIX time."""
    peer: str
    scheme: str
    host: str
    is_local: bool


_decoder: Final = msgspec.json.Decoder(Letter)


class Seal:
    """Writes letters, and reads those that a node of the same store wrote."""

    __slots__ = ("_clock", "_secret")

    def __init__(self, secret: bytes = b"", clock: Callable[[], float] = time.time) -> None:
        self._secret = secret or os.urandom(_SECRET_BYTES)
        self._clock = clock

    async def agree(self, store: Store) -> None:
        """Use the secret that all nodes of a store use."""
        self._secret = await store.put_once(_KEY, self._secret, _SECRET_TTL_S) or self._secret

    def write(self, to: str, request: Request, target: str) -> bytes:
        """Return the field that goes with a request to a node."""
        letter = Letter(to, self._clock(), request.peer, request.scheme, request.host, request.is_local)
        text = binascii.b2a_base64(msgspec.json.encode(letter), newline=False)
        return text + b"." + self._code(text, request.method, target)

    def read(self, field: bytes, own: str, method: str, target: str) -> Letter | None:
        """Return what a node wrote for the node that is called ``own``; None when it is none, or no longer
        good."""
        text, dot, code = field.partition(b".")
        if not dot or len(text) > _MAX_BYTES:
            return None
        if not hmac.compare_digest(code, self._code(text, method, target)):
            return None
        try:
            letter = _decoder.decode(binascii.a2b_base64(text))
        except (ValueError, msgspec.MsgspecError):
            return None
        if letter.to != own or abs(self._clock() - letter.at_s) > _GOOD_S:
            return None
        return letter

    def _code(self, text: bytes, method: str, target: str) -> bytes:
        said = b"\0".join((text, method.encode("latin-1"), target.encode("latin-1")))
        return blake2b(said, digest_size=_MAC_BYTES, key=self._secret, person=b"relay").hexdigest().encode()
