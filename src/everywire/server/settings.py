"""The server's settings: what there is to set, its defaults, and what cannot be.

`everywire.server.settings_sources` reads them from a file, the environment and flags. This
module makes of them the objects of the inner layers, and refuses to write a secret anywhere,
``repr`` included.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from everywire.access import identity as policy
from everywire.codecs.http.forwarded import UNIX
from everywire.codecs.websocket import DeflateOptions
from everywire.core.errors import BadChannelName
from everywire.core.limits import Limits
from everywire.core.names import matches
from everywire.core.settings import ChannelSettings, SettingsTable
from everywire.server.options import Address, ServerOptions

__all__ = [
    "ApiKey",
    "ChannelRow",
    "Hosts",
    "Listen",
    "Log",
    "LogLevel",
    "Mistake",
    "Origins",
    "Rules",
    "Settings",
    "WebSocket",
    "check",
]

Port = Annotated[int, Meta(ge=0, le=65535)]
Key = Annotated[str, Meta(min_length=8)]
Seconds = Annotated[float, Meta(ge=0)]


class Listen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One listening socket: a host and port, or a unix socket's path; with a certificate, TLS."""

    host: str = "127.0.0.1"
    """Address or name to listen on; ``0.0.0.0`` and ``::`` are all of this machine's."""
    port: Port = 8000
    """0 takes any free port and tells it at start."""
    unix: str = ""
    """Path of a unix socket, instead of host and port."""
    tls_cert: str = ""
    """PEM file with the certificate chain (and the key, if `tls_key` is not given)."""
    tls_key: str = ""
    """PEM file with the key."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


class ApiKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A credential: who has it may do everything."""

    key: Key
    """At least 8 characters; long and random is better."""
    name: str = ""
    """What logs call it, ``key-1`` and so on if nothing; the key itself is never written anywhere."""

    def __repr__(self) -> str:
        return f"ApiKey(name={self.name!r})"


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what. Nothing is open unless a rule opens it."""

    api_keys: tuple[Key | ApiKey, ...] = ()
    """Credentials; each is a text of at least 8 characters, or a table with ``key`` and ``name``."""
    read: tuple[str, ...] = ()
    """Patterns of channels that anyone may read, what is kept of the past included."""
    publish: tuple[str, ...] = ()
    """Patterns of channels that anyone may publish to."""
    presence: tuple[str, ...] = ()
    """Patterns of channels whose readers anyone may see."""
    delete: tuple[str, ...] = ()
    """Patterns of channels whose publications anyone may drop."""

    def named_keys(self) -> dict[str, str]:
        """Return the API keys by name."""
        rows = [row if isinstance(row, ApiKey) else ApiKey(key=row) for row in self.api_keys]
        return {row.name or f"key-{number}": row.key for number, row in enumerate(rows, 1)}

    def __repr__(self) -> str:
        return f"Rules(api_keys={list(self.named_keys())}, read={self.read}, publish={self.publish})"


class Origins(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Foreign origins that browsers may come from; the server's own is always allowed."""

    allowed_origins: tuple[str, ...] = ()
    """Such as ``https://example.com``; ``*`` means any."""
    allow_credentials: bool = False
    """Let their pages send cookies; needs the origins by name."""


class Hosts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names under which the server answers; on loopback its own by default."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names, without port; a request for another one is refused."""


class WebSocket(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The WebSocket transport."""

    compression: bool = False
    """Accept permessage-deflate (RFC 7692) when a client offers it."""
    window_bits: Annotated[int, Meta(ge=9, le=15)] = DeflateOptions().max_window_bits
    """The largest window that the server compresses with, 9 to 15."""


class LogLevel(Enum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log: one JSON object a line."""

    level: LogLevel = LogLevel.INFO
    """The least important lines that are written."""
    file: str = ""
    """Path of the file to append to; empty means standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRow(ChannelSettings):
    """Channel settings with the pattern of names that they are for."""

    pattern: str


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a server, each with its default."""

    listen: tuple[Listen, ...] = (Listen(),)
    limits: Limits = Limits()
    channels: tuple[ChannelRow, ...] = ()
    """The first row whose pattern fits a channel's name counts."""
    rules: Rules = Rules()
    origins: Origins = Origins()
    hosts: Hosts = Hosts()
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose forwarding headers are believed, such as ``10.0.0.0/8``; ``unix`` for
    unix sockets."""
    websocket: WebSocket = WebSocket()
    log: Log = Log()
    drain_s: Seconds = 10.0
    """How long a shutdown waits for readers to leave."""
    dev: bool = False
    """On loopback only: anyone may do everything, without credentials."""

    def settings_table(self) -> SettingsTable:
        """Make the core's table of channel settings."""
        return SettingsTable((row.pattern, row) for row in self.channels)

    def public_patterns(self) -> dict[policy.Action, tuple[str, ...]]:
        """Return what is open to anyone, as the hub's rules want it."""
        return {action: getattr(self.rules, action.value) for action in policy.Action}

    def server_options(self, log_fd: int) -> ServerOptions:
        """Return what our own host wants to know."""
        websocket = self.websocket
        return ServerOptions(
            listen=tuple(Address(**msgspec.structs.asdict(listen)) for listen in self.listen),
            limits=self.limits,
            trusted_proxies=self.trusted_proxies,
            deflate=DeflateOptions(max_window_bits=websocket.window_bits) if websocket.compression else None,
            drain_s=self.drain_s,
            log_fd=log_fd,
            log_level=self.log.level.value,
        )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach any of the listeners."""
        return all(listen.is_loopback for listen in self.listen)


class Mistake(Exception):
    """A value that has the right type but cannot be: the path of its key, and a sentence."""

    def __init__(self, path: tuple[str | int, ...], sentence: str) -> None:
        super().__init__(sentence)
        self.path = path
        self.sentence = sentence


def check(settings: Settings) -> None:
    """Check what types cannot say; raise `Mistake` at the first value that cannot be."""
    _check_listen(settings)
    if not math.isfinite(settings.drain_s):
        raise Mistake(("drain_s",), "expected a number of seconds")
    _check_numbers(("limits",), settings.limits)
    for at, row in enumerate(settings.channels):
        _check_pattern(("channels", at, "pattern"), row.pattern)
        _check_numbers(("channels", at), row)
        _check_numbers(("channels", at, "window"), row.window)
    _check_rules(settings.rules)
    _check_origins(settings.origins)
    for at, network in enumerate(settings.trusted_proxies):
        try:
            if network != UNIX:
                ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise Mistake(
                ("trusted_proxies", at), "expected an address, a network such as 10.0.0.0/8, or unix"
            ) from None


def _check_listen(settings: Settings) -> None:
    if not settings.listen:
        raise Mistake(("listen",), "expected at least one listener")
    for at, listen in enumerate(settings.listen):
        if listen.tls_key and not listen.tls_cert:
            raise Mistake(("listen", at, "tls_key"), "expected tls_cert beside tls_key")
        for name in ("tls_cert", "tls_key"):
            path = getattr(listen, name)
            if path and not Path(path).is_file():
                raise Mistake(("listen", at, name), f"expected a PEM file, and {path!r} is not a file")
        if settings.dev and not listen.is_loopback:
            raise Mistake(
                ("listen", at, "host"),
                f"expected a loopback address such as 127.0.0.1 or ::1, because dev lets anyone in; "
                f"{listen.host!r} is not one",
            )


def _check_numbers(path: tuple[str | int, ...], values: object) -> None:
    for name in getattr(values, "__dataclass_fields__", ()):
        number = getattr(values, name)
        if isinstance(number, int | float) and not isinstance(number, bool) and not 0 < number < math.inf:
            raise Mistake((*path, name), "expected a number above 0")


def _check_rules(rules: Rules) -> None:
    for action in policy.Action:
        for at, pattern in enumerate(getattr(rules, action.value)):
            _check_pattern(("rules", action.value, at), pattern)
    if len(rules.named_keys()) < len(rules.api_keys):
        raise Mistake(("rules", "api_keys"), "expected another name for each key")


def _check_pattern(path: tuple[str | int, ...], pattern: str) -> None:
    try:
        matches(pattern, "")
    except BadChannelName:
        raise Mistake(path, "expected a channel name, in which * stands for any characters") from None


def _check_origins(origins: Origins) -> None:
    for at, origin in enumerate(origins.allowed_origins):
        if origin == "*":
            if origins.allow_credentials:
                raise Mistake(
                    ("origins", "allowed_origins", at),
                    "expected the origins by name: * together with allow_credentials would let any page "
                    "act in its visitors' names",
                )
            continue
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise Mistake(
                ("origins", "allowed_origins", at),
                "expected scheme, host and port only, such as https://example.com, or *",
            )
