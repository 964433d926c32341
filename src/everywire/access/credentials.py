"""Which of the things that a request brings is its credential.

The first that is there counts, and if it is no good the request is refused: nobody is let in by the next
one. In this order: a ticket (``ticket`` in the query, or where a token stands), an API key (``X-API-Key``,
``Authorization: ApiKey KEY``), a token (the connect command's, ``Authorization: Bearer``), which may be an
API key as well, the cookie that the settings name. A ticket in the URL stands back where a token came by
another way, because a session that began with one is refreshed with a token. Other cookies, and other
parameters of the query, prove nothing.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from everywire.access.identity import AuthRequest
from everywire.access.tickets import is_ticket
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken

__all__ = ["Credential", "brings_only_cookies", "digest_of", "find_credential"]

_POSITIONAL: Final = frozenset({"after", "last_event_id", "wait", "limit", "event", "tag"})
"""Parameters that say what is asked for, not by whom: they change from poll to poll."""
_VOLATILE: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "idempotency-key",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "last-event-id",
        "pragma",
        "priority",
        "sec-websocket-key",
        "traceparent",
        "tracestate",
        "x-request-id",
    }
)
"""Header fields that differ between requests of the same person. All others count."""


class Credential(NamedTuple):
    """What a request shows: ``ticket``, ``key``, ``token``, ``cookie``, or nothing."""

    kind: str
    text: str
    is_in_url: bool = False

    def digest(self) -> bytes:
        """Return what stands for it in memory, where the credential itself is not kept."""
        text = f"{self.kind}\0{self.text}".encode("utf-8", "surrogateescape")
        return blake2b(text, digest_size=16).digest()


_NONE: Final = Credential("", "")


def find_credential(request: AuthRequest, cookie_name: str, max_bytes: int) -> Credential:
    """Return what a request shows.

    Raises an error with code 101 for a scheme that is not known, and for one that is too large.
    """
    found = _find(request, cookie_name)
    if len(found.text) > max_bytes:
        raise InvalidToken(f"a credential has at most {max_bytes} bytes here")
    return found


def _find(request: AuthRequest, cookie_name: str) -> Credential:
    token, in_url = request.token, request.is_token_in_query
    ticket = request.query.get("ticket")
    if ticket is not None and (in_url or not token):
        return Credential("ticket", ticket)
    if is_ticket(token):
        return Credential("ticket", token)
    key = request.headers.get("x-api-key")
    if key is not None:
        return Credential("key", key)
    if token:
        return Credential("token", token, in_url)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, text = authorization.strip().partition(" ")
        kind = {"bearer": "token", "apikey": "key"}.get(scheme.lower())
        text = text.strip()
        if kind is None or not text:
            raise EverywireError(
                "the Authorization schemes here are Bearer and ApiKey", code=codes.UNAUTHORIZED
            )
        return Credential("ticket" if is_ticket(text) else kind, text)
    cookie = request.cookies.get(cookie_name) if cookie_name else None
    return Credential("cookie", cookie) if cookie else _NONE


def brings_only_cookies(request: AuthRequest) -> bool:
    """Whether cookies are the only thing in a request that may be a credential. What stands in the URL does
    not count: any page can put something there, and an application that judges by cookies does not look."""
    return bool(request.cookies) and not (
        (request.token and not request.is_token_in_query)
        or "authorization" in request.headers
        or "x-api-key" in request.headers
    )


def digest_of(request: AuthRequest) -> bytes:
    """Return what stands for all that the application may judge a request by.

    What is left out cannot tell two people apart; anything that is not known is in.
    """
    digest = blake2b(digest_size=16)
    parts = [
        request.transport,
        request.peer,
        request.origin,
        request.method,
        request.token,
        "url" if request.is_token_in_query else "",
        request.name,
        request.version,
    ]
    for table, left_out in (
        (request.headers, _VOLATILE),
        (request.cookies, frozenset[str]()),
        (request.query, _POSITIONAL),
    ):
        rows = [f"{name}\0{value}" for name, value in table.items() if name not in left_out]
        parts += [str(len(rows)), *sorted(rows)]
    for part in parts:
        text = part.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(text))
        digest.update(text)
    data = request.data
    digest.update(b"-" if data is None else b"%d:" % len(data) + data)
    return digest.digest()
