"""TLS certificates, read again on demand for new connections.

A context cannot be mended in place: half of a bad pair would stay in it. So the one that listens
hands every handshake to the newest context that was loaded whole, and a pair that cannot be loaded
changes nothing.
"""

from __future__ import annotations

import ssl
from typing import Any

from everywire.core.errors import SettingsError

__all__ = ["Certificate"]


class Certificate:
    """A certificate chain and key on disk, and the context that listeners use."""

    __slots__ = ("_cert", "_current", "_key", "context")

    def __init__(self, cert: str, key: str) -> None:
        self._cert = cert
        self._key = key
        self.context = self._load()
        self._current = self.context

    def _load(self) -> ssl.SSLContext:
        # PROTOCOL_TLS_SERVER brings OpenSSL's own choice of ciphers and TLS 1.2 as the oldest version.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key or None, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            files = self._cert + (f" and {self._key}" if self._key else "")
            raise SettingsError(f"the TLS certificate cannot be loaded from {files}: {error}") from None
        return context

    def reload(self) -> None:
        """Use what is on disk now for new connections; raise `SettingsError` and keep the old otherwise."""
        self._current = self._load()
        self.context.sni_callback = self._choose

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: Any) -> None:
        """Called within each handshake, whether or not the client names a server."""
        handshake.context = self._current


def _no_password() -> str:
    raise ValueError("the key is encrypted; a server cannot ask for its password")
