"""The schema of the Protobuf form, as a table, and the message classes made of it.

The numbers are those of the protocol's published schema (package ``centrifugal.centrifuge.protocol``);
tests compare them with what two client libraries bring along. Fields for what this server does not do
(deltas, map subscriptions, tag filters, dictionaries) are left out, so that they are ignored as unknown,
but for those that have to be refused. Fields of ours have numbers from 1001 on.

The classes live in a pool of their own: a process may use other libraries with the same messages.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message import Message

__all__ = ["CLASSES", "TABLE", "FieldRow"]

PACKAGE: Final = "centrifugal.centrifuge.protocol"

_SCALARS: Final = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}


class FieldRow(NamedTuple):
    """One field: its number, and its type; ``list T`` is repeated, ``map T`` is from strings to T."""

    number: int
    type: str

    @property
    def is_list(self) -> bool:
        """Whether it is repeated."""
        return self.type.startswith("list ")

    @property
    def is_map(self) -> bool:
        """Whether it is a map with strings for keys."""
        return self.type.startswith("map ")

    @property
    def element(self) -> str:
        """The type of one value: a scalar's name or a message's."""
        return self.type.rpartition(" ")[2]

    @property
    def is_message(self) -> bool:
        """Whether a value is a message."""
        return self.element not in _SCALARS


_TEXT: Final = """
Error: code 1 uint32, message 2 string, temporary 3 bool
EmulationRequest: node 1 string, session 2 string, data 3 bytes

Command: id 1 uint32, connect 4 ConnectRequest, subscribe 5 SubscribeRequest,
 unsubscribe 6 UnsubscribeRequest,
 publish 7 PublishRequest, presence 8 PresenceRequest, presence_stats 9 PresenceStatsRequest,
 history 10 HistoryRequest, ping 11 PingRequest, send 12 SendRequest, rpc 13 RPCRequest,
 refresh 14 RefreshRequest, sub_refresh 15 SubRefreshRequest
Reply: id 1 uint32, error 2 Error, push 4 Push, connect 5 ConnectResult, subscribe 6 SubscribeResult,
 unsubscribe 7 UnsubscribeResult, publish 8 PublishResult, presence 9 PresenceResult,
 presence_stats 10 PresenceStatsResult, history 11 HistoryResult, ping 12 PingResult, rpc 13 RPCResult,
 refresh 14 RefreshResult, sub_refresh 15 SubRefreshResult
Push: channel 2 string, pub 4 Publication, join 5 Join, leave 6 Leave, unsubscribe 7 Unsubscribe,
 message 8 Message, subscribe 9 Subscribe, connect 10 Connect, disconnect 11 Disconnect, refresh 12 Refresh,
 tick 1001 Tick, presence_changed 1002 PresenceChanged

ClientInfo: user 1 string, client 2 string, conn_info 3 bytes, chan_info 4 bytes
Publication: data 4 bytes, info 5 ClientInfo, offset 6 uint64, tags 7 map string, time 9 int64
Join: info 1 ClientInfo
Leave: info 1 ClientInfo
Unsubscribe: code 2 uint32, reason 3 string
Subscribe: recoverable 1 bool, epoch 4 string, offset 5 uint64, positioned 6 bool, data 7 bytes
Message: data 1 bytes
Connect: client 1 string, version 2 string, data 3 bytes, subs 4 map SubscribeResult, expires 5 bool,
 ttl 6 uint32, ping 7 uint32, pong 8 bool, session 9 string, node 10 string, time 11 int64
Disconnect: code 1 uint32, reason 2 string
Refresh: expires 1 bool, ttl 2 uint32
Tick: n 1 uint32
PresenceChanged:

ConnectRequest: token 1 string, data 2 bytes, subs 3 map SubscribeRequest, name 4 string, version 5 string,
 headers 6 map string, flag 7 int64, session 1001 string, ticks 1002 uint32
ConnectResult: client 1 string, version 2 string, expires 3 bool, ttl 4 uint32, data 5 bytes,
 subs 6 map SubscribeResult, ping 7 uint32, pong 8 bool, session 9 string, node 10 string, time 11 int64
RefreshRequest: token 1 string
RefreshResult: client 1 string, version 2 string, expires 3 bool, ttl 4 uint32
SubscribeRequest: channel 1 string, token 2 string, recover 3 bool, epoch 6 string, offset 7 uint64,
 data 8 bytes, positioned 9 bool, recoverable 10 bool, join_leave 11 bool, delta 12 string, tf 13 bytes,
 flag 14 int64, type 15 int32
SubscribeResult: expires 1 bool, ttl 2 uint32, recoverable 3 bool, epoch 6 string,
 publications 7 list Publication, recovered 8 bool, offset 9 uint64, positioned 10 bool, data 11 bytes,
 was_recovering 12 bool, has_snapshot 1001 bool
SubRefreshRequest: channel 1 string, token 2 string, type 3 int32
SubRefreshResult: expires 1 bool, ttl 2 uint32
UnsubscribeRequest: channel 1 string
UnsubscribeResult:
PublishRequest: channel 1 string, data 2 bytes, type 3 int32, key 4 string
PublishResult:
PresenceRequest: channel 1 string
PresenceResult: presence 1 map ClientInfo
PresenceStatsRequest: channel 1 string
PresenceStatsResult: num_clients 1 uint32, num_users 2 uint32
StreamPosition: offset 1 uint64, epoch 2 string
HistoryRequest: channel 1 string, limit 7 int32, since 8 StreamPosition, reverse 9 bool
HistoryResult: publications 1 list Publication, epoch 2 string, offset 3 uint64
PingRequest:
PingResult:
RPCRequest: data 1 bytes, method 2 string
RPCResult: data 1 bytes
SendRequest: data 1 bytes
"""
# `tf` is a message in the schema. It is refused unread, and a message looks like bytes.


def _read(text: str) -> dict[str, dict[str, FieldRow]]:
    table: dict[str, dict[str, FieldRow]] = {}
    for line in text.replace("\n ", " ").splitlines():
        if line:
            name, _, fields = line.partition(":")
            rows = (field.split(maxsplit=2) for field in fields.split(",") if field.strip())
            table[name] = {field: FieldRow(int(number), of) for field, number, of in rows}
    return table


TABLE: Final = _read(_TEXT)
"""All messages: field names to rows."""


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, row: FieldRow) -> None:
    field = message.field.add(name=name, number=row.number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if row.is_list or row.is_map:
        field.label = FieldDescriptorProto.LABEL_REPEATED
    if row.is_map:
        # A map is a list of entries (the language guide's "Maps", Backwards Compatibility).
        entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", FieldRow(1, "string"))
        _add_field(entry, "value", FieldRow(2, row.element))
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
    elif row.is_message:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{row.element}"
    else:
        field.type = _SCALARS[row.element]


def _classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="everywire/client.proto", package=PACKAGE, syntax="proto3")
    for name, fields in TABLE.items():
        message = file.message_type.add(name=name)
        for field, row in fields.items():
            _add_field(message, field, row)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in TABLE
    }


CLASSES: Final[dict[str, type[Any]]] = _classes()
"""The message classes, by the schema's names."""
