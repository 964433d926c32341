"""Presence: who is in a channel, who comes and who goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from msgspec import Raw

from everywire.access.hooks import Hooks
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.hub.hub import Hub

__all__ = ["JoinLeaveListener", "Members", "Presence", "UserMember"]


class UserMember(NamedTuple):
    """One user in a channel, on however many devices."""

    info: ClientInfo
    """That of one of its clients."""
    num_clients: int


class Members(NamedTuple):
    """Who is in a channel."""

    clients: Mapping[str, ClientInfo]
    """By client id."""
    users: Mapping[str, UserMember]
    """By user id; only filled when it was asked for."""
    num_clients: int
    num_users: int
    is_cut: bool
    """Whether the limit left members out; the numbers count all."""


class JoinLeaveListener(Protocol):
    """Who wants to hear of joins and leaves. Plain calls from the event loop."""

    def joined(self, channel: str, info: ClientInfo) -> None:
        """Hear that a member came, or has another state (``chan_info``) now."""

    def left(self, channel: str, info: ClientInfo) -> None:
        """Hear that a member has gone."""

    def changed(self, channel: str) -> None:
        """Hear that more came and went than was told one by one: read the list again."""


class Presence:
    """The members of all channels."""

    def __init__(self, hub: Hub, hooks: Hooks | None = None) -> None:
        """Make it for a hub; hooks are told of channels that become occupied or vacated."""

    async def start(self) -> None:
        """Begin to renew leases and to tell; after `Hub.start`."""

    async def close(self) -> None:
        """Drop this node's leases; before `Hub.close`."""

    def enter(self, channel: str, client: str, info: ClientInfo) -> None:
        """Let an open connection be a member until `leave`; the node renews its lease."""

    def leave(self, channel: str, client: str) -> None:
        """Let a member be none any more; nothing happens if it was none."""

    def touch(self, channel: str, client: str, info: ClientInfo, wait_s: float = 0.0) -> None:
        """Let a polling client be a member until ``wait_s`` and `Limits.presence_ttl_s` are over."""

    def update(self, channel: str, client: str, chan_info: Raw | None) -> None:
        """Give a member of this node another state; it is told as one more join."""

    async def members(self, channel: str, limit: int | None = None, *, by_user: bool = False) -> Members:
        """Return who is in a channel, at most `Limits.max_presence_members`."""
        raise NotImplementedError

    async def stats(self, channel: str) -> tuple[int, int]:
        """Return the number of clients and of users in a channel."""
        raise NotImplementedError

    def listen(self, channel: str, listener: JoinLeaveListener) -> None:
        """Tell a listener of joins and leaves in a channel, on any node."""

    def unlisten(self, channel: str, listener: JoinLeaveListener) -> None:
        """Tell a listener no more."""
