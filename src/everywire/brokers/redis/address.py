"""Addresses of Redis: one server, a Sentinel set, a cluster; and the names of keys and subjects there.

* ``redis://[user:password@]host:port/db`` and ``rediss://…`` (TLS)
* ``redis+sentinel://[user:password@]host:port,host:port/name`` asks the Sentinels who is the master
* ``redis+cluster://[user:password@]host:port,host:port`` learns the rest from any of them

Query: ``prefix=`` of all names (``everywire``), ``buffer=N`` publications that wait here while Redis is away
(0), ``db=``, ``tls=1`` and ``ca=FILE`` for the last two forms, ``sentinel_password=``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis.crc import key_slot

from everywire.core.errors import SettingsError

__all__ = ["Address", "Names", "Place"]

Place = tuple[str, int]
"""Where a server is: host and port."""

_KINDS: Final = {
    "redis": "single",
    "rediss": "single",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
_PREFIX: Final = re.compile(r"[A-Za-z0-9._:\-]{1,64}\Z")
_KNOWN: Final = frozenset({"prefix", "buffer", "db", "tls", "ca", "sentinel_password"})


@dataclass(frozen=True, slots=True)
class Address:
    """What a broker's URL says; neither ``repr`` nor `shown` tells a secret."""

    kind: str
    """``single``, ``sentinel`` or ``cluster``."""
    places: tuple[Place, ...]
    master: str = ""
    """What the Sentinels call the set."""
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    ca_file: str | None = None
    prefix: str = "everywire"
    buffer: int = 0

    @classmethod
    def from_url(cls, url: str) -> Address:
        """Read a URL; `SettingsError` when it is none of the forms above."""
        parts = urlsplit(url)
        kind = _KINDS.get(parts.scheme)
        if kind is None:
            raise SettingsError(f"a broker's address begins with one of {', '.join(_KINDS)}")
        user, _, hosts = parts.netloc.rpartition("@")
        username, has_password, password = user.partition(":")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := set(query) - _KNOWN:
            raise SettingsError(f"a Redis address takes no {sorted(unknown)[0]}=")
        path = unquote(parts.path.strip("/"))
        if kind == "sentinel" and not path:
            raise SettingsError(
                "a Sentinel address ends with the name of the set: redis+sentinel://host:port/name"
            )
        prefix = query.get("prefix", "everywire")
        if _PREFIX.match(prefix) is None:
            raise SettingsError("prefix= is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
        db = _number("db", query.get("db") or (path if kind == "single" else "") or "0")
        if kind == "cluster" and (path or db):
            raise SettingsError("a Redis cluster has one database; its address ends after the hosts")
        return cls(
            kind,
            tuple(_place(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",")),
            path if kind == "sentinel" else "",
            db,
            unquote(username) or None,
            unquote(password) if has_password else None,
            query.get("sentinel_password") or None,
            parts.scheme == "rediss" or query.get("tls") == "1",
            query.get("ca") or None,
            prefix,
            _number("buffer", query.get("buffer", "0")),
        )

    @property
    def shown(self) -> str:
        """The address as logs may say it."""
        return ",".join(f"{host}:{port}" for host, port in self.places) + (self.master and f"/{self.master}")


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise SettingsError(f"{name}= of a Redis address is a number")
    return int(text)


def _place(text: str, port: int) -> Place:
    try:
        parts = urlsplit("//" + text)
        if not parts.hostname:
            raise ValueError
        return parts.hostname, parts.port or port
    except ValueError:
        raise SettingsError("a Redis address names its servers as host:port") from None


class Names:
    """What keys and subjects are called. All keys of a channel share one tag, so that they share a slot."""

    __slots__ = ("all", "channels", "is_cluster", "prefix", "runs", "store")

    def __init__(self, address: Address) -> None:
        prefix = self.prefix = address.prefix
        self.is_cluster = address.kind == "cluster"
        # No channel's name has a slash, so nothing of ours is taken for a channel's.
        self.store = f"{prefix}:{{/store}}"
        self.runs = f"{prefix}:{{/store}}r"
        self.channels = f"{prefix}:{{/store}}c"
        self.all = f"{prefix}:{{/all}}h"

    def meta(self, channel: str) -> str:
        """Return the key of what is known of a channel; the scripts make its other keys from it."""
        return f"{self.prefix}:{{{channel}}}m"

    def subject(self, channel: str) -> str:
        """Return what a channel's hints are published on."""
        return f"{self.prefix}:{{{channel}}}h"

    def node(self, node: str) -> str:
        """Return what messages to a node are published on."""
        return f"{self.prefix}:{{/n:{quote(node, safe='')}}}h"

    def group(self, group: str) -> str:
        """Return the key of a group's leases."""
        return f"{self.prefix}:{{/g:{quote(group, safe='')}}}"

    def value(self, key: str) -> str:
        """Return the key of a value."""
        return f"{self.prefix}:{{/v:{quote(key, safe='')}}}"

    def slot(self, name: str) -> int:
        """Return the slot of a key or subject; 0 where there are no slots."""
        return int(key_slot(name.encode())) if self.is_cluster else 0
