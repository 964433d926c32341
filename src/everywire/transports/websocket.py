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
from math import inf
from typing import Any, Final

from everywire.access.drafts import make_draft
from everywire.access.quotas import Admission
from everywire.brokers.base import Appended
from everywire.codecs.json_text import check_json, dump, members
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, EverywireError, TooManyRequests
from everywire.core.position import Place, encode_position
from everywire.core.publication import Draft, Gap
from everywire.core.wheel import Slot
from everywire.hub.reader import Reader
from everywire.hub.recovery import LATEST, Start
from everywire.transports.encoders import ENVELOPE, RAW, opening
from everywire.transports.exchange import MessageChannel
from everywire.transports.pacing import Pace
from everywire.transports.service import Ask
from everywire.transports.stay import Stay, end_of_reading, signed
from everywire.transports.target import check_event, check_tags

__all__ = ["SUBPROTOCOL", "serve_websocket"]

SUBPROTOCOL: Final = "everywire.json"
_BINARY_TYPE: Final = "application/octet-stream"
_MEMBERS: Final = frozenset({"data", "data_base64", "content_type", "event", "tags", "id", "channel"})
_MAX_ID_CHARACTERS: Final = 64


def serve_websocket(ask: Ask) -> None:
    """Shake hands, then read the channels and publish what comes."""
    service = ask.service
    wire = WebSocket(ask, service.admit(ask.identity, ask.peer))
    channel = ask.exchange.upgrade(wire, "websocket", (SUBPROTOCOL,))
    if channel is None:
        wire.leave()
    else:
        wire.connect(channel, ask.start or LATEST)


class WebSocket:
    """One WebSocket of a plain reader: the message channel's driver and the hub's subscriber, the caller of
    what it publishes, and a visitor if it is somebody's."""

    __slots__ = (
        "_admission",
        "_deadline",
        "_is_envelope",
        "_is_paused",
        "_pace",
        "_service",
        "_stay",
        "_under_way",
        "channel",
        "channels",
        "identity",
        "peer",
        "reader",
    )

    client = session_id = ""
    transport = "websocket"
    reader: Reader
    channel: MessageChannel

    def __init__(self, ask: Ask, admission: Admission) -> None:
        self._service = ask.service
        self._admission: Admission | None = admission
        self._stay: Stay | None = None
        self._deadline: Slot | None = None
        self._pace: Pace | None = None
        self._is_envelope = False
        self._is_paused = False
        self._under_way = 0
        self.channels = ask.channels
        self.identity = ask.identity
        self.peer = ask.peer

    def connect(self, channel: MessageChannel, start: Start) -> None:
        """Begin to read over the open channel."""
        self.channel = channel
        self._is_envelope = channel.subprotocol == SUBPROTOCOL
        formats = ENVELOPE if self._is_envelope else RAW
        hub = self._service.hub
        encoder = formats[len(self.channels) > 1]
        self.reader = hub.reader(self.channels, encoder, channel.framing, self)
        if self.identity.kind:
            self._stay = Stay(self._service.shared, self, self.channels)
            self._arm()
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
        self.leave()
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
        self.leave()
        self.channel.note(self.reader.delivered)
        self.reader.close()

    def drain(self, retry_ms: int) -> None:
        """Close with 1012 (service restart); the reason says when to come back."""
        if self._is_envelope:
            notice = {"code": codes.SERVICE_RESTART.number, "reason": "shutdown", "retry": retry_ms}
            self._send(dump({"disconnect": notice}))
        self._close(codes.SERVICE_RESTART, f"restarting; come back in {retry_ms} ms")

    # -- its stay -------------------------------------------------------------------

    def _arm(self) -> None:
        """Wait for what is to be done about a credential that runs out."""
        due_s = inf if self._stay is None else self._stay.next_s()
        if due_s < inf:
            self._deadline = self._service.hub.deadlines.arm(self, due_s, WebSocket._is_due)

    def _is_due(self) -> None:
        self._deadline = None
        left_s = None if self._stay is None else self._stay.warning_s()
        if left_s is None:
            self._close(codes.EXPIRED, "the credential has run out; come back with another")
            return
        self._arm()
        if self._is_envelope:
            self._send(dump({"expires_in": left_s}))

    def leave(self) -> None:
        """Give back what this holds besides its reader; once or several times."""
        if self._admission is not None:
            self._admission.release()
            self._admission = None
            self._service.shared.quotas.forget(self)
        if self._stay is not None:
            self._stay.end()
            self._stay = None
        if self._deadline is not None:
            self._service.hub.deadlines.disarm(self, self._deadline)
            self._deadline = None
        if self._pace is not None:
            self._pace.end()
            self._pace = None

    def disconnect(self, code: Code, reason: str = "") -> None:
        """Close: the registry says so."""
        if not self.reader.is_closed:
            self._close(code, reason or code.sentence)

    def unsubscribe(self, channel: str, code: Code) -> None:
        """End as a whole: this reads all of its channels or none."""
        self.disconnect(*end_of_reading(channel, code))

    # -- publishing -----------------------------------------------------------------

    def message(self, data: bytes, binary: bool) -> None:
        """Publish a message."""
        if self.reader.is_closed:
            return
        if self._is_envelope:
            self._take_envelope(data, binary)
            return
        try:
            if len(self.channels) > 1:
                raise BadRequest(f"publishing to several channels needs the subprotocol {SUBPROTOCOL}")
            draft = self._draft(self.channels[0], data, _BINARY_TYPE if binary else "")
        except EverywireError as error:
            self._close(codes.INVALID_DATA, error.sentence)
            return
        if self._pace is not None and self._pace.is_holding:
            self._hold(draft)
        else:
            self._publish_raw(draft)

    def _draft(self, channel: str, data: bytes, content_type: str) -> Draft:
        draft = make_draft(channel, data, self._service.limits, content_type=content_type)
        return signed(draft, self.identity, self._stay)

    def _publish_raw(self, draft: Draft) -> None:
        pace = self._pace
        if pace is not None and pace.is_holding:
            self._hold(draft)  # one before it, of those that are tried again, was too much still
        elif not self.reader.is_closed:
            self._publish(draft, partial(self._raw_done, draft))

    def _raw_done(self, draft: Draft, appended: Appended | EverywireError) -> None:
        if not isinstance(appended, EverywireError) or self.reader.is_closed:
            return
        # There is no place for an error, and nothing may be lost in silence.
        code = appended.code
        if isinstance(appended, TooManyRequests):
            self._hold(draft, appended)
        elif code in (codes.PERMISSION_DENIED, codes.UNAUTHORIZED, codes.TOKEN_EXPIRED):
            self._close(codes.REFUSED, appended.sentence)
        elif code is codes.BUSY:
            self._close(codes.SHUTDOWN, appended.sentence)
        elif code is codes.INTERNAL:
            self._close(codes.SERVER_ERROR, appended.sentence)
        else:
            self._close(codes.INVALID_DATA, appended.sentence)

    def _hold(self, draft: Draft, error: TooManyRequests | None = None) -> None:
        """Keep back what is too much, and do not listen to more until it was published."""
        if self._pace is None:
            service = self._service
            max_bytes = service.limits.max_message_bytes
            self._pace = Pace(service.hub.deadlines, max_bytes, self._publish_raw)
        is_sustained = error is not None and error.is_sustained
        if is_sustained or not self._pace.hold(draft, error):
            self._close(codes.SLOW_DOWN, codes.SLOW_DOWN.sentence)
        elif not self._is_paused:
            self._is_paused = True
            self.channel.pause_reading()

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
        channel = envelope.get("channel", self.channels[0] if len(self.channels) == 1 else None)
        if channel not in self.channels:
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
            if isinstance(appended, TooManyRequests) and appended.is_sustained:
                self._close(codes.SLOW_DOWN, codes.SLOW_DOWN.sentence)
        elif request_id is not None:
            position = encode_position([(channel, Place(appended.epoch, appended.offset))])
            self._send(dump({"id": request_id, "position": position}))

    def _send_error(self, request_id: object, error: EverywireError) -> None:
        detail: dict[str, object] = {
            "code": error.code.number,
            "name": error.code.name,
            "message": error.sentence,
        }
        if isinstance(error, TooManyRequests):
            detail["retry"] = round(1000 * error.retry_s)
        answer: dict[str, object] = {} if request_id is None else {"id": request_id}
        self._send(dump(answer | {"error": detail}))

    def _publish(self, draft: Draft, done: Callable[[Appended | EverywireError], None]) -> None:
        def finished(appended: Appended | EverywireError) -> None:
            self._under_way -= 1
            done(appended)
            if self._is_paused and not (self._pace is not None and self._pace.is_holding):
                self._is_paused = False
                self.channel.resume_reading()

        self._under_way += 1
        if not self._service.shared.publishing.publish(self, draft, finished) and self._under_way:
            # The store or the application is behind: this publisher waits until one of its own is done.
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
