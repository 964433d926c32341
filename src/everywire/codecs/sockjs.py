"""SockJS: frames for the client, messages from it, and the few pages it needs. No I/O.

After the protocol of sockjs-protocol (the head of its main branch, version 0.3.x). To the client go frames:
``o`` (open), ``h`` (heartbeat), ``a["…","…"]`` (messages), ``c[code,"reason"]`` (close); each transport wraps
them in its own way. From it come JSON arrays of strings, by whatever transport.

A message is text, here as UTF-8. JavaScript's strings may hold half of a surrogate pair, which no UTF-8 can:
it is kept as Python's ``surrogatepass`` writes it and goes out again as its escape, so that what one client
sends another gets. Everything that browsers of any age mangle goes out escaped, and in HTML ``<`` and ``>``
too, so that no message ends the script it stands in.

Refused: what is no array of strings, whatever its depth; more messages than allowed; callbacks that are more
than a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from everywire.core.errors import BadRequest

__all__ = [
    "CALLBACK_MISSING",
    "EVENT_PRELUDE",
    "GREETING",
    "HEARTBEAT",
    "OPEN",
    "XHR_PRELUDE",
    "as_event",
    "as_jsonp",
    "as_line",
    "as_script",
    "check_callback",
    "decode_form",
    "decode_messages",
    "encode_close",
    "encode_messages",
    "htmlfile_head",
    "iframe_page",
    "quote",
]

OPEN: Final = b"o"
HEARTBEAT: Final = b"h"
GREETING: Final = b"Welcome to SockJS!\n"

XHR_PRELUDE: Final = b"h" * 2048 + b"\n"
"""What comes first on ``xhr_streaming``: some browsers hold back the first 2 KiB of an answer."""
EVENT_PRELUDE: Final = b"\r\n"
"""What comes first on ``eventsource``, for the sake of an old Opera."""

PAYLOAD_MISSING: Final = "Payload expected."
PAYLOAD_BROKEN: Final = "Broken JSON encoding."
CALLBACK_MISSING: Final = '"callback" parameter required'
CALLBACK_INVALID: Final = 'invalid "callback" parameter'

_MAX_CALLBACK_CHARACTERS: Final = 64
_MAX_FORM_FIELDS: Final = 16
_MIN_HTML_BYTES: Final = 1025
"""Internet Explorer shows nothing of a page before it has a kilobyte."""

_CALLBACK: Final = re.compile(r"[a-zA-Z0-9_.-]+")
_MANGLED: Final = "\x7f-\x9f\u00ad\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff0-\uffff\ud800-\udfff"
"""What browsers change or lose on the way, besides JSON's own: the protocol's list, and a little more."""
_SPECIAL: Final = re.compile(f'["\\\\\x00-\x1f{_MANGLED}]')
_SPECIAL_IN_HTML: Final = re.compile(f'["\\\\\x00-\x1f<>&{_MANGLED}]')
_SHORT_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\f": "\\f",
    "\r": "\\r",
}
_STRING: Final = r'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_STRINGS: Final = re.compile(rf"\s*+(?:\[\s*+(?:{_STRING}\s*+(?:,\s*+{_STRING}\s*+)*+)?\]|{_STRING})\s*+")
"""An array of strings, or one string; linear, for nothing of it is tried twice."""

_messages: Final = msgspec.json.Decoder(str | list[str])


# -- what goes to the client ---------------------------------------------------------------


def quote(message: bytes) -> bytes:
    """Return a message as a JSON string (RFC 8259 §7) that no browser mangles."""
    text = message.decode("utf-8", "surrogatepass")
    if _SPECIAL.search(text) is None:
        return b'"%b"' % message
    return f'"{_SPECIAL.sub(_escape, text)}"'.encode()


def _quote_in_html(message: bytes) -> bytes:
    return f'"{_SPECIAL_IN_HTML.sub(_escape, message.decode())}"'.encode()


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04x}"


def encode_messages(quoted: Sequence[bytes]) -> bytes:
    """Return the frame of messages, each of which `quote` made, or of several joined by commas."""
    return b"a[%b]" % b",".join(quoted)


def encode_close(code: int, reason: str) -> bytes:
    """Return the frame that ends a session."""
    return b"c[%d,%b]" % (code, quote(reason.encode("utf-8", "surrogatepass")))


def as_line(frame: bytes) -> bytes:
    """Wrap a frame for ``xhr`` and ``xhr_streaming``."""
    return frame + b"\n"


def as_event(frame: bytes) -> bytes:
    """Wrap a frame for ``eventsource``."""
    return b"data: %b\r\n\r\n" % frame


def as_script(frame: bytes) -> bytes:
    """Wrap a frame for ``htmlfile``; nothing in it can end the script."""
    return b"<script>\np(%b);\n</script>\r\n" % _quote_in_html(frame)


def as_jsonp(callback: str, frame: bytes) -> bytes:
    """Wrap a frame for ``jsonp``. The comment keeps the answer from beginning with what a stranger chose,
    and so from being taken for anything but a script."""
    return b"/**/%b(%b);\r\n" % (callback.encode("ascii"), quote(frame))


# -- what comes from the client ------------------------------------------------------------


def decode_messages(data: bytes, max_messages: int) -> list[bytes]:
    """Return the messages of an array of strings, or the one of a single string.

    Raises `BadRequest` with the protocol's own sentence for anything else, and for more than
    ``max_messages``.
    """
    if not data:
        raise BadRequest(PAYLOAD_MISSING)
    try:
        found = _messages.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        found = _with_lone_surrogates(data)
    messages = [found] if isinstance(found, str) else found
    if len(messages) > max_messages:
        raise BadRequest(f"More than {max_messages} messages.")
    return [message.encode("utf-8", "surrogatepass") for message in messages]


def _with_lone_surrogates(data: bytes) -> str | list[str]:
    """Decode what is JSON but for halves of surrogate pairs; raise `BadRequest` if it is no such thing."""
    try:
        text = data.decode("utf-8", "surrogatepass")
        if _STRINGS.fullmatch(text) is None:  # so that nothing deep is ever parsed
            raise BadRequest(PAYLOAD_BROKEN)
        found: str | list[str] = json.loads(text)
    except ValueError:
        raise BadRequest(PAYLOAD_BROKEN) from None
    return found


def decode_form(body: bytes) -> bytes:
    """Return the field ``d`` of a form (``application/x-www-form-urlencoded``), in which ``jsonp_send`` has
    its messages; nothing when it has none."""
    for field in body.split(b"&", _MAX_FORM_FIELDS)[:_MAX_FORM_FIELDS]:
        name, _, value = field.partition(b"=")
        if name == b"d":
            return unquote_to_bytes(value.replace(b"+", b" "))
    return b""


def check_callback(callback: str | None) -> str:
    """Return the name of a function in the page that ``htmlfile`` or ``jsonp`` calls.

    Raises `BadRequest` with the protocol's own sentence when there is none, or it is more than a name.
    """
    if not callback:
        raise BadRequest(CALLBACK_MISSING)
    if len(callback) > _MAX_CALLBACK_CHARACTERS or _CALLBACK.fullmatch(callback) is None:
        raise BadRequest(CALLBACK_INVALID)
    return callback


# -- pages ---------------------------------------------------------------------------------


def htmlfile_head(callback: str) -> bytes:
    """Return the beginning of a page that calls ``parent.<callback>`` with each frame; the callback was
    checked."""
    head = _HTMLFILE % callback
    return head.ljust(_MIN_HTML_BYTES).encode("ascii") + b"\r\n\r\n"


def iframe_page(client_url: str) -> bytes:
    """Return the page by which a page of another origin reaches this server, with the client from a URL."""
    return (_IFRAME % escape(client_url)).encode()


_HTMLFILE: Final = """<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.%s;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>"""
"""To the letter as the protocol has it."""

_IFRAME: Final = """<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="%s"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>"""
"""To the letter as the protocol has it."""
