"""`everywire serve`: the server, with settings from file, environment and flags."""

from __future__ import annotations

import argparse
import os
from typing import Any

from everywire.core.errors import SettingsError
from everywire.core.names import is_name
from everywire.server.settings import Settings
from everywire.server.settings_sources import Flag, load_settings

__all__ = ["add_parser", "read_settings"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the line."""
    parser = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server. Settings come from --config, then the environment (EVERYWIRE_…), "
        "then these flags; see docs/settings.md.",
    )
    parser.add_argument(
        "--dev", action="store_true", help="on loopback: anyone may read and publish, without credentials"
    )
    parser.add_argument("--host", metavar="H", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="P", type=int, help="port to listen on (8000); 0 takes a free one")
    parser.add_argument(
        "--unix", metavar="PATH", action="append", default=[], help="listen on a unix socket, too"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="PEM certificate chain: serve by TLS")
    parser.add_argument("--tls-key", metavar="FILE", help="PEM key of the certificate")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    parser.add_argument("--drain", metavar="SECONDS", type=float, help="how long a shutdown may take (10)")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (info)")
    parser.add_argument(
        "--feed", metavar="CHANNEL", help="publish this machine's own figures to CHANNEL once a second"
    )
    parser.set_defaults(run=run)


def read_settings(args: argparse.Namespace) -> Settings:
    """Read the settings with the flags on top."""
    values: dict[tuple[str | int, ...], tuple[str, Any]] = {
        ("listen", 0, "host"): ("--host", args.host),
        ("listen", 0, "port"): ("--port", args.port),
        ("listen", 0, "tls_cert"): ("--tls-cert", args.tls_cert),
        ("listen", 0, "tls_key"): ("--tls-key", args.tls_key),
        ("drain_s",): ("--drain", args.drain),
        ("log", "level"): ("--log-level", args.log_level),
        ("dev",): ("--dev", args.dev or None),
    }
    flags = [Flag(flag, path, value) for path, (flag, value) in values.items() if value is not None]
    if args.feed is not None and not is_name(args.feed):
        raise SettingsError(f"--feed: expected a channel name, got {args.feed!r}")
    return load_settings(args.config, os.environ, flags, args.unix)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    settings = read_settings(args)
    raise SettingsError(f"nothing to serve {settings.listen} with yet")
