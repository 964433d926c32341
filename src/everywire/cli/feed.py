"""`everywire feed SOURCE [URL] CHANNEL`: turn a real source into publications."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from everywire.cli import sources
from everywire.cli.connecting import Target, add_connection_arguments, read_target
from everywire.cli.sources import Sample
from everywire.client.errors import ConnectionLost
from everywire.client.publish import Publisher
from everywire.core.errors import BadRequest

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the line."""
    parser = commands.add_parser(
        "feed",
        help="turn a real source into publications",
        description="Publish what a source says: this machine, lines of text, or a recorded file.",
    )
    kinds = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    kind = kinds.add_parser(
        "machine",
        help="this machine's CPU, memory and network figures, once a second",
        usage="everywire feed machine [options] [URL] CHANNEL",
    )
    kind.add_argument(
        "--interval", metavar="SECONDS", type=_positive, default=1.0, help="time between two (default 1)"
    )
    _finish(kind, "[URL] CHANNEL")
    kind = kinds.add_parser(
        "lines",
        help="lines of standard input: JSON as it is, anything else as a JSON string",
        usage="everywire feed lines [options] [URL] CHANNEL",
    )
    _finish(kind, "[URL] CHANNEL")
    kind = kinds.add_parser(
        "replay",
        help="an NDJSON file, by its own timestamps",
        usage="everywire feed replay [options] FILE [URL] CHANNEL",
    )
    kind.add_argument("--speed", metavar="FACTOR", type=_positive, default=1.0, help="2 is twice as fast")
    kind.add_argument("--time-field", metavar="NAME", help="where the time is (time, timestamp or ts)")
    _finish(kind, "FILE [URL] CHANNEL")


def _finish(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("words", nargs="*", metavar=words)
    add_connection_arguments(parser)
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


def run(args: argparse.Namespace) -> int:
    """Publish until the source ends."""
    file = args.words.pop(0) if args.source == "replay" and args.words else ""
    target = read_target(args)
    if len(target.words) != 1:
        words = "FILE [URL] CHANNEL" if args.source == "replay" else "[URL] CHANNEL"
        raise BadRequest(f"feed {args.source}: expected {words}")
    asyncio.run(_feed(_source(args, file), target, may_drop=args.source == "machine"))
    return 0


def _source(args: argparse.Namespace, file: str) -> AsyncGenerator[Sample, None]:
    if args.source == "machine":
        return sources.machine(args.interval)
    if args.source == "lines":
        return sources.lines()
    return sources.replay(file, args.speed, args.time_field)


async def _feed(source: AsyncGenerator[Sample, None], target: Target, may_drop: bool) -> None:
    """Publish each sample in turn.

    A figure that could not be published is old news: it is dropped, counted and told. Of lines and
    recordings nothing may be missing, so there it is the end.
    """
    publisher = Publisher(target.url, target.headers, tls=target.tls, max_attempts=2 if may_drop else 8)
    published = dropped = 0
    try:
        async with aclosing(source):
            async for sample in source:
                try:
                    await publisher.publish(
                        target.words[0],
                        sample.data,
                        sample.content_type or "application/json",
                        event=sample.event,
                        tags=sample.tags,
                    )
                    published += 1
                except ConnectionLost as error:
                    if not may_drop:
                        raise
                    dropped += 1
                    print(f"everywire: {error.sentence}; {dropped} dropped so far", file=sys.stderr)
    finally:
        await publisher.close()
        end = f", {dropped} dropped" if dropped else ""
        print(f"everywire: {published} published{end}", file=sys.stderr)
