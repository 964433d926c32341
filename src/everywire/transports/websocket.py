"""WebSocket: one message per publication; what the client sends is published, if it may.

Without a subprotocol messages are the data as it stands: JSON as text, anything else as
binary. There is no place for positions and gaps: a reader that missed something is closed
with a code that allows to come back. With the subprotocol ``everywire.json`` every message
is an envelope: ``{"data", "event"?, "id"?}`` from the client (``"data_base64"`` with
``"content_type"`` for other data), ``{"id", "position"}`` or ``{"id", "error"}`` in answer.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from everywire.access.identity import Action, Identity
from everywire.access.publishing import make_draft
from everywire.brokers.base import Appended
from everywire.codecs.json_text import check_json, dump, members
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError, Forbidden
from everywire.core.position import Place, encode_position
from everywire.core.publication import Draft, Gap
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST, Start
from everywire.transports.encoders import ENVELOPE, RAW, opening
from everywire.transports.exchange import Exchange, MessageChannel
from everywire.transports.service import Service
from everywire.transports.target import check_event, check_tags

__all__ = ["SUBPROTOCOL", "serve_websocket"]

SUBPROTOCOL: Final = "everywire.json"
_BINARY_TYPE: Final = "application/octet-stream"
_MEMBERS: Final = frozenset({"data", "data_base64", "content_type", "event", "tags", "id", "channel"})
_MAX_ID_CHARACTERS: Final = 64


def serve_websocket(
    service: Service,
    exchange: Exchange,
    channels: tuple[str, ...],
    start: Start | None,
    identity: Identity,
) -> None:
    """Shake hands, then read the channels and publish what comes."""
    wire = WebSocket(service, channels, identity)
    channel = exchange.upgrade(wire, "websocket", (SUBPROTOCOL,))
    if channel is None:
        return
    wire.connect(channel, start or LATEST)


class WebSocket:
    """One WebSocket of a plain reader: the message channel's driver and the hub's subscriber."""

    __slots__ = (
        "_channels",
        "_identity",
        "_is_envelope",
        "_is_paused",
        "_service",
        "channel",
        "reader",
    )

    reader: Reader
    channel: MessageChannel

    def __init__(self, service: Service, channels: tuple[str, ...], identity: Identity) -> None:
        self._service = service
        self._channels = channels
        self._identity = identity
        self._is_envelope = False
        self._is_paused = False

    def connect(self, channel: MessageChannel, start: Start) -> None:
        """Begin to read over the open channel."""
        self.channel = channel
        self._is_envelope = channel.subprotocol == SUBPROTOCOL
        formats = ENVELOPE if self._is_envelope else RAW
        hub = self._service.hub
        encoder = formats[len(self._channels) > 1]
        self.reader = hub.reader(self._channels, encoder, channel.framing, self)
        hub.open(self.reader, start)

    # -- what the hub tells -----------------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write frames as far as it goes: the host's own."""
        return self.channel.send

    def write(self, framed: Any, /) -> None:
        """Write frames."""
        self.channel.write(framed)

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Begin with the position, where there is a place for it."""
        if self._is_envelope:
            self._send(opening(position, new))

    def beat(self) -> None:
        """Send a ping."""
        self.channel.beat()

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Close with the code for it."""
        self._close(code, f"missed {gap.first} to {gap.last}" if gap and gap.missed else code.sentence)

    def _close(self, code: Code, reason: str) -> None:
        self.reader.close()
        self.channel.note(self.reader.delivered, code)
        self.channel.close(code.number, reason)

    def _send(self, data: bytes) -> None:
        self.channel.write(self.channel.framing.frame([(False, data)]))

    # -- what the host tells ------------------------------------------------------

    def stalled(self) -> None:
        """Pass on that the peer does not keep up."""
        self.reader.stalled()

    def writable(self) -> None:
        """Pass on that the peer took all bytes."""
        self.reader.writable()

    def gone(self, reason: str) -> None:
        """End the reader: the peer is gone."""
        self.channel.note(self.reader.delivered)
        self.reader.close()

    def drain(self, retry_ms: int) -> None:
        """Close with 1012 (service restart); the reason says when to come back."""
        if self._is_envelope:
            notice = {"code": codes.SERVICE_RESTART.number, "reason": "shutdown", "retry": retry_ms}
            self._send(dump({"disconnect": notice}))
        self._close(codes.SERVICE_RESTART, f"restarting; come back in {retry_ms} ms")

    # -- publishing -----------------------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Publish a message."""
        if self.reader.is_closed:
            return
        if self._is_envelope:
            self._take_envelope(data, binary)
            return
        try:
            if len(self._channels) > 1:
                raise BadRequest(f"publishing to several channels needs the subprotocol {SUBPROTOCOL}")
            draft = self._draft(self._channels[0], data, _BINARY_TYPE if binary else "")
        except Forbidden as error:
            self._close(codes.REFUSED, error.sentence)
            return
        except EverywireError as error:
            self._close(codes.INVALID_DATA, error.sentence)
            return
        self._publish(draft, self._raw_done)

    def _draft(self, channel: str, data: bytes, content_type: str) -> Draft:
        self._service.rules.check(self._identity, Action.PUBLISH, (channel,))
        return make_draft(channel, data, self._service.limits, content_type=content_type)

    def _raw_done(self, appended: Appended | EverywireError) -> None:
        if isinstance(appended, EverywireError) and not self.reader.is_closed:
            # There is no place for an error, and nothing may be lost in silence.
            busy = appended.code is codes.BUSY
            self._close(codes.SHUTDOWN if busy else codes.INVALID_DATA, appended.sentence)

    def _take_envelope(self, data: bytes, binary: bool) -> None:
        request_id: object = None
        try:
            if binary:
                raise BadRequest("envelopes are text messages")
            try:
                texts = members(data)
                # The data is published as it stands; only what is around it is read.
                envelope = {name: check_json(text) for name, text in texts.items() if name != "data"}
            except ValueError as error:
                raise BadRequest(f"an envelope is a JSON object ({str(error)[:100]})") from None
            if not texts:
                return  # a sign of life
            request_id = _request_id(envelope)
            draft = self._envelope_draft(envelope, texts.get("data"))
        except EverywireError as error:
            self._send_error(request_id, error)
            return
        self._publish(draft, partial(self._envelope_done, draft.channel, request_id))

    def _envelope_draft(self, envelope: dict[str, Any], data: bytes | None) -> Draft:
        unknown = set(envelope) - _MEMBERS
        if unknown:
            raise BadRequest(f"an envelope may hold {', '.join(sorted(_MEMBERS))}; not {min(unknown)[:40]!r}")
        channel = envelope.get("channel", self._channels[0] if len(self._channels) == 1 else None)
        if channel not in self._channels:
            raise BadRequest("channel is one of those that this connection reads")
        if (data is not None) == ("data_base64" in envelope):
            raise BadRequest("an envelope has data, or data_base64")
        if data is not None:
            draft = self._draft(channel, data, "")
        else:
            draft = self._draft(channel, *_binary(envelope))
        limits = self._service.limits
        event, tags = envelope.get("event"), envelope.get("tags")
        if event is not None:
            if not isinstance(event, str):
                raise BadRequest("event is a string")
            check_event(event, limits)
        if tags is not None:
            if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
                raise BadRequest("tags is an object of strings")
            tags = check_tags(tags, limits)
        return draft._replace(event=event, tags=tags)

    def _envelope_done(
        self, channel: str, request_id: object, appended: Appended | EverywireError
    ) -> None:
        if self.reader.is_closed:
            return
        if isinstance(appended, EverywireError):
            self._send_error(request_id, appended)
        elif request_id is not None:
            position = encode_position([(channel, Place(appended.epoch, appended.offset))])
            self._send(dump({"id": request_id, "position": position}))

    def _send_error(self, request_id: object, error: EverywireError) -> None:
        detail = {"code": error.code.number, "name": error.code.name, "message": error.sentence}
        answer: dict[str, object] = {} if request_id is None else {"id": request_id}
        self._send(dump(answer | {"error": detail}))

    def _publish(self, draft: Draft, done: Callable[[Appended | EverywireError], None]) -> None:
        def finished(appended: Appended | EverywireError) -> None:
            if self._is_paused:
                self._is_paused = False
                self.channel.resume_reading()
            done(appended)

        if not self._service.hub.publish(draft, finished):
            # The store is behind: this publisher waits until one of its own is done.
            self._is_paused = True
            self.channel.pause_reading()


def _request_id(envelope: dict[str, Any]) -> object:
    request_id = envelope.get("id")
    if request_id is None or (isinstance(request_id, int) and not isinstance(request_id, bool)):
        return request_id
    if isinstance(request_id, str) and len(request_id) <= _MAX_ID_CHARACTERS:
        return request_id
    raise BadRequest(f"id is an integer, or a string of at most {_MAX_ID_CHARACTERS} characters")


def _binary(envelope: dict[str, Any]) -> tuple[bytes, str]:
    content_type = envelope.get("content_type", _BINARY_TYPE)
    if not isinstance(content_type, str) or "/" not in content_type or not content_type.isprintable():
        raise BadRequest("content_type is a media type")
    try:
        return binascii.a2b_base64(envelope["data_base64"], strict_mode=True), content_type
    except (TypeError, ValueError):
        raise BadRequest("data_base64 is base64 text") from None
