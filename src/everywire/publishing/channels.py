"""The settings of channels, kept in the broker's store for those who publish straight to it.

Whoever appends trims the log. A process that knew nothing of the servers' windows would cut them to the
default one, so every server leaves its table where publishers find it. All servers of a broker have the same;
of several the one that started last counts.
"""

from __future__ import annotations

from typing import Final

import msgspec

from everywire.brokers.base import Store
from everywire.core.settings import ChannelSettings, SettingsTable

__all__ = ["find_channels", "keep_channels"]

_KEY: Final = "publishing/channels"
_TTL_S: Final = 10 * 365 * 86_400.0


class _Table(msgspec.Struct):
    rows: list[tuple[str, ChannelSettings]]
    default: ChannelSettings


_decode: Final = msgspec.json.Decoder(_Table).decode


async def keep_channels(store: Store, channels: SettingsTable) -> None:
    """Leave a server's table in the store."""
    table = _Table(list(channels.rows), channels.default)
    await store.put(_KEY, msgspec.json.encode(table), _TTL_S)


async def find_channels(store: Store) -> SettingsTable | None:
    """Return the servers' table; None when no server has left one that can be read here."""
    found = await store.get(_KEY)
    if found is None:
        return None
    try:
        table = _decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # of another version
    return SettingsTable(table.rows, table.default)
