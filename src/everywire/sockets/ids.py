"""Ids of sockets and connections: secrets that nobody can guess, and that show that they are ids.

A token is 16 random bytes and 5 bytes of their digest, as 28 characters of base64url. Where an application
names a receiver, a room or a socket, the digest tells the one from the other on every node, without asking
any; that a room is taken for a socket by accident happens once in 2^40 names of just this form.
"""

from __future__ import annotations

import binascii
import re
import secrets
from hashlib import blake2b
from typing import Final

__all__ = ["is_socket_id", "make_token"]

_RANDOM_BYTES: Final = 16
_DIGEST_BYTES: Final = 5
_TOKEN: Final = re.compile(r"(?:^|[.#])([A-Za-z0-9_-]{28})\Z")
_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


def make_token() -> str:
    """Return a new token. An id is one, or ends with one after a dot or a number sign."""
    random = secrets.token_bytes(_RANDOM_BYTES)
    return binascii.b2a_base64(random + _digest(random), newline=False).decode("ascii").translate(_TO_URL)


def is_socket_id(text: str) -> bool:
    """Say whether this is the id of a socket, of this node or another, alive or not: else it is a room."""
    found = _TOKEN.search(text)
    if found is None:
        return False
    raw = binascii.a2b_base64(found[1].translate(_FROM_URL))
    return _digest(raw[:_RANDOM_BYTES]) == raw[_RANDOM_BYTES:]


def _digest(random: bytes) -> bytes:
    return blake2b(random, digest_size=_DIGEST_BYTES, person=b"socket id").digest()
