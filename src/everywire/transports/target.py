"""What a request to ``/channels/…`` asks for: channels, and the query's values.

Everything is checked here, once for all transports; what is wrong is a 400 that says what
would be right.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from everywire.access.drafts import check_event, check_tags
from everywire.core import codes
from everywire.core.errors import BadChannelName, BadPosition, BadRequest, RequestError
from everywire.core.limits import Limits
from everywire.core.names import check_name
from everywire.core.position import Position
from everywire.hub.recovery import EARLIEST, LATEST, UNREADABLE, Start

__all__ = [
    "PREFIX",
    "TRANSPORTS",
    "PublishQuery",
    "ReadQuery",
    "channels_of",
    "check_event",
    "check_tags",
    "has_credential",
    "publish_query",
    "read_query",
    "wait_seconds",
]

PREFIX: Final = "/channels/"
TRANSPORTS: Final = ("poll", "long-poll", "stream", "sse")
"""The values of ``?transport=``."""

_WORDS: Final = {"earliest": EARLIEST, "latest": LATEST}
_CREDENTIAL_NAMES: Final = ("token", "ticket")
_READ_NAMES: Final = {
    "": ("transport", "wait", "after", "last_event_id", "limit", *_CREDENTIAL_NAMES),
    "history": ("after", "last_event_id", "limit", *_CREDENTIAL_NAMES),
    "presence": ("by", "limit", *_CREDENTIAL_NAMES),
}
"""What a GET may ask for, by what follows the channels in the path."""
_PUBLISH_NAMES: Final = ("event", "tag", *_CREDENTIAL_NAMES)
_MAX_FIELDS: Final = 64


class ReadQuery(NamedTuple):
    """The query of a GET. ``start`` is None when no position was given."""

    transport: str | None = None
    wait_s: float | None = None
    start: Start | None = None
    limit: int = 0
    has_credential: bool = False
    """Whether it holds a token or a ticket; it is then this request's alone."""
    is_by_user: bool = False
    """Whether members are to be told by user, not by client."""


class PublishQuery(NamedTuple):
    """The query of a POST."""

    event: str | None
    tags: dict[str, str] | None
    has_credential: bool = False


def channels_of(path: str, max_channels: int) -> tuple[tuple[str, ...], str]:
    """Split ``/channels/a,b/history`` into channel names and what follows them ("" or "history")."""
    names, slash, rest = path[len(PREFIX) :].partition("/")
    if slash and rest not in ("history", "presence"):
        raise RequestError(
            "there is nothing here; a channel has /history and /presence", code=codes.UNKNOWN_CHANNEL
        )
    return _channels(names, max_channels), rest


def _channels(names: str, max_channels: int) -> tuple[str, ...]:
    parts = names.split(",")
    if len(parts) > max_channels:
        raise BadRequest(f"a request may name at most {max_channels} channels")
    try:
        decoded = [unquote_to_bytes(part).decode("ascii") for part in parts]
    except UnicodeDecodeError:
        raise BadChannelName("a channel name is ASCII; see the documentation for its characters") from None
    # Sorted and without repetition: the same set of channels is the same group of readers.
    return tuple(sorted({check_name(part) for part in decoded}))


def read_query(query: str, limits: Limits, rest: str = "") -> ReadQuery:
    """Parse the query of a GET; raise `BadRequest` or `BadPosition`.

    ``rest`` is what follows the channels in the path: "", "history" or "presence".
    """
    values = _fields(query, _READ_NAMES[rest])
    transport = values.get("transport")
    if transport is not None and transport not in TRANSPORTS:
        raise BadRequest(f"transport is one of {', '.join(TRANSPORTS)}")
    by = values.get("by")
    if by not in (None, "client", "user"):
        raise BadRequest("by is client or user")
    lenient = values.get("last_event_id")
    strict = values.get("after")
    start = None
    if strict is not None:
        # Checked also when last_event_id wins: a client that sends nonsense should hear of it.
        start = _WORDS.get(strict) or Start(Position.decode(strict))
    if lenient:
        start = lenient_start(lenient)
    most = limits.max_presence_members if rest == "presence" else limits.max_page_publications
    return ReadQuery(
        transport,
        wait_seconds(values.get("wait"), limits),
        start,
        _limit(values.get("limit"), most),
        "token" in values or "ticket" in values,
        by == "user",
    )


def has_credential(query: str) -> bool:
    """Say whether the query of a DELETE holds a credential; raise `BadRequest` if it holds anything else."""
    return bool(_fields(query, _CREDENTIAL_NAMES))


def lenient_start(text: str) -> Start:
    """Read a position as `Last-Event-ID` brings it: what cannot be read is a reset, never an error."""
    word = _WORDS.get(text)
    if word is not None:
        return word
    try:
        return Start(Position.decode(text))
    except BadPosition:
        return UNREADABLE


def publish_query(query: str, limits: Limits) -> PublishQuery:
    """Parse the query of a POST; raise `BadRequest`."""
    if not query:
        return PublishQuery(None, None)
    event: str | None = None
    tags: dict[str, str] = {}
    is_credential_there = False
    for name, value in _pairs(query, _PUBLISH_NAMES):
        if name in _CREDENTIAL_NAMES:
            is_credential_there = True
        elif name == "event":
            if event is not None:
                raise BadRequest("event was given twice")
            event = check_event(value, limits)
        else:
            key, colon, content = value.partition(":")
            if not colon or not key:
                raise BadRequest("a tag is key:value")
            tags[key] = content
    return PublishQuery(event, check_tags(tags, limits), is_credential_there)


def wait_seconds(text: str | None, limits: Limits) -> float | None:
    """Return how long to hold a request, as ``wait=`` says; raise `BadRequest` when it is no number."""
    if text is None:
        return None
    # Digits and one point: float() alone would take "nan", "1e3" and "1_0".
    if not text.replace(".", "", 1).isascii() or not text.replace(".", "", 1).isdigit() or len(text) > 20:
        raise BadRequest(f"wait is a number of seconds from 0 to {limits.max_wait_s:g}")
    return min(float(text), limits.max_wait_s)


def _limit(text: str | None, most: int) -> int:
    if text is None:
        return most
    if not text.isascii() or not text.isdigit() or len(text) > 20 or not int(text):
        raise BadRequest(f"limit is a whole number from 1 to {most}")
    return min(int(text), most)


def _fields(query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in _pairs(query, allowed):
        if name in values:
            raise BadRequest(f"{name} was given twice")
        values[name] = value
    return values


def _pairs(query: str, allowed: tuple[str, ...]) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:  # too many fields, or no UTF-8
        raise BadRequest("the query is malformed") from None
    for name, _ in pairs:
        if name not in allowed:
            raise BadRequest(f"the query may hold {', '.join(allowed)}; not {name[:40]!r}")
    return pairs
