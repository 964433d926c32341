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
from everywire.access import tokens
from everywire.access.jwks import Jwks
from everywire.access.rules import Rules as AccessRules
from everywire.access.tokens import GRANT_CLAIMS
from everywire.access.webhooks import KINDS, WebhookSettings
from everywire.codecs.http.forwarded import UNIX
from everywire.codecs.websocket import DeflateOptions
from everywire.core.errors import BadChannelName, SettingsError
from everywire.core.limits import MAY_BE_OFF, Limits
from everywire.core.names import matches
from everywire.core.settings import ChannelSettings, SettingsTable
from everywire.server.options import Address, ServerOptions
from everywire.server.settings_sockets import SocketIo, SockJs

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
    "SockJs",
    "SocketIo",
    "Tokens",
    "WebSocket",
    "Webhooks",
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
    user_read: tuple[str, ...] = ()
    """The same for whoever is known; ``{user}`` in a pattern is the user's own id: ``inbox:{user}``."""
    user_publish: tuple[str, ...] = ()
    user_presence: tuple[str, ...] = ()
    user_delete: tuple[str, ...] = ()

    def named_keys(self) -> dict[str, str]:
        """Return the API keys by name."""
        rows = [row if isinstance(row, ApiKey) else ApiKey(key=row) for row in self.api_keys]
        return {row.name or f"key-{number}": row.key for number, row in enumerate(rows, 1)}

    def __repr__(self) -> str:
        return f"Rules(api_keys={list(self.named_keys())}, read={self.read}, publish={self.publish})"


class Tokens(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JSON web tokens: how they are verified. See docs/access.md for what they say."""

    secret: str = ""
    """The shared secret of HS256, HS384 and HS512 tokens, at least 32 bytes."""
    public_keys: tuple[str, ...] = ()
    """Public keys or certificates (PEM texts) of RS, ES and EdDSA tokens."""
    public_key_files: tuple[str, ...] = ()
    """Paths of PEM files with such keys."""
    jwks_url: str = ""
    """Where more public keys are fetched."""
    audience: str = ""
    """What ``aud`` must say; unchecked when empty."""
    issuer: str = ""
    """What ``iss`` must say; unchecked when empty."""
    cookie: str = ""
    """The cookie that holds a connection token; no cookie counts when empty."""
    read_claim: str = GRANT_CLAIMS[policy.Action.READ]
    """The claim with patterns of channels that the token lets read; likewise the following."""
    publish_claim: str = GRANT_CLAIMS[policy.Action.PUBLISH]
    presence_claim: str = GRANT_CLAIMS[policy.Action.PRESENCE]
    delete_claim: str = GRANT_CLAIMS[policy.Action.DELETE]

    def __repr__(self) -> str:
        return f"Tokens(audience={self.audience!r}, issuer={self.issuer!r}, jwks_url={self.jwks_url!r})"

    def verifier(self, limits: Limits) -> tokens.Tokens | None:
        """Make what verifies tokens, if there is any key; `SettingsError` for one that cannot be used."""
        pems = [*self.public_keys, *(Path(path).read_text("utf-8") for path in self.public_key_files)]
        if not (self.secret or pems or self.jwks_url):
            return None
        return tokens.Tokens(
            secret=self.secret,
            public_keys=pems,
            jwks=Jwks(self.jwks_url, limits) if self.jwks_url else None,
            audience=self.audience,
            issuer=self.issuer,
            grant_claims={action: getattr(self, f"{action.value}_claim") for action in policy.Action},
            limits=limits,
        )


class Webhooks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An application that is asked over HTTP. What has no address is not asked. See docs/access.md."""

    connect: str = ""
    """Asked who somebody is, who brings no token."""
    refresh: str = ""
    """Asked whether a connection that came without a token may go on, when its time is over."""
    subscribe: str = ""
    """Asked whether somebody may read a channel, on every wire."""
    publish: str = ""
    """Asked about each publication of a client; it may change it."""
    rpc: str = ""
    """Answers calls."""
    disconnect: str = ""
    """Told that a session ended."""
    timeout_s: Seconds = WebhookSettings().timeout_s
    """For one answer, and as long before it for a turn; what comes later is a no. `limits.hook_timeout_s` and
    `limits.call_timeout_s` (rpc) count as well."""
    max_asked: Annotated[int, Meta(ge=1)] = WebhookSettings().max_asked
    """Questions under way at once; others wait."""
    max_waiting: Annotated[int, Meta(ge=1)] = WebhookSettings().max_waiting
    """Questions that are under way or wait; further ones are answered no."""
    max_answer_bytes: Annotated[int, Meta(ge=1)] = WebhookSettings().max_answer_bytes
    """A larger answer is a no."""
    headers: tuple[str, ...] = WebhookSettings().headers
    """Header fields of the client that are passed on."""
    static_headers: tuple[str, ...] = ()
    """Header fields that every question has, such as ``X-Api-Key: KEY``."""
    secret: str = ""
    """Signs each question: ``X-Everywire-Signature: t=TIME,v1=HMAC-SHA256(TIME.BODY)``."""

    def __repr__(self) -> str:
        return f"Webhooks(kinds={[kind for kind in KINDS if getattr(self, kind)]})"

    def settings(self) -> WebhookSettings:
        """Return what asks; `SettingsError` for what cannot be."""
        pairs = [line.partition(":") for line in self.static_headers]
        return WebhookSettings(
            urls={kind: url for kind in KINDS if (url := getattr(self, kind))},
            timeout_s=self.timeout_s,
            max_asked=self.max_asked,
            max_waiting=self.max_waiting,
            max_answer_bytes=self.max_answer_bytes,
            headers=tuple(name.lower() for name in self.headers),
            static_headers={name.strip().lower(): value.strip() for name, _, value in pairs},
            secret=self.secret,
        )


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
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Processes that serve; more than one need a broker that they share. See docs/workers.md."""
    broker: str = ""
    """Address of the broker: `memory:`, `sqlite:///DIRECTORY`, `redis://HOST:PORT/DB`, `nats://HOST:PORT`.
    Without one, `memory:` for one worker, and sqlite in the state directory for more."""
    state_dir: str = ""
    """Directory for what the workers of this machine share, theirs alone; by default ``everywire`` in
    ``$XDG_RUNTIME_DIR``, or ``everywire-UID`` in the directory for temporary files."""
    advertise: str = ""
    """`HOST:PORT` at which other machines' nodes reach this one's private side; see docs/workers.md."""
    limits: Limits = Limits()
    channels: tuple[ChannelRow, ...] = ()
    """The first row whose pattern fits a channel's name counts."""
    rules: Rules = Rules()
    tokens: Tokens = Tokens()
    webhooks: Webhooks = Webhooks()
    origins: Origins = Origins()
    hosts: Hosts = Hosts()
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose forwarding headers are believed, such as ``10.0.0.0/8``; ``unix`` for
    unix sockets."""
    websocket: WebSocket = WebSocket()
    socketio: SocketIo = SocketIo()
    sockjs: SockJs = SockJs()
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

    def user_patterns(self) -> dict[policy.Action, tuple[str, ...]]:
        """Return what is open to whoever is known."""
        return {action: getattr(self.rules, f"user_{action.value}") for action in policy.Action}

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

    def __repr__(self) -> str:  # a broker's address may hold a password
        return f"Settings(listen={self.listen}, workers={self.workers}, dev={self.dev})"

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
    if settings.workers > 1 and settings.broker.lower().startswith("memory:"):
        raise Mistake(
            ("broker",), "expected a broker that several workers can share; memory: is one process's own"
        )
    _check_advertise(settings)
    if not math.isfinite(settings.drain_s):
        raise Mistake(("drain_s",), "expected a number of seconds")
    _check_numbers(("limits",), settings.limits)
    for at, row in enumerate(settings.channels):
        _check_pattern(("channels", at, "pattern"), row.pattern)
        _check_numbers(("channels", at), row)
        _check_numbers(("channels", at, "window"), row.window)
    _check_rules(settings.rules)
    _check_tokens(settings)
    _check_webhooks(settings.webhooks)
    _check_origins(settings.origins)
    try:
        settings.socketio.settings()
    except SettingsError as error:
        raise Mistake(("socketio",), error.sentence) from None
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


def _check_advertise(settings: Settings) -> None:
    if settings.advertise:
        try:
            place = urlsplit(f"//{settings.advertise}")
            is_place = bool(place.hostname) and place.port is not None and place.netloc == settings.advertise
        except ValueError:
            is_place = False
        if not is_place:
            raise Mistake(("advertise",), "expected HOST:PORT; port 0 takes any free one")


def _check_numbers(path: tuple[str | int, ...], values: object) -> None:
    for name in getattr(values, "__dataclass_fields__", ()):
        number = getattr(values, name)
        if not isinstance(number, int | float) or isinstance(number, bool) or 0 < number < math.inf:
            continue
        if name not in MAY_BE_OFF:
            raise Mistake((*path, name), "expected a number above 0")
        if number != 0:
            raise Mistake((*path, name), "expected a number above 0, or 0 for none")


def _check_rules(rules: Rules) -> None:
    for action in policy.Action:
        for at, pattern in enumerate(getattr(rules, action.value)):
            _check_pattern(("rules", action.value, at), pattern)
        key = f"user_{action.value}"
        for at, pattern in enumerate(getattr(rules, key)):
            try:
                AccessRules(user_rules={action: (pattern,)})
            except (BadChannelName, SettingsError) as error:
                raise Mistake(("rules", key, at), error.sentence) from None
    if len(rules.named_keys()) < len(rules.api_keys):
        raise Mistake(("rules", "api_keys"), "expected another name for each key")


def _check_tokens(settings: Settings) -> None:
    for at, path in enumerate(settings.tokens.public_key_files):
        if not Path(path).is_file():
            where = ("tokens", "public_key_files", at)
            raise Mistake(where, f"expected a PEM file, and {path!r} is not a file")
    try:
        settings.tokens.verifier(settings.limits)
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise Mistake(("tokens",), str(error)) from None


def _is_web_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        return not text or (url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0)
    except ValueError:
        return False


def _check_webhooks(webhooks: Webhooks) -> None:
    for kind in KINDS:
        if not _is_web_address(getattr(webhooks, kind)):
            raise Mistake(("webhooks", kind), "expected an address that begins with http:// or https://")
    if not 0 < webhooks.timeout_s < math.inf:
        raise Mistake(("webhooks", "timeout_s"), "expected a number above 0")
    for at, line in enumerate(webhooks.static_headers):
        if ":" not in line:
            raise Mistake(("webhooks", "static_headers", at), "expected NAME: VALUE")
    try:
        webhooks.settings()
    except SettingsError as error:
        raise Mistake(("webhooks",), error.sentence) from None


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
