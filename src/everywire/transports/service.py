"""What every transport works with, and how each answers: one place for headers and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from everywire.access.authority import Authority
from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.hub.hub import Hub
from everywire.hub.recovery import Start
from everywire.sessions.shared import Shared
from everywire.transports.exchange import Exchange, Headers, Request
from everywire.transports.gate import Cors, Gate
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
    "stream_headers",
]

JSON_TYPE: Final = (b"content-type", b"application/json")
VARY: Final = (b"vary", b"Origin, Accept")
PRIVATE: Final = (b"cache-control", b"private, no-store")
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MAX_COOKIES: Final = 100
_MAX_FIELDS: Final = 64


class Service:
    """The parts that transports share: those of the sessions, and the gate."""

    __slots__ = ("authority", "gate", "hub", "limits", "rules", "shared")

    def __init__(self, shared: Shared, gate: Gate) -> None:
        self.shared = shared
        self.gate = gate
        self.hub: Hub = shared.hub
        self.authority: Authority = shared.authority
        self.rules: Rules = shared.authority.rules
        self.limits: Limits = shared.limits


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


def auth_request(request: Request, transport: str) -> AuthRequest:
    """Return what a request brings to be known by: header fields, cookies, query, address and origin.

    The token is that of ``Authorization: Bearer``, else the query's ``token`` or ``ticket``, which is
    marked as of the query. Nothing is judged here, and what is malformed is left out.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()}
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
    detail: dict[str, object] = {"code": code.number, "name": code.name, "message": error.sentence}
    if error.channel is not None:
        detail["channel"] = error.channel
    headers = [*json_headers(tuple(cors)), *extra]
    if code is codes.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    elif code.status in (429, 503):
        headers.append((b"retry-after", b"5"))
    exchange.respond(code.status or 500, headers, dump({"error": detail}))
