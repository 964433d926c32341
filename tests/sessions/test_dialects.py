from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from everywire.codecs.centrifuge.messages import (
    Command,
    Empty,
    MessagePush,
    Push,
    Reply,
    RpcResult,
)
from everywire.codecs.centrifuge.protobuf_form import decode_message, split
from everywire.codecs.lines import LineSplitter
from everywire.codecs.sse_decoder import SseDecoder
from everywire.core.errors import BadRequest
from everywire.core.publication import Publication
from everywire.hub.interfaces import Item
from everywire.sessions import dialects
from everywire.sessions.dialect import Dialect
from everywire.sessions.dialects import MessagesDialect, StreamDialect
from tests.codecs.centrifuge.drawing import comparable, publications, replies

ALL: dict[str, Dialect] = {name: getattr(dialects, name) for name in dialects.__all__ if name.isupper()}
TWO_WAY = [one for one in ALL.values() if not one.is_one_way]
TEXT = [one for one in TWO_WAY if not one.is_binary]


def read(dialect: Dialect, payload: Any) -> list[dict[str, Any]]:
    """Take a payload apart as clients do: JSON objects, or Protobuf messages as such."""
    if isinstance(dialect, MessagesDialect):
        assert all(binary is dialect.is_binary for binary, _ in payload)
        parts = [data for _, data in payload]
    else:
        assert isinstance(dialect, StreamDialect)
        parts = [payload]
    if dialect.is_binary:
        return [comparable(decode_message(one, Reply)) for part in parts for one in split(part, 1_000)]
    if "sse" in dialect.name:
        return [json.loads(event.data) for event in SseDecoder().receive_data(b"".join(parts))]
    if isinstance(dialect, MessagesDialect):
        return [json.loads(line) for part in parts for line in part.split(b"\n")]
    return [json.loads(line) for line in LineSplitter().receive_data(b"".join(parts))]


def test_each_has_a_name_of_its_own_and_is_no_plain_encoder() -> None:
    assert len({one.name for one in ALL.values()}) == len(ALL) == 14
    for one in ALL.values():
        assert not (one.once or one.tells_gaps or one.wants_positions or one.beats_always)


@pytest.mark.parametrize("dialect", TEXT, ids=lambda one: one.name)
@settings(max_examples=25)
@given(sent=st.lists(replies(False), min_size=1, max_size=20))
def test_json_replies_are_read_as_they_were_written(dialect: Dialect, sent: list[Reply]) -> None:
    alone = [read(dialect, dialect.payload([one]))[0] for one in sent]
    assert read(dialect, dialect.payload(sent)) == alone
    assert alone == [json.loads(msgspec.json.encode(one)) for one in sent]


@pytest.mark.parametrize("dialect", [one for one in TWO_WAY if one.is_binary], ids=lambda one: one.name)
@settings(max_examples=25)
@given(sent=st.lists(replies(True), min_size=1, max_size=20))
def test_protobuf_replies_are_read_as_they_were_written(dialect: Dialect, sent: list[Reply]) -> None:
    assert read(dialect, dialect.payload(sent)) == [comparable(one) for one in sent]


@pytest.mark.parametrize("dialect", ALL.values(), ids=ALL)
@settings(max_examples=25)
@given(published=st.lists(publications(), min_size=1, max_size=20))
def test_publications_are_pushes(dialect: Dialect, published: list[Publication]) -> None:
    seen = read(dialect, dialect.encode([Item("a", one, "") for one in published], ""))
    assert len(seen) == len(published)
    for told, publication in zip(seen, published, strict=True):
        push = told if dialect.is_one_way else told["push"]
        assert push["channel"] == "a"
        assert push["pub"].get("offset", 0) == publication.offset
        if dialect.is_binary:
            assert push["pub"]["data"] == publication.data
        elif publication.is_json:
            assert push["pub"]["data"] == json.loads(publication.data)
        else:
            assert push["pub"]["data"]["content_type"] == publication.content_type


@pytest.mark.parametrize("dialect", ALL.values(), ids=ALL)
def test_a_push_and_a_ping(dialect: Dialect) -> None:
    push = Push(message=MessagePush(data=Raw(b'"hi"')))
    (told,) = read(dialect, dialect.push(push))
    if dialect.is_binary:
        assert told["push"]["message"]["data"] == b'"hi"'
        assert read(dialect, dialect.ping()) == [comparable(Reply())]
    else:
        bare = {"message": {"data": "hi"}}
        assert told == (bare if dialect.is_one_way else {"push": bare})
        assert read(dialect, dialect.ping()) == [{}]


@pytest.mark.parametrize("dialect", ALL.values(), ids=ALL)
def test_nothing_is_nothing(dialect: Dialect) -> None:
    assert not dialect.payload([])


def test_websocket_messages_hold_sixteen_replies_and_not_too_many_bytes() -> None:
    sent = [Reply(id=n, publish=Empty()) for n in range(1, 41)]
    messages = dialects.WEBSOCKET_JSON.payload(sent)
    assert [len(data.split(b"\n")) for _, data in messages] == [16, 16, 8]
    large = [Reply(id=n, rpc=RpcResult(data=Raw(b'"%s"' % (b"x" * 40_000)))) for n in (1, 2, 3)]
    assert len(dialects.WEBSOCKET_JSON.payload(large)) == 3
    assert len(dialects.WEBSOCKET_PROTOBUF.payload(large)) == 3


def test_a_one_way_websocket_has_one_push_in_a_message() -> None:
    items = [Item("a", Publication(n, b"1", 0), "") for n in range(3)]
    assert len(dialects.UNI_WEBSOCKET.encode(items, "")) == 3


@given(published=publications())
def test_http_streams_are_ascii(published: Publication) -> None:
    for dialect in (dialects.HTTP_STREAM_JSON, dialects.UNI_HTTP_STREAM):
        assert dialect.encode([Item("a", published, "")], "").isascii()


def test_characters_beyond_the_first_plane_are_pairs() -> None:
    publication = Publication(1, '"a\u00e4\u20ac\U0001d11e\U0001f600b"'.encode(), 0)
    told = dialects.HTTP_STREAM_JSON.encode([Item("a", publication, "")], "")
    assert rb'"a\u00e4\u20ac\ud834\udd1e\ud83d\ude00b"' in told


@pytest.mark.parametrize("dialect", [one for one in ALL.values() if one.is_one_way], ids=lambda one: one.name)
def test_one_way_carriers_hear_one_bare_connect(dialect: Dialect) -> None:
    (command,) = dialect.commands(b'{"token":"t"}', 10)
    assert command.id == 1 and command.connect is not None and command.connect.token == "t"
    with pytest.raises(BadRequest):
        dialect.commands(b"", 10)


def test_two_way_carriers_hear_commands() -> None:
    assert dialects.WEBSOCKET_JSON.commands(b"{}\n{}", 2) == [Command(), Command()]
    assert dialects.WEBSOCKET_PROTOBUF.commands(b"\0\0", 2) == [Command(), Command()]
