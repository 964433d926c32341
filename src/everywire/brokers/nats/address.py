"""The address of a NATS engine, and the names of all its streams and subjects.

Of a stream per shard, each holds the channels whose name hashes to it, one subject per channel. A channel's
name is one token of its subject: ``.`` would part it and is written ``/``, which no name has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from zlib import crc32

from everywire.core.errors import SettingsError
from everywire.core.names import check_name

__all__ = ["Names", "NatsAddress", "token"]

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_OPTIONS: Final = frozenset({"prefix", "replicas", "shards", "tls", "creds", "buffer"})
_MAX_SHARDS: Final = 256
_MAX_BUFFER: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where the engine is, and how this system is set up in it."""

    servers: tuple[str, ...]
    """``nats://host:port`` each, without credentials."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: str | None = field(default=None, repr=False)
    tls: bool = False
    prefix: str = "everywire"
    replicas: int = 1
    shards: int = 16
    buffer: int = 0
    """How many publications of a node may wait while the engine is away."""

    @classmethod
    def parse(cls, url: str) -> NatsAddress:
        """Read a URL; `SettingsError` says what is wrong with it, without repeating it."""
        try:
            parts = urlsplit(url)
            options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise SettingsError("expected nats://HOST:PORT[,HOST:PORT…][?prefix=…]") from None
        if parts.scheme != "nats" or parts.path.strip("/") or parts.fragment:
            raise SettingsError("expected nats://HOST:PORT[,HOST:PORT…][?prefix=…]")
        if unknown := sorted(options.keys() - _OPTIONS):
            raise SettingsError(f"nats: does not know the option {unknown[0]}; it knows {sorted(_OPTIONS)}")
        given = {name: values[-1] for name, values in options.items()}
        login, _, hosts = parts.netloc.rpartition("@")
        user, colon, password = login.partition(":")
        prefix = given.get("prefix", "everywire")
        if _PREFIX.match(prefix) is None:
            raise SettingsError("nats: prefix is 1 to 64 of A-Z a-z 0-9 _ -")
        return cls(
            servers=tuple(_server(host) for host in hosts.split(",")),
            user=unquote(user) if colon else None,
            password=unquote(password) if colon else None,
            token=unquote(user) if login and not colon else None,
            creds=given.get("creds"),
            tls=given.get("tls", "0") not in ("0", "false", ""),
            prefix=prefix,
            replicas=_number(given, "replicas", 1, (1, 5)),
            shards=_number(given, "shards", 16, (1, _MAX_SHARDS)),
            buffer=_number(given, "buffer", 0, (0, _MAX_BUFFER)),
        )


def _server(host: str) -> str:
    try:
        parts = urlsplit(f"nats://{host}")
        name, port = parts.hostname, parts.port or 4222
    except ValueError:
        name, port = None, 0
    if not name:
        raise SettingsError("nats: expected HOST:PORT, several with commas between")
    return f"nats://[{name}]:{port}" if ":" in name else f"nats://{name}:{port}"


def _number(given: dict[str, str], name: str, default: int, bounds: tuple[int, int]) -> int:
    least, most = bounds
    try:
        number = int(given.get(name, default))
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(f"nats: {name} is a number from {least} to {most}")
    return number


def token(text: str) -> str:
    """Return a subject's token that stands for any text."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


class Names:
    """The names of streams and subjects under a prefix."""

    __slots__ = ("_channel", "node_all", "prefix", "shards")

    def __init__(self, prefix: str, shards: int) -> None:
        self.prefix = prefix
        self.shards = shards
        self.node_all = f"{prefix}.n.all"
        self._channel = lru_cache(maxsize=65_536)(self._make_channel)

    def _make_channel(self, channel: str) -> tuple[int, str]:
        check_name(channel)  # a space or a line's end would be another message
        return crc32(channel.encode()) % self.shards, channel.replace(".", "/")

    def shard(self, channel: str) -> int:
        """Return the number of a channel's shard."""
        return self._channel(channel)[0]

    def log_stream(self, shard: int) -> str:
        """Return the name of a shard's stream."""
        return f"{self.prefix}_log_{shard}"

    def log_subject(self, channel: str) -> str:
        """Return the subject that a channel's messages are stored under."""
        shard, name = self._channel(channel)
        return f"{self.prefix}.c.{shard}.{name}"

    def hint_subject(self, channel: str) -> str:
        """Return the subject that the engine tells a stored message of a channel under."""
        shard, name = self._channel(channel)
        return f"{self.prefix}.h.{shard}.{name}"

    def channel_of(self, subject: str) -> str:
        """Return the channel of a log's or a hint's subject."""
        return subject.split(".", 3)[3].replace("/", ".")

    @property
    def large_stream(self) -> str:
        """The stream of records that are too large for a hint."""
        return f"{self.prefix}_large"

    def large_subject(self, channel: str) -> str:
        """Return the subject that large records of a channel are stored under."""
        return f"{self.prefix}.b.{self._channel(channel)[1]}"

    @property
    def keys_stream(self) -> str:
        """The stream of keys that were set aside when their messages were trimmed."""
        return f"{self.prefix}_keys"

    def keys_subject(self, channel: str) -> str:
        """Return the subject that a channel's keys are set aside under."""
        return f"{self.prefix}.k.{self._channel(channel)[1]}"

    @property
    def values_stream(self) -> str:
        """The stream of leases and of the store."""
        return f"{self.prefix}_values"

    @property
    def meta_stream(self) -> str:
        """The stream of the store's epoch."""
        return f"{self.prefix}_meta"

    @property
    def meta_subject(self) -> str:
        """The subject of the store's epoch."""
        return f"{self.prefix}.m.epoch"

    @property
    def epoch_subject(self) -> str:
        """The subject that a new epoch is told under."""
        return f"{self.prefix}.n.epoch"

    def node_subject(self, node: str) -> str:
        """Return the subject that one node hears."""
        return f"{self.prefix}.n.to.{token(node)}"
