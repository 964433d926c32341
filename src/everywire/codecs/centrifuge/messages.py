"""The messages of the Centrifuge client protocol (version 2), whatever form they travel in.

A client sends commands, the server answers with replies and sends pushes. One struct each, named as in
the protocol's schema; a field that has its zero value is left out, and one that is missing has it. What
the protocol calls bytes is a `Field`: JSON text in the JSON form, any bytes in the Protobuf form.

Extensions of ours, which other clients neither send nor see: ``ConnectRequest.session`` (a polling
client goes on with the session it had), ``ConnectRequest.ticks`` and the push ``tick`` (see
docs/protocol-sessions.md), the push ``presence_changed``, ``SubscribeResult.has_snapshot``.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

__all__ = [
    "MAX_ENTRIES",
    "ClientInfo",
    "Command",
    "ConnectRequest",
    "ConnectResult",
    "Disconnect",
    "Empty",
    "EmulationRequest",
    "ErrorReply",
    "Field",
    "HistoryRequest",
    "HistoryResult",
    "JoinLeave",
    "MessagePush",
    "PresenceResult",
    "PresenceStatsResult",
    "Pub",
    "PublishRequest",
    "Push",
    "RefreshPush",
    "RefreshRequest",
    "RefreshResult",
    "Reply",
    "RpcRequest",
    "RpcResult",
    "SendRequest",
    "StreamPosition",
    "SubRefreshRequest",
    "SubRefreshResult",
    "SubscribePush",
    "SubscribeRequest",
    "SubscribeResult",
    "Target",
    "Tick",
    "Unsubscribe",
]

Field: TypeAlias = Raw | UnsetType
"""A field of bytes; `UNSET` when it is not there."""

Uint32: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Offset: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Numbers that clients send, with the bounds of the schema; an offset is a uint64 there, of which nobody
uses the last bit."""


class Message(Struct, omit_defaults=True, kw_only=True):
    """The root of all messages."""


class Empty(Message):
    """A result or request that says nothing: unsubscribe and publish results, ping."""


MAX_ENTRIES: Final = 10_000
"""Entries of a map in a client's message that are looked at one by one; a session has 128 channels."""


# -- what a client sends ----------------------------------------------------------


class Target(Message):
    """The request of unsubscribe, presence and presence_stats: a channel."""

    channel: str = ""


class SubscribeRequest(Message):
    """Subscribe to a channel; ``recover`` from ``epoch`` and ``offset`` on."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    data: Field = UNSET
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: Field = UNSET
    """A tag filter; refused (107)."""
    flag: Int64 = 0
    """Bit 1: channel compaction (ignored); bit 2: an unrecoverable position is error 112."""
    type: Int32 = 0


class ConnectRequest(Message):
    """Connect; ``subs`` has positions of server-side subscriptions that the client already has."""

    token: str = ""
    data: Field = UNSET
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    flag: Int64 = 0
    session: str = ""
    """Ours, polling only: the session that the last answer named."""
    ticks: Uint32 = 0
    """Ours: how many numbered ticks are wanted behind the reply, to recognise a proxy that holds back."""


class PublishRequest(Message):
    """Publish data to a channel."""

    channel: str = ""
    data: Field = UNSET
    type: Int32 = 0
    key: str = ""


class StreamPosition(Message):
    """Where a reader stands in a channel."""

    offset: Offset = 0
    epoch: str = ""


class HistoryRequest(Message):
    """Read what is kept: ``limit`` 0 is the position alone, -1 everything."""

    channel: str = ""
    limit: Int32 = 0
    since: StreamPosition | None = None
    reverse: bool = False


class RpcRequest(Message):
    """Call a method of the application."""

    data: Field = UNSET
    method: str = ""


class SendRequest(Message):
    """A message to the application, without a reply."""

    data: Field = UNSET


class RefreshRequest(Message):
    """A new connection token."""

    token: str = ""


class SubRefreshRequest(Message):
    """A new subscription token."""

    channel: str = ""
    token: str = ""
    type: Int32 = 0


class Command(Message):
    """What a client sends: an id (none for ``send`` and for a pong) and one request."""

    id: Uint32 = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: Target | None = None
    publish: PublishRequest | None = None
    presence: Target | None = None
    presence_stats: Target | None = None
    history: HistoryRequest | None = None
    ping: Empty | None = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class EmulationRequest(Message):
    """What a client of a one-way stream sends by another request: commands in ``data``."""

    node: str = ""
    session: str = ""
    data: Field = UNSET
    """In the JSON form a JSON string that holds the text of the commands; in Protobuf their bytes."""


# -- what the server sends -----------------------------------------------------------


class ErrorReply(Message, omit_defaults=False):
    """Why a command failed; code and message are always there."""

    code: int
    message: str
    temporary: bool | UnsetType = UNSET


class ClientInfo(Message, omit_defaults=False):
    """Who a client is: user and client id are always there in JSON, even when empty."""

    user: str = ""
    client: str = ""
    conn_info: Field = UNSET
    chan_info: Field = UNSET


class Pub(Message):
    """A publication as clients see it. (Its name in the schema is Publication.)"""

    data: Field = UNSET
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] = {}
    time: int = 0


class SubscribeResult(Message):
    """What a subscription stands at, and with ``recovered`` all that was missed."""

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Pub] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Field = UNSET
    was_recovering: bool = False
    has_snapshot: bool = False
    """Ours: ``data`` is a snapshot of the channel as of ``offset``."""


class ConnectResult(Message):
    """A session that is open; also the push ``connect`` of one-way carriers."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0
    data: Field = UNSET
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0


class PresenceResult(Message, omit_defaults=False):
    """Who is in a channel, by client id."""

    presence: dict[str, ClientInfo] = {}


class PresenceStatsResult(Message, omit_defaults=False):
    """How many are in a channel."""

    num_clients: int = 0
    num_users: int = 0


class HistoryResult(Message, omit_defaults=False):
    """Publications that are kept, and where the channel stands."""

    publications: list[Pub] = []
    epoch: str = ""
    offset: int = 0


class RpcResult(Message):
    """What a method of the application returned."""

    data: Field = UNSET


class RefreshResult(Message):
    """How long the new connection token is good for."""

    client: str = ""
    version: str = ""
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Message):
    """How long the new subscription token is good for."""

    expires: bool = False
    ttl: int = 0


class JoinLeave(Message, omit_defaults=False):
    """The pushes join and leave."""

    info: ClientInfo


class Unsubscribe(Message, omit_defaults=False):
    """The push that ends a subscription."""

    code: int
    reason: str


class Disconnect(Message, omit_defaults=False):
    """The push that ends a connection which has no close frame."""

    code: int
    reason: str


class MessagePush(Message):
    """A message of the application to this client."""

    data: Field = UNSET


class SubscribePush(Message):
    """The push that begins a server-side subscription."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Field = UNSET


class RefreshPush(Message):
    """The push that says until when the connection is good."""

    expires: bool = False
    ttl: int = 0


class Tick(Message, omit_defaults=False):
    """Ours: a numbered sign of life behind the connect reply, to clients that asked for ``ticks``."""

    n: int


class Push(Message):
    """What nobody asked for at this moment; all but ``pub``s of one channel are written on their own."""

    channel: str = ""
    pub: Pub | None = None
    join: JoinLeave | None = None
    leave: JoinLeave | None = None
    unsubscribe: Unsubscribe | None = None
    message: MessagePush | None = None
    subscribe: SubscribePush | None = None
    connect: ConnectResult | None = None
    disconnect: Disconnect | None = None
    refresh: RefreshPush | None = None
    tick: Tick | None = None
    presence_changed: Empty | None = None
    """Ours: more came and went in the channel than was told one by one; read presence again."""


class Reply(Message):
    """An answer to one command, a push, or, with nothing in it, a ping."""

    id: int = 0
    error: ErrorReply | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    ping: Empty | None = None
    rpc: RpcResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None
