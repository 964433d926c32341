"""Who someone is: what a credential proved, and what was known when it was judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

__all__ = ["NOBODY", "Action", "AuthRequest", "Identity", "Terms"]


class Action(Enum):
    """What can be done to a channel."""

    READ = "read"
    """Subscribe, poll, and read its history."""
    PUBLISH = "publish"
    PRESENCE = "presence"
    """See who reads it."""
    DELETE = "delete"
    """Drop its publications."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a credential says of a channel that it subscribes its bearer to (``subs``)."""

    info: bytes | None = None
    """JSON text that others see of this client in this channel (``chan_info``)."""
    data: bytes | None = None
    """JSON text that the subscriber gets with its subscription."""
    join_leave: bool | None = None
    """Whether joins and leaves are told to this client; None lets it choose."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, weakref_slot=True)
class Identity:
    """Whom a credential proved. The empty user is nobody; two identities are never equal, each is one proof.

    Applications return one from their ``authenticate``; everything but ``user`` may be left out.
    """

    user: str = ""
    """The user id; empty is nobody. At most 255 characters."""
    kind: str = ""
    """What proved it: ``key``, ``token``, ``ticket``, ``cookie``, ``hook``, or nothing."""
    may_all: bool = False
    """Whether everything is allowed to it (an API key)."""
    info: bytes | None = None
    """JSON text that others see in presence, joins and publications (``conn_info``)."""
    expires_s: float | None = None
    """When the credential runs out (UNIX time); None is never."""
    issued_s: float | None = None
    """When the credential was issued (UNIX time), if it says so."""
    token_id: str = ""
    """The token's ``jti``."""
    channels: tuple[str, ...] = ()
    """Channels that sessions of this identity are subscribed to by the server; it may read them."""
    terms: Mapping[str, Terms] = field(default_factory=dict)
    """What there is to say of some of ``channels``."""
    grants: Mapping[Action, tuple[str, ...]] = field(default_factory=dict)
    """Patterns of channel names that the credential itself opens."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    """All that the credential says, for the application; never shown to others."""
    credential: bytes = b""
    """A digest of the credential, so that decisions on two credentials of a user are never mixed up."""
    judged_s: float | None = None
    """When the authority judged it, on the authority's own clock; None is known for good (API keys)."""

    @property
    def key(self) -> tuple[str, bytes]:
        """What decisions are remembered by."""
        return (self.user, self.credential)


NOBODY: Final = Identity()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AuthRequest:
    """What someone brings who wants to be known: an HTTP request's head, or a connect command, or both.

    ``headers`` maps lower-case names to text. Nothing of it is trusted yet.
    """

    transport: str = ""
    """The wire: ``poll``, ``sse``, ``websocket``, ``http_stream`` and so on."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header fields, and those that a connect command brings in ``headers`` where the request has none."""
    cookies: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    """The client's address, seen through trusted proxies."""
    origin: str = ""
    """The page's origin: the ``Origin`` header; the server's own (scheme and host as they were asked for)
    where ``Sec-Fetch-Site`` is ``same-origin``, because browsers send no Origin with a GET to their own
    server; or nothing. Tickets are bound to it."""
    method: str = "GET"
    token: str = ""
    """A connection token: from the connect command or ``Authorization: Bearer``."""
    is_token_in_query: bool = False
    """Whether the token came in the URL, where it stays in logs and histories: only short-lived ones may."""
    data: bytes | None = None
    """What the connect command says to the application (JSON text, or any bytes of a Protobuf client)."""
    name: str = ""
    """What the client calls itself."""
    version: str = ""
