"""What nodes tell and ask one another about sockets, as MessagePack.

Orders go to every node, and whoever has one of the sockets obeys; questions go to one node or to all, and
whoever has the socket answers. What is of another version or malformed is ignored and logged. Nothing is
ever executed of it: no names of functions or classes travel.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from everywire.core.errors import BadRequest

__all__ = [
    "ORDERS",
    "QUESTIONS",
    "Answer",
    "Call",
    "CloseRoom",
    "Disconnect",
    "Emit",
    "Enter",
    "Find",
    "Leave",
    "Order",
    "Question",
    "Rooms",
    "decode_answer",
    "decode_order",
    "decode_question",
    "encode",
    "plain",
]

ORDERS: Final = "socketio.orders"
QUESTIONS: Final = "socketio.questions"
VERSION: Final = 1
_BYTES: Final = (bytes, bytearray, memoryview)
_log = logging.getLogger("everywire.sockets")


class _Message(msgspec.Struct, tag_field="do", omit_defaults=True, kw_only=True):
    """The root of all of them."""

    v: int = VERSION
    namespace: str = "/"


class Emit(_Message, tag="emit"):
    """Send an event that is in no log."""

    event: str | int | float
    args: list[Any]
    sids: list[str] = []
    channels: list[str] = []
    """Rooms; who is in one gets a volatile event by this, any other by the log, and then not by this."""
    except_: list[str] = []
    skip: list[str] = []
    volatile: bool = False
    everyone: bool = False


class CloseRoom(_Message, tag="close_room"):
    """Let all sockets leave a room."""

    channel: str


class Disconnect(_Message, tag="disconnect"):
    """End a socket."""

    sid: str


Order: TypeAlias = Emit | CloseRoom | Disconnect


class Find(_Message, tag="find"):
    """Say whether a socket is here."""

    sid: str


class Call(_Message, tag="call"):
    """Send an event to a socket, and answer with its acknowledgement."""

    sid: str
    event: str | int | float
    args: list[Any]
    timeout_s: float


class Enter(_Message, tag="enter"):
    """Let a socket enter a room."""

    sid: str
    room: str


class Leave(_Message, tag="leave"):
    """Let a socket leave a room."""

    sid: str
    room: str


class Rooms(_Message, tag="rooms"):
    """Say which rooms a socket is in."""

    sid: str


Question: TypeAlias = Find | Call | Enter | Leave | Rooms


class Answer(msgspec.Struct, omit_defaults=True):
    """What a node says; ``is_here`` is False when the socket is not there."""

    is_here: bool = False
    result: list[Any] = []
    error: int = 0
    """The number of an error's code, and its sentence."""
    sentence: str = ""


_Decoded = TypeVar("_Decoded")
_encode = msgspec.msgpack.Encoder().encode
_decode_order: Final = msgspec.msgpack.Decoder(Order)
_decode_question: Final = msgspec.msgpack.Decoder(Question)
_decode_answer: Final = msgspec.msgpack.Decoder(Answer)


def plain(args: Sequence[Any]) -> list[Any]:
    """Return arguments as they can travel; raise `BadRequest` for those that cannot."""
    try:
        return [msgspec.to_builtins(value, builtin_types=_BYTES, str_keys=True) for value in args]
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"this cannot be sent: {str(error)[:200]}") from None


def encode(message: Order | Question | Answer) -> bytes:
    """Return a message as it travels. Raises `BadRequest` for arguments that cannot."""
    try:
        return _encode(message)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"this cannot be sent: {str(error)[:200]}") from None


def decode_order(payload: bytes, node: str) -> Order | None:
    """Return an order of a node; None, and a line in the log, when it cannot be understood."""
    return _decoded(_decode_order, payload, node)


def decode_question(payload: bytes, node: str) -> Question | None:
    """Return a question of a node; None when it cannot be understood."""
    return _decoded(_decode_question, payload, node)


def decode_answer(payload: bytes, node: str) -> Answer:
    """Return what a node answered; that the socket is not there when it cannot be understood."""
    return _decoded(_decode_answer, payload, node) or Answer()


def _decoded(decoder: msgspec.msgpack.Decoder[_Decoded], payload: bytes, node: str) -> _Decoded | None:
    try:
        found = decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        _log.warning("ignored what node %s said of sockets: %s", node, error)
        return None
    if isinstance(found, _Message) and found.v != VERSION:
        _log.info("ignored what node %s said of sockets: another version", node)
        return None
    return found
