"""Tokens: JSON Web Tokens that say who a connection is, or that it may read a channel.

RFC 7515 (JWS, compact form), RFC 7519 (JWT), RFC 8725 (best practices), and the claims of the Centrifuge
protocol. A key says which algorithms it is for, never the token (`everywire.access.keys`). It refuses
``none``, ``crit``, ``b64``, encrypted tokens, and any over `Limits.max_token_bytes`; nothing that a token
claims is looked at before its signature was verified. ``exp`` counts to the second, so that a token that
was told to be over is; ``nbf`` and ``iat`` may be `Limits.token_leeway_s` ahead.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from time import time
from typing import Any, Final

import msgspec

from everywire.access.identity import Action, Identity, Terms
from everywire.access.keys import HMAC_ALGORITHMS, Key, KeySource, key_from_pem, key_from_secret
from everywire.access.rules import is_pattern
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken
from everywire.core.limits import Limits
from everywire.core.names import is_name

__all__ = ["GRANT_CLAIMS", "MAX_USER_CHARACTERS", "SubscriptionToken", "Tokens", "unverified"]

MAX_USER_CHARACTERS: Final = 255

GRANT_CLAIMS: Final[Mapping[Action, str]] = {
    Action.READ: "read",
    Action.PUBLISH: "publish",
    Action.PRESENCE: "presence",
    Action.DELETE: "delete",
}
"""Claims with lists of patterns of channel names that a token opens."""

_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z")
_NULL: Final = b"null"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionToken:
    """What a verified subscription token says."""

    user: str
    channel: str
    client: str = ""
    """The client it is for; empty is any of the user's."""
    expires_s: float | None = None
    """When the permission ends (UNIX time); None is never."""
    info: bytes | None = None
    """JSON text that others see of this client in this channel (``chan_info``)."""
    data: bytes | None = None
    """JSON text that the subscriber gets with the reply."""
    join_leave: bool | None = None
    """Whether joins and leaves are told to this client; None lets it choose."""
    token_id: str = ""
    issued_s: float | None = None


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""
    crit: msgspec.Raw = msgspec.Raw()
    b64: msgspec.Raw = msgspec.Raw()


class _Switch(msgspec.Struct):
    value: bool = False


class _Override(msgspec.Struct):
    join_leave: _Switch | None = None


class _Said(msgspec.Struct, kw_only=True):
    """What may be said of a subscription, in either kind of token."""

    info: msgspec.Raw = msgspec.Raw(_NULL)
    b64info: str | None = None
    data: msgspec.Raw = msgspec.Raw(_NULL)
    b64data: str | None = None
    override: _Override | None = None


class _Claims(_Said, kw_only=True):
    """The registered claims (RFC 7519 §4.1) and the protocol's; everything else is for the application."""

    sub: str | None = None
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None
    jti: str | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    expire_at: float | None = None
    channel: str | None = None
    client: str | None = None
    channels: list[str] | None = None
    subs: dict[str, _Said] | None = None


_read_header = msgspec.json.Decoder(_Header).decode
_read_claims = msgspec.json.Decoder(_Claims).decode
_read_all = msgspec.json.Decoder(dict[str, Any]).decode


class Tokens:
    """Verifies tokens.

    Args:
        secret: the shared secret of HS tokens, at least 32 bytes.
        public_keys: PEM texts of public keys or certificates.
        jwks: where more public keys are fetched (`everywire.access.jwks.Jwks`).
        audience, issuer: what ``aud`` and ``iss`` must say; unchecked when empty.
        grant_claims: which claim opens channels for which action.
        clock: UNIX time in seconds.

    Raises `SettingsError` for a key that cannot be used.
    """

    def __init__(
        self,
        *,
        secret: str | bytes = "",
        public_keys: Sequence[str] = (),
        jwks: KeySource | None = None,
        audience: str = "",
        issuer: str = "",
        grant_claims: Mapping[Action, str] = GRANT_CLAIMS,
        limits: Limits | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._keys: list[Key] = [key_from_pem(pem) for pem in public_keys]
        if secret:
            self._keys.append(key_from_secret(secret.encode() if isinstance(secret, str) else secret))
        self._jwks = jwks
        self._audience = audience
        self._issuer = issuer
        self._grant_claims = dict(grant_claims)
        self._limits = limits or Limits()
        self._clock = clock

    def verify_nowait(self, token: str) -> Identity | None:
        """Return whom a connection token proves, or None when a key must be fetched first: `verify`.

        Raises `InvalidToken`; an error with code 109 for one that has expired, 100 when nobody can know now.
        """
        payload = self._open(token)
        return None if payload is None else self._identity(token, payload)

    async def verify(self, token: str) -> Identity:
        """Return whom a connection token proves; raises as `verify_nowait`."""
        return self._identity(token, await self._opened(token))

    def subscription_nowait(self, token: str) -> SubscriptionToken | None:
        """Return what a subscription token says, or None when a key must be fetched first: `subscription`.

        Whose and which channel's it is stays to be compared: `Authority.subscription`. Raises as
        `verify_nowait`.
        """
        payload = self._open(token)
        return None if payload is None else self._subscription(payload)

    async def subscription(self, token: str) -> SubscriptionToken:
        """Return what a subscription token says; raises as `subscription_nowait`."""
        return self._subscription(await self._opened(token))

    async def close(self) -> None:
        """Stop fetching keys."""
        if self._jwks is not None:
            await self._jwks.close()

    # -- the signature --------------------------------------------------------

    def _open(self, token: str) -> bytes | None:
        """Return what a token says once its signature was verified; None when a key must be fetched."""
        header, data, payload, signature = _pieces(token, self._limits.max_token_bytes)
        keys = [key for key in self._keys if key.allows(header.alg)]
        if not any(key.verify(header.alg, data, signature) for key in keys):
            if self._jwks is None or header.alg in HMAC_ALGORITHMS or header.alg == "none":
                raise InvalidToken("this token is not valid here: no key of this server signed it")
            fetched = self._jwks.find(header.kid, header.alg)
            if fetched is None:
                return None
            if not any(key.verify(header.alg, data, signature) for key in fetched):
                raise InvalidToken("this token is not valid here: no key of this server signed it")
        return payload

    async def _opened(self, token: str) -> bytes:
        payload = self._open(token)
        if payload is None:
            assert self._jwks is not None
            await self._jwks.fetch(_pieces(token, self._limits.max_token_bytes)[0].kid)
            payload = self._open(token)
            if payload is None:
                raise EverywireError("the keys of tokens cannot be fetched; try again later")
        return payload

    # -- what it claims -------------------------------------------------------

    def _claims(self, payload: bytes) -> tuple[_Claims, dict[str, Any]]:
        claims, everything = _read(payload)
        now_s = self._clock()
        ahead_s = now_s + self._limits.token_leeway_s
        if (claims.nbf is not None and claims.nbf > ahead_s) or (claims.iat or 0) > ahead_s:
            raise InvalidToken("this token is not valid yet (nbf, iat)")
        if self._issuer and claims.iss != self._issuer:
            raise InvalidToken("this token is of another issuer (iss)")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if self._audience and self._audience not in audiences:
            raise InvalidToken("this token is for another audience (aud)")
        if claims.sub is not None and len(claims.sub) > MAX_USER_CHARACTERS:
            raise InvalidToken(f"this token's user (sub) is longer than {MAX_USER_CHARACTERS} characters")
        expires_s = _expires_s(claims)
        if (claims.exp is not None and claims.exp <= now_s) or (expires_s is not None and expires_s <= now_s):
            raise EverywireError(code=codes.TOKEN_EXPIRED)
        return claims, everything

    def _identity(self, token: str, payload: bytes) -> Identity:
        claims, everything = self._claims(payload)
        if claims.channel is not None:
            raise InvalidToken("this is a subscription token: it opens a channel, not a connection")
        return _make_identity(token, claims, everything, self._grant_claims, self._limits.max_grants)

    def _subscription(self, payload: bytes) -> SubscriptionToken:
        claims, _ = self._claims(payload)
        if not claims.channel:
            raise InvalidToken("this is no subscription token: it names no channel")
        terms = _terms(claims)
        return SubscriptionToken(
            user=claims.sub or "",
            channel=claims.channel,
            client=claims.client or "",
            expires_s=_expires_s(claims),
            info=terms.info,
            data=terms.data,
            join_leave=terms.join_leave,
            token_id=claims.jti or "",
            issued_s=claims.iat,
        )


def unverified(token: str, limits: Limits) -> Identity:
    """Return what a connection token says without asking who signed it: for development only.

    Raises `InvalidToken` when it is no token at all, and nothing else: in development all are let in.
    """
    _, _, payload, _ = _pieces(token, limits.max_token_bytes)
    return _make_identity(token, *_read(payload), {}, limits.max_grants)


def _read(payload: bytes) -> tuple[_Claims, dict[str, Any]]:
    """Return the claims that we know, checked, and all of them."""
    try:
        return _read_claims(payload), _read_all(payload)
    except msgspec.ValidationError as error:
        # Its bearer may hear what is wrong with it: what it says is no secret to who has it.
        raise InvalidToken(f"this token is not valid here: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidToken("this token is not valid here: it holds no JSON object") from None


def _pieces(token: str, max_bytes: int) -> tuple[_Header, bytes, bytes, bytes]:
    """Cut a token into header, what is signed, payload and signature (RFC 7515 §7.1)."""
    if len(token) > max_bytes:
        raise InvalidToken(f"a token has at most {max_bytes} bytes here")
    match = _FORM.match(token)
    if match is None:
        raise InvalidToken("this is no token: it has not three parts of base64url")
    try:
        header = _read_header(_decoded(match[1]))
        payload, signature = _decoded(match[2]), _decoded(match[3])
    except (ValueError, msgspec.DecodeError, RecursionError):
        raise InvalidToken("this is no token: its parts are not what they must be") from None
    if bytes(header.crit) or bytes(header.b64):
        # RFC 7515 §4.1.11: what we do not understand and must, is a reason to refuse.
        raise InvalidToken("this token is not valid here: it asks for extensions (crit, b64)")
    return header, token[: match.end(2)].encode(), payload, signature


def _decoded(text: str) -> bytes:
    # The alphabet was checked, so nothing is skipped over; strict mode refuses what is cut short.
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    return binascii.a2b_base64(padded, strict_mode=True)


def _make_identity(
    token: str, claims: _Claims, everything: dict[str, Any], names: Mapping[Action, str], max_grants: int
) -> Identity:
    subs = claims.subs or {}
    channels = tuple(dict.fromkeys([*(claims.channels or ()), *subs]))
    if len(channels) > max_grants or not all(map(is_name, channels)):
        raise InvalidToken(f"this token's channels must be names of channels, at most {max_grants}")
    return Identity(
        user=claims.sub or "",
        kind="token",
        info=_json(claims.info, claims.b64info, "b64info"),
        expires_s=_expires_s(claims),
        issued_s=claims.iat,
        token_id=claims.jti or "",
        channels=channels,
        terms={channel: _terms(said) for channel, said in subs.items()},
        grants={
            action: _patterns(everything[name], name, max_grants)
            for action, name in names.items()
            if name in everything
        },
        claims=everything,
        credential=blake2b(token.encode(), digest_size=16).digest(),
    )


def _patterns(value: Any, name: str, max_grants: int) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or len(value) > max_grants
        or not all(isinstance(row, str) and is_pattern(row) for row in value)
    ):
        raise InvalidToken(f"this token's claim {name} must be a list of at most {max_grants} patterns")
    return tuple(value)


def _expires_s(claims: _Claims) -> float | None:
    """Return when the connection or subscription ends: ``expire_at`` (0 is never), or else ``exp``."""
    if claims.expire_at is None:
        return claims.exp
    return claims.expire_at or None


def _terms(said: _Said) -> Terms:
    switch = said.override.join_leave if said.override is not None else None
    return Terms(
        info=_json(said.info, said.b64info, "b64info"),
        data=_json(said.data, said.b64data, "b64data"),
        join_leave=None if switch is None else switch.value,
    )


def _json(raw: msgspec.Raw, base64: str | None, name: str) -> bytes | None:
    """Return JSON text that a claim holds as it is or, having priority, in base64.

    Without the white space between its parts: a line break in it would end a line of a stream.
    """
    if not base64:
        return None if bytes(raw) == _NULL else msgspec.json.format(bytes(raw), indent=-1)
    try:
        text = binascii.a2b_base64(base64, strict_mode=True)
        msgspec.json.decode(text)
        return msgspec.json.format(text, indent=-1)
    except (ValueError, msgspec.DecodeError, RecursionError):
        raise InvalidToken(f"this token's {name} must be JSON in base64") from None
