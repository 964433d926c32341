"""One subscription of a session: the hub's subscriber of one channel, and the listener to who comes and goes.

Publications go from the hub to the carrier without passing here: its ``send`` is the carrier's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from everywire.codecs.centrifuge.messages import ClientInfo, Command, JoinLeave, Push
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.position import Place, Position, name_hash
from everywire.core.publication import Gap
from everywire.hub.hub import Hub
from everywire.hub.reader import Reader
from everywire.hub.recovery import Start
from everywire.sessions.carrier import Carrier

__all__ = ["Home", "Subscription"]


class Home(Protocol):
    """What a subscription asks of its session."""

    @property
    def carrier(self) -> Carrier:
        """What carries the session."""

    @property
    def is_stalled(self) -> bool:
        """Whether the carrier holds unsent bytes."""

    def note_news(self) -> None:
        """Hear that the client is about to be told something."""

    def lost(self, subscription: Subscription, code: Code, gap: Gap | None) -> None:
        """Hear that the hub ended the subscription's reader."""

    def tell_presence(self, subscription: Subscription, push: Push) -> None:
        """Push a join or a leave, or note that one was not told."""

    def presence_changed(self, subscription: Subscription) -> None:
        """Have the client read again who is in the channel."""


class Subscription:
    """A session's relation to one channel, from the moment that it is asked for."""

    __slots__ = (
        "can_refresh",
        "channel",
        "expires_s",
        "home",
        "info",
        "is_listening",
        "is_open",
        "is_ruled",
        "is_server_side",
        "is_unsaid",
        "place",
        "reader",
        "refusal",
        "waiting",
    )

    def __init__(self, home: Home, channel: str, info: ClientInfo, *, is_server_side: bool) -> None:
        self.home = home
        self.channel = channel
        self.info = info
        """What others see of this client in this channel."""
        self.is_server_side = is_server_side
        """Whether the server began it, which then ends the connection where a client would be told to
        subscribe again."""
        self.is_open = False
        """Whether the client was told that it has it."""
        self.is_ruled = False
        """Whether the rules allowed it, which are then asked again now and then; else a token did, or the
        application."""
        self.is_listening = False
        """Whether the client is told who comes and goes."""
        self.is_unsaid = False
        """Whether somebody came or went and the client could not be told."""
        self.can_refresh = False
        """Whether the client may bring a new subscription token."""
        self.expires_s: float | None = None
        """When the permission ends (UNIX time)."""
        self.place = Place("", 0)
        """Where reading begins."""
        self.reader: Reader | None = None
        self.refusal: EverywireError | None = None
        """Why it is not to be opened after all: it was ended while it was being made."""
        self.waiting: deque[Command] | None = None
        """Commands about the same channel that came before this one was answered."""

    def open(self, hub: Hub) -> None:
        """Read from its place on. The client has been told of it before."""
        home = self.home
        carrier = home.carrier
        self.reader = reader = hub.reader((self.channel,), carrier.dialect, carrier.framing, self)
        if home.is_stalled:
            reader.stalled()
        hub.open(reader, Start(Position({name_hash(self.channel): self.place})))

    def close(self) -> int:
        """Read no more; return how many publications were written."""
        reader = self.reader
        self.reader = None
        if reader is None:
            return 0
        reader.close()
        return reader.delivered

    # -- what the hub tells (Subscriber) ----------------------------------------------

    @property
    def send(self) -> Callable[[Any], int]:
        """Write as far as it goes: the carrier's own."""
        return self.home.carrier.send

    def write(self, framed: Any, /) -> None:
        """Write what `send` did not take, or what the log has for a reader that was behind."""
        self.home.note_news()
        self.home.carrier.write(framed)

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Hear where reading begins; the client knows."""

    def beat(self) -> None:
        """Do nothing: the session has its own pings."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Hear that the hub ended the reader."""
        self.home.lost(self, code, gap)

    # -- what presence tells (JoinLeaveListener) --------------------------------------------

    def joined(self, channel: str, info: ClientInfo) -> None:
        """Tell that a member came."""
        self.home.tell_presence(self, Push(channel=channel, join=JoinLeave(info=info)))

    def left(self, channel: str, info: ClientInfo) -> None:
        """Tell that a member has gone."""
        self.home.tell_presence(self, Push(channel=channel, leave=JoinLeave(info=info)))

    def changed(self, channel: str) -> None:
        """Tell that more came and went than was told one by one."""
        self.home.presence_changed(self)
