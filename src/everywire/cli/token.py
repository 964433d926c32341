"""`everywire token`: make a connection or subscription token, for development and scripts.

Signed with the server's shared secret (HS256). What the server would refuse is not printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import time
from typing import Any, Final

from everywire.access.identity import Action
from everywire.core.errors import BadRequest, InvalidToken, SettingsError
from everywire.core.limits import Limits
from everywire.server.settings import Tokens as TokenSettings
from everywire.server.settings_sources import load_settings

__all__ = ["add_parser"]

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)\Z")
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NEVER: Final = "never"
_GRANTS: Final = (Action.READ, Action.PUBLISH, Action.PRESENCE, Action.DELETE)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the line."""
    parser = commands.add_parser(
        "token",
        help="make a connection or subscription token",
        description="Print a token, signed with the server's shared secret: one that says who a connection "
        "is, or with --channel one that opens a channel to a user. The secret is that of --config or of the "
        "environment (EVERYWIRE_TOKENS__SECRET); --secret shows in the list of processes.",
    )
    parser.add_argument("--user", metavar="ID", default="", help="the user (nobody by name)")
    parser.add_argument(
        "--expires", metavar="TIME", default="1h", help="seconds, or like 90s, 15m, 1h, 7d, never (1h)"
    )
    parser.add_argument("--info", metavar="JSON", help="what others see of this client")
    parser.add_argument("--id", metavar="TEXT", help="the token's id, by which it is revoked (random)")
    parser.add_argument("--channel", metavar="C", help="make a subscription token for this channel")
    parser.add_argument("--client", metavar="ID", help="with --channel: for this client only")
    parser.add_argument(
        "--subscribe",
        metavar="C",
        action="append",
        default=[],
        help="subscribe the user to a channel; repeatable",
    )
    for action in _GRANTS:
        parser.add_argument(
            f"--{action.value}",
            metavar="PATTERN",
            action="append",
            default=[],
            help=f"let the user {_MEANS[action]} channels of this pattern; repeatable",
        )
    parser.add_argument("--audience", metavar="TEXT", help="aud, if another than the settings ask for")
    parser.add_argument("--issuer", metavar="TEXT", help="iss, likewise")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--secret", metavar="TEXT", help="the shared secret, at least 32 bytes")
    sources.add_argument("--config", metavar="FILE", help="the server's TOML file with settings")
    parser.set_defaults(run=run)


_MEANS: Final = {
    Action.READ: "read",
    Action.PUBLISH: "publish to",
    Action.PRESENCE: "see who reads",
    Action.DELETE: "empty",
}


def run(args: argparse.Namespace) -> int:
    """Make the token and print it."""
    import jwt

    settings = _settings(args)
    tokens = settings.verifier(Limits())  # refuses a secret that is none, before anything is signed
    assert tokens is not None
    text = jwt.encode(_claims(args, settings, time.time()), settings.secret, "HS256")
    try:
        if args.channel is None:
            tokens.verify_nowait(text)
        else:
            tokens.subscription_nowait(text)
    except InvalidToken as error:
        raise BadRequest(f"the server would refuse it: {error.sentence}") from None
    print(text)
    return 0


def _claims(args: argparse.Namespace, settings: TokenSettings, now_s: float) -> dict[str, Any]:
    claims: dict[str, Any] = {"sub": args.user, "iat": int(now_s), "jti": args.id or secrets.token_hex(8)}
    lasts_s = _duration_s(args.expires)
    if lasts_s is not None:
        claims["exp"] = int(now_s + lasts_s)
    if args.info is not None:
        try:
            claims["info"] = json.loads(args.info)
        except ValueError as error:
            raise BadRequest(f"--info: expected JSON ({error})") from None
    for claim, said in (
        ("aud", settings.audience if args.audience is None else args.audience),
        ("iss", settings.issuer if args.issuer is None else args.issuer),
    ):
        if said:
            claims[claim] = said
    grants = {getattr(settings, f"{action.value}_claim"): getattr(args, action.value) for action in _GRANTS}
    opened = {name: patterns for name, patterns in grants.items() if patterns}
    if args.channel is None:
        if args.client is not None:
            raise BadRequest("--client: expected --channel beside it")
        if args.subscribe:
            claims["channels"] = args.subscribe
        return {**claims, **opened}
    if args.subscribe or opened:
        raise BadRequest("--channel: a subscription token opens this one channel, and nothing else")
    claims["channel"] = args.channel
    if args.client is not None:
        claims["client"] = args.client
    return claims


def _duration_s(text: str) -> float | None:
    if text == _NEVER:
        return None
    match = _DURATION.match(text)
    if match is None or not float(match[1]):
        raise BadRequest(f"--expires: expected a time such as 90, 15m, 1h, 7d or never, got {text!r}")
    return float(match[1]) * _UNITS_S[match[2]]


def _settings(args: argparse.Namespace) -> TokenSettings:
    """Return what the server of these settings asks of tokens, and the secret that it shares."""
    if args.secret is not None:
        return TokenSettings(secret=args.secret)
    settings = load_settings(args.config, os.environ).tokens
    if not settings.secret:
        raise SettingsError("there is no secret to sign with: set tokens.secret, or give --secret")
    return settings
