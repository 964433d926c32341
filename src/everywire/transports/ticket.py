"""``POST /ticket``: something that browsers can show where they can set no headers.

Whoever is known by a header or a cookie gets a ticket that works once, soon, and from the same origin:
``new WebSocket(`…/channels/a?ticket=${ticket}`)``. Nobody gets none, and no ticket buys another. With a
cookie alone it takes a JSON type or a listed origin, as all that changes something does.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Final

from everywire.access.identity import Identity
from everywire.codecs.json_text import dump
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError, TooManyRequests
from everywire.transports.answering import Answer, answer_by
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors, Refusal
from everywire.transports.judging import Judging
from everywire.transports.service import Service, WholeAnswer, auth_request, refuse

__all__ = ["serve_ticket"]

_ALLOWED: Final = (b"allow", b"POST, OPTIONS")
_NAME: Final = "ticket"


def serve_ticket(service: Service, exchange: Exchange) -> None:
    """Answer 201 ``{"ticket": "t.…", "expires_in": 30}``.

    Errors: 401 for nobody; 403 for a ticket's bearer, and for a cookie without a JSON type or a listed
    origin; 429 when one user asks too often; 501 where there are no tickets.
    """
    request = exchange.request
    admitted = service.gate.admit(request)
    if isinstance(admitted, Refusal):
        refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
    elif request.method == "OPTIONS":
        exchange.attend(WholeAnswer(), "options")
        exchange.respond(204, [_ALLOWED, *service.gate.preflight(request)])
    elif request.method != "POST":
        error = RequestError("a ticket is asked for with POST", code=codes.METHOD_NOT_FOUND)
        refuse(exchange, error, admitted, [_ALLOWED])
    elif request.query:
        # A credential in a URL is what tickets are there to avoid.
        refuse(exchange, BadRequest("show your credential in a header or a cookie"), admitted)
    else:
        asked = auth_request(request, _NAME, admitted)
        give = partial(_give, service, exchange, admitted, asked.origin)
        Judging(service, exchange, admitted, _NAME, None, (), give).authenticate(asked)


def _give(service: Service, exchange: Exchange, cors: Cors, origin: str, identity: Identity) -> None:
    tickets = service.authority.tickets
    if tickets is None:
        raise EverywireError("tickets are not given here", code=codes.NOT_AVAILABLE)
    if not identity.user and not identity.kind:
        raise EverywireError("a credential is needed to get a ticket", code=codes.UNAUTHORIZED)
    asked, now_s = service.tickets_asked, service.hub.time()
    whose: Hashable = identity.user or identity.credential
    wait_s = asked.wait_s(whose, now_s)
    if wait_s > 0:
        raise TooManyRequests("you ask for too many tickets", wait_s)
    asked.take(whose, now_s)
    answer_by(service, exchange, cors, _NAME, _issue(service, identity, origin))


async def _issue(service: Service, identity: Identity, origin: str) -> Answer:
    tickets = service.authority.tickets
    assert tickets is not None
    ticket = await tickets.issue(identity, origin)
    return Answer(201, dump({"ticket": ticket, "expires_in": int(service.limits.ticket_ttl_s)}))
