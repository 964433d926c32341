"""A publication of the core as clients of the session protocol see it.

The protocol has no event names, and its JSON form has no bytes. So an event name travels as the tag
``event``, and other data than JSON is, in the JSON form, the object ``{"data_base64", "content_type"}``;
in the Protobuf form it is the bytes, and their type is the tag ``content_type``. These two tags are ours
where they are needed: a publisher's own tag of that name gives way.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from everywire.codecs.centrifuge.messages import ClientInfo, Pub
from everywire.codecs.json_text import dump, flat
from everywire.core.publication import Publication

__all__ = ["as_pub", "client_info", "json_data", "tags_of"]

_NO_TAGS: Final[Mapping[str, str]] = {}
_decode_info = msgspec.json.Decoder(ClientInfo).decode


def as_pub(publication: Publication, is_binary: bool) -> Pub:
    """Return a publication as a message; ``is_binary`` says whether fields of bytes may hold anything."""
    data = publication.data if is_binary else json_data(publication)
    return Pub(
        data=Raw(data),
        info=client_info(publication),
        offset=publication.offset,
        tags=dict(tags_of(publication, is_binary)),
        time=publication.time_ms,
    )


def json_data(publication: Publication) -> bytes:
    """Return what stands in ``data`` in the JSON form, on one line."""
    if publication.is_json:
        return flat(publication.data)
    return b'{"data_base64":"%s","content_type":%s}' % (
        binascii.b2a_base64(publication.data, newline=False),
        dump(publication.content_type),
    )


def tags_of(publication: Publication, is_binary: bool) -> Mapping[str, str]:
    """Return the publication's tags, with those that stand for what the protocol has no place for."""
    event = publication.event
    is_typed = is_binary and not publication.is_json
    if event is None and not is_typed:
        return publication.tags or _NO_TAGS
    tags = dict(publication.tags or _NO_TAGS)
    if event is not None:
        tags["event"] = event
    if is_typed:
        tags["content_type"] = publication.content_type
    return tags


def client_info(publication: Publication) -> ClientInfo | None:
    """Return who published it, if that is known."""
    if publication.info is None:
        return None
    try:
        return _decode_info(publication.info)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
