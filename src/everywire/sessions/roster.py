"""A roster: who is in one channel as far as this node's listeners have been told.

There is one for each channel that somebody on this node listens to, and every node keeps its own, so
nothing has to be agreed on among nodes. Two things move it: what nodes tell of members as they come and go,
which may be lost, and the list of leases, compared every few seconds, which is the truth. So a lost message
only delays, and members of a node that was killed leave when their leases run out.

States of a member, as listeners know them::

    absent ──entered──▶ present ──gone──▶ leaving ──after leave_debounce_s──▶ absent (told: left)
      (told: joined)       ▲                 │
                           └────entered──────┘ (told: nothing; joined if its info is another, or if a list
                                                was given out that lacks it)

In a channel that collapses users, the same holds of users instead: present while any of their clients is.
A member who is nobody is then one of its own kind, as a client.

What is told is bounded: an allowance of joins and leaves times listeners is filled up as time goes by, and
what goes beyond it becomes one ``changed``. A channel with more than ``max_members`` only tells that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from typing import Final, Protocol, TypeAlias

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.sessions.membership import client_of, user_of

__all__ = ["JoinLeaveListener", "Roster", "Tell", "Told"]


CHANGED_APART_S: Final = 1.0
"""Seconds between two times that listeners are told to read the list again."""


class Told(Enum):
    """What listeners are told."""

    JOINED = "joined"
    LEFT = "left"
    CHANGED = "changed"


class JoinLeaveListener(Hashable, Protocol):
    """Who wants to hear of joins and leaves. Plain calls from the event loop; compared by identity.

    All listeners of a node are given one ``info`` object, so what is encoded of it can be shared.
    """

    def joined(self, channel: str, info: ClientInfo) -> None:
        """Hear that a member came, or, if it is one already, has another state (``chan_info``) now."""

    def left(self, channel: str, info: ClientInfo) -> None:
        """Hear that a member has gone."""

    def changed(self, channel: str) -> None:
        """Hear that more came and went than was told one by one: read the list again."""


class Leaving:
    """Somebody who is gone, of which listeners have not been told yet."""

    __slots__ = ("due_s", "is_listed_gone", "value")

    def __init__(self, value: bytes, due_s: float) -> None:
        self.value = value
        self.due_s = due_s
        self.is_listed_gone = False


class Roster:
    """The members of one channel, and who is told of them. It reads no clock and does no I/O.

    Args:
        channel: its name.
        by_user: whether a user's clients count as one.
        tell: what is called with the roster, what happened, and the member's info as text (empty for
            `Told.CHANGED`).
        debounce_s: how long who is gone may take to come back.
        max_members: beyond so many, joins and leaves are not told one by one.
        max_tells_per_s: joins and leaves times listeners.
    """

    __slots__ = (
        "_allowance",
        "_changed_s",
        "_debounce_s",
        "_leaving",
        "_max_members",
        "_max_tells_per_s",
        "_owners",
        "_tell",
        "_users",
        "by_user",
        "channel",
        "compared_s",
        "has_changed",
        "is_large",
        "is_loaded",
        "listeners",
        "members",
    )

    def __init__(
        self,
        channel: str,
        *,
        by_user: bool,
        tell: Tell,
        debounce_s: float,
        max_members: int,
        max_tells_per_s: float,
    ) -> None:
        self.channel = channel
        self.by_user = by_user
        self.listeners: dict[JoinLeaveListener, None] = {}
        self.members: dict[str, bytes] = {}
        """The text of each present client's info."""
        self.is_loaded = False
        """Whether the leases have been read once. Until then everything that happens is told."""
        self.is_large = False
        self.has_changed = False
        """Whether `Told.CHANGED` is owed to the listeners."""
        self.compared_s = 0.0
        self._tell = tell
        self._debounce_s = debounce_s
        self._max_members = max_members
        self._max_tells_per_s = max_tells_per_s
        self._allowance = max_tells_per_s
        self._changed_s = -math.inf
        self._leaving: dict[str, Leaving] = {}
        self._owners: dict[str, str] = {}
        self._users: dict[str, int] = {}

    # -- what moves it ---------------------------------------------------------------

    def entered(self, value: bytes) -> None:
        """Hear that a client came or has other info."""
        client = client_of(value)
        if self.is_large:
            self.has_changed = True
            return
        known = self.members.get(client)
        if known == value:
            return
        if known is None and len(self.members) >= self._max_members:
            self._outgrow()
            return
        self.members[client] = value
        if known is not None:
            if self.by_user and self._owners[client] != self._key(client, value):
                # No client changes its user; whoever wrote this is told about as a whole.
                self._disown(client)
                self._own(client, value)
                self.has_changed = True
            self._say(Told.JOINED, value)
        elif not self.by_user:
            self._came(client, value)
        elif self._own(client, value):
            self._came(self._owners[client], value, is_update=False)

    def gone(self, value: bytes, now_s: float) -> None:
        """Hear that a client has gone; it may come back until the debounce is over."""
        client = client_of(value)
        if self.is_large:
            self.has_changed = True
            return
        known = self.members.pop(client, None)
        if known is None:
            if not self.is_loaded:  # a listener may have seen it in a list
                self._leave(self._key(client, value), value, now_s)
        elif not self.by_user:
            self._leave(client, known, now_s)
        else:
            key = self._owners[client]
            if self._disown(client):
                self._leave(key, known, now_s)

    def compare(self, leases: Mapping[str, bytes], now_s: float) -> None:
        """Take the truth: the members as they are at this moment."""
        self.compared_s = now_s
        if len(leases) > self._max_members:
            if not self.is_large or len(leases) != len(self.members):
                self._outgrow()
            # Only how many there are: enough to notice that members of a node that is no more are gone.
            self.members = dict.fromkeys(leases, b"")
            return
        if not self.is_large:
            for client in [one for one in self.members if one not in leases]:
                self.gone(self.members[client], now_s)
        if self.is_large or not self.is_loaded:
            self._load(leases)
            return
        for client, value in leases.items():
            if self.members.get(client) != value:
                self.entered(value)

    def _load(self, leases: Mapping[str, bytes]) -> None:
        """Take all members as they are, without telling of them."""
        self.has_changed |= self.is_large
        self.is_large, self.is_loaded = False, True
        self.members, self._owners, self._users = dict(leases), {}, {}
        if self.by_user:
            for client, value in leases.items():
                self._own(client, value)

    def _outgrow(self) -> None:
        """Stop to know members one by one."""
        self.is_large = self.is_loaded = self.has_changed = True
        self.members, self._owners, self._users, self._leaving = {}, {}, {}, {}

    def listed(self) -> None:
        """Hear that somebody was given the list, in which those who are leaving are no more: if they come
        back, that must be told."""
        for leaving in self._leaving.values():
            leaving.is_listed_gone = True

    # -- time ---------------------------------------------------------------------------

    def advance(self, now_s: float, passed_s: float) -> bool:
        """Tell what is due after ``passed_s`` more seconds; say whether anything is left to be told."""
        most = self._max_tells_per_s
        self._allowance = min(most, self._allowance + most * passed_s)
        while self._leaving:
            key, leaving = next(iter(self._leaving.items()))
            if leaving.due_s > now_s:
                break
            del self._leaving[key]
            self._say(Told.LEFT, leaving.value)
        if self.has_changed and self._allowance > 0 and now_s - self._changed_s >= CHANGED_APART_S:
            self.has_changed = False
            self._changed_s = now_s
            self._allowance -= len(self.listeners)
            self._tell(self, Told.CHANGED, b"")
        return bool(self._leaving) or self.has_changed or self._allowance < most

    # -- inside -------------------------------------------------------------------------

    def _key(self, client: str, value: bytes) -> str:
        user = user_of(value) if self.by_user else ""
        # A client that is nobody stands for itself; user ids and client ids must not be mixed up.
        return f"u{user}" if user else f"c{client}" if self.by_user else client

    def _own(self, client: str, value: bytes) -> bool:
        """Count a client among its user's; say whether it is the first."""
        key = self._owners[client] = self._key(client, value)
        count = self._users[key] = self._users.get(key, 0) + 1
        return count == 1

    def _disown(self, client: str) -> bool:
        """Count a client out; say whether it was its user's last."""
        key = self._owners.pop(client)
        self._users[key] -= 1
        if self._users[key]:
            return False
        del self._users[key]
        return True

    def _leave(self, key: str, value: bytes, now_s: float) -> None:
        self._leaving.pop(key, None)  # what is due first stands first
        if len(self._leaving) < self._max_members:
            self._leaving[key] = Leaving(value, now_s + self._debounce_s)
        else:
            self.has_changed = True

    def _came(self, key: str, value: bytes, *, is_update: bool = True) -> None:
        """Tell of who came, unless they were away for a moment only, are as they were, and no list lacks
        them."""
        left = self._leaving.pop(key, None)
        if left is None or left.is_listed_gone or (is_update and left.value != value):
            self._say(Told.JOINED, value)

    def _say(self, what: Told, value: bytes) -> None:
        if self._allowance > 0:
            self._allowance -= len(self.listeners)
            self._tell(self, what, value)
        else:
            self.has_changed = True


Tell: TypeAlias = Callable[[Roster, Told, bytes], object]
