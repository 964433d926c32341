"""What the hub asks of the outer layers: how to encode, how to frame, whom to write to.

Encoding is in two steps, each done once for all readers that share it:

* an `Encoder` turns a batch of items into the payload of its format (SSE blocks,
  NDJSON lines, a JSON document, messages);
* a `Framing` turns the payload into what the host writes (a chunk of HTTP, WebSocket
  frames, a whole response). Where another server owns the framing (ASGI), it may
  leave the payload as it is.

Both are compared by identity: share one object per format and per way of framing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from everywire.core.codes import Code
from everywire.core.publication import Gap, Publication

__all__ = ["Encoder", "Framing", "Item", "Scheduler", "Subscriber"]


class Item(NamedTuple):
    """One thing to tell a reader: a publication or a gap of a channel, and the position after it.

    ``position`` is empty for encoders that do not want one with every item.
    """

    channel: str
    content: Publication | Gap
    position: str


class Encoder(Protocol):
    """The first step: items to the payload of a format."""

    once: bool
    """Whether a reader is answered with one batch and then done (long poll)."""
    tells_gaps: bool
    """Whether the format can tell a gap; if not, a reader with a gap is ended (`Subscriber.ended`)."""
    wants_positions: bool
    """Whether every item needs its own position, not only the batch."""
    beats_always: bool
    """Whether signs of life go out also while publications flow, because they are answered (pings)."""

    def encode(self, items: Sequence[Item], position: str) -> Any:
        """Return the payload that tells the items; ``position`` is where the reader stands after them. An
        empty one is not written: all these readers pass the items over."""


class Framing(Protocol):
    """The second step: a payload to what the host's ``write`` takes."""

    def frame(self, payload: Any) -> Any:
        """Return the payload framed; called once for all readers that share encoder and framing."""


class Subscriber(Protocol):
    """The outer end of one reader: a transport's driver. The hub calls it and never waits."""

    @property
    def send(self) -> Callable[[Any], int]:
        """What takes one framed chunk at the price of a system call: looked up once, called for every
        joined write while the reader keeps up. Like `socket.send` it returns how much of ``len(framed)``
        was taken, or raises OSError when nothing was; the hub then gives the rest to `write`."""

    def write(self, framed: Any, /) -> object:
        """Take one framed chunk, or the rest of it. If bytes remain unsent, call `Reader.stalled`
        before returning."""

    def opened(self, position: str, new: Sequence[str]) -> None:
        """Hear where reading begins, before the first write; ``new`` names channels that the given
        position did not know and that therefore start live."""

    def beat(self) -> None:
        """Show a sign of life: nothing was written for a heartbeat's time."""

    def ended(self, code: Code, gap: Gap | None) -> None:
        """Hear that the hub has ended this reader; nothing more is written."""


class Cancellable(Protocol):
    """A timer that was started."""

    def cancel(self) -> None:
        """Stop it."""


class Scheduler(Protocol):
    """The part of an event loop that the hub needs."""

    def call_soon(self, callback: Callable[[], object], /) -> object:
        """Call back in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Cancellable:
        """Call back after a delay in seconds."""

    def time(self) -> float:
        """Return a monotonic time in seconds."""
