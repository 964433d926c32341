from __future__ import annotations

import pytest
from centrifuge.protocol import client_pb2
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.centrifuge import protobuf_form
from everywire.codecs.centrifuge.messages import MAX_ENTRIES, Command, EmulationRequest, Reply
from everywire.codecs.centrifuge.schema import CLASSES, TABLE
from everywire.core.errors import BadRequest
from everywire.core.publication import Publication
from tests.codecs.centrifuge.drawing import commands, comparable, publications, replies

OURS = 1001
"""Numbers from here on are ours."""

NEWER = {"PublishRequest.type", "PublishRequest.key", "SubRefreshRequest.type", "SubscribeRequest.type"}
"""Fields that the schema got after the library was made; the JavaScript library has them (test_sdk.py)."""


def _encode_commands(sent: list[Command]) -> bytes:
    return b"".join(protobuf_form.delimited(protobuf_form.encode_message(command)) for command in sent)


@given(st.lists(commands(True), min_size=1, max_size=4))
def test_commands_come_back_as_they_were(sent: list[Command]) -> None:
    assert comparable(protobuf_form.decode_commands(_encode_commands(sent), 4)) == comparable(sent)


@given(replies(True))
def test_replies_come_back_as_they_were(reply: Reply) -> None:
    (data,) = protobuf_form.split(protobuf_form.encode_reply(reply), 1)
    assert comparable(protobuf_form.decode_message(data, Reply)) == comparable(reply)


@given(publications())
def test_a_publication(publication: Publication) -> None:
    (data,) = protobuf_form.split(protobuf_form.pub_reply("a.b", publication), 1)
    push = protobuf_form.decode_message(data, Reply).push
    assert push is not None and push.pub is not None
    assert push.channel == "a.b"
    assert bytes(push.pub.data) == publication.data  # type: ignore[arg-type]
    assert (push.pub.offset, push.pub.time) == (publication.offset, publication.time_ms)
    assert (push.pub.info is None) == (publication.info is None)
    expected = dict(publication.tags or {})
    if publication.event is not None:
        expected["event"] = publication.event
    if not publication.is_json:
        expected["content_type"] = publication.content_type
    assert push.pub.tags == expected


@given(st.binary(max_size=60), st.integers(0, 3))
def test_nothing_but_the_documented_error(data: bytes, max_commands: int) -> None:
    for decode in (
        lambda: protobuf_form.decode_commands(data, max_commands),
        lambda: protobuf_form.decode_emulation(data),
    ):
        try:
            decode()
        except BadRequest:
            pass


@given(st.lists(commands(True), min_size=1, max_size=2), st.data())
def test_broken_commands_raise_nothing_else(sent: list[Command], data: st.DataObject) -> None:
    text = bytearray(_encode_commands(sent))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        protobuf_form.decode_commands(bytes(text), 9)
    except BadRequest:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x05\x01",
        b"\x80",
        b"\xff\xff\xff\xff\xff\x01\x00",
        b"\xff\xff\xff\xff\x7f\x08\x01",
        b"\x02\x08\x80",
        b"\x05\x22\x03\x0a\x01\xff",  # a token that is no UTF-8
        b"\x01\x22",
    ],
)
def test_what_is_no_command(data: bytes) -> None:
    with pytest.raises(BadRequest):
        protobuf_form.decode_commands(data, 10)


def test_as_many_commands_as_allowed() -> None:
    assert protobuf_form.decode_commands(protobuf_form.PING * 3, 3) == [Command()] * 3
    with pytest.raises(BadRequest):
        protobuf_form.decode_commands(protobuf_form.PING * 4, 3)


@pytest.mark.parametrize("size", [0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, 70_000])
def test_lengths(size: int) -> None:
    assert protobuf_form.split(protobuf_form.delimited(b"x" * size), 1) == [b"x" * size]


def test_commands_that_come_by_another_request() -> None:
    ours = client_pb2.EmulationRequest(node="n", session="s", data=b"\x00\x00")  # type: ignore[attr-defined]
    assert protobuf_form.decode_emulation(ours.SerializeToString()) == ("n", "s", b"\x00\x00")
    with pytest.raises(BadRequest):
        protobuf_form.decode_emulation(protobuf_form.encode_message(EmulationRequest(node="n")))


def test_a_required_message_that_is_not_there() -> None:
    reply = client_pb2.Reply()  # type: ignore[attr-defined]
    reply.push.join.SetInParent()
    with pytest.raises(BadRequest):
        protobuf_form.decode_message(reply.SerializeToString(), Reply)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_numbers_are_those_of_the_schema(name: str) -> None:
    """A client library brings the schema along; ours is a table, and leaves fields out."""
    ours = CLASSES[name].DESCRIPTOR
    foreign = client_pb2.DESCRIPTOR.message_types_by_name.get(name)
    if foreign is None:
        # Messages that the schema does not have are ours alone.
        assert name in ("Tick", "PresenceChanged")
        return
    taken = {field.number for field in foreign.fields}
    for field in ours.fields:
        if field.number >= OURS:
            assert field.name not in foreign.fields_by_name and field.number not in taken
            continue
        if f"{name}.{field.name}" in NEWER:
            assert field.number not in taken
            continue
        other = foreign.fields_by_name[field.name]
        assert field.number == other.number, field.name
        assert field.is_repeated == other.is_repeated
        if name == "SubscribeRequest" and field.name == "tf":
            assert (field.type, other.type) == (field.TYPE_BYTES, field.TYPE_MESSAGE)
            continue
        assert field.type == other.type, field.name
        if field.message_type is not None:
            assert field.message_type.name == other.message_type.name


@given(st.one_of(commands(True), replies(True)))
def test_a_client_library_reads_the_same_and_writes_the_same(message: Command | Reply) -> None:
    data = protobuf_form.encode_message(message)
    foreign = getattr(client_pb2, type(message).__name__).FromString(data)
    assert foreign.ByteSize() == len(data)  # what it does not know it keeps
    again = protobuf_form.decode_message(foreign.SerializeToString(), type(message))
    assert comparable(again) == comparable(message)


def test_a_map_has_a_bound() -> None:
    """A hundred thousand positions in 1 MiB held the event loop for 0.4 s."""
    wire = CLASSES["Command"]()
    for number in range(MAX_ENTRIES):
        wire.connect.subs[str(number)].SetInParent()
    command = protobuf_form.decode_message(wire.SerializeToString(), Command)
    assert command.connect is not None and len(command.connect.subs) == MAX_ENTRIES
    wire.connect.subs["one more"].SetInParent()
    with pytest.raises(BadRequest, match="entries"):
        protobuf_form.decode_message(wire.SerializeToString(), Command)
