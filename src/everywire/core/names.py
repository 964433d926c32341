"""Channel names, and the patterns that settings and rules use for them.

A name is 1 to 255 characters of ``A-Z a-z 0-9 . _ : ~ @ $ # = + -``, case-sensitive.
``*`` is for patterns only and stands for any run of characters.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from everywire.core.errors import BadChannelName

__all__ = ["MAX_NAME_CHARACTERS", "check_name", "is_name", "is_opened_by", "matches"]

MAX_NAME_CHARACTERS: Final = 255

_OWN: Final = "sio:"
_ROOM: Final = "sio:r::"
"""What every application's rooms may be called; everything else that begins with `_OWN` is what Socket.IO has
apart from them: its other namespaces, and all sockets of one."""

_NAME: Final = re.compile(r"[A-Za-z0-9._:~@$#=+\-]{1,255}\Z")
_PATTERN: Final = re.compile(r"[A-Za-z0-9._:~@$#=+\-*]{1,255}\Z")


def is_name(text: str) -> bool:
    """Say whether the text is a channel name."""
    return _NAME.match(text) is not None


def check_name(text: str) -> str:
    """Return the text if it is a channel name; raise `BadChannelName` if not."""
    if _NAME.match(text) is None:
        raise BadChannelName(
            f"a channel name is 1 to {MAX_NAME_CHARACTERS} characters of A-Z a-z 0-9 . _ : ~ @ $ # = + -"
        )
    return text


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    if _PATTERN.match(pattern) is None:
        raise BadChannelName(f"{pattern!r} is no pattern: a channel name where * is any characters")
    first, *rest = [re.escape(part) for part in re.split(r"\*+", pattern)]
    if not rest:
        return re.compile(first + r"\Z")
    # What stands between two stars is taken where it is found first, and never tried elsewhere (an
    # atomic group): otherwise each star would multiply the work by the length of the name.
    *between, last = rest
    return re.compile(first + "".join(f"(?>.*?{part})" for part in between) + f".*{last}" + r"\Z")


def matches(pattern: str, name: str) -> bool:
    """Say whether the name fits the pattern; raise `BadChannelName` if that is none."""
    return _compiled(pattern).match(name) is not None


def is_opened_by(pattern: str, name: str) -> bool:
    """Say whether a rule's pattern may open a name, if it fits: ``*`` is meant for what an application calls
    its channels. What is in Socket.IO's other namespaces, where a function of the application has let each
    client in, only a pattern opens that says so: ``sio:…``."""
    return not name.startswith(_OWN) or name.startswith(_ROOM) or pattern.startswith(_OWN)
