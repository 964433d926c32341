"""Polling: one page of publications after a position, and where to go on.

The answer says when to ask again (``Retry-After``). Its ETag covers the first and last
offset served, and a matching ``If-None-Match`` is answered 304; what is served is chosen by
the position alone. A full page after a given position never changes, so caches may keep it
when anyone may read the channels. ``HEAD`` and ``/history`` are answered here too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import Final

from everywire.access.identity import Action
from everywire.core.errors import EverywireError
from everywire.core.publication import Gap, Publication
from everywire.hub.fetch import Fetched
from everywire.hub.interfaces import Item
from everywire.hub.recovery import EARLIEST
from everywire.transports.encoders import PAGE
from everywire.transports.service import JSON_TYPE, NOSNIFF, VARY, Ask, WholeAnswer, json_headers, refuse
from everywire.transports.stay import show_life

__all__ = ["retry_after_s", "serve_page"]

_PUBLIC: Final = (b"cache-control", b"public, max-age=60")
_TAGS: Final = re.compile(r'(?:W/)?"[^"]*"')
_MIN_RETRY_S: Final = 1
_MAX_RETRY_S: Final = 30


def serve_page(ask: Ask) -> None:
    """Answer one page."""
    exchange = ask.exchange
    exchange.attend(WholeAnswer(), ask.transport)
    if ask.identity.user and ask.transport == "poll" and exchange.request.method == "GET":
        show_life(ask.service.shared, ask.identity, ask.channels)
    ask.service.hub.fetch(ask.channels, ask.start or EARLIEST, ask.query.limit, partial(_finish, ask))


def _finish(ask: Ask, fetched: Fetched | EverywireError) -> None:
    exchange, cors = ask.exchange, ask.cors
    if isinstance(fetched, EverywireError):
        refuse(exchange, fetched, cors)
        return
    items: list[Item] = []
    for here in fetched.slices:
        if here.gap is not None:
            items.append(Item(here.channel, here.gap, ""))
        items += [Item(here.channel, publication, "") for publication in here.publications]
    tag = etag(fetched)
    is_final = fetched.has_more and ask.start is not None and ask.start.position is not None
    is_final = is_final and not fetched.new and not any(isinstance(item.content, Gap) for item in items)
    headers = [*json_headers(cors), (b"etag", tag), *_standing(fetched)]
    headers.append((b"retry-after", b"%d" % (0 if fetched.has_more else retry_after_s(items))))
    if is_final and ask.service.authority.is_open(Action.READ, ask.channels):
        headers = [JSON_TYPE, _PUBLIC, VARY, NOSNIFF, *cors, *headers[len(json_headers(cors)) :]]
    wanted = exchange.request.header(b"if-none-match")
    if wanted is not None and _matches(wanted, tag.decode("ascii")):
        exchange.respond(304, [header for header in headers if header != JSON_TYPE])
        return
    exchange.note(sum(isinstance(item.content, Publication) for item in items))
    exchange.respond(200, headers, PAGE[ask.has_several].page(items, fetched.position, fetched.new))


def _standing(fetched: Fetched) -> list[tuple[bytes, bytes]]:
    headers = [(b"everywire-position", fetched.position.encode("ascii"))]
    if len(fetched.slices) == 1:
        head = fetched.slices[0].head
        headers.append((b"everywire-epoch", head.epoch.encode("ascii")))
        headers.append((b"everywire-offset", b"%d" % (head.last if head.exists else 0)))
    return headers


def etag(fetched: Fetched) -> bytes:
    """Make the entity tag of a page: epoch, first and last offset of each channel."""
    parts = []
    for here in fetched.slices:
        first = here.publications[0].offset if here.publications else here.last + 1
        gap = "" if here.gap is None else f"-{here.gap.reason}{here.gap.first}"
        parts.append(f"{here.channel}-{here.head.epoch}-{first}-{here.last}{gap}")
    digest = blake2b("|".join(parts).encode("ascii"), digest_size=12).hexdigest()
    return b'"%s"' % digest.encode("ascii")


def _matches(header: str, tag: str) -> bool:
    """Compare weakly (RFC 9110 §8.8.3.2, §13.1.2)."""
    if header.strip() == "*":
        return True
    return any(found.removeprefix("W/") == tag for found in _TAGS.findall(header[:4096]))


def retry_after_s(items: Sequence[Item]) -> int:
    """Hint when to ask again: about as long as two publications were apart lately."""
    times = [item.content.time_ms for item in items if isinstance(item.content, Publication)]
    if len(times) < 2:
        return _MIN_RETRY_S
    apart_s = abs(times[-1] - times[0]) / 1000 / (len(times) - 1)
    return min(max(round(apart_s), _MIN_RETRY_S), _MAX_RETRY_S)
