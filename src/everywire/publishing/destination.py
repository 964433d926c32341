"""Where a process without a server publishes to: what `configure` was told, or else the environment.

``EVERYWIRE_URL`` is the address: ``http://`` or ``https://`` of a server, or the address of its broker
(``redis://…``, ``nats://…``, ``sqlite:…``, see `everywire.brokers.opening`). ``EVERYWIRE_API_KEY`` is
the API key that the server knows this process by.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from everywire.client.address import Address
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable

__all__ = ["API_KEY_VARIABLE", "URL_VARIABLE", "Destination", "from_environment"]

URL_VARIABLE: Final = "EVERYWIRE_URL"
API_KEY_VARIABLE: Final = "EVERYWIRE_API_KEY"
_HTTP: Final = ("http://", "https://")


class Destination(NamedTuple):
    """An address to publish to, and what counts there. Its text never shows a secret."""

    url: str
    api_key: str = ""
    limits: Limits = Limits()
    channels: SettingsTable | None = None
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Destination({self.url.partition(':')[0]}:…)"

    @property
    def is_http(self) -> bool:
        """Whether the address is a server's, not a broker's."""
        return self.url.startswith(_HTTP)

    def check(self) -> Destination:
        """Return itself if it may be one; raise `SettingsError` if not."""
        if self.is_http:
            try:
                Address.parse(self.url)
            except BadRequest:  # whose sentence repeats what may be a password
                raise SettingsError(
                    "expected http://HOST:PORT of a server, without user, query or fragment"
                ) from None
            return self
        from everywire.brokers.opening import SCHEMES, check_address

        scheme, colon, _ = self.url.partition(":")
        if scheme == "memory":
            raise SettingsError(
                "a memory broker lives in its server's process: publish to http:// of the server"
            )
        if not colon or scheme.lower() not in SCHEMES:
            raise SettingsError(
                "expected a URL to publish to: http:// or https:// of a server, or the address of its"
                " broker, such as redis://, nats:// or sqlite:"
            )
        check_address(self.url)
        return self


def from_environment(environ: Mapping[str, str] = os.environ) -> Destination:
    """Return what the environment says; an error with code 108 if it says nothing."""
    url = environ.get(URL_VARIABLE, "")
    if not url:
        raise EverywireError(
            "no server runs in this process, and no address to publish to is known:"
            f" call everywire.configure(url), or set {URL_VARIABLE}",
            code=codes.NOT_AVAILABLE,
        )
    return Destination(url, environ.get(API_KEY_VARIABLE, "")).check()
