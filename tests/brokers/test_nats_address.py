"""Addresses of NATS, and the names of streams and subjects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.brokers.nats.address import Names, NatsAddress
from everywire.core.errors import BadChannelName, SettingsError


def test_an_address_is_read() -> None:
    found = NatsAddress.parse("nats://ann:p%40ss@one:4333,two,[::1]:4?prefix=p&replicas=3&shards=4&tls=1&buffer=9")
    assert found.servers == ("nats://one:4333", "nats://two:4222", "nats://[::1]:4")
    assert (found.user, found.password, found.token) == ("ann", "p@ss", None)
    assert (found.prefix, found.replicas, found.shards, found.tls, found.buffer) == ("p", 3, 4, True, 9)
    assert NatsAddress.parse("nats://secret@one").token == "secret"
    assert NatsAddress.parse("nats://one").servers == ("nats://one:4222",)


def test_no_secret_is_in_its_text() -> None:
    for url in ("nats://ann:hunter2@one", "nats://hunter2@one", "nats://one?creds=/hunter2"):
        assert "hunter2" not in repr(NatsAddress.parse(url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://one",
        "nats://",
        "nats://one:port",
        "nats://one,,two",
        "nats://one/path",
        "nats://hunter2@one?shards=0",
        "nats://hunter2@one?replicas=many",
        "nats://hunter2@one?buffer=-1",
        "nats://hunter2@one?prefix=a.b",
        "nats://hunter2@one?unknown=1",
        "nats://hunter2@one?%zz",
    ],
)
def test_what_is_wrong_is_said_without_secrets(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        NatsAddress.parse(url)
    assert "hunter2" not in str(caught.value)


@given(st.text("abcXYZ019._:~@$#=+-", min_size=1, max_size=60))
def test_a_channel_is_one_token_and_comes_back(channel: str) -> None:
    names = Names("p", 16)
    for subject in (names.log_subject(channel), names.hint_subject(channel)):
        assert len(subject.split(".")) == 4
        assert names.channel_of(subject) == channel
        assert not set(subject) & set(" \t\r\n*>")
    assert 0 <= names.shard(channel) < 16


def test_what_is_no_name_never_becomes_a_subject() -> None:
    for channel in ("a b", "a\r\nPUB x 1", "a*", ">", ""):
        with pytest.raises(BadChannelName):
            Names("p", 1).log_subject(channel)
