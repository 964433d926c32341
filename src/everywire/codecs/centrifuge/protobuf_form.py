"""The Protobuf form of the Centrifuge client protocol: messages with their length before them.

A stream or a WebSocket message holds any number of them, each preceded by its length as a varint. Unknown
fields are ignored, as proto3 has it; text that is no UTF-8, lengths that do not fit and messages nested
deeper than a hundred are refused. Fields of bytes may hold anything here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Wire
from msgspec import UNSET, Raw

from everywire.codecs.centrifuge import messages as of
from everywire.codecs.centrifuge.messages import (
    MAX_ENTRIES,
    Command,
    EmulationRequest,
    Message,
    Pub,
    Push,
    Reply,
)
from everywire.codecs.centrifuge.publication import as_pub
from everywire.codecs.centrifuge.schema import CLASSES, TABLE
from everywire.core.errors import BadRequest
from everywire.core.publication import Publication

__all__ = [
    "PING",
    "decode_commands",
    "decode_emulation",
    "decode_message",
    "delimited",
    "encode_message",
    "encode_reply",
    "pub_reply",
    "split",
]

PING: Final = b"\x00"
"""A ping of the server and a pong of the client: an empty message, with its length."""

_T = TypeVar("_T", bound=Message)
_MAX_VARINT_BYTES: Final = 5

_ROOTS: Final[dict[str, type[Message]]] = {
    "Command": Command,
    "Reply": Reply,
    "EmulationRequest": EmulationRequest,
    "Publication": Pub,
    "Push": Push,
}

_STRUCTS: Final[dict[str, type[Message]]] = {
    **_ROOTS,
    "Error": of.ErrorReply,
    "ClientInfo": of.ClientInfo,
    "Join": of.JoinLeave,
    "Leave": of.JoinLeave,
    "Unsubscribe": of.Unsubscribe,
    "Subscribe": of.SubscribePush,
    "Message": of.MessagePush,
    "Connect": of.ConnectResult,
    "Disconnect": of.Disconnect,
    "Refresh": of.RefreshPush,
    "Tick": of.Tick,
    "PresenceChanged": of.Empty,
    "ConnectRequest": of.ConnectRequest,
    "ConnectResult": of.ConnectResult,
    "RefreshRequest": of.RefreshRequest,
    "RefreshResult": of.RefreshResult,
    "SubscribeRequest": of.SubscribeRequest,
    "SubscribeResult": of.SubscribeResult,
    "SubRefreshRequest": of.SubRefreshRequest,
    "SubRefreshResult": of.SubRefreshResult,
    "UnsubscribeRequest": of.Target,
    "UnsubscribeResult": of.Empty,
    "PublishRequest": of.PublishRequest,
    "PublishResult": of.Empty,
    "PresenceRequest": of.Target,
    "PresenceResult": of.PresenceResult,
    "PresenceStatsRequest": of.Target,
    "PresenceStatsResult": of.PresenceStatsResult,
    "StreamPosition": of.StreamPosition,
    "HistoryRequest": of.HistoryRequest,
    "HistoryResult": of.HistoryResult,
    "PingRequest": of.Empty,
    "PingResult": of.Empty,
    "RPCRequest": of.RpcRequest,
    "RPCResult": of.RpcResult,
    "SendRequest": of.SendRequest,
}
"""The schema's names, and our structs for them."""

_NAMES: Final = {struct: name for name, struct in _ROOTS.items()}


class _Plan(NamedTuple):
    """How one message is copied, field by field."""

    struct: type[Message]
    defaults: tuple[tuple[str, object], ...]
    """Fields without a default of their own: what stands for one that is not there."""
    from_wire: dict[str, Callable[[Any], Any]]
    to_wire: tuple[tuple[str, Callable[[Any, str, Any], None]], ...]
    """Fields, and how each is written."""


def _same(value: Any) -> Any:
    return value


def _reader(message: str, field: str) -> Callable[[Any], Any]:
    """Return what reads a field's value."""
    row = TABLE[message][field]
    element = row.element
    if row.is_list:
        return lambda values: [_from_wire(element, value) for value in values]
    if row.is_map:
        if row.is_message:
            return lambda values: _map_from_wire(element, values)
        return dict
    if row.is_message:
        return lambda value: _from_wire(element, value)
    return Raw if element == "bytes" else _same


def _writer(message: str, field: str) -> Callable[[Any, str, Any], None]:
    """Return what writes a field's value into a message."""
    row = TABLE[message][field]
    element = row.element
    if row.is_list:

        def write_list(wire: Any, name: str, values: Any) -> None:
            added = getattr(wire, name)
            for value in values:
                _to_wire(element, value, added.add())

        return write_list
    if row.is_map:
        is_message = row.is_message

        def write_map(wire: Any, name: str, values: Any) -> None:
            entries = getattr(wire, name)
            for key, value in values.items():
                if is_message:
                    _to_wire(element, value, entries[key])
                else:
                    entries[key] = value

        return write_map
    if row.is_message:

        def write_message(wire: Any, name: str, value: Any) -> None:
            inner = getattr(wire, name)
            inner.SetInParent()
            _to_wire(element, value, inner)

        return write_message
    if element == "bytes":
        return lambda wire, name, value: setattr(wire, name, bytes(value))
    return setattr


def _plan(message: str) -> _Plan:
    struct = _STRUCTS[message]
    names = [name for name in struct.__struct_fields__ if name in TABLE[message]]
    required = struct.__struct_fields__[: len(struct.__struct_fields__) - len(struct.__struct_defaults__)]
    zeros = {"uint32": 0, "string": ""}
    defaults = [(name, zeros.get(TABLE[message][name].element)) for name in required]
    return _Plan(
        struct,
        tuple(defaults),
        {name: _reader(message, name) for name in names},
        tuple((name, _writer(message, name)) for name in names),
    )


_PLANS: Final = {message: _plan(message) for message in TABLE}


def _from_wire(message: str, wire: Wire) -> Message:
    plan = _PLANS[message]
    values: dict[str, Any] = dict(plan.defaults)
    from_wire = plan.from_wire
    for field, value in wire.ListFields():
        read = from_wire.get(field.name)
        if read is not None:
            values[field.name] = read(value)
    for name, value in plan.defaults:
        if values[name] is None and value is None:
            raise BadRequest(f"{message} has {name}")
    return plan.struct(**values)


def _to_wire(message: str, struct: Message, wire: Wire) -> None:
    for name, write in _PLANS[message].to_wire:
        value = getattr(struct, name)
        # Zero values are left out; a submessage is there or not, whatever it holds.
        if value is not None and value is not UNSET and value != 0 and value != "":
            write(wire, name, value)


def _map_from_wire(element: str, values: Mapping[str, Wire]) -> dict[str, Message]:
    if len(values) > MAX_ENTRIES:
        raise BadRequest(f"a map has at most {MAX_ENTRIES} entries")
    return {key: _from_wire(element, values[key]) for key in values}


def decode_message(data: bytes, struct: type[_T]) -> _T:
    """Decode one message without its length; raise `BadRequest` when it is none."""
    name = _NAMES[struct]
    try:
        wire = CLASSES[name].FromString(data)
    except DecodeError as error:
        raise BadRequest(f"this is no message of the protocol ({str(error)[:100]})") from None
    return _from_wire(name, wire)  # type: ignore[return-value]


def encode_message(struct: Message) -> bytes:
    """Encode one message without its length."""
    name = _NAMES[type(struct)]
    wire = CLASSES[name]()
    _to_wire(name, struct, wire)
    encoded: bytes = wire.SerializeToString()
    return encoded


def decode_commands(data: bytes, max_commands: int) -> list[Command]:
    """Decode commands, each with its length before it; raise `BadRequest` for none or too many."""
    return [decode_message(part, Command) for part in split(data, max_commands)]


def decode_emulation(data: bytes) -> tuple[str, str, bytes]:
    """Decode what comes by another request (without a length): node, session, and the commands."""
    request = decode_message(data, EmulationRequest)
    if request.data is UNSET:
        raise BadRequest("an emulation request has data")
    return request.node, request.session, bytes(request.data)


def split(data: bytes, max_messages: int) -> list[bytes]:
    """Take messages apart by their lengths; raise `BadRequest` when these do not fit."""
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        if len(parts) >= max_messages:
            raise BadRequest(f"more than {max_messages} commands in one message")
        size, at = _length(data, at)
        if size > len(data) - at:
            raise BadRequest("a message is shorter than its length says")
        parts.append(data[at : at + size])
        at += size
    if not parts:
        raise BadRequest("there is no command in it")
    return parts


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Read a varint; return it, and where what follows begins."""
    value = 0
    for index, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise BadRequest("a length is no varint of this protocol")


def delimited(message: bytes) -> bytes:
    """Put a message's length before it."""
    size = len(message)
    if size < 0x80:
        return bytes((size,)) + message
    head = bytearray()
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + message


def encode_reply(reply: Reply) -> bytes:
    """Encode a reply, with its length before it."""
    return delimited(encode_message(reply))


def pub_reply(channel: str, publication: Publication) -> bytes:
    """Encode the push of a publication as a reply, with its length before it."""
    return encode_reply(Reply(push=Push(channel=channel, pub=as_pub(publication, True))))
