"""Values of the handshake's list headers: tokens and extensions (RFC 6455 §9.1, RFC 9110 §5.6).

Splitting, no regular expressions: the time is linear in the length for any input, and the length has a bound.
"""

from typing import Final

MAX_LIST_HEADER_BYTES: Final = 8192
MAX_LIST_ITEMS: Final = 64

HeaderParameter = tuple[bytes, bytes | None]
ParametrizedToken = tuple[bytes, tuple[HeaderParameter, ...]]

_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WHITESPACE: Final = b" \t"


class HeaderValueError(Exception):
    """A header value that does not follow its grammar, or is beyond our bounds."""


def is_token(value: bytes) -> bool:
    """Whether ``value`` is a token (RFC 9110 §5.6.2)."""
    return bool(value) and not value.translate(None, _TOKEN_BYTES)


def has_token(value: bytes | None, token: bytes) -> bool:
    """Whether a comma-separated list has ``token`` (given in lower case), in any case of letters."""
    if value is None:
        return False
    lowered = value.lower()
    return token in lowered and any(item.strip(_WHITESPACE) == token for item in lowered.split(b","))


def parse_tokens(value: bytes) -> list[bytes]:
    """Read a comma-separated list of at least one token.

    Raises:
        HeaderValueError: an item that is no token, no item at all, or too many.
    """
    tokens = [item for item in _split(value) if item]
    if not tokens or not all(map(is_token, tokens)):
        raise HeaderValueError("not a list of tokens")
    return tokens


def parse_extensions(value: bytes) -> list[ParametrizedToken]:
    """Read a list of extensions with their parameters: ``name; parameter; parameter=value, …``.

    Quoted values are allowed where their content is a token (RFC 6455 §9.1). Names keep their case.

    Raises:
        HeaderValueError: anything else, or too many items.
    """
    if len(value) > MAX_LIST_HEADER_BYTES:
        raise HeaderValueError("too long")
    if b'"' in value:
        value = _unquote(value)
    extensions: list[ParametrizedToken] = []
    for item in _split(value):
        if not item:
            continue  # empty list elements are ignored (RFC 9110 §5.6.1.2)
        name, *parameters = (part.strip(_WHITESPACE) for part in item.split(b";"))
        if not is_token(name) or len(parameters) > MAX_LIST_ITEMS:
            raise HeaderValueError("not a list of extensions")
        extensions.append((name, tuple(map(_parse_parameter, parameters))))
    return extensions


def _split(value: bytes) -> list[bytes]:
    if len(value) > MAX_LIST_HEADER_BYTES:
        raise HeaderValueError("too long")
    items = value.split(b",", MAX_LIST_ITEMS)
    if len(items) > MAX_LIST_ITEMS:
        raise HeaderValueError("too many items")
    return [item.strip(_WHITESPACE) for item in items]


def _parse_parameter(parameter: bytes) -> HeaderParameter:
    name, equals, value = parameter.partition(b"=")
    name = name.rstrip(_WHITESPACE)
    value = value.lstrip(_WHITESPACE)
    if not is_token(name) or (equals and not is_token(value)):
        raise HeaderValueError("bad extension parameter")
    return name, value if equals else None


def _unquote(value: bytes) -> bytes:
    """Replace each quoted value by its content, which must be a token."""
    parts: list[bytes] = []
    at = 0
    while (start := value.find(b'"', at)) >= 0:
        before = value[at:start]
        end = value.find(b'"', start + 1)
        if end < 0 or not before.rstrip(_WHITESPACE).endswith(b"="):
            raise HeaderValueError("bad quoted value")
        content = value[start + 1 : end]
        # A backslash quotes the next byte. Quoting a quote or a backslash makes no token: refuse these two,
        # and what is left can be unquoted by dropping the backslashes.
        if content.endswith(b"\\") or b"\\\\" in content:
            raise HeaderValueError("bad quoted value")
        content = content.replace(b"\\", b"")
        if not is_token(content):
            raise HeaderValueError("bad quoted value")
        # The space keeps what follows from becoming part of the value.
        parts += (before, content, b" ")
        at = end + 1
    parts.append(value[at:])
    return b"".join(parts)
