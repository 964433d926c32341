"""Writes docs/codes.md, the page of codes, from the table in everywire.core.codes.

python tools/write_codes.py            writes the page
python tools/write_codes.py --check    exits 1 when the page is not what it would write
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from everywire.core.codes import CODES, Code

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "codes.md"


class Section(NamedTuple):
    """A range of numbers, and what it means to whoever gets one of them."""

    title: str
    text: str
    holds: Callable[[int], bool]


SECTIONS: Final = (
    Section(
        "Errors: 100 to 399",
        "They answer one request and end nothing else. The name is meant for programs, the sentence that "
        "comes with it for people; it often says more than the one here.",
        lambda number: 100 <= number < 400,
    ),
    Section(
        "Subscriptions: 2000 to 2999",
        "A session's subscription to one channel ended; the connection goes on. From 2500 on the client may "
        "subscribe again, with the position that it holds; below, it may not.",
        lambda number: 2000 <= number < 3000,
    ),
    Section(
        "Come back: 3000 to 3499",
        "The connection ended; its reader may come back, with the position that it holds. Wait as long as "
        "the server says, or a second and then ever longer, with some randomness.",
        lambda number: 3000 <= number < 3500,
    ),
    Section(
        "Stay away: 3500 to 3999",
        "The connection ended for good: coming back the same way would end the same way.",
        lambda number: 3500 <= number < 4000,
    ),
    Section(
        "WebSocket's own: 1000 to 1015",
        "Close codes of RFC 6455 §7.4.1 that Everywire itself decides to send. Its WebSocket codec sends "
        "1000, 1002 (the peer broke the protocol), 1007 (text that is not UTF-8) and 1009 (a message too "
        "big) besides, as the RFC says.",
        lambda number: 1000 <= number < 1016,
    ),
)

INTRODUCTION: Final = """\
# Codes

<!-- Written by tools/write_codes.py from the table in src/everywire/core/codes.py: do not edit. -->

One table of every code that a peer may see, on whatever wire. The numbers follow the Centrifuge client
protocol: what a number's range says is all that a client has to know about a code that is new to it.

An HTTP answer carries a code in its body (`{"error": {"code", "name", "message"}}`), a line stream in
its last line, a WebSocket as its close code; see [protocol.md](protocol.md).
"""


def page() -> str:
    """Return the page."""
    return "\n".join([INTRODUCTION, *(section_text(section) for section in SECTIONS)])


def section_text(section: Section) -> str:
    """Return one section with its table."""
    rows = sorted(row for row in CODES if section.holds(row.number))
    has_status = any(row.status for row in rows)
    head = ["code", "name", *(["HTTP status"] if has_status else ["may come back"]), "sentence"]
    lines = [_row(head), _row(["---"] * len(head))]
    lines += [
        _row([str(row.number), f"`{row.name}`", _middle(row, has_status), row.sentence]) for row in rows
    ]
    text = textwrap.fill(section.text, 110)
    return f"## {section.title}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def _middle(row: Code, has_status: bool) -> str:
    if has_status:
        return str(row.status)
    return "yes" if row.reconnect else "no"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check that it is there."""
    if "--check" in arguments:
        if not PAGE.is_file() or PAGE.read_text("utf-8") != page():
            print(f"{PAGE.relative_to(ROOT)} is out of date: run python tools/write_codes.py")
            return 1
        return 0
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
