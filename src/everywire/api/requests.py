"""The requests of the server API, as they stand in a body (Centrifugo's server API, v5 and v6).

A field that is missing or null has its zero value; unknown ones are ignored. What the API calls data may
come as JSON (``data``) or as base64 of any bytes (``b64data``).
"""

from __future__ import annotations

import binascii
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from everywire.codecs.centrifuge.messages import StreamPosition
from everywire.codecs.json_text import dump
from everywire.core.errors import BadRequest

__all__ = [
    "BatchRequest",
    "BlockUserRequest",
    "BroadcastRequest",
    "ChannelRequest",
    "ChannelsRequest",
    "DisconnectRequest",
    "HistoryApiRequest",
    "InfoRequest",
    "InvalidateRequest",
    "PublishRequest",
    "RefreshRequest",
    "RevokeTokenRequest",
    "RpcRequest",
    "SubscribeRequest",
    "UnblockUserRequest",
    "UnsubscribeRequest",
    "decode_request",
    "json_or_base64",
]

Data = Raw | UnsetType


class Publishable(Struct):
    """What publish and broadcast have in common.

    ``skip_history`` and ``delta`` are accepted and make no difference: every publication is in the log,
    and deltas are not made. ``version`` is refused.
    """

    data: Data = UNSET
    b64data: str = ""
    tags: dict[str, str] = {}
    idempotency_key: str = ""
    version: int = 0


class PublishRequest(Publishable):
    """Publish to a channel."""

    channel: str = ""


class BroadcastRequest(Publishable):
    """Publish the same to several channels."""

    channels: list[str] = []


class Whose(Struct):
    """Whose connections are meant: all of a user, or one client or session of the user's."""

    user: str = ""
    client: str = ""
    session: str = ""


class BoolValue(Struct):
    """A boolean that may be absent."""

    value: bool = False


class Override(Struct):
    """Options of one subscription; what is not here makes no difference: every channel is recoverable."""

    join_leave: BoolValue | None = None
    force_push_join_leave: BoolValue | None = None


class SubscribeRequest(Whose):
    """Subscribe a user's sessions."""

    channel: str = ""
    info: Data = UNSET
    b64info: str = ""
    data: Data = UNSET
    b64data: str = ""
    recover_since: StreamPosition | None = None
    expire_at: int = 0
    override: Override | None = None


class UnsubscribeRequest(Whose):
    """End a user's subscriptions to a channel."""

    channel: str = ""


class Ending(Struct):
    """Code and reason of a disconnect."""

    code: int = 0
    reason: str = ""


class DisconnectRequest(Whose):
    """End a user's connections, but not those of the client ids in the whitelist."""

    whitelist: list[str] = []
    disconnect: Ending | None = None


class RefreshRequest(Whose):
    """Let a user's connections be good until ``expire_at`` (UNIX seconds; 0 is for ever), or end them."""

    expired: bool = False
    expire_at: int = 0


class ChannelRequest(Struct):
    """A channel: presence, presence_stats, history_remove."""

    channel: str = ""


class HistoryApiRequest(ChannelRequest):
    """What a channel keeps."""

    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class ChannelsRequest(Struct):
    """Channels that have readers, by a glob pattern."""

    pattern: str = ""


class InfoRequest(Struct):
    """The nodes."""


class RpcRequest(Struct):
    """Call a method of the application."""

    method: str = ""
    params: Data = UNSET


class BlockUserRequest(Struct):
    """Shut a user out until ``expire_at`` (UNIX seconds; 0 is for good)."""

    user: str = ""
    expire_at: int = 0


class UnblockUserRequest(Struct):
    """Let a user in again."""

    user: str = ""


class RevokeTokenRequest(Struct):
    """Let the token with an id (``jti``) count no more."""

    uid: str = ""
    expire_at: int = 0


class InvalidateRequest(Struct):
    """Let a user's tokens that were issued before a time (0 is now) count no more."""

    user: str = ""
    issued_before: int = 0
    expire_at: int = 0
    channel: str = ""


class BatchRequest(Struct):
    """Several commands, each an object with one member: method and request."""

    commands: list[dict[str, Raw]] = []
    parallel: bool = False


_Request = TypeVar("_Request", bound=Struct)
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_ANY_JSON: Final = ("data", "info", "params")
_decoders: dict[type[Struct], msgspec.json.Decoder[Struct]] = {}


def decode_request(text: bytes, kind: type[_Request]) -> _Request:
    """Return the request in a JSON object; raise `BadRequest` when its fields are of other types."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        try:
            found = decoder.decode(text)
        except msgspec.ValidationError:
            # Only then: a null stands for a zero value, except where any JSON may stand.
            found = decoder.decode(_without_nulls(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)[:200]) from None
    assert isinstance(found, kind)
    return found


def _without_nulls(text: bytes) -> bytes:
    kept = (
        b"%b:%b" % (dump(name), bytes(raw))
        for name, raw in _members(text).items()
        if name in _ANY_JSON or bytes(raw) != b"null"
    )
    return b"{%b}" % b",".join(kept)


def json_or_base64(data: Data, base64: str, name: str) -> bytes | None:
    """Return what came as JSON or as base64; None for neither. Raises `BadRequest` for no base64."""
    if base64:
        try:
            return binascii.a2b_base64(base64, strict_mode=True)
        except ValueError:
            raise BadRequest(f"{name} is not base64") from None
    return None if isinstance(data, UnsetType) else bytes(data)
