"""Load the static pages from package data, once, at start.

Each file becomes a :class:`Page` with its content type, a strong entity tag (RFC 9110 §8.8.3) and the
headers that keep a browser strict with it. The whole set is a few dozen KiB and stays in memory, so that
serving a page touches no disk and no path of a request is ever joined to a path of the file system.

It refuses to serve what it does not know: a file whose suffix has no content type here is an error at start,
not a download later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

# No inline script or style anywhere. ws: and wss: are named because older engines do not let 'self' match
# them; nothing foreign can run in the page that could use them.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self' ws: wss:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode("ascii")),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

# Where a file is served when its place is not simply /race/ and its name.
_PLACES = {"race.html": ("/",), "icon.svg": ("/race/icon.svg", "/favicon.ico")}


class Page(NamedTuple):
    """One static answer, ready to be written.

    ``headers`` holds what goes beside ``Content-Type``, ``ETag``, ``Content-Length`` and ``Cache-Control``,
    which the router writes; names are lower case. Pages want ``no-cache``: kept, but asked for again with the
    ETag, so that an upgrade leaves no module of an older page.
    """

    content_type: str
    body: bytes
    etag: str
    headers: tuple[tuple[bytes, bytes], ...]


def load_pages() -> dict[str, Page]:
    """Return every page by the URL path it is served at.

    Raises:
        ValueError: a packaged file has a suffix that has no content type here.
    """
    pages: dict[str, Page] = {}
    for name, entry in _walk(files("everywire.console") / "static", ""):
        page = _page(name, entry.read_bytes())
        for path in _PLACES.get(name, (f"/race/{name}",)):
            pages[path] = page
    for name, entry in _walk(_client(), ""):
        if name.endswith(".js"):
            pages[f"/client/{name}"] = _page(name, entry.read_bytes())
    return pages


def _client() -> Traversable:
    """Return the folder of the JavaScript client: inside the package, or beside it in a source tree."""
    inside = files("everywire.console") / "client"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "clients" / "js"


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.startswith("."):
            yield prefix + entry.name, entry


def _page(name: str, body: bytes) -> Page:
    suffix = name[name.rfind(".") :]
    content_type = _CONTENT_TYPES.get(suffix)
    if content_type is None:
        raise ValueError(f"static file {name!r} has no known content type, expected {sorted(_CONTENT_TYPES)}")
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Page(content_type, body, etag, _HEADERS)
