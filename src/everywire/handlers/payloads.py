"""Typed payloads: JSON text becomes the type a handler asks for, or an error 107 that names the field.

Types are what msgspec can decode: structs, dataclasses, typed dictionaries, named tuples, unions of
them, and the plain types; `bytes` asks for the text as it came. Nothing is guessed: an annotation that
cannot be understood is an error where the function is registered, not at the first call.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from everywire.core.errors import BadRequest, SettingsError

__all__ = ["ANYTHING", "Payload", "encode", "payload_of"]

_BYTES: Final = (bytes, bytearray, memoryview)


class Payload:
    """One type of data."""

    __slots__ = ("_decode", "type")

    def __init__(self, type_: Any = Any) -> None:
        self.type = type_ = Any if type_ is object else type_
        try:
            self._decode = msgspec.json.Decoder(type_).decode
            is_known = not isinstance(msgspec.inspect.type_info(type_), msgspec.inspect.CustomType)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"data cannot be of type {type_!r}: {error}") from None
        if not is_known:
            raise SettingsError(f"data cannot be of type {type_!r}: take a struct of msgspec or a dataclass")

    @property
    def is_anything(self) -> bool:
        """Whether any JSON value will do."""
        return self.type is Any

    def decode(self, data: bytes) -> Any:
        """Return the value; raise `BadRequest` with a sentence that names the field that is wrong.

        No data at all is None where anything will do.
        """
        if self.type is bytes:
            return data
        if not data and self.type is Any:
            return None
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise BadRequest(f"the data is not what is wanted here: {error}") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequest(f"the data is not JSON ({str(error)[:100]})") from None

    def convert(self, value: Any) -> Any:
        """Return a value of JSON in which bytes may be as the type; raise `BadRequest` as `decode` does."""
        if self.type is Any:
            return value
        try:
            return msgspec.convert(value, self.type, builtin_types=_BYTES)
        except (msgspec.ValidationError, RecursionError) as error:
            raise BadRequest(f"the data is not what is wanted here: {error}") from None


ANYTHING: Final = Payload()
"""Any JSON value."""


def encode(value: Any) -> bytes:
    """Encode a value, structs and dataclasses included, as JSON text in UTF-8.

    Raises `BadRequest` when JSON has no way to say it.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BadRequest(f"this cannot be said in JSON: {error}") from None


def payload_of(function: Callable[..., Any], index: int, given: Any = None) -> Payload:
    """Return the type of a function's argument at ``index``: the one given, or that of its annotation."""
    if given is not None:
        return Payload(given)
    parameters = list(inspect.signature(function).parameters.values())
    if index >= len(parameters) or parameters[index].kind is inspect.Parameter.VAR_POSITIONAL:
        return ANYTHING
    annotation = parameters[index].annotation
    if annotation is inspect.Parameter.empty:
        return ANYTHING
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        holder: Any = SimpleNamespace(__annotations__={"data": annotation})
        found = typing.get_type_hints(holder, scope, include_extras=True)["data"]
    except (NameError, SyntaxError, TypeError) as error:
        raise SettingsError(
            f"the annotation {annotation!r} cannot be looked up here ({error}); give payload= instead"
        ) from None
    return Payload(found)
