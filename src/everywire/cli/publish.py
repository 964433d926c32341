"""`everywire publish [URL] CHANNEL [DATA|-]`: publish once and print the server's answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Final

import msgspec

from everywire.cli.connecting import add_connection_arguments, read_target
from everywire.client.publish import Published, Publisher
from everywire.core.errors import BadRequest

__all__ = ["add_parser"]

MAX_DATA_BYTES: Final = 64 * 1024 * 1024
"""Bound on what is read from standard input; the server has its own."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the line."""
    parser = commands.add_parser(
        "publish",
        help="publish to a channel",
        usage="everywire publish [options] [URL] CHANNEL [DATA|-]",
        description="Publish DATA, which is JSON, and print the server's answer. "
        "With - or nothing, DATA is read from standard input.",
    )
    parser.add_argument("words", nargs="*", metavar="[URL] CHANNEL [DATA|-]")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="DATA is text: publish it as a JSON string")
    kinds.add_argument("--binary", action="store_true", help="DATA is bytes: publish them as they are")
    parser.add_argument(
        "--content-type", metavar="TYPE", help="with --binary: what the bytes are (application/octet-stream)"
    )
    parser.add_argument("--event", metavar="NAME", help="event name")
    parser.add_argument(
        "--tag", metavar="KEY:VALUE", action="append", default=[], help="a tag; may be repeated"
    )
    parser.add_argument(
        "--idempotency-key", metavar="TEXT", help="publish only once under this key (default: a random one)"
    )
    add_connection_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Publish and print the answer."""
    target = read_target(args)
    if not 1 <= len(target.words) <= 2:
        raise BadRequest("publish: expected [URL] CHANNEL [DATA|-]")
    if args.content_type and not args.binary:
        raise BadRequest("--content-type: expected --binary beside it; everything else is JSON")
    channel, *data = target.words
    body = _body(args, _data(data[0] if data else None))
    tags = dict(_tag(tag) for tag in args.tag)

    async def once() -> Published:
        publisher = Publisher(target.url, target.headers, tls=target.tls)
        try:
            return await publisher.publish(
                channel,
                body,
                args.content_type or "application/octet-stream" if args.binary else "application/json",
                event=args.event,
                tags=tags,
                key=args.idempotency_key,
            )
        finally:
            await publisher.close()

    print(json.dumps(asyncio.run(once()).answer))
    return 0


def _data(word: str | None) -> bytes:
    if word is not None and word != "-":
        return word.encode("utf-8", "surrogateescape")
    if word is None and sys.stdin.isatty():
        raise BadRequest("publish: expected DATA, or - to read it from standard input")
    data = sys.stdin.buffer.read(MAX_DATA_BYTES + 1)
    if len(data) > MAX_DATA_BYTES:
        raise BadRequest(f"publish: standard input is larger than {MAX_DATA_BYTES} bytes")
    return data


def _body(args: argparse.Namespace, data: bytes) -> bytes:
    if args.binary:
        return data
    if args.text:
        try:
            return msgspec.json.encode(data.decode())
        except UnicodeDecodeError:
            raise BadRequest("publish: --text: expected UTF-8; use --binary for other bytes") from None
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise BadRequest(
            f"publish: DATA is not JSON ({error}). Write a string in its quotes, '\"like this\"', "
            "or use --text or --binary"
        ) from None
    return data


def _tag(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon or not key:
        raise BadRequest(f"--tag: expected KEY:VALUE, got {text!r}")
    return key, value
