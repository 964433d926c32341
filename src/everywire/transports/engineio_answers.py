"""What answers of Engine.IO look like over HTTP: payloads, ``ok``, and errors in the protocol's own form.

An error is ``{"code", "message"}`` with a code of its own table. Nothing may be kept by a cache, or be taken
for a type that it is not. Statuses are 400, and 403, 413, 429, 503 where these say more.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final

from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors
from everywire.transports.service import retry_s, status_of

__all__ = ["ErrorCode", "answer_payload", "answer_script", "answer_taken", "refuse", "refuse_error"]


class ErrorCode(Enum):
    """The protocol's table of errors: number and sentence."""

    UNKNOWN_TRANSPORT = (0, "Transport unknown")
    UNKNOWN_SID = (1, "Session ID unknown")
    BAD_METHOD = (2, "Bad handshake method")
    BAD_REQUEST = (3, "Bad request")
    FORBIDDEN = (4, "Forbidden")
    UNSUPPORTED_VERSION = (5, "Unsupported protocol version")


_NO_STORE: Final = (b"cache-control", b"no-store")
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_VARY: Final = (b"vary", b"Origin")
_TEXT: Final = b"text/plain; charset=UTF-8"
_BYTES: Final = b"application/octet-stream"
_SCRIPT: Final = b"text/javascript; charset=UTF-8"
_PAGE: Final = b"text/html; charset=UTF-8"
_JSON: Final = b"application/json"


@lru_cache(maxsize=256)
def _headers(content_type: bytes, cors: Cors) -> Cors:
    return ((b"content-type", content_type), _NO_STORE, _NOSNIFF, _VARY, *cors)


def answer_payload(exchange: Exchange, payload: bytes, cors: Cors, *, binary: bool = False) -> None:
    """Answer a poll."""
    exchange.respond(200, _headers(_BYTES if binary else _TEXT, cors), payload)


def answer_script(exchange: Exchange, script: bytes, cors: Cors) -> None:
    """Answer a poll of JSONP."""
    # Old browsers' filters take a script that repeats a part of its URL for an attack.
    exchange.respond(200, (*_headers(_SCRIPT, cors), (b"x-xss-protection", b"0")), script)


def answer_taken(exchange: Exchange, cors: Cors, *, is_form: bool) -> None:
    """Answer a POST whose packets were taken; a form's answer is shown in a frame, not saved as a file."""
    exchange.respond(200, _headers(_PAGE if is_form else _TEXT, cors), b"ok")


def refuse(
    exchange: Exchange, code: ErrorCode, cors: Cors = (), *, status: int = 400, sentence: str = ""
) -> None:
    """Answer with an error; the sentence is the protocol's own if none is given."""
    number, message = code.value
    body = dump({"code": number, "message": sentence or message})
    exchange.respond(status, _headers(_JSON, cors), body)


def refuse_error(exchange: Exchange, error: EverywireError, cors: Cors) -> None:
    """Answer with an error of ours, in the protocol's form: what is forbidden, too large, or too much."""
    status = status_of(error.code)
    is_malformed = error.code in (codes.BAD_REQUEST, codes.TOO_LARGE)
    number = (ErrorCode.BAD_REQUEST if is_malformed else ErrorCode.FORBIDDEN).value[0]
    headers = list(_headers(_JSON, cors))
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % max(1, round(retry_s(error)))))
    exchange.respond(status, headers, dump({"code": number, "message": error.sentence}))
