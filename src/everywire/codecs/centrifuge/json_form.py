"""The JSON form of the Centrifuge client protocol: one object per line.

What clients send is joined by newlines. Unknown fields are ignored, ``null`` is a field that is not there,
and fields of bytes stay the JSON text that they are: numbers keep their digits. Nothing is decoded that is
no UTF-8, has more commands than allowed, or is nested deeper than the decoder goes (about a thousand).

What the server sends has no newline in it, and zero values are left out. Publications are put together by
hand, since their data is JSON text already.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw

from everywire.codecs.centrifuge.messages import (
    MAX_ENTRIES,
    Command,
    ConnectRequest,
    EmulationRequest,
    Push,
    Reply,
)
from everywire.codecs.centrifuge.publication import json_data, tags_of
from everywire.codecs.json_text import dump, flat
from everywire.core.errors import BadRequest
from everywire.core.publication import Publication

__all__ = [
    "PING",
    "decode_commands",
    "decode_connect",
    "decode_emulation",
    "encode_push",
    "encode_reply",
    "pub_object",
    "pub_push",
]

PING: Final = b"{}"
"""A ping of the server, and a pong of the client."""

_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode
_commands = msgspec.json.Decoder(Command)
_connects = msgspec.json.Decoder(ConnectRequest)
_emulations = msgspec.json.Decoder(EmulationRequest)
_texts = msgspec.json.Decoder(str)
_objects = msgspec.json.Decoder(dict[str, Raw])

_NULL: Final = b"null"
_OPAQUE: Final = frozenset({"data", "tf"})
"""Members whose text is the application's own: a ``null`` in them is a value."""
_MAX_LEVELS: Final = 4
"""How deep objects of the protocol itself go: command, request, ``subs``, a channel's request."""


def decode_commands(data: bytes, max_commands: int) -> list[Command]:
    """Decode newline-joined commands; raise `BadRequest` when they are none, or more than allowed."""
    if data.count(b"\n") > max_commands:
        raise BadRequest(f"more than {max_commands} commands in one message")
    _check_text(data)
    commands = [_decoded(_commands, line) for line in data.split(b"\n") if line and not line.isspace()]
    if not commands:
        raise BadRequest("there is no command in it")
    if len(commands) > max_commands:
        raise BadRequest(f"more than {max_commands} commands in one message")
    return commands


def decode_connect(data: bytes) -> ConnectRequest:
    """Decode a bare connect request, as one-way carriers take it; ``null`` is an empty one."""
    _check_text(data)
    text = data.strip()
    return ConnectRequest() if text == _NULL else _decoded(_connects, text)


def decode_emulation(data: bytes) -> tuple[str, str, bytes]:
    """Decode what comes by another request: node, session, and the text of the commands."""
    _check_text(data)
    request = _decoded(_emulations, data)
    if request.data is UNSET:
        raise BadRequest("an emulation request has data")
    try:
        text = _texts.decode(request.data)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"data is a string that holds commands ({str(error)[:100]})") from None
    return request.node, request.session, text.encode("utf-8", "surrogatepass")


def _check_text(data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("this is no UTF-8") from None


def _decoded(decoder: msgspec.json.Decoder[_T], text: bytes) -> _T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        bare = _without_nulls(text)
        if bare == text:
            raise BadRequest(f"this is no message of the protocol ({str(error)[:200]})") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"this is no JSON ({str(error)[:200]})") from None
    try:
        return decoder.decode(bare)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"this is no message of the protocol ({str(error)[:200]})") from None


def _without_nulls(text: bytes, levels: int = _MAX_LEVELS, room: list[int] | None = None) -> bytes:
    """Leave out members that are ``null``: some clients write those that they do not have so.

    ``room`` counts how many more are looked at, at every level together; what has too many stays as it is.
    """
    if not text.lstrip().startswith(b"{") or not levels:
        return text
    room = [MAX_ENTRIES] if room is None else room
    try:
        members = _objects.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
    room[0] -= len(members)
    if room[0] < 0:
        return text
    kept: dict[str, Any] = {}
    for name, raw in members.items():
        if name in _OPAQUE:
            kept[name] = raw
        elif (value := bytes(raw)) != _NULL:
            kept[name] = Raw(_without_nulls(value, levels - 1, room))
    return dump(kept)


def encode_reply(reply: Reply) -> bytes:
    """Encode a reply, on one line."""
    return flat(_encode(reply))


def encode_push(push: Push) -> bytes:
    """Encode a push by itself, as one-way carriers send it."""
    return flat(_encode(push))


def pub_push(channel: str, publication: Publication) -> bytes:
    """Encode the push of a publication by itself."""
    return b'{"channel":"%s","pub":%s}' % (channel.encode("ascii"), pub_object(publication))


def pub_object(publication: Publication) -> bytes:
    """Encode a publication."""
    parts = [b'{"data":', json_data(publication)]
    if publication.info is not None:
        parts.append(b',"info":%s' % flat(publication.info))
    parts.append(b',"offset":%d' % publication.offset)
    tags = tags_of(publication, False)
    if tags:
        parts.append(b',"tags":%s' % dump(tags))
    if publication.time_ms:
        parts.append(b',"time":%d' % publication.time_ms)
    parts.append(b"}")
    return b"".join(parts)
