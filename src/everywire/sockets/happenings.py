"""Happenings: an event with its arguments, as a publication of a channel and as packets of Socket.IO.

What other wires can read and write is a publication with one value, so that is what an event with one
argument becomes:

* one argument that is JSON: the publication's data as it stands, with the event's name. The event
  ``message`` is a publication without a name, and the other way round;
* one argument that is bytes: a publication of type ``application/octet-stream``. Any other publication that
  is no JSON comes out as such an event, too;
* everything else (no argument, or several; bytes within an argument; a name that other wires have no room
  for): a publication of type `EVENT_TYPE`, whose data is the JSON object ``{"event": …, "args": […]}``.
  Bytes within are ``{"_placeholder": true, "num": i}`` there, and item *i* of its member ``"attachments"``,
  base64.

The names that Socket.IO keeps for itself (``connect``, ``disconnect`` and so on) cannot be emitted. Where a
publication of another wire has one, clients get it as ``everywire:disconnect``, for the name itself would
make them close the connection. For the same reason a publication of `EVENT_TYPE` that is not well formed
comes out as one argument of bytes.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from everywire.codecs.engineio.packets import Wire
from everywire.codecs.json_text import check_json, dump
from everywire.codecs.socketio import msgpack_form
from everywire.codecs.socketio.packet import (
    RESERVED_EVENTS as LIBRARIES_OWN,
)
from everywire.codecs.socketio.packet import (
    PacketType,
    SocketPacket,
    event_wires,
    is_event_name,
    placeholder,
    take_attachments,
)
from everywire.core.errors import BadRequest, TooLarge
from everywire.core.limits import Limits
from everywire.core.publication import JSON, RESERVED_EVENTS, Draft, Publication

__all__ = [
    "BYTES_TYPE",
    "DEFAULT_EVENT",
    "EVENT_TYPE",
    "Form",
    "Happening",
    "Name",
    "direct_wires",
    "draft_of",
    "happening_of",
    "wires_of",
]

Name = str | int | float
"""What an event may be called; only the libraries themselves use numbers."""

DEFAULT_EVENT: Final = "message"
EVENT_TYPE: Final = "application/vnd.everywire.event+json"
BYTES_TYPE: Final = "application/octet-stream"

_BYTES: Final = (bytes, bytearray, memoryview)
_OWN: Final = "everywire:"
_MAX_RECENT: Final = 16
"""Publications that are kept read: at most 16 MiB, as a rule a few hundred bytes."""


class Form(Enum):
    """How packets are written."""

    JSON = "json"
    MSGPACK = "msgpack"


class Happening(NamedTuple):
    """An event and its arguments."""

    event: Name
    args: Sequence[Any]


class _Texts(NamedTuple):
    """A happening whose arguments are JSON texts, with placeholders where its attachments go."""

    event: Name
    args: Sequence[bytes]
    attachments: Sequence[bytes] = ()


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """The data of a publication of `EVENT_TYPE`."""

    event: str | int | float
    args: list[msgspec.Raw]
    attachments: list[str] = []


_decode_body: Final = msgspec.json.Decoder(_Body).decode


# -- out of an application, into the log ----------------------------------------------------


def draft_of(
    channel: str,
    event: Name | None,
    args: Sequence[Any],
    *,
    limits: Limits,
    tags: Mapping[str, str] | None = None,
) -> Draft:
    """Return the draft of an event with its arguments, for one channel; None is ``message``.

    Raises `BadRequest` for a name that no event may have and for what JSON cannot hold, `TooLarge` above
    `Limits.max_body_bytes` and `Limits.max_socket_attachments`.
    """
    name = _checked_name(event)
    if len(args) == 1 and _is_plain_name(name, limits):
        own_name = None if name == DEFAULT_EVENT else str(name)
        value = args[0]
        if isinstance(value, _BYTES):
            draft = Draft(channel, bytes(value), BYTES_TYPE, own_name, tags)
            return _checked_size(draft, limits)
        texts = _texts(name, args, limits)
        if not texts.attachments:
            return _checked_size(Draft(channel, texts.args[0], JSON, own_name, tags), limits)
    else:
        texts = _texts(name, args, limits)
    return _checked_size(Draft(channel, _body(texts), EVENT_TYPE, None, tags), limits)


def _checked_name(event: Name | None) -> Name:
    name = DEFAULT_EVENT if event is None else event
    if not is_event_name(name) or (isinstance(name, float) and not math.isfinite(name)):
        raise BadRequest(f"no event may be called {str(name)[:100]!r}: this is Socket.IO's own, or no name")
    if isinstance(name, str) and not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BadRequest("the name of an event is Unicode text") from None
    return name


def _is_plain_name(name: Name, limits: Limits) -> bool:
    """Say whether a name may be that of a publication."""
    if not isinstance(name, str) or not name or name in RESERVED_EVENTS or not name.isprintable():
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= limits.max_event_bytes


def _texts(name: Name, args: Sequence[Any], limits: Limits) -> _Texts:
    attachments: list[bytes] = []
    try:
        texts = [dump(take_attachments(value, attachments)) for value in args]
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"this cannot be sent: {str(error)[:200]}") from None
    if attachments:
        if len(attachments) > limits.max_socket_attachments:
            raise TooLarge(f"an event has at most {limits.max_socket_attachments} attachments")
        if not _fits(texts, len(attachments)):
            raise BadRequest("beside bytes, no object may have a member _placeholder")
    return _Texts(name, texts, attachments)


def _body(texts: _Texts) -> bytes:
    attachments = b",".join(
        [b'"%b"' % binascii.b2a_base64(data, newline=False) for data in texts.attachments]
    )
    more = b',"attachments":[%b]' % attachments if texts.attachments else b""
    return b'{"event":%b,"args":[%b]%b}' % (dump(texts.event), b",".join(texts.args), more)


def _checked_size(draft: Draft, limits: Limits) -> Draft:
    if len(draft.data) > limits.max_body_bytes:
        raise TooLarge(f"an event is at most {limits.max_body_bytes} bytes")
    return draft


# -- out of the log -----------------------------------------------------------------------------


def happening_of(publication: Publication) -> Happening:
    """Return the event that a publication is, with its arguments as values."""
    texts = _texts_of(publication)
    args: list[Any] = [check_json(text) for text in texts.args]
    return Happening(texts.event, _filled(args, texts.attachments) if texts.attachments else args)


def wires_of(
    publication: Publication,
    namespace: str,
    *,
    offset: bytes | None = None,
    form: Form = Form.JSON,
) -> list[Wire]:
    """Return the packets that tell a publication as an event.

    ``offset`` is one more argument, after the others: JSON text, or None for none.
    """
    if form is Form.MSGPACK:
        try:
            return _packed(namespace, happening_of(publication), offset)
        except (TypeError, ValueError):  # nested deeper than MessagePack is written here
            name = _name_of(publication)
            return _packed(namespace, Happening(name, (publication.data,)), offset)
    texts = _texts_of(publication)
    return event_wires(namespace, texts.event, texts.args, extra=offset, attachments=texts.attachments)


def direct_wires(
    namespace: str,
    event: Name | None,
    args: Sequence[Any],
    *,
    limits: Limits,
    ack_id: int | None = None,
    offset: bytes | None = None,
    form: Form = Form.JSON,
) -> list[Wire]:
    """Return the packets of an event for one client, which is in no log; see `draft_of` for errors."""
    name = _checked_name(event)
    if form is Form.MSGPACK:
        try:
            return _packed(namespace, Happening(name, args), offset, ack_id)
        except (TypeError, ValueError) as error:
            raise BadRequest(f"this cannot be sent: {str(error)[:200]}") from None
    texts = _texts(name, args, limits)
    return event_wires(
        namespace, name, texts.args, ack_id=ack_id, extra=offset, attachments=texts.attachments
    )


def _packed(
    namespace: str, happening: Happening, offset: bytes | None, ack_id: int | None = None
) -> list[Wire]:
    data = [happening.event, *happening.args]
    if offset is not None:
        data.append(check_json(offset))
    return msgpack_form.encode(SocketPacket(PacketType.EVENT, namespace, data, ack_id))


def _texts_of(publication: Publication) -> _Texts:
    if publication.is_json:
        return _Texts(_name_of(publication), (publication.data,))
    return _read.texts(publication)


class _Recent:
    """What publications that are no JSON were read as: each group of readers wants to know."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[int, tuple[Publication, _Texts]] = {}

    def texts(self, publication: Publication) -> _Texts:
        found = self._found.get(id(publication))
        if found is not None and found[0] is publication:
            return found[1]
        texts = _read_body(publication.data) if publication.content_type == EVENT_TYPE else None
        if texts is None:
            texts = _Texts(_name_of(publication), (placeholder(0),), (publication.data,))
        if len(self._found) >= _MAX_RECENT:
            self._found.clear()
        self._found[id(publication)] = (publication, texts)
        return texts


_read: Final = _Recent()


def _name_of(publication: Publication) -> str:
    name = publication.event
    if name is None:
        return DEFAULT_EVENT
    return _OWN + name if name in LIBRARIES_OWN else name


def _read_body(data: bytes) -> _Texts | None:
    """Read data of `EVENT_TYPE`; None when it is not well formed, and would make clients hang up."""
    try:
        body = _decode_body(data)
        attachments = [binascii.a2b_base64(text, strict_mode=True) for text in body.attachments]
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    args = [bytes(raw) for raw in body.args]
    name = body.event
    if isinstance(name, str) and name in LIBRARIES_OWN:
        name = _OWN + name
    return _Texts(name, args, attachments) if _fits(args, len(attachments)) else None


def _fits(args: Sequence[bytes], attachments: int) -> bool:
    """Say whether texts are JSON and have one placeholder for each attachment, and no other.

    Without attachments nothing is a placeholder, whatever it looks like.
    """
    try:
        values: list[Any] = [check_json(text) for text in args]
    except ValueError:
        return False
    if not attachments:
        return True
    found: list[int] = []
    for holder in _objects(values):
        if "_placeholder" in holder:
            number = holder.get("num")
            if holder["_placeholder"] is not True or len(holder) != 2 or type(number) is not int:
                return False
            found.append(number)
    return sorted(found) == list(range(attachments))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects within a value of JSON, however deep."""
    stack = [value]
    while stack:
        value = stack.pop()
        if type(value) is dict:
            yield value
            stack.extend(value.values())
        elif type(value) is list:
            stack.extend(value)


def _filled(values: list[Any], attachments: Sequence[bytes]) -> list[Any]:
    """Put attachments where their placeholders stand, in values that nobody else has."""
    stack: list[Any] = [values]
    while stack:
        value = stack.pop()
        places = value.items() if type(value) is dict else enumerate(value)
        for key, item in list(places):
            if type(item) is dict and "_placeholder" in item:
                value[key] = attachments[item["num"]]
            elif type(item) is dict or type(item) is list:
                stack.append(item)
    return values
