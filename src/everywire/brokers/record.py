"""The record of a publication: the bytes that stores keep of it, without its channel and its offset.

MessagePack, an array whose places have these meanings: version of the form, time, data, content type, event,
tags, info. Readers take longer arrays of a later version, and pass over what they do not know.

What is read is checked as far as no wire could write it: it may be of anybody who can write to the store.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from everywire.core.errors import BrokerError
from everywire.core.position import MAX_OFFSET
from everywire.core.publication import Draft, Publication

__all__ = ["pack", "unpack"]

_VERSION: Final = 1
_MAX_TIME_MS: Final = 2**53 - 1
_NO_EVENT: Final = re.compile(r"[\r\n\0]")
"""What no event's name holds: it would be another line of a stream."""


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: int
    time_ms: int
    data: bytes
    content_type: str = ""
    event: str | None = None
    tags: dict[str, str] | None = None
    info: bytes | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Record)


def pack(draft: Draft, time_ms: int) -> bytes:
    """Return the record of a draft that is published at a UNIX time in milliseconds."""
    tags = None if draft.tags is None else dict(draft.tags)
    return _encoder.encode(
        _Record(_VERSION, time_ms, draft.data, draft.content_type, draft.event, tags, draft.info)
    )


def unpack(offset: int, record: bytes | memoryview) -> Publication:
    """Return the publication that stands at an offset; `BrokerError` when this is no record."""
    try:
        found = _decoder.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokerError(f"offset {offset} holds what is no publication: {error}") from None
    if not (0 <= offset <= MAX_OFFSET and 0 <= found.time_ms <= _MAX_TIME_MS):
        raise BrokerError(f"offset {offset} holds what is no publication: numbers out of range")
    if found.event is not None and _NO_EVENT.search(found.event) is not None:
        raise BrokerError(f"offset {offset} holds what is no publication: a name of two lines")
    return Publication(
        offset, found.data, found.time_ms, found.content_type, found.event, found.tags, found.info
    )
