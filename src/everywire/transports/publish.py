"""Publishing: the body of a POST, or a message of a WebSocket, becomes a publication.

The data is kept as it came. A JSON type, no type, or curl's default type make it JSON,
which is parsed once to know that it is; any other type makes it bytes of that type.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

from everywire.access.drafts import MAX_TYPE_CHARACTERS, make_draft
from everywire.access.identity import Identity
from everywire.brokers.base import Appended
from everywire.codecs.json_text import dump
from everywire.core.errors import BadRequest, EverywireError
from everywire.core.limits import Limits
from everywire.core.position import Place, encode_position
from everywire.core.publication import JSON
from everywire.transports.exchange import Exchange
from everywire.transports.service import Service, WholeAnswer, json_headers, refuse
from everywire.transports.stay import signed
from everywire.transports.target import PublishQuery

__all__ = ["serve_publish"]

_FORM: Final = "application/x-www-form-urlencoded"


class Publisher(NamedTuple):
    """Who sent a POST."""

    identity: Identity
    peer: str
    client: str = ""
    transport: str = "publish"


def serve_publish(
    service: Service,
    exchange: Exchange,
    channel: str,
    query: PublishQuery,
    identity: Identity,
    cors: tuple[tuple[bytes, bytes], ...],
) -> None:
    """Take the body and publish it: 201, 200 for a replay, 422 for a key of another body."""
    exchange.attend(WholeAnswer(), "publish")
    publisher = Publisher(identity, exchange.request.peer)
    key = _idempotency_key(exchange, service.limits)

    def take(body: bytes) -> None:
        try:
            content_type = _content_type(exchange.request.header(b"content-type"))
            draft = make_draft(
                channel,
                body,
                service.limits,
                content_type=content_type,
                event=query.event,
                tags=query.tags,
                key=None if key is None else f"{identity.user}\0{key}",
            )
        except EverywireError as error:
            refuse(exchange, error, cors)
            return
        answer = partial(_answer, service, exchange, channel, cors)
        service.shared.publishing.publish(publisher, signed(draft, identity), answer)

    exchange.read_body(service.limits.max_body_bytes, take)


def _answer(
    service: Service,
    exchange: Exchange,
    channel: str,
    cors: tuple[tuple[bytes, bytes], ...],
    appended: Appended | EverywireError,
) -> None:
    if isinstance(appended, EverywireError):
        refuse(exchange, appended, cors)
        return
    body = {
        "offset": appended.offset,
        "epoch": appended.epoch,
        "position": encode_position([(channel, Place(appended.epoch, appended.offset))]),
        "subscribers": service.hub.subscribers(channel),
    }
    exchange.respond(200 if appended.replayed else 201, json_headers(cors), dump(body))


def _content_type(header: str | None) -> str:
    """Return what a Content-Type makes of a body: `JSON`, or the type itself."""
    if header is None or not header.strip():
        return JSON
    essence = header.partition(";")[0].strip().lower()
    if essence == _FORM or essence == "application/json" or essence.endswith("+json"):
        return JSON
    if len(header) > MAX_TYPE_CHARACTERS or "/" not in essence or not header.isascii():
        raise BadRequest("the Content-Type is malformed")
    return header.strip()


def _idempotency_key(exchange: Exchange, limits: Limits) -> str | None:
    key = exchange.request.header(b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= limits.max_idempotency_key_bytes or not key.isascii():
        raise BadRequest(f"an Idempotency-Key is 1 to {limits.max_idempotency_key_bytes} ASCII characters")
    return key
