"""JSONP, the transport of browsers without cross-origin requests: payloads as scripts and forms. No I/O.

After the Engine.IO protocol 3, "JSONP" (clients of version 4 use it, too): a poll with ``j=<index>`` is
answered by a script that calls ``___eio[<index>]`` with the payload as a string; messages come as a form
whose field ``d`` is the payload, newlines escaped, and what looked like an escape escaped once more.

Refused: an index that is anything but some ASCII digits. The script cannot begin with what a stranger
chose, and nothing of the payload can end a string, a script element or a line.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from everywire.codecs.json_text import dump

__all__ = ["decode_jsonp_form", "encode_jsonp", "is_index"]

_MAX_INDEX_DIGITS: Final = 10
_MAX_FORM_FIELDS: Final = 16
_SPECIAL: Final = re.compile("[<>&\x7f-\x9f\u2028\u2029\ufeff]")
_ESCAPED_NEWLINE: Final = re.compile(rb"(\\?)\\n")


def is_index(text: str) -> bool:
    """Say whether it is the index of a callback: ASCII digits only."""
    return 0 < len(text) <= _MAX_INDEX_DIGITS and text.isascii() and text.isdigit()


def encode_jsonp(index: str, payload: bytes) -> bytes:
    """Return a payload as a script for the callback of a checked index."""
    literal = dump(payload.decode("utf-8", "replace")).decode()
    return f"___eio[{index}]({_SPECIAL.sub(_escape, literal)});".encode()


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def decode_jsonp_form(body: bytes) -> bytes:
    """Return the payload of a form (``application/x-www-form-urlencoded``); nothing when it has none.

    A newline comes as ``\\n``, and what was ``\\n`` in the payload as ``\\\\n``: browsers change bare ones.
    The payload is not checked to be UTF-8 here.
    """
    for field in body.split(b"&", _MAX_FORM_FIELDS)[:_MAX_FORM_FIELDS]:
        name, _, value = field.partition(b"=")
        if name == b"d":
            payload = unquote_to_bytes(value.replace(b"+", b" "))
            return _ESCAPED_NEWLINE.sub(_unescape, payload)
    return b""


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"\\n" if match[1] else b"\n"
