"""What errors are to a client: a reply, or the end of the connection.

Numbers below 2000 answer one command; those from 3000 on end the session. On one-way carriers nothing is
answered, so that every error becomes an end.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Raw

from everywire.codecs.centrifuge.messages import ErrorReply, Field
from everywire.codecs.json_text import flat
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden, InvalidToken

__all__ = ["ENDS", "as_end", "error_reply", "field", "field_bytes", "refused"]

ENDS: Final = 3000
"""Codes from here on end the connection."""

_TEMPORARY: Final = frozenset(
    row.number for row in (codes.INTERNAL, codes.TOO_MANY_REQUESTS, codes.TIMEOUT, codes.BUSY)
)

_AS_END: Final[dict[int, Code]] = {
    codes.INTERNAL.number: codes.SERVER_ERROR,
    codes.TIMEOUT.number: codes.SERVER_ERROR,
    codes.BUSY.number: codes.SERVER_ERROR,
    codes.LIMIT_EXCEEDED.number: codes.CONNECTION_LIMIT,
    codes.BAD_REQUEST.number: codes.BAD_PROTOCOL,
    codes.NOT_AVAILABLE.number: codes.NOT_OFFERED,
    codes.TOKEN_EXPIRED.number: codes.EXPIRED,
    codes.CREDENTIAL_EXPIRED.number: codes.EXPIRED,
    codes.TOO_MANY_REQUESTS.number: codes.SLOW_DOWN,
}


def error_reply(error: EverywireError) -> ErrorReply:
    """Return what a client is told of an error that answers its command."""
    code = error.code
    number = code.number if code.number < 2000 else codes.PERMISSION_DENIED.number
    return ErrorReply(
        code=number,
        message=error.sentence,
        temporary=True if number in _TEMPORARY else UNSET,
    )


def as_end(error: EverywireError) -> Code:
    """Return the code that ends a connection for an error."""
    if isinstance(error, InvalidToken):
        return codes.INVALID_TOKEN
    if error.code.number >= ENDS:
        return error.code
    return _AS_END.get(error.code.number, codes.REFUSED)


def refused(error: EverywireError) -> EverywireError:
    """Return a refusal as sessions tell it: not allowed is 103, whoever asks. That a credential is missing
    (101) was a matter of the connect command."""
    if error.code is codes.UNAUTHORIZED:
        return Forbidden(error.sentence, channel=error.channel)
    return error


def field(data: bytes | None, is_binary: bool) -> Field:
    """Return bytes as a field of a message; JSON text stands on one line, as the framing wants it."""
    if data is None:
        return UNSET
    return Raw(data if is_binary else flat(data))


def field_bytes(value: Field) -> bytes | None:
    """Return the bytes of a field, or None when it is not there."""
    return bytes(value) if isinstance(value, Raw) else None
