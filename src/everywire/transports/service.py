"""What every transport works with, and how each answers: one place for headers and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.buckets import Buckets
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, TooManyRequests
from everywire.hub.recovery import Start
from everywire.sessions.shared import Shared
from everywire.transports.exchange import Exchange, Headers, Request
from everywire.transports.gate import Cors, Gate, takes_cookies
from everywire.transports.target import ReadQuery

__all__ = [
    "JSON_TYPE",
    "Ask",
    "Service",
    "WholeAnswer",
    "auth_request",
    "identity_of",
    "json_headers",
    "refuse",
    "retry_s",
    "status_of",
    "stream_headers",
]

JSON_TYPE: Final = (b"content-type", b"application/json")
VARY: Final = (b"vary", b"Origin, Accept")
PRIVATE: Final = (b"cache-control", b"private, no-store")
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MAX_COOKIES: Final = 100
_MAX_FIELDS: Final = 64
_RETRY_S: Final = 5.0
_END_STATUSES: Final = {
    codes.INVALID_TOKEN.number: 401,
    codes.CONNECTION_LIMIT.number: 429,
    codes.CHANNEL_LIMIT.number: 429,
    codes.SLOW_DOWN.number: 429,
    codes.SERVER_ERROR.number: 500,
}


class Service:
    """What transports work with: the parts that all share, and the gate."""

    __slots__ = ("admit", "authority", "gate", "hub", "limits", "rules", "shared", "tickets_asked")

    def __init__(self, shared: Shared, gate: Gate) -> None:
        self.shared = shared
        self.gate = gate
        # Looked up for every request.
        self.hub = shared.hub
        self.limits = shared.limits
        self.authority = shared.authority
        self.admit = shared.quotas.admit
        self.rules = shared.authority.rules
        most = self.limits.tickets_per_minute
        self.tickets_asked = Buckets(most / 60, most, self.limits.max_quota_keys)
        """How fast each user asks for tickets."""


class Ask(NamedTuple):
    """What a GET that passed all checks comes down to; every reading transport takes one."""

    service: Service
    exchange: Exchange
    channels: tuple[str, ...]
    query: ReadQuery
    start: Start | None
    """Where to begin; None when no position was given, and the transport's own habit counts."""
    cors: Cors
    transport: str
    identity: Identity
    peer: str

    @property
    def has_several(self) -> bool:
        """Whether several channels are read, and each item names its own."""
        return len(self.channels) > 1


class WholeAnswer:
    """The driver of an exchange that is answered in one piece, as soon as its answer is known."""

    __slots__ = ()

    def stalled(self) -> None:
        """Hear nothing of interest: the answer is whole."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Hear nothing of interest: an answer that nobody waits for is thrown away by the host."""

    def drain(self, retry_ms: int) -> None:
        """Let the answer, which is on its way, be given."""


def auth_request(request: Request, transport: str, cors: Cors) -> AuthRequest:
    """Return what a request brings to be known by: header fields, cookies, query, address and origin.

    The token is that of ``Authorization: Bearer``, else the query's ``token`` or ``ticket``, which is
    marked as of the query. Nothing is judged here, and what is malformed is left out; so are cookies where
    they do not count by what the gate said (``cors``).
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()}
    if not takes_cookies(cors):
        headers.pop("cookie", None)
    query = _query(request.query)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    is_token_in_query = False
    if not token:
        token = query.get("ticket") or query.get("token") or ""
        is_token_in_query = bool(token)
    return AuthRequest(
        transport=transport,
        headers=headers,
        cookies=_cookies(headers.get("cookie", "")),
        query=query,
        peer=request.peer,
        origin=_origin(request, headers),
        method=request.method,
        token=token,
        is_token_in_query=is_token_in_query,
    )


def _origin(request: Request, headers: Mapping[str, str]) -> str:
    origin = headers.get("origin")
    if origin is not None:
        return origin
    if headers.get("sec-fetch-site") == "same-origin":
        # Browsers name no origin with a GET to their own server, EventSource's included.
        return f"{request.scheme}://{request.host}"
    return ""


def _query(query: str) -> dict[str, str]:
    """Return the query's first value of each name; nothing of one that is malformed."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        return {}
    values: dict[str, str] = {}
    for name, value in pairs:
        values.setdefault(name, value)
    return values


def _cookies(header: str) -> dict[str, str]:
    """Return a Cookie field's pairs (RFC 6265 §4.2.1), the first of each name.

    What is no pair is passed over: other applications of the site may have set anything.
    """
    cookies: dict[str, str] = {}
    if not header:
        return cookies
    for pair in header.split(";", _MAX_COOKIES)[:_MAX_COOKIES]:
        name, equals, value = pair.strip(" \t").partition("=")
        if equals and _TOKEN.fullmatch(name):
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies.setdefault(name, value)
    return cookies


def identity_of(request: Request, rules: Rules) -> Identity:
    """Return who sends the request: ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, or nobody.

    Raises an error with code 101 when there is a credential and it is not valid.
    """
    headers = request.headers
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, credential = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise EverywireError("the Authorization scheme here is Bearer", code=codes.UNAUTHORIZED)
        return rules.identify(credential.strip())
    key = headers.get(b"x-api-key")
    return NOBODY if key is None else rules.identify(key.decode("latin-1"))


@lru_cache(maxsize=256)
def json_headers(cors: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the head of a JSON answer that no cache may keep."""
    return (JSON_TYPE, PRIVATE, VARY, NOSNIFF, *cors)


@lru_cache(maxsize=256)
def stream_headers(
    content_type: bytes, cors: tuple[tuple[bytes, bytes], ...]
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the head of an answer that never ends, and that no proxy may hold back or compress."""
    return (
        (b"content-type", content_type),
        (b"cache-control", b"private, no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
        VARY,
        NOSNIFF,
        *cors,
    )


def refuse(
    exchange: Exchange, error: EverywireError, cors: Sequence[tuple[bytes, bytes]] = (), extra: Headers = ()
) -> None:
    """Answer with an error: its status, and a JSON object that says code, name and what to do."""
    code = error.code
    status = status_of(code)
    detail: dict[str, object] = {"code": code.number, "name": code.name, "message": error.sentence}
    if error.channel is not None:
        detail["channel"] = error.channel
    headers = [*json_headers(tuple(cors)), *extra]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif status in (429, 503) and not any(name == b"retry-after" for name, _ in extra):
        headers.append((b"retry-after", b"%d" % max(1, ceil(retry_s(error)))))
    exchange.respond(status, headers, dump({"error": detail}))


def status_of(code: Code) -> int:
    """Return the HTTP status that tells a code, those included that end connections."""
    if code.status:
        return code.status
    if code.number in _END_STATUSES:
        return _END_STATUSES[code.number]
    if 2000 <= code.number < 5000:
        return 503 if code.reconnect else 403
    return 500


def retry_s(error: EverywireError) -> float:
    """Return when to try again what was refused for now."""
    return error.retry_s if isinstance(error, TooManyRequests) else _RETRY_S
