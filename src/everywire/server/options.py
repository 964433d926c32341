"""What a server is told at start. Settings map to these; tests make them by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from everywire.codecs.websocket import DeflateOptions
from everywire.core.limits import Limits

__all__ = ["Address", "ServerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One listening socket: a host and port, or a unix socket's path; with a certificate, TLS."""

    host: str = "127.0.0.1"
    """A name is resolved; all its addresses are listened on."""
    port: int = 8000
    """0 takes any free port."""
    unix: str = ""
    unix_mode: int = 0o660
    tls_cert: str = ""
    """PEM file with the certificate chain, and the key if ``tls_key`` is empty."""
    tls_key: str = ""

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL without path; of a unix socket, its path behind ``unix:``."""
        if self.unix:
            return str(self)
        return f"https://{self}" if self.tls_cert else f"http://{self}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Everything a server needs besides its handler."""

    listen: tuple[Address, ...] = (Address(),)
    inherited: tuple[tuple[int, int], ...] = ()
    """Listening sockets that a parent opened: places in ``listen``, and file descriptors. Where there are
    any, no other is opened, and what is closed here goes on listening there."""
    worker: int | None = None
    """The number of this worker among those of its parent, in every log line; None is no worker."""
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose forwarding fields are believed; ``unix`` for unix sockets."""
    deflate: DeflateOptions | None = None
    """How to compress WebSocket messages when a client offers it; None does not."""
    drain_s: float = 10.0
    """How long a shutdown waits for what is open."""
    backlog: int = 2048
    """Connections that the kernel holds until they are accepted."""
    log_fd: int | None = 2
    """Where log lines go; None writes none."""
    log_level: str = "info"
