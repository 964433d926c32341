"""Who asks for a SockJS session, and which session is theirs.

Cookies come along with whatever any page asks for, and SockJS was made to be asked by any page: its client
sends credentials to other origins, and its answers to scripts and frames can be read by the page that asked.
So cookies are heard only where the browser says that our own page asks, or one of an origin that may bring
them (``allow_credentials``). Otherwise a request counts as it would without them.

A request that shows the credential of a session's first request is that client's, without anybody being
asked: a ticket works once, and a short-lived token of an URL is past its time when the next poll comes. Any
other credential is asked about, and must prove the same user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from everywire.access.authority import Authority
from everywire.access.credentials import digest_of, find_credential
from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.core.errors import EverywireError
from everywire.transports.exchange import Request
from everywire.transports.gate import Cors, takes_cookies
from everywire.transports.service import auth_request

__all__ = ["TRANSPORT", "Shown", "brought", "owner_of"]

TRANSPORT: Final = "sockjs"
_VOLATILE: Final = frozenset({"t", "c", "callback"})
"""Parameters that differ from request to request of a client."""
_TOKEN_SCHEMES: Final = frozenset({"bearer", "apikey"})


def brought(request: Request, cors: Cors, *, is_readable: bool, is_upgrade: bool) -> AuthRequest:
    """Return what a request that the gate admitted brings to be known by; ``cors`` is what the gate said.

    ``is_readable`` says that any page can read the answer (scripts and frames); ``is_upgrade`` that browsers
    say where the request comes from.
    """
    auth = auth_request(request, TRANSPORT, cors)
    query = {name: value for name, value in auth.query.items() if name not in _VOLATILE}
    headers = auth.headers
    cookies = auth.cookies
    if not _hears_cookies(request, cors, is_readable=is_readable, is_upgrade=is_upgrade):
        headers = {name: value for name, value in headers.items() if name != "cookie"}
        cookies = {}
        if headers.get("authorization", "bearer ").partition(" ")[0].lower() not in _TOKEN_SCHEMES:
            del headers["authorization"]  # a browser's, which it sends along as it does cookies
    return replace(auth, headers=headers, cookies=cookies, query=query, method="GET")


def _hears_cookies(request: Request, cors: Cors, *, is_readable: bool, is_upgrade: bool) -> bool:
    if b"origin" in request.headers:
        return takes_cookies(cors)
    site = request.headers.get(b"sec-fetch-site")
    if site is not None:
        return site in (b"same-origin", b"none")
    # An old browser, or none at all. With a WebSocket even old ones name the origin.
    return is_upgrade or (request.method == "GET" and not is_readable)


class Shown(NamedTuple):
    """The credential of a request."""

    mark: bytes
    """Stands for it; empty where there is none."""
    is_ticket: bool
    error: EverywireError | None = None
    """Why it cannot be one."""

    @classmethod
    def of(cls, authority: Authority, auth: AuthRequest) -> Shown:
        """Return what a request shows."""
        try:
            credential = find_credential(auth, authority.cookie_name, authority.limits.max_token_bytes)
        except EverywireError as error:
            return cls(digest_of(auth), False, error)
        if credential.kind:
            return cls(credential.digest(), credential.kind == "ticket")
        # Without a hook nothing else can prove anything; with one, anything may.
        return cls(b"" if authority.hooks.authenticate is None else digest_of(auth), False)


def owner_of(identity: Identity | EverywireError, mark: bytes) -> str:
    """Return whose a session is that begins with a credential: a user's, or of whoever shows it."""
    if identity is NOBODY:
        return ""
    if isinstance(identity, EverywireError):
        return f"refused {mark.hex()}"
    if identity.user:
        return f"user {identity.user}"
    return f"bearer {mark.hex()}" if identity.kind else ""


def ask_who(
    authority: Authority,
    auth: AuthRequest,
    shown: Shown,
    done: Callable[[Identity | EverywireError], None],
) -> None:
    """Find out whom a request proves."""
    if shown.error is not None:
        done(shown.error)
    else:
        authority.authenticate(auth, done)
