"""Addresses of Redis."""

from __future__ import annotations

import pytest

from everywire.brokers.redis.address import Address, Names
from everywire.core.errors import SettingsError


def test_one_server() -> None:
    address = Address.from_url("redis://user:p%40ss@redis.example:7000/3?prefix=app&buffer=100")
    assert (address.kind, address.places, address.db) == ("single", (("redis.example", 7000),), 3)
    assert (address.username, address.password) == ("user", "p@ss")
    assert (address.prefix, address.buffer, address.is_tls) == ("app", 100, False)
    assert Address.from_url("rediss://[::1]").places == (("::1", 6379),)
    assert Address.from_url("rediss://h").is_tls


def test_sentinels_and_clusters() -> None:
    sentinel = Address.from_url("redis+sentinel://a:1,b/main?db=2&sentinel_password=s")
    assert (sentinel.kind, sentinel.places) == ("sentinel", (("a", 1), ("b", 26379)))
    assert (sentinel.master, sentinel.db, sentinel.sentinel_password) == ("main", 2, "s")
    cluster = Address.from_url("redis+cluster://:secret@a:1,b:2?tls=1")
    assert (cluster.kind, cluster.places, cluster.password) == ("cluster", (("a", 1), ("b", 2)), "secret")
    assert cluster.is_tls


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis://",
        "redis://h:port",
        "redis://h/x",
        "redis://h?prefix={a}",
        "redis://h?what=1",
        "redis://h?buffer=-1",
        "redis+sentinel://h",
        "redis+cluster://h/1",
        "redis+cluster://a,,b",
    ],
)
def test_what_is_no_address_is_told_without_its_secrets(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Address.from_url(url.replace("://", "://user:secret@", 1))
    assert "secret" not in str(caught.value)


def test_no_secret_is_shown() -> None:
    address = Address.from_url("redis+sentinel://user:secret@h:1/main?sentinel_password=other")
    assert address.shown == "h:1/main"
    for text in (repr(address), str(address)):
        assert "secret" not in text
        assert "other" not in text


def test_all_keys_of_a_channel_share_a_slot_and_none_is_taken_for_ours() -> None:
    names = Names(Address.from_url("redis+cluster://h"))
    slots = {names.slot(name) for name in (names.meta("a"), names.subject("a"), names.meta("a")[:-1] + "s")}
    assert len(slots) == 1
    assert len({names.slot(name) for name in (names.store, names.runs, names.channels)}) == 1
    assert "/" not in names.meta("A-Za-z0-9._:~@$#=+-").replace("everywire", "")
    assert names.group("a}b") != names.group("a%7Db")
