"""What an application may answer to a webhook, in the shape of Centrifugo's proxies.

``{"result": {…}}``, ``{"error": {"code", "message"}}`` or ``{"disconnect": {"code", "reason"}}``; fields that
are ``null`` count as left out, and those that are not known here are passed over. Anything else is a
`BadAnswer`: a fault of the application, which never opens anything.
"""

from __future__ import annotations

import binascii
import time
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Terms
from everywire.access.tokens import MAX_USER_CHARACTERS
from everywire.core import codes
from everywire.core.codes import CODES, Code
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.names import is_name

__all__ = ["BadAnswer", "Result", "SaidTerms", "read_answer", "result_of"]

_NULL: Final = b"null"
_MAX_UNIX_S: Final = 1e11
"""Above it are times in milliseconds, which would be seconds of the year 3,000 and later."""
_MAX_SENTENCE_CHARACTERS: Final = 500
_CODES: Final = {code.number: code for code in CODES}


class BadAnswer(Exception):
    """An answer that is none, or that cannot be understood."""


class _Error(Struct):
    code: int = codes.PERMISSION_DENIED.number
    message: str | None = None


class _Disconnect(Struct):
    code: int = codes.REFUSED.number
    reason: str | None = None


class _Switch(Struct):
    value: bool = False


class _Override(Struct):
    join_leave: _Switch | None = None


class SaidTerms(Struct):
    """What a subscription is allowed with. Texts are JSON, as they stand or (``b64…``) in base64."""

    info: Raw = Raw()
    b64info: str | None = None
    data: Raw = Raw()
    b64data: str | None = None
    expire_at: Annotated[float, Meta(ge=0, lt=_MAX_UNIX_S)] | None = None
    override: _Override | None = None

    def info_text(self) -> bytes | None:
        """Return what others see, as JSON text."""
        return _json(self.info, self.b64info)

    def data_text(self) -> bytes | None:
        """Return what the client is told, as JSON text."""
        return _json(self.data, self.b64data)

    def join_leave(self) -> bool | None:
        """Return whether joins and leaves are told to the client, if that is said."""
        switch = None if self.override is None else self.override.join_leave
        return None if switch is None else switch.value

    def terms(self) -> Terms:
        """Return them as of a channel that the server subscribes a client to."""
        return Terms(info=self.info_text(), data=self.data_text(), join_leave=self.join_leave())

    def decision(self) -> SubscribeDecision:
        """Return them as of a subscription that a client asked for; 110 if they are over already."""
        expires_s = self.expire_at or None
        if expires_s is not None and expires_s <= time.time():
            raise EverywireError(code=codes.CREDENTIAL_EXPIRED)
        return SubscribeDecision(
            info=self.info_text(),
            data=self.data_text(),
            expires_s=expires_s,
            join_leave=self.join_leave(),
        )


class Result(SaidTerms):
    """All that any of the answers may say; each webhook reads its own part."""

    user: str | None = None
    channels: list[str] | None = None
    subs: dict[str, SaidTerms] | None = None
    expired: bool | None = None
    meta: dict[str, Any] | None = None

    def binary(self) -> bytes | None:
        """Return the bytes of ``b64data``, whatever they are."""
        return _bytes(self.b64data) if self.b64data else None


class _Answer(Struct):
    result: Result | None = None
    error: _Error | None = None
    disconnect: _Disconnect | None = None


def read_answer(text: bytes, *, is_data_binary: bool = False) -> Result | EverywireError:
    """Return what was said, or the error by which it was refused; raise `BadAnswer`.

    Bytes in ``b64data`` must be JSON text as well, unless ``is_data_binary``.
    """
    try:
        answer = msgspec.json.decode(text, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"the answer is not understood: {error}") from None
    if answer.disconnect is not None:
        number = answer.disconnect.code
        code = _code(number) if 3000 <= number < 5000 else codes.REFUSED
        return _refusal(code, answer.disconnect.reason)
    if answer.error is not None:
        number = answer.error.code
        code = _code(number) if 100 <= number < 2000 else codes.PERMISSION_DENIED
        return _refusal(code, answer.error.message)
    if answer.result is None:
        raise BadAnswer("the answer has neither result nor error nor disconnect")
    _check(answer.result, is_data_binary)
    return answer.result


def result_of(said: Result | EverywireError) -> Result:
    """Return what was said; raise what refuses."""
    if isinstance(said, EverywireError):
        raise said
    return said


def _code(number: int) -> Code:
    status = 403 if number < 2000 else 0
    return _CODES.get(number) or Code(number, "application", status, "this is not allowed")


def _refusal(code: Code, sentence: str | None) -> EverywireError:
    text = (sentence or code.sentence)[:_MAX_SENTENCE_CHARACTERS]
    if code is codes.PERMISSION_DENIED:
        return Forbidden(text)
    return EverywireError(text, code=code)


def _check(result: Result, is_data_binary: bool) -> None:
    """Read what will be read later, so that it fails here if it fails."""
    subs = result.subs or {}
    names = [*(result.channels or ()), *subs]
    if not all(map(is_name, names)):
        raise BadAnswer("the answer names channels that are none")
    if len(result.user or "") > MAX_USER_CHARACTERS:
        raise BadAnswer(f"the answer's user has more than {MAX_USER_CHARACTERS} characters")
    result.info_text()
    if is_data_binary:
        result.binary()
    else:
        result.data_text()
    for said in subs.values():
        said.terms()


def _json(raw: Raw, base64: str | None) -> bytes | None:
    """Return JSON text without white space between its parts: a line break would end a line of a stream."""
    if not base64:
        text = bytes(raw)
        return None if text in (b"", _NULL) else msgspec.json.format(text, indent=-1)
    text = _bytes(base64)
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise BadAnswer("the answer's base64 holds no JSON") from None
    return msgspec.json.format(text, indent=-1)


def _bytes(base64: str) -> bytes:
    try:
        return binascii.a2b_base64(base64, strict_mode=True)
    except ValueError:
        raise BadAnswer("the answer's base64 is none") from None
