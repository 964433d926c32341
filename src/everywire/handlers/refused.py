"""What an application raises to refuse something, with a code of its own if it likes.

The Centrifuge client protocol leaves 400 to 1999 to applications for errors that answer a request,
and 4000 to 4999 for those that end a connection (4500 and above for good).
"""

from __future__ import annotations

from typing import Final

from everywire.core import codes
from everywire.core.codes import CODES, Code
from everywire.core.errors import EverywireError

__all__ = ["Refused", "code_of"]

_BY_NUMBER: Final = {row.number: row for row in CODES}


def code_of(code: Code | int, sentence: str = "") -> Code:
    """Return the row of a number: one of the table, or one that is the application's.

    Raises ValueError for any other number: clients would take it for something else.
    """
    if isinstance(code, Code):
        return code
    known = _BY_NUMBER.get(code)
    if known is not None:
        return known
    if 400 <= code <= 1999:
        return Code(code, "refused", 403, sentence or "refused")
    if 4000 <= code <= 4999:
        return Code(code, "refused_close", 0, sentence or "refused")
    raise ValueError(f"{code} is no code that an application may use: 400 to 1999, or 4000 to 4999")


class Refused(EverywireError):
    """The application refuses this; the sentence and the code reach the client as they are.

    ``code`` is a row of `everywire.core.codes` or a number of the application's own: 400 to 1999 answers
    the request (HTTP: 403), 4000 to 4999 ends the session.
    """

    code = codes.PERMISSION_DENIED

    def __init__(self, sentence: str = "", *, code: Code | int | None = None) -> None:
        super().__init__(sentence, code=None if code is None else code_of(code, sentence))
