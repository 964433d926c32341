"""What the commands that talk to a server have in common: the URL, the credential, TLS."""

from __future__ import annotations

import argparse
import os
import ssl
from typing import NamedTuple

from everywire.client.address import DEFAULT_URL, is_url
from everywire.core.errors import BadRequest

__all__ = ["API_KEY_VARIABLE", "Target", "add_connection_arguments", "read_target"]

API_KEY_VARIABLE = "EVERYWIRE_API_KEY"


class Target(NamedTuple):
    """Where to go and as whom, and the words of the line that are left."""

    url: str
    headers: dict[str, str]
    tls: ssl.SSLContext | None
    words: list[str]


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to reach the server."""
    parser.add_argument(
        "--key",
        metavar="KEY",
        help=f"API key; better in the variable {API_KEY_VARIABLE}, which nobody else sees",
    )
    parser.add_argument("--ca", metavar="FILE", help="PEM file of the authority that signed the certificate")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="send this field, too"
    )


def read_target(args: argparse.Namespace) -> Target:
    """Read the options and the URL, which is the first word if it looks like one."""
    words = list(args.words)
    url = words.pop(0) if words and is_url(words[0]) else DEFAULT_URL
    headers = {}
    key = args.key or os.environ.get(API_KEY_VARIABLE)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    for field in args.header:
        name, colon, value = field.partition(":")
        if not colon:
            raise BadRequest(f"--header: expected 'NAME: VALUE', got {field!r}")
        headers[name.strip()] = value.strip()
    tls = None
    if args.ca:
        try:
            tls = ssl.create_default_context(cafile=args.ca)
        except (OSError, ssl.SSLError):
            raise BadRequest(f"--ca: expected a PEM file, and {args.ca!r} cannot be read as one") from None
    return Target(url, headers, tls, words)
