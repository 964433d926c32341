"""What is to be published, checked: the same bounds for whoever publishes, from wherever."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from everywire.codecs.json_text import check_json, dump
from everywire.core.errors import BadRequest, TooLarge
from everywire.core.limits import Limits
from everywire.core.publication import JSON, RESERVED_EVENTS, RESERVED_TAGS, Draft

__all__ = ["MAX_TYPE_CHARACTERS", "check_event", "check_tags", "make_draft"]

MAX_TYPE_CHARACTERS: Final = 255


def make_draft(
    channel: str,
    data: bytes,
    limits: Limits,
    *,
    content_type: str = JSON,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    key: str | None = None,
) -> Draft:
    """Check data and make a draft of it; raise `BadRequest` or `TooLarge`."""
    if len(data) > limits.max_body_bytes:
        raise TooLarge(f"a publication is at most {limits.max_body_bytes} bytes")
    if len(content_type) > MAX_TYPE_CHARACTERS:
        raise BadRequest(f"a content type has at most {MAX_TYPE_CHARACTERS} characters")
    if content_type == JSON:
        try:
            check_json(data)
        except ValueError as error:
            raise BadRequest(
                f"the data is not JSON ({str(error)[:100]}); for other data name its Content-Type"
            ) from None
    fingerprint = b""
    if key is not None:
        digest = blake2b(digest_size=16)
        for part in (content_type, event or "", dump(tags or {}).decode()):
            digest.update(part.encode() + b"\0")
        digest.update(data)
        fingerprint = digest.digest()
    return Draft(channel, data, content_type, event, tags, None, key, fingerprint)


def check_event(event: str, limits: Limits) -> str:
    """Return the event name if it may be one; raise `BadRequest` if not."""
    if event in RESERVED_EVENTS:
        raise BadRequest(f"the event names {', '.join(sorted(RESERVED_EVENTS))} are the wires' own")
    size = len(event.encode("utf-8", "surrogatepass"))
    if not 0 < size <= limits.max_event_bytes or not event.isprintable():
        raise BadRequest(f"an event name is 1 to {limits.max_event_bytes} bytes of printable text")
    return event


def check_tags(tags: dict[str, str], limits: Limits) -> dict[str, str] | None:
    """Return the tags if they may be some, None for none; raise `BadRequest` if they may not."""
    if len(tags) > limits.max_tags:
        raise BadRequest(f"a publication has at most {limits.max_tags} tags")
    for key, value in tags.items():
        if key.startswith(RESERVED_TAGS):
            raise BadRequest(f"tags that begin with {RESERVED_TAGS} are the server's own")
        if len(f"{key}{value}".encode("utf-8", "surrogatepass")) > limits.max_tag_bytes:
            raise BadRequest(f"a tag is at most {limits.max_tag_bytes} bytes")
        if not (key + value).isprintable():
            raise BadRequest("a tag is printable text")
    return tags or None
