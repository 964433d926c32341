"""What a client brings when it connects to a namespace: credentials, and what the application is told.

With Socket.IO 5 that is an object in the packet: ``token`` (or ``ticket``) in it is the credential that
counts before all others, ``pid`` and ``offset`` are the protocol's own. With version 4 it is the query, of
the handshake for ``/``, of the namespace for others (``/chat?token=x``), and it stands for the object.

Where nothing here could check a token it is none of ours: many applications judge one of their own when they
are told who connects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from everywire.access.identity import AuthRequest
from everywire.codecs.json_text import dump
from everywire.core.errors import BadRequest

__all__ = ["Brought", "brought_by_packet", "brought_by_query"]

_CARRIERS_OWN: Final = frozenset({"EIO", "transport", "sid", "t", "b64", "j"})
_MAX_FIELDS: Final = 64


class Brought(NamedTuple):
    """What a client brings."""

    request: AuthRequest
    auth: Any
    """The object for the application, or None."""
    pid: str = ""
    """The secret of who the client was; empty where it was nobody."""
    offset: str = ""
    """Where it stood."""


def brought_by_packet(
    carried: AuthRequest, auth: dict[str, Any] | None, may_judge: Callable[[str], bool], *, has_recovery: bool
) -> Brought:
    """Return what a packet of version 5 brings, beside the request of its connection. ``may_judge`` says
    whether a token could be a credential here (`everywire.access.authority.Authority.may_judge`)."""
    pid = offset = ""
    if has_recovery and auth is not None and isinstance(auth.get("pid"), str):
        auth = dict(auth)
        pid, said = auth.pop("pid"), auth.pop("offset", None)
        offset = said if isinstance(said, str) else ""
        auth = auth or None
    return Brought(_request(carried, auth, may_judge), auth, pid, offset)


def brought_by_query(carried: AuthRequest, query: str, may_judge: Callable[[str], bool]) -> Brought:
    """Return what a client of version 4 brings: the query of the namespace over that of the handshake.

    Raises `BadRequest` when the query has too many fields.
    """
    try:
        own = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise BadRequest(f"the query of a namespace has at most {_MAX_FIELDS} fields") from None
    auth = {name: value for name, value in carried.query.items() if name not in _CARRIERS_OWN} | own
    request = _request(carried, own, may_judge)
    return Brought(replace(request, data=dump(auth) if auth else None), auth or None)


def _request(
    carried: AuthRequest, auth: Mapping[str, Any] | None, may_judge: Callable[[str], bool]
) -> AuthRequest:
    auth = auth or {}
    found = auth.get("token") or auth.get("ticket")
    token = found if isinstance(found, str) and may_judge(found) else ""
    return replace(
        carried,
        transport="socketio",
        token=token or carried.token,
        # Wherever another token stood, this one came in a packet.
        is_token_in_query=carried.is_token_in_query and not token,
        data=dump(auth) if auth else None,
    )
