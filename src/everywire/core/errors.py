"""The one tree of errors.

::

    EverywireError
    ├── RequestError          the peer asked for something it cannot have
    │   ├── BadRequest        … in a form that is wrong
    │   │   ├── BadChannelName
    │   │   ├── BadPacket
    │   │   └── BadPosition
    │   ├── InvalidToken      … with a token that proves nothing (expired ones have code 109 instead)
    │   ├── Forbidden         … that its identity may not have (names the channel)
    │   ├── TooLarge          … larger than a limit
    │   ├── KeyReused         … with an idempotency key of another body
    │   ├── TooManyRequests   … faster than it may
    │   └── LimitExceeded     … more of something than it may
    ├── BrokerError           the log store cannot serve now
    │   └── BrokerBusy        too many unfinished appends
    └── SettingsError         the operator's settings are wrong

Every error carries a row of the table of codes and a sentence for the peer;
what is internal stays in our log.
"""

from __future__ import annotations

from everywire.core import codes
from everywire.core.codes import Code

__all__ = [
    "BadChannelName",
    "BadPacket",
    "BadPosition",
    "BadRequest",
    "BrokerBusy",
    "BrokerError",
    "EverywireError",
    "Forbidden",
    "InvalidToken",
    "KeyReused",
    "LimitExceeded",
    "RequestError",
    "SettingsError",
    "TooLarge",
    "TooManyRequests",
]


class EverywireError(Exception):
    """The root: an error that can say its code and a sentence for the peer."""

    code: Code = codes.INTERNAL

    def __init__(self, sentence: str = "", *, code: Code | None = None, channel: str | None = None) -> None:
        if code is not None:
            self.code = code
        self.sentence = sentence or self.code.sentence
        self.channel = channel
        super().__init__(self.sentence)


class RequestError(EverywireError):
    """The peer asked for something it cannot have."""

    code = codes.BAD_REQUEST


class BadRequest(RequestError):
    """The request is malformed."""


class BadChannelName(BadRequest):
    """The text is no channel name."""


class BadPacket(BadRequest):
    """The bytes are no packet of the protocol; the connection they came on cannot go on."""


class BadPosition(BadRequest):
    """The text is no position."""


class InvalidToken(RequestError):
    """The token is broken, forged, of somebody else, or not for this server.

    The code is 101, which an HTTP answer gives as 401; sessions end with 3500 (``invalid_token``) instead,
    as the Centrifuge protocol wants it.
    """

    code = codes.UNAUTHORIZED


class Forbidden(RequestError):
    """The identity may not do this; ``channel`` names what is closed to it."""

    code = codes.PERMISSION_DENIED


class TooLarge(RequestError):
    """Something is larger than a limit."""

    code = codes.TOO_LARGE


class KeyReused(RequestError):
    """The idempotency key was used before, with another body."""

    code = codes.KEY_REUSED


class TooManyRequests(RequestError):
    """A client is too fast: ``retry_s`` says when it may go on. ``is_sustained`` when it was told so again
    and again, and its connection may be closed."""

    code = codes.TOO_MANY_REQUESTS

    def __init__(self, sentence: str = "", retry_s: float = 1.0, is_sustained: bool = False) -> None:
        super().__init__(sentence)
        self.retry_s = retry_s
        self.is_sustained = is_sustained


class LimitExceeded(RequestError):
    """There are too many of something, such as connections of one user."""

    code = codes.LIMIT_EXCEEDED


class BrokerError(EverywireError):
    """The broker cannot serve this now."""

    code = codes.BUSY


class BrokerBusy(BrokerError):
    """Too many appends are unfinished."""


class SettingsError(EverywireError):
    """A setting is wrong; the sentence names it and what was expected."""
