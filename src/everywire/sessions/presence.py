"""Presence: who is in a channel, who comes and who goes, on all nodes together.

A member is a client (a session by its client id, a plain reader of a known user by an id made for it) in a
channel, with its user and what others see of it. Plain readers that are nobody are no members; those that
are connected are counted by `Hub.subscribers`.

* Each member holds a lease among the broker's leases (`everywire.sessions.leasing`). An open connection is
  a member from `Presence.enter` to `Presence.leave`, and its lease hangs on that of its node, so a node
  that was killed leaves no ghosts behind; a polling client, which may go on elsewhere, is one for
  `Limits.presence_ttl_s` after each sign of life (`Presence.touch`).
* The list (`Presence.members`) is the leases and what this node knows better: who left here is off it at
  once.
* Joins and leaves are told to listeners of every node by that node's own roster of the channel
  (`everywire.sessions.roster`): a leave only after `Limits.leave_debounce_s`, so that who comes back
  meanwhile has neither left nor joined. Coming back means the same client id, or the same user in a channel
  with `ChannelSettings.presence_by_user`; there a user's first client is the join and the last the leave.
* A member's state is the ``chan_info`` of its info. `Presence.update` changes it, which is told as one more
  join of the same client: client libraries of the Centrifuge protocol take it without knowing of updates.

Settings of a channel switch it off: ``presence`` (no leases, the list is empty), ``join_leave`` (nobody is
told). What is told is bounded, as rosters say. Who may see a list or hear of joins is not asked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from everywire.access.hooks import Hooks
from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.codecs.json_text import check_json
from everywire.core.settings import ChannelSettings
from everywire.hub.hub import Hub
from everywire.sessions.leasing import Leasing
from everywire.sessions.listing import MAX_SLICE, Listing
from everywire.sessions.membership import (
    PRESENCE,
    Membership,
    client_of,
    decode_changes,
    decode_info,
    encode_info,
    user_of,
    with_state,
)
from everywire.sessions.nodes import Nodes
from everywire.sessions.occupancy import OCCUPIED, Occupancy, occupant
from everywire.sessions.roster import JoinLeaveListener
from everywire.sessions.rosters import Rosters

__all__ = ["JoinLeaveListener", "Members", "Presence", "UserMember"]

_TICK_S: Final = 0.25
_OCCUPANCY: Final = ChannelSettings(presence=True, join_leave=True, presence_by_user=True)
_POLLING_SPARE: Final = 4 / 3
"""A polling client's lease is this much longer, so that one sign of life in three of them need be written."""


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
    """By user id, nobodies together under the empty one; only filled when it was asked for."""
    num_clients: int
    num_users: int
    is_cut: bool
    """Whether the limit left members out; the numbers count all."""


class Place:
    """A channel in which this node knows members at first hand."""

    __slots__ = ("members", "settings")

    def __init__(self, settings: ChannelSettings) -> None:
        self.settings = settings
        self.members: dict[str, Membership] = {}


class Presence:
    """The members of all channels; see the module. All calls from the hub's event loop.

    ``nodes`` is this node among the others, started and closed by its owner; without one, open connections
    are members by their own leases alone."""

    def __init__(self, hub: Hub, hooks: Hooks | None = None, nodes: Nodes | None = None) -> None:
        self._hub = hub
        self._ttl_s = hub.limits.presence_ttl_s
        self._places: dict[str, Place] = {}
        self._nodes = nodes or Nodes(hub)
        self._leasing = Leasing(hub, self._nodes)
        self._rosters = Rosters(hub, self._read)
        self._listing = Listing(
            hub.broker.leases,
            self._nodes.ended,
            self._leasing.unwritten,
            self._open_members,
            self._rosters.compare,
        )
        self._occupancy = Occupancy(hooks or Hooks(), self._nodes, hub.limits)
        self._is_closed = True
        self._advanced_s = 0.0
        hub.on_broadcast(PRESENCE, self._hear)

    # -- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to write leases and to tell; after `Hub.start`."""
        self._is_closed = False
        self._advanced_s = self._hub.time()
        await self._leasing.start()
        await self._rosters.start()
        if self._occupancy.is_wanted:
            await self._occupancy.start()
            self._rosters.listen(OCCUPIED, self._occupancy, by_user=True, is_unbounded=True)
        self._advance(self)

    async def close(self) -> None:
        """End the memberships of open connections, and stop; before `Hub.close`. Polling clients, who may
        go on with another node, remain members until their leases run out."""
        await self._occupancy.close()
        await self._rosters.close()
        await self._listing.close()
        for channel, place in list(self._places.items()):
            for client, member in list(place.members.items()):
                if member.is_open:
                    self.leave(channel, client)
        self._is_closed = True
        await self._leasing.close()

    async def node_ended(self, node: str) -> None:
        """Hear for certain that another node has ended, and need not wait for its lease to run out."""
        await self._nodes.end(node)
        self._rosters.compare_soon()

    @staticmethod
    def _advance(self: Presence) -> None:
        """Do what is due, a few times a second. (The wheel gives callbacks their owner.)"""
        if not self._is_closed:
            hub = self._hub
            now_s = hub.time()
            hub.deadlines.arm(self, now_s + _TICK_S, Presence._advance)
            passed_s, self._advanced_s = now_s - self._advanced_s, now_s
            self._leasing.advance(now_s, passed_s)
            self._rosters.advance(now_s, passed_s)

    def statistics(self) -> Mapping[str, int]:
        """Return what there is, and what was done so far (names that end in ``_total``)."""
        return {
            "presence_members": sum(
                len(place.members) for name, place in self._places.items() if name != OCCUPIED
            ),
            "presence_rosters": len(self._rosters),
            "presence_lease_writes_total": self._leasing.writes,
            "presence_lease_failures_total": self._leasing.failures,
            "presence_told_total": self._rosters.told,
            "presence_left_out_total": self._rosters.left_out,
        }

    # -- members come and go -------------------------------------------------------------

    def enter(self, channel: str, client: str, info: ClientInfo) -> None:
        """Let an open connection be a member until `leave`: its lease is written and renewed, and a join
        is told. To enter once more with other info is an update."""
        place = self._place(channel)
        if place is None:
            return
        value = encode_info(info if info.client == client else replace(info, client=client))
        known = place.members.get(client)
        if known is not None and known.is_open and known.value == value:
            return
        member = self._admit(channel, place, client, value)
        member.is_open = True
        is_told = place.settings.join_leave and (known is None or known.value != value)
        self._leasing.put(member, self._ttl_s, is_told=is_told)
        self._entered(channel, client, value)

    def touch(self, channel: str, client: str, info: ClientInfo, wait_s: float = 0.0) -> None:
        """Hear a sign of life of a polling client, which is a member until ``wait_s`` and
        `Limits.presence_ttl_s` are over; ``wait_s`` is how long its poll may be held."""
        place = self._place(channel)
        if place is None:
            return
        value = encode_info(info if info.client == client else replace(info, client=client))
        known = place.members.get(client)
        now_s = self._hub.time()
        is_same = known is not None and known.value == value
        if known is not None and is_same and (known.is_open or known.ends_s >= now_s + wait_s + self._ttl_s):
            return
        member = self._admit(channel, place, client, value)
        lasts_s = self._ttl_s if member.is_open else wait_s + self._ttl_s * _POLLING_SPARE
        self._leasing.put(member, lasts_s, is_told=place.settings.join_leave and not is_same)
        if not member.is_open and member.deadline is None:
            member.deadline = self._hub.deadlines.arm(member, member.ends_s, self._forget)
        self._entered(channel, client, value)

    def leave(self, channel: str, client: str) -> None:
        """Let a client be no member any more: it is off the list at once, and a leave is told after
        `Limits.leave_debounce_s` unless it is back by then. Nothing happens if it was none."""
        place = self._place(channel)
        if place is None:
            return
        member = place.members.get(client)
        if member is None:
            # It may be a polling client that was last heard elsewhere.
            value = encode_info(ClientInfo(client=client))
            self._leasing.drop(channel, client, value, is_told=True)
        else:
            self._dismiss(member)
            # Where a polling client was heard before, it must be forgotten even if nobody is told.
            is_told = place.settings.join_leave or not member.is_open
            value = member.value
            self._leasing.drop(channel, client, value, is_told=is_told)
        self._gone(channel, client, value)

    def update(self, channel: str, client: str, chan_info: bytes | None) -> None:
        """Give a member another state (JSON text; None for none), which is told as one more join.

        On whatever node its connection is open. What changes before it was written and told is told once.
        A polling client's state comes with each of its polls instead. Raises ValueError for no JSON text.
        """
        place = self._places.get(channel)
        member = None if place is None else place.members.get(client)
        if chan_info is not None:
            check_json(chan_info)
        if member is None or not member.is_open:
            self._leasing.tell_update(channel, client, chan_info)
        else:
            self._update(member, chan_info)

    # -- who is there -----------------------------------------------------------------------

    async def members(self, channel: str, limit: int | None = None, *, by_user: bool = False) -> Members:
        """Return who is in a channel, at most ``limit`` and `Limits.max_presence_members` of them.

        ``by_user`` gives one entry per user besides. Raises `BrokerError` when the leases cannot be read.
        """
        most = self._hub.limits.max_presence_members
        most = most if limit is None else max(0, min(limit, most))
        found = list((await self._listing.read(channel)).items())
        self._rosters.listed(channel)
        clients: dict[str, ClientInfo] = {}
        firsts: dict[str, bytes] = {}
        counts: dict[str, int] = {}
        for number, (client, value) in enumerate(found):
            if number % MAX_SLICE == MAX_SLICE - 1:
                await asyncio.sleep(0)
            user = user_of(value)
            counts[user] = counts.get(user, 0) + 1
            if len(clients) < most:
                clients[client] = decode_info(value)
            if by_user and len(firsts) < most:
                firsts.setdefault(user, value)
        users = {user: UserMember(decode_info(value), counts[user]) for user, value in firsts.items()}
        is_cut = len(found) > len(clients) if not by_user else len(counts) > len(users)
        return Members(clients, users, len(found), len(counts), is_cut)

    async def stats(self, channel: str) -> tuple[int, int]:
        """Return the number of clients and of users in a channel, nobodies being one user together.

        Raises `BrokerError` when the leases cannot be read.
        """
        members = await self.members(channel, 0)
        return members.num_clients, members.num_users

    async def _read(self, channel: str) -> Mapping[str, bytes]:
        return await self._listing.read(channel)

    def _open_members(self, channel: str) -> Mapping[str, bytes]:
        place = self._places.get(channel)
        members = {} if place is None else place.members
        return {client: member.value for client, member in members.items() if member.is_open}

    # -- who is told --------------------------------------------------------------------------

    def listen(self, channel: str, listener: JoinLeaveListener) -> None:
        """Tell a listener of joins and leaves in a channel, on any node, until `unlisten`. It may hear a
        join of who is there already, and its own; never is one left out that happens from now on."""
        settings = self._settings_of(channel)
        if settings.presence and settings.join_leave:
            self._rosters.listen(channel, listener, by_user=settings.presence_by_user)

    def unlisten(self, channel: str, listener: JoinLeaveListener) -> None:
        """Tell a listener no more; nothing happens if it was told nothing."""
        self._rosters.unlisten(channel, listener)

    # -- inside ----------------------------------------------------------------------------------

    def _settings_of(self, channel: str) -> ChannelSettings:
        return _OCCUPANCY if channel == OCCUPIED else self._hub.settings.of(channel)

    def _place(self, channel: str) -> Place | None:
        """Return the place of a channel, which is kept while it has members; None if it is to have none."""
        place = self._places.get(channel)
        if place is None:
            place = Place(self._settings_of(channel))
        return place if place.settings.presence and not self._is_closed else None

    def _admit(self, channel: str, place: Place, client: str, value: bytes) -> Membership:
        member = place.members.get(client)
        if member is None:
            if not place.members:
                self._places[channel] = place
                self._tell_occupancy(channel, is_occupied=True)
            member = place.members[client] = Membership(channel, client, value)
        elif member.value != value:
            member.value = value
        return member

    def _dismiss(self, member: Membership) -> None:
        """Take a member off what this node knows."""
        place = self._places[member.channel]
        del place.members[member.client]
        if member.deadline is not None:
            self._hub.deadlines.disarm(member, member.deadline)
        self._leasing.release(member)
        if not place.members:
            del self._places[member.channel]
            self._tell_occupancy(member.channel, is_occupied=False)

    def _tell_occupancy(self, channel: str, *, is_occupied: bool) -> None:
        if channel == OCCUPIED or not self._occupancy.is_wanted:
            return
        info = occupant(channel, self._nodes.own)
        if is_occupied:
            self.enter(OCCUPIED, info.client, info)
        else:
            self.leave(OCCUPIED, info.client)

    def _entered(self, channel: str, client: str, value: bytes) -> None:
        """Let those know who read and hear of members."""
        self._listing.moved(channel, client, value)
        self._rosters.entered(channel, value)

    def _gone(self, channel: str, client: str, value: bytes) -> None:
        self._listing.moved(channel, client, None)
        self._rosters.gone(channel, value)

    def _forget(self, member: Membership) -> None:
        """Forget a polling client whose lease has run out as far as this node knows. It may be alive
        elsewhere, so nothing is dropped or told: rosters see it when they compare."""
        member.deadline = None
        if member.is_open:
            return
        if member.ends_s > self._hub.time():
            member.deadline = self._hub.deadlines.arm(member, member.ends_s, self._forget)
        else:
            self._dismiss(member)

    def _update(self, member: Membership, chan_info: bytes | None) -> None:
        value = with_state(member.value, chan_info)
        if value != member.value:
            member.value = value
            is_told = self._settings_of(member.channel).join_leave
            self._leasing.put(member, self._ttl_s, is_told=is_told)
            self._entered(member.channel, member.client, value)

    def _hear(self, payload: bytes, node: str) -> None:
        """Hear what another node tells of members."""
        if node == self._nodes.own or self._is_closed:
            return
        changes = decode_changes(payload, node)
        if changes is None:
            return
        for channel, raw in changes.entered:
            value = bytes(raw)
            self._entered(channel, client_of(value), value)
        for channel, raw in changes.gone:
            self._hear_gone(channel, bytes(raw))
        for channel, client, state in changes.update:
            place = self._places.get(channel)
            member = None if place is None else place.members.get(client)
            if member is not None and member.is_open:
                self._update(member, None if bytes(state) == b"null" else bytes(state))

    def _hear_gone(self, channel: str, value: bytes) -> None:
        place = self._places.get(channel)
        client = client_of(value)
        member = None if place is None else place.members.get(client)
        if member is not None and member.is_open:
            self._leasing.put(member, self._ttl_s, is_told=True)  # it is here, and its lease was dropped
            return
        if member is not None:
            self._dismiss(member)
        self._gone(channel, client, value)
