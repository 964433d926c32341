"""From a broker's address to the broker.

An address names the engine by its scheme: ``memory:``, ``sqlite:`` (with a path, or alone for the state
directory), ``redis://``, ``rediss://``, ``redis+cluster://``, ``redis+sentinel://``, ``nats://``. An engine's
library is imported only when an address asks for it. An address may hold a password, so none is repeated in
an error or a log line; `describe` says of it what may be said.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final
from urllib.parse import quote, urlsplit

from everywire.brokers.base import Broker
from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits
from everywire.core.log import Budget
from everywire.core.settings import SettingsTable

__all__ = ["SCHEMES", "check_address", "describe", "open_broker", "place_address", "scheme_of"]

MEMORY: Final = "memory"

_CLASSES: Final = {
    "sqlite": ("everywire.brokers.sqlite.broker", "SqliteBroker", ""),
    "redis": ("everywire.brokers.redis.broker", "RedisBroker", "redis"),
    "rediss": ("everywire.brokers.redis.broker", "RedisBroker", "redis"),
    "redis+cluster": ("everywire.brokers.redis.broker", "RedisBroker", "redis"),
    "redis+sentinel": ("everywire.brokers.redis.broker", "RedisBroker", "redis"),
    "nats": ("everywire.brokers.nats.broker", "NatsBroker", "nats"),
}
"""Module, class, and the extra that brings its library."""

SCHEMES: Final = (MEMORY, *_CLASSES)


def scheme_of(url: str) -> str:
    """Return the scheme of a broker's address; `SettingsError` for one that is none."""
    scheme, colon, _ = url.partition(":")
    if not colon or scheme.lower() not in SCHEMES:
        raise SettingsError(f"expected a broker's address with one of the schemes {', '.join(SCHEMES)}")
    return scheme.lower()


def check_address(url: str) -> None:
    """Raise `SettingsError` for an address that no broker can have."""
    scheme = scheme_of(url)
    rest = url.partition(":")[2]
    if scheme == MEMORY and rest.strip("/"):
        raise SettingsError("expected memory: alone; it has no address")
    if scheme not in (MEMORY, "sqlite"):
        try:
            has_host = bool(urlsplit(url).netloc.rpartition("@")[2])
        except ValueError:
            has_host = False
        if not has_host:
            raise SettingsError(f"expected {scheme}://HOST:PORT")


def describe(url: str) -> str:
    """Return what a log may say of an address: no user, no password, no query."""
    scheme = scheme_of(url)
    place = urlsplit(url)
    return f"{scheme}:" + (f"//{place.netloc.rpartition('@')[2]}{place.path}" if "//" in url else place.path)


def place_address(url: str, state_dir: str) -> str:
    """Return an address that names no place, ``sqlite:``, with the state directory that was set, so
    that whoever hears of it finds the same file; any other as it is."""
    scheme, _, rest = url.partition(":")
    path, mark, query = rest.partition("?")
    if not state_dir or scheme.lower() != "sqlite" or path not in ("", "//"):
        return url
    return f"sqlite://{quote(os.path.abspath(state_dir))}{mark}{query}"


def open_broker(
    url: str,
    limits: Limits,
    settings: SettingsTable,
    *,
    budget: Budget | None = None,
    node: str | None = None,
) -> Broker:
    """Make the broker of an address; it connects when it is started.

    ``budget`` is for what is kept in this process, ``node`` this node's name, random by default. Raises
    `SettingsError` for an address that is wrong, and when the engine's library is not installed.
    """
    check_address(url)
    scheme = scheme_of(url)
    if scheme == MEMORY:
        return MemoryBroker(limits, settings, budget=budget, node=node)
    module_name, class_name, extra = _CLASSES[scheme]
    try:
        module = importlib.import_module(module_name)
        opened: Any = getattr(module, class_name).from_url(url, limits, settings, node=node)
    except ImportError as error:
        missing = error.name or ""
        if not extra or missing.startswith("everywire"):
            raise
        raise SettingsError(
            f"a broker at {scheme}: needs the library {missing}; pip install 'everywire[{extra}]'"
        ) from None
    broker: Broker = opened
    return broker
