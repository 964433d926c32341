"""What a request for a session comes down to, whatever carries it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, NamedTuple

from everywire.access.identity import AuthRequest
from everywire.codecs.centrifuge.messages import Command
from everywire.core.errors import BadRequest
from everywire.sessions.dialect import Dialect
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors
from everywire.transports.service import Service, auth_request

__all__ = ["CONNECT", "Asked", "marked", "wants_protobuf"]

CONNECT: Final = "cf_connect"
"""The parameter that holds what a client would send first, where it can send nothing else."""

_BINARY_TYPE: Final = "application/octet-stream"
_MAY_CHANGE: Final = re.compile(r"application/(?:octet-stream|(?:[^/\s]+\+)?json)")


class Asked(NamedTuple):
    """A request that passed the gate and has a method that is known."""

    service: Service
    exchange: Exchange
    cors: Cors
    transport: str

    def auth(self) -> AuthRequest:
        """Return what the request brings to be known by.

        Cookies count in a POST only if it has a type that no form has, or a listed origin: a form of any
        site can POST with its visitors' cookies.
        """
        request = self.exchange.request
        auth = auth_request(request, self.transport, self.cors)
        if auth.cookies and self.service.gate.refuse_cookie(request) is not None:
            essence = auth.headers.get("content-type", "").partition(";")[0].strip().lower()
            if _MAY_CHANGE.fullmatch(essence) is None:
                headers = {name: value for name, value in auth.headers.items() if name != "cookie"}
                return replace(auth, headers=headers, cookies={})
        return auth


def wants_protobuf(asked: Asked) -> bool:
    """Whether a POST is in the Protobuf form; so is its answer then."""
    content_type = asked.exchange.request.header(b"content-type") or ""
    return content_type.partition(";")[0].strip().lower() == _BINARY_TYPE


def marked(auth: AuthRequest, dialect: Dialect, data: bytes) -> AuthRequest:
    """Return what a request brings whose first commands stood in its URL, as ``cf_connect``.

    If they bring a token, it is marked as one that came in the URL. The parameter itself is left out: it
    differs from request to request.

    Raises `BadRequest` for commands that change something. Any page can have its visitors' browsers get a
    URL, cookies and all (an image is enough), and a browser without Fetch Metadata, or over plain HTTP, tells
    nobody which page it was.
    """
    query = {name: value for name, value in auth.query.items() if name != CONNECT}
    auth = replace(auth, query=query)
    try:
        commands = dialect.commands(data, 1 + data.count(b"\n"))
    except BadRequest:
        return auth  # the session says so
    if any(_changes(command) for command in commands):
        raise BadRequest(f"{CONNECT} changes nothing: send publish, rpc and send by POST, or to /emulation")
    if any(command.connect is not None and command.connect.token for command in commands):
        return replace(auth, token="", is_token_in_query=True)
    return auth


def _changes(command: Command) -> bool:
    return any(one is not None for one in (command.publish, command.rpc, command.send))
