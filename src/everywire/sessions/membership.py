"""What presence keeps of a member, and what nodes tell one another of members.

A member's lease and what travels about it are the same text: its `ClientInfo` as JSON, made once. The lease
of an open connection has the name of its node and a line's end before it, and is worth nothing when the
node's own lease has run out.

On the control topic ``presence`` goes one object for many changes::

    {"v": 1, "entered": [[channel, info], …], "gone": [[channel, info], …],
     "update": [[channel, client, state], …]}

A message of another version or a malformed one is ignored and logged.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.wheel import Slot

__all__ = [
    "PRESENCE",
    "VERSION",
    "Changes",
    "Membership",
    "client_of",
    "decode_changes",
    "decode_info",
    "encode_changes",
    "encode_info",
    "held",
    "holder",
    "user_of",
    "with_state",
]

PRESENCE: Final = "presence"
VERSION: Final = 1
_log = logging.getLogger("everywire.sessions")


class Membership:
    """One member of one channel that this node knows of at first hand."""

    __slots__ = ("channel", "client", "deadline", "ends_s", "is_open", "value")

    def __init__(self, channel: str, client: str, value: bytes) -> None:
        self.channel = channel
        self.client = client
        self.value = value
        """The text of its `ClientInfo`."""
        self.is_open = False
        """Whether this node holds its connection; if not, it polls and may go on elsewhere."""
        self.ends_s = 0.0
        """When its lease runs out, by the hub's clock, as far as it is written or will be at once."""
        self.deadline: Slot | None = None
        """When a polling client is to be forgotten."""


class Changes(Struct, omit_defaults=True):
    """What nodes tell one another; ``v`` is `VERSION`."""

    v: int
    entered: list[tuple[str, Raw]] = []
    """Channel and info of who came, or has another state."""
    gone: list[tuple[str, Raw]] = []
    """Channel and info of who left."""
    update: list[tuple[str, str, Raw]] = []
    """Channel, client and new state (``null`` for none): for the node that has the client."""


class _Version(Struct):
    v: int


class _User(Struct):
    user: str = ""


class _Client(Struct):
    client: str = ""


_encode = msgspec.json.Encoder().encode
_decode_version = msgspec.json.Decoder(_Version).decode
_decode_changes = msgspec.json.Decoder(Changes).decode
_decode_info = msgspec.json.Decoder(ClientInfo).decode
_decode_user = msgspec.json.Decoder(_User).decode
_decode_client = msgspec.json.Decoder(_Client).decode


def encode_info(info: ClientInfo) -> bytes:
    """Return a member's info as text; what the application says of it is left out if it is no JSON, which
    would spoil what travels with it."""
    value = _encode(info)
    try:
        _decode_client(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _log.error("what is to be shown of client %s is no JSON text: %s", info.client, error)
        value = _encode(ClientInfo(user=info.user, client=info.client))
    return value


def decode_info(value: bytes) -> ClientInfo:
    """Return a member's info; nobody's when the text is none of ours."""
    try:
        return _decode_info(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ClientInfo()


def held(node: str, value: bytes) -> bytes:
    """Return the lease of a member that is one as long as a node is there."""
    return b"%s\n%s" % (node.encode(), value)


def holder(lease: bytes) -> tuple[str, bytes]:
    """Return the node that a lease ends with, empty for a polling client's, and the member's info as text."""
    node, end, value = lease.partition(b"\n")
    return ("", lease) if not end or node.startswith(b"{") else (node.decode(errors="replace"), value)


def user_of(value: bytes) -> str:
    """Return a member's user id: a fraction of the work of `decode_info`."""
    try:
        return _decode_user(value).user
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def client_of(value: bytes) -> str:
    """Return a member's client id."""
    try:
        return _decode_client(value).client
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def with_state(value: bytes, state: bytes | None) -> bytes:
    """Return a member's info with another ``chan_info``."""
    info = decode_info(value)
    chan_info: Raw | UnsetType = UNSET if state is None else Raw(state)
    return encode_info(
        ClientInfo(user=info.user, client=info.client, conn_info=info.conn_info, chan_info=chan_info)
    )


def encode_changes(changes: Changes) -> bytes:
    """Return changes as they travel."""
    return _encode(changes)


def decode_changes(payload: bytes, node: str) -> Changes | None:
    """Return the changes that a node told; None, and a line in the log, when they cannot be understood."""
    try:
        if _decode_version(payload).v == VERSION:
            return _decode_changes(payload)
        _log.info("ignored what node %s told of members: another version", node)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("ignored what node %s told of members: %s", node, error)
    return None
