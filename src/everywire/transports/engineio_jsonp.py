"""JSONP: polls as scripts, for browsers that know no cross-origin requests, and where that is safe.

A script's content is readable by the page that loads it, of whatever site it is, and browsers send no Origin
with it. So a poll with ``j=`` is served only when the browser says that it comes from a page of this very
origin (Fetch Metadata), or, where it says nothing of that kind, when the Referer's origin is one that may
come. Pages of other sites cannot forge either; without both there is no answer. The gate's own rules stay in
force before that. A POST of JSONP is a form, whose answer no page can read; the gate's rules are enough.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from everywire.core import codes
from everywire.transports.exchange import Request
from everywire.transports.gate import Gate, Refusal

__all__ = ["refuse_script"]

_OWN_PAGES: Final = (b"same-origin", b"none")
_REFUSAL: Final = Refusal(
    codes.FOREIGN_ORIGIN,
    "JSONP is for pages of this origin: the request says neither so (Sec-Fetch-Site), nor where it comes "
    "from (Referer); use another transport",
)


def refuse_script(request: Request, gate: Gate) -> Refusal | None:
    """Return why a request may not be answered by a script, or None."""
    if request.headers.get(b"sec-fetch-site") in _OWN_PAGES:
        return None
    if b"origin" in request.headers and b"sec-fetch-site" not in request.headers:
        return None  # the gate has looked at it
    origin = _origin_of(request.header(b"referer") or "")
    if not origin:
        return _REFUSAL
    fields = {b"origin": origin.encode("latin-1", "replace")}
    claimed = Request(
        request.method, request.path, "", fields, scheme=request.scheme, host=request.host, peer=request.peer
    )
    admitted = gate.admit(claimed)
    return admitted if isinstance(admitted, Refusal) else None


def _origin_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else ""
