"""Tickets: what a browser shows where it cannot set headers (`WebSocket`, `EventSource`).

A ticket is asked for by somebody who is known already (``POST /ticket``), works once, for at most
`Limits.ticket_ttl_s`, from the origin that asked for it, and is nothing but ``t.`` and 256 random bits. What
it stands for is in the broker's store, under a digest of it, so that whoever reads the store holds no
tickets. It refuses to give a ticket to nobody, and one ticket for another.

A ticket that is shown from another origin is used up by it: it has leaked.
"""

from __future__ import annotations

import logging
import re
import secrets
from hashlib import blake2b
from typing import Any, Final

import msgspec

from everywire.access.identity import Action, Identity, Terms
from everywire.brokers.base import Store
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.limits import Limits

__all__ = ["Tickets", "is_ticket"]

_log = logging.getLogger("everywire.access")

_RANDOM_BYTES: Final = 32
_FORM: Final = re.compile(r"t\.[A-Za-z0-9_-]{43}\Z")
_REFUSED: Final = "this ticket is not valid: it works once, for some seconds, from the page that asked for it"


class _Terms(msgspec.Struct, omit_defaults=True):
    info: str | None = None
    data: str | None = None
    join_leave: bool | None = None


class _Stored(msgspec.Struct, omit_defaults=True):
    """An identity as the store keeps it, and the origin that it is bound to. JSON texts stand as text."""

    origin: str
    credential: bytes
    user: str = ""
    may_all: bool = False
    info: str | None = None
    expires_s: float | None = None
    issued_s: float | None = None
    token_id: str = ""
    channels: tuple[str, ...] = ()
    terms: dict[str, _Terms] = {}
    grants: dict[str, tuple[str, ...]] = {}
    claims: dict[str, Any] = {}


_read = msgspec.json.Decoder(_Stored).decode


def is_ticket(text: str) -> bool:
    """Say whether a credential has the form of a ticket."""
    return _FORM.match(text) is not None


class Tickets:
    """Gives tickets and takes them back."""

    __slots__ = ("_limits", "_store")

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()

    async def issue(self, identity: Identity, origin: str) -> str:
        """Return a new ticket.

        ``origin`` is `AuthRequest.origin` of the request that asks for it. Errors: 101 for nobody, 103 for
        a ticket's bearer, 100 for an identity whose claims are no JSON, `BrokerError`.
        """
        if not identity.kind and not identity.user:
            raise EverywireError("a ticket is given to who has another credential", code=codes.UNAUTHORIZED)
        if identity.kind == "ticket":
            # Or else it would renew itself for ever, whatever became of the credential.
            raise Forbidden("a ticket gives no other ticket: show the credential itself")
        try:
            value = msgspec.json.encode(_to_store(identity, origin))
        except (TypeError, ValueError, RecursionError) as error:
            _log.error("an identity cannot be written as JSON, so it gets no ticket: %s", error)
            raise EverywireError() from None
        ticket = "t." + secrets.token_urlsafe(_RANDOM_BYTES)
        await self._store.put(_key(ticket), value, self._limits.ticket_ttl_s)
        return ticket

    async def redeem(self, ticket: str, origin: str) -> Identity:
        """Return whom the ticket stands for, once: of several who show it, one gets it.

        Errors: 101 for one that is not there, was used, has run out or is of another origin, and the log
        says which; `BrokerError`. Whether the credential behind it has run out, or was revoked, is judged
        by whoever asks.
        """
        value = await self._store.take(_key(ticket)) if is_ticket(ticket) else None
        if value is None:
            _log.warning("a ticket was refused from origin %r: unknown, used or too old", origin)
            raise EverywireError(_REFUSED, code=codes.UNAUTHORIZED)
        try:
            stored = _read(value)
            identity = _from_store(stored)
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            _log.error("the store holds something that is no ticket: %s", error)
            raise EverywireError(_REFUSED, code=codes.UNAUTHORIZED) from None
        if stored.origin != _comparable(origin):
            _log.warning(
                "a ticket of user %r was refused: given to origin %r, shown from %r",
                stored.user,
                stored.origin,
                origin,
            )
            raise EverywireError(_REFUSED, code=codes.UNAUTHORIZED)
        return identity


def _key(ticket: str) -> str:
    return "ticket:" + blake2b(ticket.encode(), digest_size=16).hexdigest()


def _comparable(origin: str) -> str:
    return origin.lower().rstrip("/")


def _to_store(identity: Identity, origin: str) -> _Stored:
    return _Stored(
        origin=_comparable(origin),
        credential=identity.credential,
        user=identity.user,
        may_all=identity.may_all,
        info=_text(identity.info),
        expires_s=identity.expires_s,
        issued_s=identity.issued_s,
        token_id=identity.token_id,
        channels=tuple(identity.channels),
        terms={
            channel: _Terms(_text(terms.info), _text(terms.data), terms.join_leave)
            for channel, terms in identity.terms.items()
        },
        grants={action.value: tuple(patterns) for action, patterns in identity.grants.items()},
        claims=dict(identity.claims),
    )


def _from_store(stored: _Stored) -> Identity:
    return Identity(
        user=stored.user,
        kind="ticket",
        may_all=stored.may_all,
        info=_bytes(stored.info),
        expires_s=stored.expires_s,
        issued_s=stored.issued_s,
        token_id=stored.token_id,
        channels=stored.channels,
        terms={
            channel: Terms(info=_bytes(terms.info), data=_bytes(terms.data), join_leave=terms.join_leave)
            for channel, terms in stored.terms.items()
        },
        grants={Action(action): patterns for action, patterns in stored.grants.items()},
        claims=stored.claims,
        credential=stored.credential,
    )


def _text(json: bytes | None) -> str | None:
    return None if json is None else json.decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
