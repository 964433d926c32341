"""What a parent and its workers say to each other, over a socket pair that each worker inherits.

One JSON array a line. The worker's end of it is also how it hears that its parent is gone, and the parent's
how it hears that nothing more will come. Messages are few: that a worker listens or cannot, that it leaves,
and what it has counted.

| from | kind | meaning |
| --- | --- | --- |
| worker | ``ready`` | it listens |
| worker | ``refused`` | it cannot: ``text`` says why |
| worker | ``draining`` | it begins to leave without having been told to |
| worker | ``figures`` | what it has counted; the answer to ``tell`` with its ``id``, or of itself (0) |
| worker | ``sum`` | it wants the sum over all workers; with its own figures |
| parent | ``tell`` | it wants the worker's figures |
| parent | ``sum`` | the answer |
| parent | ``ended`` | a worker died, whose node was ``text`` |
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Final

import msgspec

from everywire.core.errors import SettingsError
from everywire.server.settings import Listen

__all__ = ["VARIABLE", "Assignment", "Link", "Message", "Row", "take_assignment"]

VARIABLE: Final = "EVERYWIRE_WORKER"
"""The variable of the environment by which a worker learns that it is one."""
_MAX_LINE_BYTES: Final = 4 * 1024 * 1024
_MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""Who does not read for so long is not told any more."""

Row = tuple[str, str, float, str, str]
"""A figure: name, help, value, and its label's name and value, if it has one."""


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message, in either direction."""

    kind: str
    id: int = 0
    text: str = ""
    figures: Sequence[Row] = ()


class Assignment(msgspec.Struct, frozen=True):
    """What a worker is told at its start."""

    number: int
    """From 0; the first one does what only one may do."""
    link: int
    """File descriptor of its end of the socket pair."""
    node: str
    """The name of its node."""
    broker: str
    """Address of the broker, where the settings name none."""
    advertise: str
    """As in the settings, with the port that is this worker's."""
    listen: tuple[Listen, ...]
    inherited: tuple[tuple[int, int], ...]
    """Its listening sockets: places in ``listen``, and file descriptors."""


def take_assignment(environ: MutableMapping[str, str]) -> Assignment | None:
    """Take the assignment out of the environment, so that no child of this process finds it; None when this
    process is no worker."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=Assignment)
        for fd in (found.link, *(fd for _, fd in found.inherited)):
            os.set_inheritable(fd, False)
    except (msgspec.MsgspecError, OSError):
        raise SettingsError(f"{VARIABLE} is for the server's own use") from None
    return found


class Link:
    """One end of the socket pair, in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Link:
        """Take over an end."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end, limit=_MAX_LINE_BYTES))

    def send(self, message: Message) -> None:
        """Send, or drop it when the other end does not read."""
        transport = self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() < _MAX_UNSENT_BYTES:
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """Yield what comes, until the other end is gone or says what cannot be understood."""
        try:
            while line := await self._reader.readline():
                yield msgspec.json.decode(line, type=Message)
        except (OSError, ValueError, msgspec.MsgspecError):
            return

    def close(self) -> None:
        """Send what is left, and close."""
        self._writer.close()
