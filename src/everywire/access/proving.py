"""Proving a credential: an API key, a token, a ticket or a cookie becomes an identity.

Whether the identity may still come (expired, revoked) is judged by `everywire.access.authority`. A token
in the URL is refused unless it ends within `Limits.max_url_token_s`, and an API key there always: addresses
stay in logs and histories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from everywire.access.credentials import Credential
from everywire.access.identity import NOBODY, Identity
from everywire.access.rules import Rules
from everywire.access.tickets import Tickets
from everywire.access.tokens import Tokens, unverified
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken
from everywire.core.limits import Limits

__all__ = ["Prover"]

_IN_URL: Final = (
    "a token in the URL stays in logs and histories, so it must end within {} s; get a ticket "
    "(POST /ticket), or send the token in a header or in the connect command"
)


class Prover:
    """Says whom a credential proves."""

    __slots__ = ("_limits", "_rules", "_tickets", "_tokens", "_unix_s")

    def __init__(
        self,
        rules: Rules,
        tokens: Tokens | None,
        tickets: Tickets | None,
        limits: Limits,
        unix_s: Callable[[], float],
    ) -> None:
        self._rules = rules
        self._tokens = tokens
        self._tickets = tickets
        self._limits = limits
        self._unix_s = unix_s

    def prove_nowait(self, credential: Credential) -> Identity | None:
        """Return whom a token or cookie proves; None when its key must be fetched first."""
        if credential.kind == "token":
            # Not from a cookie: whoever makes a browser send one could then do everything.
            identity = self._rules.find_key(credential.text)
            if identity is not None:
                if credential.is_in_url:
                    raise self._url_refusal()
                return identity
        if self._tokens is not None:
            identity = self._tokens.verify_nowait(credential.text)
            return None if identity is None else self._proved(identity, credential)
        if self._rules.is_dev:
            return self._proved(unverified(credential.text, self._limits), credential)
        raise InvalidToken("this credential is not valid here")

    async def prove(self, credential: Credential, origin: str) -> Identity:
        """Return whom a credential of any kind proves; a ticket is used up by it."""
        if not credential.kind:
            return NOBODY
        if credential.kind == "key":
            return self._rules.identify(credential.text)
        if credential.kind == "ticket":
            if self._tickets is None:
                raise EverywireError("tickets are not taken here", code=codes.UNAUTHORIZED)
            return await self._tickets.redeem(credential.text, origin)
        identity = self.prove_nowait(credential)
        if identity is None:
            assert self._tokens is not None
            identity = self._proved(await self._tokens.verify(credential.text), credential)
        return identity

    def check_url_token(self, identity: Identity) -> None:
        """Raise an error with code 101 if a token that came in the URL lives too long for that."""
        if identity.kind != "token":
            return  # the application's own judgement, which was told where the token came from
        ends_s = identity.claims.get("exp")
        if not isinstance(ends_s, int | float) or ends_s - self._unix_s() > self._limits.max_url_token_s:
            raise self._url_refusal()

    def _proved(self, identity: Identity, credential: Credential) -> Identity:
        if credential.is_in_url:
            self.check_url_token(identity)
        if credential.kind == "cookie":
            return replace(identity, kind="cookie", credential=credential.digest())
        return identity

    def _url_refusal(self) -> EverywireError:
        return EverywireError(_IN_URL.format(int(self._limits.max_url_token_s)), code=codes.UNAUTHORIZED)
