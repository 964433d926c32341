from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.centrifuge import json_form
from everywire.codecs.centrifuge.messages import (
    MAX_ENTRIES,
    ClientInfo,
    Command,
    JoinLeave,
    PresenceResult,
    Push,
    Reply,
)
from everywire.codecs.centrifuge.publication import as_pub
from everywire.core.errors import BadRequest
from everywire.core.publication import Publication
from tests.codecs.centrifuge.drawing import commands, comparable, publications, replies


@given(st.lists(commands(False), min_size=1, max_size=4), st.booleans())
def test_commands_come_back_as_they_were(sent: list[Command], ends: bool) -> None:
    data = b"\n".join([msgspec.json.encode(command) for command in sent]) + (b"\n" if ends else b"")
    assert comparable(json_form.decode_commands(data, 4)) == comparable(sent)


@given(replies(False))
def test_replies_come_back_as_they_were(reply: Reply) -> None:
    data = json_form.encode_reply(reply)
    assert b"\n" not in data and b"\r" not in data
    assert comparable(msgspec.json.decode(data, type=Reply)) == comparable(reply)


@given(publications())
def test_the_fast_path_says_what_the_struct_says(publication: Publication) -> None:
    slow = json_form.encode_push(Push(channel="a.b", pub=as_pub(publication, False)))
    assert json.loads(json_form.pub_push("a.b", publication)) == json.loads(slow)


@given(st.binary(max_size=60), st.integers(0, 3))
def test_nothing_but_the_documented_error(data: bytes, max_commands: int) -> None:
    for decode in (
        lambda: json_form.decode_commands(data, max_commands),
        lambda: json_form.decode_connect(data),
        lambda: json_form.decode_emulation(data),
    ):
        try:
            decode()
        except BadRequest:
            pass


@given(st.lists(commands(False), min_size=1, max_size=2), st.data())
def test_broken_commands_raise_nothing_else(sent: list[Command], data: st.DataObject) -> None:
    text = bytearray(b"\n".join([msgspec.json.encode(command) for command in sent]))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    try:
        json_form.decode_commands(bytes(text), 9)
    except BadRequest:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b" \n\t\n",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'{"id":1}{"id":2}',
        b'{"id":-1}',
        b'{"id":4294967296}',
        b'{"id":"1"}',
        b'{"id":1,"connect":[]}',
        b'{"id":1,"subscribe":{"offset":-1}}',
        b'{"id":1,"connect":{"name":"\xff"}}',
        b'{"id":1,"rpc":{"data":"\xff"}}',
        b'{"id":1,"rpc":{"data":}}',
        b'{"id":1,"rpc":{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ],
)
def test_what_is_no_command(data: bytes) -> None:
    with pytest.raises(BadRequest):
        json_form.decode_commands(data, 10)


def test_as_many_commands_as_allowed() -> None:
    assert len(json_form.decode_commands(b'{"id":1}\n' * 3, 3)) == 3
    with pytest.raises(BadRequest):
        json_form.decode_commands(b'{"id":1}\n' * 3 + b'{"id":4}', 3)
    with pytest.raises(BadRequest):
        json_form.decode_commands(b"\n" * 4, 3)


def test_a_pong_is_an_empty_command() -> None:
    assert json_form.decode_commands(json_form.PING, 1) == [Command()]


def test_unknown_fields_and_nulls_are_fields_that_are_not_there() -> None:
    (command,) = json_form.decode_commands(
        b'{"id":1,"new":[1],"connect":{"token":null,"name":null,"x":{"y":null},"data":null,'
        b'"subs":{"a":{"epoch":null,"offset":2,"data":null},"b":null}}}',
        1,
    )
    assert command.connect is not None
    assert (command.connect.token, command.connect.name) == ("", "")
    assert bytes(command.connect.data) == b"null"  # type: ignore[arg-type]
    assert list(command.connect.subs) == ["a"]
    sub = command.connect.subs["a"]
    assert (sub.epoch, sub.offset, bytes(sub.data)) == ("", 2, b"null")  # type: ignore[arg-type]


def test_nulls_are_not_looked_for_without_end() -> None:
    """A message of 1 MiB with one ``null`` in it held the event loop for 0.3 s."""
    for members in (MAX_ENTRIES - 10, MAX_ENTRIES):
        subs = ",".join(f'"{number}":{{}}' for number in range(1, members))
        text = f'{{"id":1,"connect":{{"subs":{{"0":{{"epoch":null}},{subs}}}}}}}'.encode()
        if members < MAX_ENTRIES:
            (command,) = json_form.decode_commands(text, 1)
            assert command.connect is not None and len(command.connect.subs) == members
        else:
            with pytest.raises(BadRequest):
                json_form.decode_commands(text, 1)


def test_data_keeps_its_digits() -> None:
    text = b'{"n":1.10,"big":123456789012345678901234567890, "e":1E400}'
    (command,) = json_form.decode_commands(b'{"id":1,"publish":{"channel":"a","data":%s}}' % text, 1)
    assert command.publish is not None
    assert bytes(command.publish.data) == text  # type: ignore[arg-type]


def test_what_clients_read_without_asking_is_always_there() -> None:
    join = Reply(push=Push(channel="a", join=JoinLeave(info=ClientInfo())))
    assert json.loads(json_form.encode_reply(join))["push"]["join"] == {"info": {"user": "", "client": ""}}
    empty = Reply(id=1, presence=PresenceResult())
    assert json.loads(json_form.encode_reply(empty)) == {"id": 1, "presence": {"presence": {}}}


def test_a_bare_connect_request() -> None:
    assert json_form.decode_connect(b"null") == json_form.decode_connect(b" {} \n")
    assert json_form.decode_connect(b'{\n"token": "t"\n}').token == "t"
    with pytest.raises(BadRequest):
        json_form.decode_connect(b"")


def test_commands_that_come_by_another_request() -> None:
    text = '{"id":1,"rpc":{"method":"ä"}}\n{}'
    body = json.dumps({"session": "s", "node": "n", "data": text})
    assert json_form.decode_emulation(body.encode()) == ("n", "s", text.encode())
    for wrong in ({}, {"data": {}}, {"data": None}, {"data": 1}, {"data": text, "session": 1}):
        with pytest.raises(BadRequest):
            json_form.decode_emulation(json.dumps(wrong).encode())


def test_binary_data_is_base64_and_an_event_a_tag() -> None:
    publication = Publication(1, b"\0\xff", 5, "image/png", "frame", {"event": "lost", "k": "v"})
    assert json.loads(json_form.pub_object(publication)) == {
        "data": {"data_base64": "AP8=", "content_type": "image/png"},
        "offset": 1,
        "tags": {"event": "frame", "k": "v"},
        "time": 5,
    }
