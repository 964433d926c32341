"""What a connect command adds to what its carrier's request brought: a token, header fields, names.

Browsers cannot set header fields on a WebSocket or an `EventSource`, so clients put them in the command. They
count only where the request itself has none, and never where browsers or proxies vouch for a field.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import MAX_ENTRIES, ConnectRequest
from everywire.core.errors import BadRequest
from everywire.sessions.answers import field_bytes

__all__ = ["complete_request"]

_MAX_NAME_CHARACTERS: Final = 64
_MAX_HEADERS: Final = 32
_MAX_HEADER_CHARACTERS: Final = 16 * 1024
_NOT_EMULATED: Final = frozenset(
    {"cookie", "origin", "host", "forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip"}
)
"""Header fields that browsers or proxies vouch for: a page must not be able to make them up."""
_NOT_EMULATED_PREFIXES: Final = ("x-forwarded-", "sec-", "proxy-", "remote-", "x-remote-", "x-auth-request-")


def complete_request(carried: AuthRequest, request: ConnectRequest) -> AuthRequest:
    """Return what the carrier's request brought, completed by what the connect command brings.

    Raises `BadRequest` when that is too much. A header field of the command counts only where the request
    itself has none, and never one that browsers or proxies vouch for.
    """
    if len(request.headers) > _MAX_HEADERS or (
        sum(len(name) + len(value) for name, value in request.headers.items()) > _MAX_HEADER_CHARACTERS
    ):
        raise BadRequest("the connect command brings too many headers")
    if len(request.subs) > MAX_ENTRIES:
        raise BadRequest("the connect command brings too many subscriptions")
    if len(request.name) > _MAX_NAME_CHARACTERS or len(request.version) > _MAX_NAME_CHARACTERS:
        raise BadRequest(f"name and version are at most {_MAX_NAME_CHARACTERS} characters")
    headers = dict(carried.headers)
    for name, value in request.headers.items():
        name = name.lower()
        if name not in _NOT_EMULATED and not name.startswith(_NOT_EMULATED_PREFIXES):
            headers.setdefault(name, value)
    return replace(
        carried,
        headers=headers,
        token=request.token or carried.token,
        # The command's own token counts before the URL's. Where the command itself stood in the URL, its
        # carrier said so, and left no other token.
        is_token_in_query=carried.is_token_in_query and not (request.token and carried.token),
        data=field_bytes(request.data),
        name=request.name,
        version=request.version,
    )
