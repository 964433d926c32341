"""`everywire COMMAND …`: parses the line, runs the command, and turns errors into exit codes.

0 is well, 1 an error of the work itself (a server that refuses, a file that is damaged), 2 a wrong
command line or setting, 130 an interruption by Ctrl-C. Errors are one sentence on standard error;
a traceback is always a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from everywire import __version__
from everywire.cli import feed, publish, serve, subscribe, token
from everywire.core.errors import BadRequest, EverywireError, SettingsError

__all__ = ["main"]

COMMANDS = (serve, publish, subscribe, feed, token)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="everywire", description="One channel, every wire: a real-time server and its tools."
    )
    parser.add_argument("--version", action="version", version=f"everywire {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the line; exit 2 when it is wrong.

    Words may stand on both sides of options, which argparse alone does not allow where their
    number is open.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    stray = [word for word in rest if word.startswith("-") and word != "-"]
    if stray or (rest and not hasattr(args, "words")):
        parser.error(f"unrecognized arguments: {' '.join(stray or rest)}")
    if rest:
        args.words += rest
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        args = parse(arguments)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (BadRequest, SettingsError) as error:
        return _fail(error.sentence, 2)
    except EverywireError as error:
        return _fail(error.sentence, 1)
    except BrokenPipeError:
        # Who read our output has gone, as `head` does. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _fail(sentence: str, code: int) -> int:
    print(f"everywire: {sentence}", file=sys.stderr)
    return code
