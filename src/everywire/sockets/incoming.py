"""The packets of one POST, handed over in their order, as fast as they are taken.

The POST is answered when all were taken: until then its client sends no other. So nobody who sends more than
can be handled has it pile up here, and a payload of many packets lets others have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from everywire.codecs.engineio.packets import Packet
from everywire.sockets.engine_parts import Post

__all__ = ["Incoming", "Taker"]

_PACKETS_PER_TURN: Final = 128


class Taker(Protocol):
    """Who takes packets: a connection."""

    is_ended: bool

    @property
    def is_reading(self) -> bool:
        """Whether it takes any now; if not it calls `Incoming.go_on` when it does again."""

    def take(self, packet: Packet) -> None:
        """Take a packet that the client sent."""

    def taken(self) -> None:
        """Hear that there are no more in this POST."""


class Incoming:
    """A POST whose packets are being taken."""

    __slots__ = ("_is_scheduled", "_packets", "_taker", "post")

    def __init__(self, taker: Taker, post: Post, packets: Sequence[Packet]) -> None:
        self._taker = taker
        self._packets: Iterator[Packet] = iter(packets)
        self._is_scheduled = False
        self.post = post

    def go_on(self) -> None:
        """Hand over what is left, as far as it is taken; `Taker.taken` follows when that is all."""
        self._is_scheduled = False
        taker = self._taker
        for _ in range(_PACKETS_PER_TURN):
            if taker.is_ended or not taker.is_reading:
                return
            packet = next(self._packets, None)
            if packet is None:
                taker.taken()
                return
            taker.take(packet)
        self.go_on_soon()

    def go_on_soon(self) -> None:
        """Do so in the next turn."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self.go_on)
