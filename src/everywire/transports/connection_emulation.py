"""``/emulation``: commands of clients whose session is carried by an answer that never ends.

The session id in the request is a secret that the client got with its connect reply; whoever does not have
one is told nothing: an id that no session has is answered as any other, and only for a node that is not
there the client is told to give up. Replies come on the stream.

No other credential is needed, and most clients show none. But a request that proves another user than the
session's is refused and logged: that user came by the id in no honest way.
"""

from __future__ import annotations

from typing import Final

from everywire.access.identity import NOBODY, Identity
from everywire.codecs.centrifuge import json_form, protobuf_form
from everywire.core.errors import EverywireError
from everywire.transports.connection_asked import Asked, wants_protobuf
from everywire.transports.service import WholeAnswer, json_headers, refuse

__all__ = ["serve_emulation"]

_CREDENTIALS: Final = frozenset({"authorization", "x-api-key"})


def serve_emulation(asked: Asked) -> None:
    """Hand commands over to their session: 204; 400 for no request of this kind, 404 for no such node, 503
    for one that does not answer."""
    exchange, shared = asked.exchange, asked.service.shared
    decode = protobuf_form.decode_emulation if wants_protobuf(asked) else json_form.decode_emulation
    exchange.attend(WholeAnswer(), asked.transport)

    async def forward(user: str, node: str, session_id: str, data: bytes) -> None:
        try:
            await shared.registry.forward(node, session_id, data, user=user)
        except EverywireError as error:
            refuse(exchange, error, asked.cors)
        else:
            headers = [header for header in json_headers(asked.cors) if header[0] != b"content-type"]
            exchange.respond(204, headers)

    def take(body: bytes) -> None:
        try:
            node, session_id, data = decode(body)
        except EverywireError as error:
            refuse(exchange, error, asked.cors)
            return

        def known(identity: Identity | EverywireError) -> None:
            # One that is no good proves nobody: a session outlives what it began with.
            user = "" if isinstance(identity, EverywireError) else identity.user
            shared.tasks.start(forward(user, node, session_id, data), "handing over commands")

        auth = asked.auth()
        if auth.token or auth.cookies or not _CREDENTIALS.isdisjoint(auth.headers):
            shared.authority.authenticate(auth, known)
        else:
            known(NOBODY)

    exchange.read_body(asked.service.limits.max_body_bytes, take)
