"""What SockJS's clients ask for beside sessions: greeting, information, the page for iframes, preflights.

The page for iframes lets a page of another origin speak to this server as if it were ours, with our cookies.
So the browser is told which pages may have it in a frame: ours, and those of listed origins. It loads a
script that acts in our name, so there is a page only where the application says whose script that is.
"""

from __future__ import annotations

import re
import secrets
from email.utils import formatdate
from hashlib import blake2b
from time import time
from typing import Final

from everywire.codecs.json_text import dump
from everywire.codecs.sockjs import GREETING, iframe_page
from everywire.sockets.sockjs_link import SockJsOptions
from everywire.transports.exchange import Exchange, Request
from everywire.transports.gate import Cors
from everywire.transports.service import NOSNIFF, WholeAnswer

__all__ = ["NOT_CACHED", "PLAIN_TEXT", "IframePage", "cookie_of", "cors_of", "greet", "inform", "permit"]

NOT_CACHED: Final = (b"cache-control", b"no-store, no-cache, no-transform, must-revalidate, max-age=0")
PLAIN_TEXT: Final = (b"content-type", b"text/plain; charset=UTF-8")
_YEAR_S: Final = 31_536_000
_CACHED: Final = (b"cache-control", b"public, max-age=%d" % _YEAR_S)
_VARY: Final = (b"vary", b"Origin")
_ANY_ORIGIN: Final[Cors] = ((b"access-control-allow-origin", b"*"), _VARY)
_FIELD_NAMES: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1024}")
_SESSION_COOKIE: Final = re.compile(
    r"(?:^|[;\s])JSESSIONID=([A-Za-z0-9!#$%&'()*+./:=?@^_`{|}~-]{1,256})(?=$|[;\s])"
)


def cors_of(request: Request) -> Cors:
    """Return the CORS headers of an answer to a request that the gate has admitted.

    The origin is echoed and credentials are allowed, because SockJS's client sends its requests with them
    whether it has any or not, and browsers would give it no answer otherwise. What they are worth is another
    matter: `everywire.transports.sockjs_who`.
    """
    origin = request.headers.get(b"origin")
    if origin is None:
        return _ANY_ORIGIN
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        _VARY,
    )


def cookie_of(request: Request) -> tuple[bytes, bytes]:
    """Return the cookie that a load balancer may go by: the one that the client has, or any."""
    found = _SESSION_COOKIE.search(request.header(b"cookie") or "")
    value = "dummy" if found is None else found[1]
    # A page of another site has to bring it, too.
    secure = "; Secure; SameSite=None" if request.scheme == "https" else ""
    return (b"set-cookie", f"JSESSIONID={value}; Path=/; HttpOnly{secure}".encode("latin-1"))


def greet(exchange: Exchange, cors: Cors) -> None:
    """Say that this is SockJS."""
    exchange.attend(WholeAnswer(), "sockjs-page")
    exchange.respond(200, [PLAIN_TEXT, NOSNIFF, *cors], GREETING)


def inform(exchange: Exchange, cors: Cors, options: SockJsOptions) -> None:
    """Say what there is, and bring some entropy for clients that have none."""
    exchange.attend(WholeAnswer(), "sockjs-info")
    information = {
        "websocket": options.has_websocket,
        "origins": ["*:*"],
        "cookie_needed": options.needs_cookie,
        "entropy": secrets.randbits(32),
    }
    content_type = (b"content-type", b"application/json; charset=UTF-8")
    exchange.respond(200, [content_type, NOT_CACHED, NOSNIFF, *cors], dump(information))


def permit(exchange: Exchange, cors: Cors, methods: str) -> None:
    """Answer a preflight request: whatever it asks for, for a year."""
    request = exchange.request
    headers = [
        _CACHED,
        (b"expires", _in_a_year()),
        (b"access-control-max-age", b"%d" % _YEAR_S),
        (b"access-control-allow-methods", methods.encode()),
        (b"allow", methods.encode()),
        *cors,
    ]
    wanted = request.headers.get(b"access-control-request-headers")
    if wanted and _FIELD_NAMES.fullmatch(wanted):
        headers.append((b"access-control-allow-headers", wanted))
    exchange.attend(WholeAnswer(), "sockjs-options")
    exchange.respond(204, headers)


class IframePage:
    """The page for iframes, which browsers keep for a year."""

    __slots__ = ("_body", "_etag", "_policy")

    def __init__(self, client_url: str, frame_ancestors: str) -> None:
        self._body = iframe_page(client_url)
        self._etag = b'"%b"' % blake2b(self._body, digest_size=16).hexdigest().encode()
        self._policy = (b"content-security-policy", frame_ancestors.encode())

    def serve(self, exchange: Exchange, cors: Cors) -> None:
        """Answer with the page, or with 304 to who has it."""
        exchange.attend(WholeAnswer(), "sockjs-page")
        headers = [(b"etag", self._etag), _CACHED, (b"expires", _in_a_year()), self._policy, *cors]
        known = exchange.request.headers.get(b"if-none-match", b"")
        if self._etag in [tag.strip().removeprefix(b"W/") for tag in known.split(b",")]:
            exchange.respond(304, headers)
        else:
            content_type = (b"content-type", b"text/html; charset=UTF-8")
            exchange.respond(200, [content_type, NOSNIFF, *headers], self._body)


def _in_a_year() -> bytes:
    return formatdate(time() + _YEAR_S, usegmt=True).encode()
