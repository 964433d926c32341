"""Orders: what nodes tell one another to do to visitors, and how it travels.

One JSON object per message of the broker's control topic ``orders``: ``{"v": 1, "order": {"do": …}}``.
Another version, an unknown order or a malformed one is ignored and logged: during an upgrade nodes of
two versions work side by side. A session id never travels, only its digest.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from everywire.access.hooks import SubscribeDecision
from everywire.core import codes
from everywire.core.codes import CODES, Code
from everywire.core.errors import BadRequest
from everywire.core.names import check_name
from everywire.core.position import MAX_OFFSET, Place

__all__ = [
    "FORWARD",
    "ORDERS",
    "DisconnectOrder",
    "ForwardOrder",
    "Order",
    "RefreshOrder",
    "SubscribeOrder",
    "UnsubscribeOrder",
    "Whose",
    "decode_forward",
    "decode_order",
    "encode_forward",
    "encode_order",
    "end_code",
    "unsubscribe_code",
]

ORDERS: Final = "orders"
FORWARD: Final = "forward"
VERSION: Final = 1
_log = logging.getLogger("everywire.sessions")


class Whose(Struct, omit_defaults=True, frozen=True):
    """Whose visitors are meant: all of a user, or one client or session if it is the user's."""

    user: str = ""
    client: str = ""
    session: bytes = b""
    """The digest of a session id."""


class _Order(Struct, tag_field="do", omit_defaults=True, kw_only=True):
    """The root of all orders."""

    whose: Whose


class DisconnectOrder(_Order, tag="disconnect"):
    """End connections, but not those of the client ids in the whitelist."""

    code: int
    reason: str = ""
    whitelist: list[str] = []


class UnsubscribeOrder(_Order, tag="unsubscribe"):
    """End subscriptions to a channel."""

    channel: str
    code: int


class SubscribeOrder(_Order, tag="subscribe"):
    """Begin server-side subscriptions."""

    channel: str
    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    expires_s: float | None = None
    join_leave: bool | None = None
    epoch: str | None = None
    offset: int = 0

    @property
    def since(self) -> Place | None:
        """Where the subscriptions begin; None is at the head."""
        return None if self.epoch is None else Place(self.epoch, self.offset)

    @property
    def decision(self) -> SubscribeDecision:
        """What the sessions are given."""
        return SubscribeDecision(
            info=None if isinstance(self.info, UnsetType) else bytes(self.info),
            data=None if isinstance(self.data, UnsetType) else bytes(self.data),
            expires_s=self.expires_s,
            join_leave=self.join_leave,
        )


class RefreshOrder(_Order, tag="refresh"):
    """Tell until when connections are good now."""

    expires_s: float | None = None


Order: TypeAlias = DisconnectOrder | UnsubscribeOrder | SubscribeOrder | RefreshOrder


class _Versioned(Struct):
    v: int


class _Envelope(Struct):
    v: int
    order: Order


class ForwardOrder(Struct):
    """Commands of a session that another node got: they are handed over to the node that has it."""

    v: int
    session: bytes
    data: bytes
    user: str = ""
    """Whom the request proved; empty is nobody, or nobody was asked."""


_encode = msgspec.json.Encoder().encode
_decode_version = msgspec.json.Decoder(_Versioned).decode
_decode_order = msgspec.json.Decoder(_Envelope).decode
_decode_forward = msgspec.json.Decoder(ForwardOrder).decode


def encode_order(order: Order) -> bytes:
    """Return an order as it travels."""
    return _encode(_Envelope(VERSION, order))


def decode_order(payload: bytes, node: str) -> Order | None:
    """Return the order that a node sent; None, and a line in the log, when it cannot be understood."""
    try:
        if not is_known_version(payload, ORDERS, node):
            return None
        order = _decode_order(payload).order
        if isinstance(order, DisconnectOrder):
            end_code(order.code)
        elif isinstance(order, UnsubscribeOrder):
            unsubscribe_code(order.code)
        elif isinstance(order, SubscribeOrder):
            check_name(order.channel)
            if not 0 <= order.offset <= MAX_OFFSET:
                raise BadRequest("there is no such offset")
        return order
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRequest) as error:
        _log.warning("ignored an order of node %s: %s", node, error)
        return None


def encode_forward(session: bytes, data: bytes, user: str = "") -> bytes:
    """Return commands as they travel to the node that has the session."""
    return _encode(ForwardOrder(VERSION, session, data, user))


def decode_forward(payload: bytes) -> ForwardOrder:
    """Return the commands; raise `BadRequest` when they are of another version."""
    try:
        order = _decode_forward(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"what was forwarded is malformed: {error}") from None
    if order.v != VERSION:
        raise BadRequest("what was forwarded is of another version")
    return order


class _HasVersion(Protocol):
    v: int


def is_known_version(payload: bytes, topic: str, node: str) -> bool:
    """Say whether a message is of this version; raise msgspec's errors for what is no message."""
    found: _HasVersion = _decode_version(payload)
    if found.v != VERSION:
        _log.info("ignored a message of version %d about %s of node %s", found.v, topic, node)
    return found.v == VERSION


_BY_NUMBER: Final = {code.number: code for code in CODES}


def unsubscribe_code(number: int) -> Code:
    """Return the row of the table for a code that ends a subscription, or one of the application's own.

    Raises `BadRequest` unless it is 2000 to 2999.
    """
    if not 2000 <= number <= 2999:
        raise BadRequest("an unsubscribe code is 2000 to 2999")
    return _BY_NUMBER.get(number) or codes.UNSUBSCRIBED._replace(number=number)


def end_code(number: int, reason: str = "") -> Code:
    """Return the row of the table for a code that ends a connection, or one of the application's own.

    Raises `BadRequest` unless it is 3000 to 4999: others are not the server's to send (see the Centrifuge
    protocol's disconnect codes).
    """
    if not 3000 <= number <= 4999:
        raise BadRequest("a disconnect code is 3000 to 4999; 4000 to 4999 are the application's own")
    return _BY_NUMBER.get(number) or Code(number, "application", 0, reason or "ended by the application")
