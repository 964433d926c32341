"""`everywire subscribe [URL] CHANNEL`: show what is published, by any transport.

On a terminal: a line for each publication, and below them a live count. With ``--json``: one JSON
object a publication, a line each, and nothing else on standard output. Gaps and lost connections are
told on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, TextIO

import msgspec

from everywire.cli.connecting import Target, add_connection_arguments, read_target
from everywire.client.client import Client
from everywire.client.items import Item, Missed, Received
from everywire.client.reader import TRANSPORTS, subscribe
from everywire.core.errors import BadRequest, EverywireError
from everywire.core.position import Place, Position

__all__ = ["add_parser"]

AUTO: Final = "auto"
MAX_SHOWN_CHARACTERS: Final = 160
REDRAW_S: Final = 0.1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the line."""
    parser = commands.add_parser(
        "subscribe",
        help="show what is published to a channel",
        usage="everywire subscribe [options] [URL] CHANNEL",
        description="Show what is published to CHANNEL (several: A,B,C); reconnects and resumes.",
    )
    parser.add_argument("words", nargs="*", metavar="[URL] CHANNEL")
    parser.add_argument(
        "--transport",
        choices=[*TRANSPORTS, AUTO],
        help="how to read (default: websocket for ws:// and wss://, else stream, which tells the most); auto "
        "is a session over whichever wire works",
    )
    parser.add_argument(
        "--after", metavar="POSITION", help="start after this position, or earliest, or latest (the default)"
    )
    parser.add_argument("--count", metavar="N", type=_count, help="end after N publications")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a publication, a line each"
    )
    add_connection_arguments(parser)
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


def run(args: argparse.Namespace) -> int:
    """Read until the count is reached or the server refuses."""
    target = read_target(args)
    if len(target.words) != 1:
        raise BadRequest("subscribe: expected [URL] CHANNEL")
    is_websocket = target.url.startswith(("ws:", "wss:"))
    transport = args.transport or ("websocket" if is_websocket else "stream")
    if args.json:
        show: Display = JsonLines()
    elif sys.stdout.isatty():
        show = LiveCount(transport)
    else:
        show = Display()
    try:
        asyncio.run(_read(target, transport, args, show))
    finally:
        show.end()
    return 0


async def _read(target: Target, transport: str, args: argparse.Namespace, show: Display) -> None:
    left = args.count
    channels = target.words[0].split(",")
    if transport == AUTO:
        items = _session(target, channels, args.after, show)
    else:
        items = subscribe(
            target.url, channels, transport, args.after, target.headers, tls=target.tls, lost=show.lost
        )
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Missed):
                show.missed(item)
                continue
            show.received(item)
            if left is not None:
                left -= 1
                if not left:
                    return


async def _session(
    target: Target, channels: Sequence[str], after: str | None, show: Display
) -> AsyncGenerator[Item, None]:
    """Read by a session: all channels over one connection, on the wire that proves itself."""
    position = None if after in (None, "latest", "earliest") else Position.decode(after or "")
    async with Client(target.url, headers=target.headers, tls=target.tls, lost=show.lost) as client:
        news: asyncio.Queue[Item | BaseException] = asyncio.Queue(1)

        async def read(channel: str) -> None:
            since = Place("", 0) if after == "earliest" else position.place(channel) if position else None
            try:
                async with client.channel(channel, since=since) as subscription:
                    async for item in subscription:
                        if isinstance(item, Received | Missed):
                            await news.put(item)
            except EverywireError as error:
                await news.put(error)

        tasks = [asyncio.create_task(read(channel)) for channel in dict.fromkeys(channels)]
        show.note(f"connected by {client.transport}")
        try:
            while True:
                item = await news.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Display:
    """Plain lines, for a file or a pipe."""

    def received(self, item: Received) -> None:
        """Show a publication."""
        print(_line(item), flush=True)

    def missed(self, gap: Missed) -> None:
        """Tell a gap."""
        if gap.first is None or gap.last is None:
            self.note(f"gap in {gap.channel}: the log was reset; nobody can say what was missed")
        else:
            number = gap.last - gap.first + 1
            self.note(
                f"gap in {gap.channel}: {number} missed, offsets {gap.first} to {gap.last} ({gap.reason})"
            )

    def lost(self, reason: str, delay_s: float) -> None:
        """Tell that the connection ended and is made again."""
        self.note(f"{reason}; again in {delay_s:.1f} s")

    def note(self, sentence: str) -> None:
        """Tell something that is no publication."""
        print(f"everywire: {printable(sentence)}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Hear that nothing more comes."""


class JsonLines(Display):
    """One JSON object a publication, a line each."""

    def received(self, item: Received) -> None:
        """Print the object."""
        value: dict[str, Any] = {"channel": item.channel, "offset": item.offset}
        if isinstance(item.data, bytes):
            value["data_base64"] = binascii.b2a_base64(item.data, newline=False).decode("ascii")
        else:
            value["data"] = item.data
        for name in ("content_type", "event", "tags", "time", "position"):
            if getattr(item, name) is not None:
                value[name] = getattr(item, name)
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.buffer.flush()


class LiveCount(Display):
    """Lines on a terminal, and a last line that counts."""

    def __init__(self, transport: str, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._transport = transport
        self._publications = 0
        self._gaps = 0
        self._started_s = time.monotonic()
        self._drawn_s = 0.0

    def received(self, item: Received) -> None:
        """Show a publication above the count."""
        self._publications += 1
        self._above(_line(item))

    def missed(self, gap: Missed) -> None:
        """Count a gap and tell it."""
        self._gaps += 1
        super().missed(gap)

    def note(self, sentence: str) -> None:
        """Tell something above the count."""
        self._above(f"everywire: {printable(sentence)}")

    def end(self) -> None:
        """Leave the count standing."""
        self._out.write(f"\r\x1b[K{self._count_line()}\n")
        self._out.flush()

    def _above(self, line: str) -> None:
        self._out.write(f"\r\x1b[K{line}\n")
        now_s = time.monotonic()
        if now_s - self._drawn_s >= REDRAW_S or self._publications < 10:
            self._drawn_s = now_s
            self._out.write(self._count_line())
        self._out.flush()

    def _count_line(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 0.001)
        gaps = f", {self._gaps} gaps" if self._gaps else ""
        rate = self._publications / elapsed_s
        return f"{self._publications} publications{gaps}, {rate:.1f} a second, by {self._transport}"


def _line(item: Received) -> str:
    data = item.data
    if isinstance(data, bytes):
        text = f"<{len(data)} bytes{' of ' + item.content_type if item.content_type else ''}>"
    else:
        text = msgspec.json.encode(data).decode()
    event = f" {item.event}" if item.event else ""
    where = "" if item.offset is None else f" {item.offset}"
    return printable(f"{item.channel}{where}{event}: {text}", MAX_SHOWN_CHARACTERS)


def printable(text: str, max_characters: int = 1000) -> str:
    """Make text safe for a terminal: what a stranger published must not move its cursor."""
    text = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in text[: max_characters + 1]
    )
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
