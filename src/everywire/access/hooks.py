"""What the application is asked and told: one table, filled by Python handlers or by webhooks.

Every entry may be missing; then it is not asked, and nothing is awaited. A hook refuses by raising an
`EverywireError` (a `Forbidden`, or any code of the table); any other error is logged and becomes
code 100. Hooks run in the event loop and are bounded by `Limits.hook_timeout_s`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from everywire.access.identity import Action, AuthRequest, Identity
from everywire.core.codes import Code
from everywire.core.publication import Draft

__all__ = ["IN_ORDER", "Caller", "ConnectDecision", "Hooks", "Lane", "SubscribeDecision"]


class Caller(Protocol):
    """Who is behind a call: a session, or the reader or publisher of a plain transport."""

    @property
    def identity(self) -> Identity:
        """Whom its credential proved."""

    @property
    def client(self) -> str:
        """The client id; empty for plain transports."""

    @property
    def transport(self) -> str:
        """The wire that carries it."""

    @property
    def peer(self) -> str:
        """The client's address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeDecision:
    """What the application says to a subscription that it allows."""

    info: bytes | None = None
    """JSON text that others see of this client in this channel (``chan_info``)."""
    data: bytes | None = None
    """JSON text that the subscriber gets with the reply."""
    expires_s: float | None = None
    """When the permission ends (UNIX time); then the client must refresh it."""
    snapshot: Callable[[Caller, str], Awaitable[bytes]] | None = None
    """Makes the channel's state as JSON text. The position is read first, then this is called, then the
    snapshot is sent with that position, and after it only what is newer."""
    join_leave: bool | None = None
    """Whether joins and leaves are told to this client; None lets it choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectDecision:
    """What the application says to a connection that it allows."""

    data: bytes | None = None
    """JSON text that the client gets with the reply."""
    channels: Mapping[str, SubscribeDecision] = field(default_factory=dict)
    """Channels that the client is subscribed to by the server, besides those of its token."""
    identity: Identity | None = None
    """Another identity than the one that was proved, if the application knows better."""


class Lane(NamedTuple):
    """Where a call or a message of a session waits for its turn.

    Those of one session with an equal ``key`` are begun in the order they came in, at most
    ``concurrency`` at a time; those with different keys know nothing of each other.
    """

    key: Hashable = None
    concurrency: int = 1
    is_cancelled: bool = False
    """Whether the work is cancelled when its session ends; else it goes on, and its answer is dropped."""


IN_ORDER: Final = Lane()
"""The lane of whatever asks for no other: one at a time, in order."""


@dataclass(slots=True, kw_only=True)
class Hooks:
    """The table; `everywire.application` and `everywire.access.webhooks` fill it before the start."""

    authenticate: Callable[[AuthRequest], Awaitable[Identity | None]] | None = None
    """Say who it is, or None to let the built-in ways go on."""
    authorize: Callable[[Identity, Action, str], Awaitable[bool | None]] | None = None
    """Say whether an identity may do something to a channel; None leaves it to the other rules."""
    connect: Callable[[Caller, AuthRequest], Awaitable[ConnectDecision | None]] | None = None
    """A session begins."""
    refresh: Callable[[Caller, str], Awaitable[Identity | None]] | None = None
    """A session brings a new token (or, where there are none, asks to go on): the new identity, or None to
    let the built-in way judge the token."""
    subscribe: Callable[[Caller, str, bytes | None], Awaitable[SubscribeDecision | None]] | None = None
    """A session subscribes to a channel that it is allowed to read; the bytes are its data."""
    publish: Callable[[Caller, Draft], Awaitable[Draft | None]] | None = None
    """A client publishes: another draft changes it, None lets it pass, an error refuses it."""
    rpc: Callable[[Caller, str, bytes], Awaitable[bytes]] | None = None
    """Answer a call with JSON text (any bytes to a Protobuf client)."""
    message: Callable[[Caller, bytes], Awaitable[None]] | None = None
    """A client sent a message."""
    lane: Callable[[Caller, str, bytes], Lane] | None = None
    """Say in which lane an rpc of a method, or with an empty method a message, waits for its turn; without it
    all are `IN_ORDER`. It answers at once, and raises nothing."""
    disconnect: Callable[[Caller, Code | None], Awaitable[None]] | None = None
    """A session ended."""
    occupied: Callable[[str], Awaitable[None]] | None = None
    """A channel has its first member."""
    vacated: Callable[[str], Awaitable[None]] | None = None
    """A channel has lost its last member."""
