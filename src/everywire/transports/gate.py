"""The gate: which hosts and origins may ask for anything, and what CORS tells browsers.

A browser carries its user's position in the network, and maybe cookies, to wherever a page
tells it to. So before any state is made, on every method and transport:

* a foreign ``Origin`` that is not listed is refused; ``null`` is foreign. Same-origin compares
  scheme, host and port, as the host saw them through trusted proxies (RFC 6454 §5);
* without ``Origin``, a request that the browser says is cross-site (Fetch Metadata) is refused,
  except a top-level navigation to a page;
* on loopback the Host must be a loopback name, else any site could point its own name at
  127.0.0.1 and be same-origin with us (DNS rebinding).

Pure policy over a `Request`: no state but a memory of hosts found good, no I/O. Which identity
may do what is not asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from everywire.core import codes
from everywire.core.codes import Code
from everywire.transports.exchange import Request

__all__ = ["Cors", "Gate", "Refusal", "normalize_origin", "takes_cookies"]

Cors: TypeAlias = tuple[tuple[bytes, bytes], ...]

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s:\[\]]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]|\[0:0:0:0:0:0:0:1\]")
_MAX_REMEMBERED_HOSTS: Final = 1024
_MAX_ORIGIN_CHARACTERS: Final = 300
_MAX_TOLD_CHARACTERS: Final = 100

_ALLOW_CREDENTIALS: Final = (b"access-control-allow-credentials", b"true")
_EXPOSED: Final = (
    b"access-control-expose-headers",
    b"ETag, Retry-After, Location, Everywire-Position, Everywire-Epoch, Everywire-Offset",
)
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    (
        b"access-control-allow-headers",
        b"Last-Event-ID, Content-Type, Idempotency-Key, Authorization, X-API-Key, If-None-Match",
    ),
    (b"access-control-max-age", b"7200"),
)


class Refusal(NamedTuple):
    """Why a request may not pass, and which setting would let it."""

    code: Code
    sentence: str


class Gate:
    """Admits or refuses requests by Host and Origin.

    Args:
        allowed_origins: foreign origins that may come, such as ``https://example.com``; ``*`` is any.
        allow_credentials: whether browsers may send cookies along; never together with ``*``.
        allowed_hosts: names to serve, without port; ``*.example.com`` is every name below. If there
            are any, no others are served anywhere, but loopback names always are.
        loopback_only: whether every listener is on loopback; then only loopback names are served,
            and ``allowed_hosts``.

    Raises:
        ValueError: ``*`` together with credentials, or something that is no origin.
    """

    __slots__ = (
        "_allow_credentials",
        "_allowed_hosts",
        "_any_origin",
        "_checks_hosts",
        "_good_hosts",
        "_host_suffixes",
        "_origins",
    )

    def __init__(
        self,
        allowed_origins: Iterable[str] = (),
        allow_credentials: bool = False,
        allowed_hosts: Iterable[str] = (),
        loopback_only: bool = False,
    ) -> None:
        origins = set(allowed_origins)
        self._any_origin = "*" in origins
        if self._any_origin and allow_credentials:
            raise ValueError("allowed_origins = * together with allow_credentials would open every account")
        self._allow_credentials = allow_credentials
        self._origins: set[str] = set()
        for origin in origins - {"*"}:
            normal = normalize_origin(origin.rstrip("/"))
            if normal is None:
                raise ValueError(f"{origin!r} is no origin; expected scheme://host or scheme://host:port")
            self._origins.add(normal)
        hosts = {host.lower().rstrip(".") for host in allowed_hosts}
        self._host_suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._allowed_hosts = {host for host in hosts if not host.startswith("*.")}
        self._checks_hosts = loopback_only or bool(hosts)
        self._good_hosts: set[str] = set()

    def admit(self, request: Request, *, is_page: bool = False, is_frame: bool = False) -> Refusal | Cors:
        """Return why the request may not pass, or the CORS headers of its answer.

        ``is_page`` says that a document is asked for, which a person may follow a link to; ``is_frame`` that
        pages of listed origins may have it in a frame, where `frame_ancestors` goes with it: a browser does
        not say who asks for a frame. Equal answers are the same object, so that they are compared quickly.
        """
        headers = request.headers
        if self._checks_hosts and request.host not in self._good_hosts and not self._knows(request.host):
            return Refusal(
                codes.FOREIGN_HOST,
                f"the host {_told(request.host)} is not served here; add it to allowed_hosts if it should",
            )
        if b"origin" in headers:
            return self._admit_origin(request, headers[b"origin"].decode("latin-1"))
        if b"sec-fetch-site" in headers and headers[b"sec-fetch-site"] == b"cross-site":
            how = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")
            is_navigation = is_page and how == (b"navigate", b"document")
            if is_frame and (self._origins or self._any_origin):
                is_navigation = is_navigation or how == (b"navigate", b"iframe")
            if not (is_navigation and request.method in ("GET", "HEAD")):
                return Refusal(
                    codes.FOREIGN_ORIGIN,
                    "a page of another site sent this without its Origin; send it with CORS, "
                    "and name the origin in allowed_origins if it may come",
                )
        return ()

    @property
    def frame_ancestors(self) -> str:
        """The pages that may have a page of ours in a frame, for ``Content-Security-Policy``: this origin's
        own and those of listed origins."""
        pages = ["*"] if self._any_origin else ["'self'", *sorted(self._origins)]
        return f"frame-ancestors {' '.join(pages)}"

    def preflight(self, request: Request) -> Cors:
        """Return the headers of the answer to a preflight OPTIONS request that was admitted."""
        admitted = self.admit(request)
        if isinstance(admitted, Refusal) or not admitted:
            return ()
        return (*admitted, *_PREFLIGHT)

    def refuse_cookie(self, request: Request) -> Refusal | None:
        """Return why a request whose only credential is a cookie may not change anything, or None.

        A form of any site can POST with its visitors' cookies, but not with a JSON type: that takes
        a preflight. So a changing request needs one, or an origin that is listed.
        """
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = request.header(b"origin")
        if origin is not None and _normal(origin) in self._origins:
            return None
        essence = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if re.fullmatch(r"application/(?:[^/\s]+\+)?json", essence):
            return None
        return Refusal(
            codes.FOREIGN_ORIGIN,
            "with a cookie as credential this needs Content-Type: application/json, "
            "or an origin named in allowed_origins",
        )

    def _admit_origin(self, request: Request, origin: str) -> Refusal | Cors:
        normal = _normal(origin)
        if normal is not None:
            if normal in self._origins:
                return _cors(origin, self._allow_credentials)
            if normal == _normal(f"{request.scheme}://{request.host}"):
                return ()
        if self._any_origin:
            return _cors("*", False)
        return Refusal(
            codes.FOREIGN_ORIGIN,
            f"the origin {_told(origin)} is not allowed; name it in allowed_origins if it may come",
        )

    def _knows(self, host: str) -> bool:
        name = _host_name(host)
        is_known = (
            _LOOPBACK.fullmatch(name) is not None
            or name in self._allowed_hosts
            or name.endswith(self._host_suffixes)
        )
        if is_known and len(self._good_hosts) < _MAX_REMEMBERED_HOSTS:
            self._good_hosts.add(host)
        return is_known


def _normal(origin: str) -> str | None:
    """Return `normalize_origin` of what a peer sent, which is not remembered if it is longer than any origin:
    a scheme, a name of 255 characters, and a port."""
    return normalize_origin(origin) if len(origin) <= _MAX_ORIGIN_CHARACTERS else None


@lru_cache(maxsize=1024)
def normalize_origin(origin: str) -> str | None:
    """Return scheme, host and port of an origin in one spelling, or None if it has not all three."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    port = port or _DEFAULT_PORTS.get(scheme, "")
    return f"{scheme}://{host.rstrip('.')}:{int(port)}" if port else None


def takes_cookies(cors: Cors) -> bool:
    """Say whether the cookies of a request count, by what `Gate.admit` said of it.

    Not from pages of foreign origins, unless these are named and may send credentials. CORS keeps such pages
    from reading an answer, but browsers send cookies with every WebSocket handshake and every form, and
    there it has no say.
    """
    return not cors or _ALLOW_CREDENTIALS in cors


@lru_cache(maxsize=1024)
def _cors(origin: str, with_credentials: bool) -> Cors:
    allow = (b"access-control-allow-origin", origin.encode("latin-1"))
    if with_credentials:
        return (allow, _ALLOW_CREDENTIALS, _EXPOSED)
    return (allow, _EXPOSED)


def _host_name(host: str) -> str:
    """Cut the port and a final dot off a Host."""
    name = host.lower()
    if not name.endswith("]"):
        head, colon, _ = name.rpartition(":")
        name = head if colon else name
    return name.rstrip(".")


def _told(text: str) -> str:
    return repr(text if len(text) <= _MAX_TOLD_CHARACTERS else text[:_MAX_TOLD_CHARACTERS] + "…")
