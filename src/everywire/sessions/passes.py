"""Passes: what a polling client goes on with from one request to the next.

Each poll is a session of its own life; so that others see one member and not a new one with every request,
the answer names a pass, and the next request shows it. It holds the client id and a tag of the user, and
is signed by the server. It proves no identity: the request has to bring its credential all the same, and
a pass of another user is refused. One that this server never signed is taken as none.
"""

from __future__ import annotations

import binascii
import hmac
import os
from hashlib import blake2b
from typing import Final, NamedTuple
from uuid import UUID

from everywire.brokers.base import Store
from everywire.core.errors import Forbidden

__all__ = ["Pass", "Passes"]

_SECRET_BYTES: Final = 32
_KEY: Final = "sessions/pass-secret"
_TTL_S: Final = 10 * 365 * 86_400.0
_UUID_BYTES: Final = 16
_TAG_BYTES: Final = 8
_MAC_BYTES: Final = 16
_LENGTH: Final = _UUID_BYTES + _TAG_BYTES + _MAC_BYTES


class Pass(NamedTuple):
    """What a pass says that this server signed."""

    client: str
    tag: bytes
    """What stands for the user."""


class Passes:
    """Signs passes and reads them. Without a secret it makes one of its own."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or os.urandom(_SECRET_BYTES)

    async def agree(self, store: Store) -> None:
        """Use the secret that all nodes of a store use, so that each reads the others' passes."""
        self._secret = await store.put_once(_KEY, self._secret, _TTL_S) or self._secret

    def issue(self, client: str, user: str) -> str:
        """Return the pass of a client id (a UUID) and its user."""
        body = UUID(client).bytes + self._tag(user)
        signed = body + self._digest(body, b"pass", _MAC_BYTES)
        return binascii.b2a_base64(signed, newline=False).decode().translate(_TO_URL).rstrip("=")

    def read(self, text: str) -> Pass | None:
        """Return what a pass says, or None when this server never signed it."""
        try:
            signed = binascii.a2b_base64(text.translate(_FROM_URL) + "=" * (-len(text) % 4))
        except ValueError:
            return None
        if len(signed) != _LENGTH:
            return None
        body, mac = signed[:-_MAC_BYTES], signed[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._digest(body, b"pass", _MAC_BYTES)):
            return None
        return Pass(str(UUID(bytes=body[:_UUID_BYTES])), body[_UUID_BYTES:])

    def check(self, shown: Pass, user: str) -> None:
        """Raise `Forbidden` when a pass is another user's."""
        if not hmac.compare_digest(shown.tag, self._tag(user)):
            raise Forbidden("this session is another user's")

    def _tag(self, user: str) -> bytes:
        return self._digest(user.encode("utf-8", "surrogatepass"), b"user", _TAG_BYTES)

    def _digest(self, data: bytes, person: bytes, size: int) -> bytes:
        return blake2b(data, digest_size=size, key=self._secret, person=person).digest()


_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")
