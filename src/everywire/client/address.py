"""Where a server is: the URL that a person gives, taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from everywire.core.errors import BadRequest

__all__ = ["DEFAULT_URL", "Address", "is_url"]

DEFAULT_URL = "http://127.0.0.1:8000"
SCHEMES = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def is_url(text: str) -> bool:
    """Say whether the text is meant as a URL rather than as a channel name, which has no slash."""
    return "://" in text


class Address(NamedTuple):
    """A server: its host and port, whether it is reached by TLS, and the path it is mounted under."""

    host: str
    port: int
    is_tls: bool
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take a URL apart; raise `BadRequest` for one that cannot be a server's."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadRequest(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise BadRequest(f"{url!r} is no URL of a server: expected http, https, ws or wss, and a host")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise BadRequest(f"{url!r}: expected scheme, host, port and path only")
        is_tls = parts.scheme in ("https", "wss")
        default = SCHEMES[parts.scheme]
        return cls(parts.hostname, default if port is None else port, is_tls, parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        """The value of the Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    def target(self, channels: Sequence[str], query: Mapping[str, str | Sequence[str]] | None = None) -> str:
        """Return the request target of one or several channels."""
        path = f"{self.prefix}/channels/{','.join(quote(name, safe='') for name in channels)}"
        return f"{path}?{urlencode(query, doseq=True)}" if query else path

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.host_header}{self.prefix}"
