"""Request heads: from the bytes up to the empty line to what a host needs to know (RFC 9112 §2 to §6).

llhttp (through httptools) checks the syntax of the fields. Checked here besides: the request
line to the letter, control characters above ASCII, the number of fields, Host (missing,
repeated, malformed), and how the body is framed. What is wrong raises a `RequestError` with the
code to answer and a sentence.

What was checked is remembered by its bytes. A crowd that waits at one position sends one head
over and over (0.2 µs instead of 7); a client's fields hardly change from request to request, and
those of many clients are the same (1.2 µs). Both memories are bounded, and hold no head that is
only sent once.

Refused: HTTP/0.9 and HTTP/2, line folding, bare CR or LF, transfer codings other than chunked,
CONNECT, and methods that nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import httptools

from everywire.core import codes
from everywire.core.errors import BadRequest, RequestError

__all__ = ["METHODS", "Fields", "Head", "HeadReader"]

METHODS: Final = {
    name.encode(): name
    for name in (
        *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"),
        # WebDAV and its kin (RFC 4918, RFC 3253, RFC 5323): known, if only to be told 405.
        *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "ACL", "BIND", "UNBIND"),
        *("REBIND", "LINK", "UNLINK", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "SEARCH", "MKCALENDAR"),
    )
}
"""Methods that a handler may see; others are answered 501."""

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,40}")
# RFC 3986 §3.2.2, without the odd characters of reg-name that no resolver takes.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ABSOLUTE: Final = re.compile(r"https?://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)
_C1: Final = re.compile("[\x80-\x9f]")
_FORWARDING: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"}
)
_MAX_REMEMBERED_BLOCKS: Final = 512
_WEBSOCKET_KEY: Final = re.compile(rb"\r\nSec-WebSocket-Key: ([A-Za-z0-9+/=]{24})(?=\r\n)")
_MAX_REMEMBERED_HEADS: Final = 128
_MAX_REMEMBERED_BYTES: Final = 2048


class Fields:
    """The fields of a head, and what they say about the connection and the body.

    ``values`` is shared by all requests with the same fields: it must not be changed.
    """

    __slots__ = (
        "asks_close",
        "asks_keep_alive",
        "content_length",
        "expects_continue",
        "has_forwarding",
        "host",
        "is_chunked",
        "memos",
        "values",
        "wants_websocket",
    )

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self.values: Mapping[bytes, bytes] = values
        self.memos: tuple[dict[object, Any], dict[object, Any]] = ({}, {})
        """For whoever works something out of the fields alone: without TLS, and with it."""
        get = values.get
        self.host: str | None = None
        if (host := get(b"host")) is not None:
            self.host = _check_host(host.decode("latin-1"))
        self.content_length = int(get(b"content-length", b"0"))
        coding = get(b"transfer-encoding")
        self.is_chunked = coding is not None
        if coding is not None and coding.lower() != b"chunked":
            raise RequestError(
                "the only Transfer-Encoding known here is chunked, once", code=codes.NOT_AVAILABLE
            )
        connection = get(b"connection")
        tokens = () if connection is None else _tokens(connection)
        self.asks_close = b"close" in tokens
        self.asks_keep_alive = b"keep-alive" in tokens
        self.expects_continue = get(b"expect", b"").lower() == b"100-continue"
        upgrade = get(b"upgrade")
        self.wants_websocket = upgrade is not None and b"websocket" in _tokens(upgrade)
        self.has_forwarding = any(name in _FORWARDING or name.startswith(b"x-forwarded") for name in values)


Head: TypeAlias = tuple[str, str, str, str, bool, Fields, Mapping[bytes, bytes]]
"""One request's head: method, path, query, host, whether it is HTTP/1.1, fields, and their values.

The values are those of the fields; a WebSocket handshake's have its key besides.

``host`` is the authority that it is for; empty with HTTP/1.0 without Host. A plain tuple, because
one is made for every request.
"""


class HeadReader:
    """Reads heads; remembers a bounded number of field blocks. One may serve many connections."""

    __slots__ = ("_blocks", "_heads", "_max_headers")

    def __init__(self, max_headers: int) -> None:
        self._max_headers = max_headers
        self._blocks: dict[bytes, Fields] = {}
        self._heads: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head:
        """Read a head, which ends with its empty line; raise `RequestError`."""
        found = self._heads.get(head)
        if found is None:
            key = _WEBSOCKET_KEY.search(head)
            found = self._read_and_remember(head) if key is None else self._read_handshake(head, key)
        return found

    def _read_handshake(self, head: bytes, key: re.Match[bytes]) -> Head:
        """Read the head of a WebSocket handshake: its key is new in each, and nothing else is."""
        at, end = key.span()
        rest = head[:at] + head[end:]
        known = self._heads.get(rest) or self._read_and_remember(rest)
        method, path, query, host, is_http11, fields, values = known
        if b"sec-websocket-key" in values:
            return self._read(head)  # two of them: they are joined, and so refused
        return method, path, query, host, is_http11, fields, {**values, b"sec-websocket-key": key[1]}

    def _read_and_remember(self, head: bytes) -> Head:
        found = self._read(head)
        if len(head) <= _MAX_REMEMBERED_BYTES and b"sec-websocket-key" not in found[6]:
            if len(self._heads) >= _MAX_REMEMBERED_HEADS:
                self._heads.clear()
            self._heads[head] = found
        return found

    def _read(self, head: bytes) -> Head:
        end = head.find(b"\r\n")
        try:
            method, target, version = head[:end].split(b" ")
        except ValueError:
            raise _bad_line(head[:end]) from None
        if version != b"HTTP/1.1" and version != b"HTTP/1.0":
            raise _bad_line(head[:end])
        name = METHODS.get(method)
        if name is None:
            if _TOKEN.fullmatch(method) is None:
                raise BadRequest("the method is malformed")
            raise RequestError("this method is not known here", code=codes.NOT_AVAILABLE)
        block = head[end:]
        fields = self._blocks.get(block)
        if fields is None:
            fields = self._read_fields(head, block)
        is_http11 = version == b"HTTP/1.1"
        host = fields.host
        if is_http11:
            if host is None:
                raise BadRequest("Host is missing")
        else:
            if fields.is_chunked:
                raise BadRequest("Transfer-Encoding needs HTTP/1.1")  # RFC 9112 §6.1
            host = host or ""
        try:
            text = target.decode("ascii")
        except UnicodeDecodeError:
            text = ""
        # The line was split at spaces, so what is printable is visible.
        if not text.isprintable() or "#" in text:
            raise BadRequest("the request target has characters that must be percent-encoded")
        if text[:1] == "/":
            path, _, query = text.partition("?")
            return name, path, query, host, is_http11, fields, fields.values
        return self._read_other_form(name, text, is_http11, fields)

    def _read_other_form(self, method: str, target: str, is_http11: bool, fields: Fields) -> Head:
        if target == "*" and method == "OPTIONS":
            return method, "*", "", fields.host or "", is_http11, fields, fields.values
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise BadRequest("the request target must be a path")
        # RFC 9112 §3.2.2: the target's authority counts and Host is ignored.
        authority, path, query = match.groups()
        host = _check_host(authority)
        return method, path or "/", query or "", host, is_http11, fields, fields.values

    def _read_fields(self, head: bytes, block: bytes) -> Fields:
        if block.count(b"\r\n") - 2 > self._max_headers:
            raise RequestError(f"at most {self._max_headers} header fields", code=codes.HEAD_TOO_LARGE)
        raw = _parse(head)
        if not block.isascii():
            _check_beyond_ascii(block)
        values: dict[bytes, bytes] = {}
        for name, value in raw:
            key = name.lower()
            known = values.get(key)
            if known is None:
                values[key] = value.strip(b" \t")
            elif key == b"host":
                raise BadRequest("Host was given twice")
            else:
                values[key] = known + (b"; " if key == b"cookie" else b", ") + value.strip(b" \t")
        fields = Fields(values)
        # A WebSocket key is used once: such a block does not come again.
        if len(block) <= _MAX_REMEMBERED_BYTES and b"sec-websocket-key" not in values:
            if len(self._blocks) >= _MAX_REMEMBERED_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[block] = fields
        return fields


class _Sink:
    """Hears from llhttp."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def _parse(head: bytes) -> list[tuple[bytes, bytes]]:
    """Let llhttp read the fields. Every head gets a new parser, which has seen nothing before."""
    sink = _Sink()
    try:
        httptools.HttpRequestParser(sink).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # all fields were read; what follows the head is not llhttp's
    except httptools.HttpParserError as error:
        raise BadRequest(f"the request is malformed: {str(error)[:100]}") from None
    return sink.fields


def _tokens(value: bytes) -> tuple[bytes, ...]:
    return tuple(token.strip(b" \t") for token in value.lower().split(b","))


def _check_host(host: str) -> str:
    if _HOST.fullmatch(host) is None:
        raise BadRequest("Host is malformed; expected a name or an address, and maybe a port")
    return host


def _bad_line(line: bytes) -> RequestError:
    if line.startswith(b"PRI * HTTP/2"):
        return BadRequest("HTTP/2 is not spoken here; use HTTP/1.1")
    return BadRequest("the request line is malformed; expected METHOD SP target SP HTTP/1.1")


def _check_beyond_ascii(block: bytes) -> None:
    """Refuse the control characters U+0080 to U+009F, which some parsers take for line ends.

    In UTF-8 their bytes are also the second half of harmless characters, so it is told apart.
    """
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError:
        text = block.decode("latin-1")
    if _C1.search(text) is not None:
        raise BadRequest("the request is malformed: control character in a header field")
