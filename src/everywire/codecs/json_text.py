"""JSON texts put together from parts that are JSON already.

A publication's data stays the bytes that were published: numbers keep their digits and
nothing is parsed again. Built by hand because data is spliced in as it stands; strings
are encoded by msgspec.
"""

from __future__ import annotations

import binascii
from typing import Any

import msgspec

from everywire.core.publication import Gap, Publication

__all__ = ["check_json", "dump", "flat", "gap_object", "members", "publication_members"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def dump(value: Any) -> bytes:
    """Encode a value as JSON text in UTF-8, without white space."""
    return _encode(value)


def check_json(data: bytes) -> Any:
    """Parse JSON text and return its value; raise ValueError when it is none (RFC 8259)."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def members(data: bytes) -> dict[str, bytes]:
    """Split the text of a JSON object into its members, each as the text that stands there.

    Raises ValueError when it is no JSON object. Members are not checked any further.
    """
    try:
        return {name: bytes(raw) for name, raw in _decode_members(data).items()}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def flat(data: bytes) -> bytes:
    """Put JSON text on one line: outside of strings, line ends are white space, and in them they
    cannot stand (RFC 8259 §7)."""
    if b"\n" in data or b"\r" in data:
        return data.replace(b"\r", b" ").replace(b"\n", b" ")
    return data


def publication_members(publication: Publication, channel: str | None) -> bytes:
    """Return a publication as the members of a JSON object, without its braces, on one line."""
    parts = [b'"channel":"%s",' % channel.encode("ascii")] if channel is not None else []
    parts.append(b'"offset":%d,' % publication.offset)
    if publication.is_json:
        parts.append(b'"data":%s' % flat(publication.data))
    else:
        parts.append(
            b'"data_base64":"%s","content_type":%s'
            % (binascii.b2a_base64(publication.data, newline=False), _encode(publication.content_type))
        )
    if publication.event is not None:
        parts.append(b',"event":%s' % _encode(publication.event))
    if publication.tags:
        parts.append(b',"tags":%s' % _encode(publication.tags))
    if publication.info is not None:
        parts.append(b',"info":%s' % flat(publication.info))
    parts.append(b',"time":%d' % publication.time_ms)
    return b"".join(parts)


def gap_object(gap: Gap, channel: str | None) -> bytes:
    """Return a gap as a JSON object: first and last missed offset, both included, or nulls."""
    value: dict[str, Any] = {} if channel is None else {"channel": channel}
    value |= {"from": gap.first, "to": gap.last, "reason": gap.reason}
    return _encode(value)
