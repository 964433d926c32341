"""Channel names, and the patterns that settings and rules use for them.

A name is 1 to 255 characters of ``A-Z a-z 0-9 . _ : ~ @ $ # = + -``, case-sensitive.
``*`` is for patterns only and stands for any run of characters.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from everywire.core.errors import BadChannelName

__all__ = ["MAX_NAME_CHARACTERS", "check_name", "is_name", "matches"]

MAX_NAME_CHARACTERS: Final = 255

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
    # Every run of stars is one: two neighbouring ".*" would backtrack in vain.
    parts = re.split(r"\*+", pattern)
    return re.compile(".*".join(re.escape(part) for part in parts) + r"\Z")


def matches(pattern: str, name: str) -> bool:
    """Say whether the name fits the pattern; raise `BadChannelName` if that is none."""
    return _compiled(pattern).match(name) is not None
