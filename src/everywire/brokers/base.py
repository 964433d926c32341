"""The contract of a broker: log, leases, store, control, health.

A broker keeps the channels' logs and carries hints between nodes. Its log works by
callbacks, so that a store in memory completes at once, within the call, and costs no
future; a store elsewhere completes later. The other parts are coroutines: nothing hot
passes through them. What a broker has to tell, it tells its `Sink` (a hub).

Every broker passes the contract suite in ``everywire.testing.broker_contract``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from everywire.core.errors import EverywireError
from everywire.core.publication import Draft, Publication
from everywire.core.settings import Window

__all__ = [
    "Appended",
    "Broker",
    "Control",
    "Head",
    "Health",
    "Lease",
    "Leases",
    "Log",
    "Page",
    "Sink",
    "Store",
]


class Appended(NamedTuple):
    """Where a draft came to stand. ``replayed``: it already stood there, under the same key."""

    epoch: str
    offset: int
    replayed: bool = False


class Head(NamedTuple):
    """Where a channel's log stands.

    ``first`` is the oldest offset kept, ``last`` the newest ever given; ``first == last + 1``
    when nothing is kept. A channel that does not exist stands where it would begin:
    ``last`` is then the highest offset that the store has forgotten.
    """

    epoch: str
    first: int
    last: int
    exists: bool = True
    is_whole: bool = True
    """Whether all that was published since the channel was made, or begun anew, is still kept."""


class Page(NamedTuple):
    """Publications read from a log, and where it stands."""

    head: Head
    publications: Sequence[Publication]


class Health(NamedTuple):
    """Whether a node may be sent readers."""

    ready: bool
    detail: str = ""


class Sink(Protocol):
    """What a broker calls back; a hub is one. Always from the event loop's thread."""

    def published(self, channel: str, epoch: str, publications: Sequence[Publication], previous: int) -> None:
        """Hear publications of a watched channel, without holes among them. ``previous`` is the offset
        before the first of them; 0 when the channel was just made."""

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        """Hear that a watched channel stands at ``last``; the publications are in the log."""

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        """Hear a control message to every node, this one included."""

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        """Answer a control message to this node."""


class Log(Protocol):
    """The channels' logs.

    No (epoch, offset) is ever used twice. Offsets of a channel have no holes; a channel that
    was forgotten and made again goes on above the highest offset ever forgotten.
    Reading never makes a channel.
    """

    @property
    def is_local(self) -> bool:
        """Whether every call completes before it returns and every append reaches the sink."""

    def append(
        self, drafts: Sequence[Draft], done: Callable[[Sequence[Appended | EverywireError]], None]
    ) -> None:
        """Append the drafts in order, then tell the sink, then call ``done`` with one result for each.

        A draft with a key that was used on its channel in the last five minutes is not
        appended again: `Appended.replayed`, or `KeyReused` when its fingerprint differs.
        """

    def read(
        self,
        channel: str,
        after: int,
        max_publications: int,
        max_bytes: int,
        done: Callable[[Page | EverywireError], None],
    ) -> None:
        """Read the publications after an offset, oldest first; at least one when there is one."""

    def heads(
        self, channels: Sequence[str], done: Callable[[Mapping[str, Head] | EverywireError], None]
    ) -> None:
        """Tell where the logs of several channels stand."""

    def trim(self, channel: str, done: Callable[[Head | EverywireError], None]) -> None:
        """Drop all publications of a channel; its offsets go on."""

    def keep(
        self,
        channel: str,
        window: Window,
        ttl_s: float,
        done: Callable[[Head | EverywireError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Keep a channel by another window than its settings say, for ``ttl_s``, or so long again if it is
        kept already. The channel is made if there is none.

        What is kept gives way to nothing but its own window; when the time is over all of it is dropped,
        and the settings count again. ``anew`` drops what there is, so that the channel is whole again, from
        its next publication on.
        """

    def watch(self, channel: str) -> None:
        """Begin to tell the sink of a channel; it is not forgotten meanwhile."""

    def unwatch(self, channel: str) -> None:
        """Stop to tell the sink of a channel."""


class Lease(NamedTuple):
    """A membership, and how long it lasts unless it is renewed."""

    group: str
    member: str
    value: bytes
    ttl_s: float


class Leases(Protocol):
    """Memberships that end by themselves unless they are renewed (presence, nodes)."""

    async def put(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Make or renew a membership."""

    async def drop(self, group: str, member: str) -> None:
        """End a membership now."""

    async def put_many(self, leases: Sequence[Lease]) -> None:
        """Make or renew some hundred memberships at once. When there are too many, some are not made, and
        `BrokerBusy` is raised when the others are."""

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        """End some hundred memberships at once: (group, member) each."""

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Return the members whose lease has not run out."""


class Store(Protocol):
    """Small values with a time to live (tickets, bans, recovery sessions)."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value under a key."""

    async def put_once(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """Keep a value unless there is one, as one step; return the one that there is, else None."""

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None."""

    async def take(self, key: str) -> bytes | None:
        """Return the value and forget it, as one step: of several takers one gets it."""


class Control(Protocol):
    """Messages between nodes."""

    async def broadcast(self, topic: str, payload: bytes) -> None:
        """Send to every node's `Sink.broadcasted`, this one included."""

    async def ask(self, node: str, topic: str, payload: bytes, timeout_s: float) -> bytes:
        """Send to one node's `Sink.asked` and return its answer; `BrokerError` when there is none in time."""


class Broker(Protocol):
    """A log store and the way between nodes."""

    @property
    def node(self) -> str:
        """This node's name, unique among the nodes."""

    @property
    def log(self) -> Log:
        """The channels' logs."""

    @property
    def leases(self) -> Leases:
        """Memberships that end by themselves."""

    @property
    def store(self) -> Store:
        """Small values with a time to live."""

    @property
    def control(self) -> Control:
        """Messages between nodes."""

    async def start(self, sink: Sink) -> None:
        """Connect, and call the sink back from now on."""

    async def close(self) -> None:
        """Disconnect; finish or fail what is unfinished."""

    def health(self) -> Health:
        """Say whether this node's link to the store works in both directions."""

    def sweep(self) -> None:
        """Do a bounded part of the housekeeping; the hub calls this about once a second."""
