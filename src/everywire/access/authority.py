"""The authority: the one place that says who someone is and what they may do.

Every transport asks here, plain or with sessions, and nothing reaches a channel without passing it. Deny by
default. Answers come by callback, within the call whenever they are known already, so that a crowd that
polls costs no task; what must be asked is asked once for all who want to know, and remembered for
`Limits.judgement_ttl_s`. A revocation, or `Authority.forget`, ends what is remembered at once: an answer
that was on its way when it came is thrown away and asked for again.

Who someone is, in this order: what the application's ``authenticate`` says, if it says anything; then the
credential (`everywire.access.credentials`). In development mode everybody may come and do everything, and a
credential still says who one is: one that can be checked is checked as ever; a token that nothing here can
check (no keys of tokens are set) is believed, so that a page can be tried with the tokens it will have.

What someone may do: everything with an API key; else what the application's ``authorize`` says, if it says
anything, for it may close what a rule opens; else what the rules say.

Errors of `authenticate`: `InvalidToken` (101; sessions turn it into the disconnect 3500), other 101 for a
credential that is not valid, 109 for one that has expired, 103 for who is shut out, 100 when the application
failed, 124 when the store is busy or too much is being judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic, time
from typing import Any, Final, NamedTuple, TypeVar

from everywire.access.credentials import Credential, brings_only_cookies, digest_of, find_credential
from everywire.access.flights import Flights
from everywire.access.hooks import Hooks
from everywire.access.identity import NOBODY, Action, AuthRequest, Identity
from everywire.access.memory import Forgotten, Remembered
from everywire.access.proving import Prover
from everywire.access.revocations import Revocation, Revocations, shut_out
from everywire.access.rules import Rules
from everywire.access.tickets import Tickets, is_ticket
from everywire.access.tokens import MAX_USER_CHARACTERS, SubscriptionToken, Tokens
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden, InvalidToken
from everywire.core.limits import Limits

__all__ = ["Authority", "is_decision"]

_log = logging.getLogger("everywire.access")

_Answer = TypeVar("_Answer")

_ATTEMPTS: Final = 3
"""How often something is asked again because it was to be forgotten while it was asked."""


def is_decision(code: Code) -> bool:
    """Say whether a refusal stands: the built-in ones, and codes of the application's own that do not tell
    to try again. All others mean that nobody could say."""
    number = code.number
    return (
        code in (codes.UNAUTHORIZED, codes.PERMISSION_DENIED)
        or 400 <= number < 2000
        or (number >= 3000 and not code.reconnect)
    )


class _Verdict(NamedTuple):
    """What the application decided: yes, no, or nothing; no may come with words of its own."""

    says: bool | None
    code: Code = codes.PERMISSION_DENIED
    sentence: str = ""


class Authority:
    """Judges credentials and permissions by rules, tokens and hooks.

    Args:
        rules: API keys, and what is open to whom.
        hooks: what the application wants to be asked.
        tokens, tickets, revocations: those ways, where there are any.
        cookie_name: the cookie that holds a token; none counts if empty.
        clock: monotonic seconds.
        unix_s: UNIX time in seconds.
    """

    def __init__(
        self,
        rules: Rules,
        hooks: Hooks | None = None,
        *,
        tokens: Tokens | None = None,
        tickets: Tickets | None = None,
        revocations: Revocations | None = None,
        limits: Limits | None = None,
        cookie_name: str = "",
        clock: Callable[[], float] = monotonic,
        unix_s: Callable[[], float] = time,
    ) -> None:
        self.rules = rules
        self.hooks = hooks or Hooks()
        self.tokens = tokens
        self.tickets = tickets
        self.revocations = revocations
        self.limits = limits = limits or Limits()
        self.cookie_name = cookie_name
        self._clock = clock
        self._unix_s = unix_s
        ttl_s = limits.judgement_ttl_s
        self._forgotten = Forgotten(ttl_s + _ATTEMPTS * limits.hook_timeout_s, clock)
        self._prover = Prover(rules, tokens, tickets, limits, unix_s)
        self._judgements: Remembered[Identity | _Shut] = Remembered(limits.max_judgements, ttl_s, clock)
        self._decisions: Remembered[_Verdict] = Remembered(limits.max_decisions, ttl_s, clock)
        self._judging: Flights[Identity] = Flights(limits.max_judging)
        self._deciding: Flights[_Verdict] = Flights(limits.max_judging)
        self._verifying: Flights[SubscriptionToken] = Flights(limits.max_judging)
        if revocations is not None:
            revocations.listen(self._revoked)

    # -- who someone is -------------------------------------------------------

    def may_judge(self, token: str) -> bool:
        """Say whether a token could be a credential of this server, good or bad. Where the application alone
        knows what it means (no keys of tokens are set, and nobody is asked), it is not ours to refuse."""
        if self.tokens is not None or self.hooks.authenticate is not None or is_ticket(token):
            return True
        is_tried = self.rules.is_dev and token.count(".") == 2
        return is_tried or self.rules.find_key(token) is not None

    def authenticate(self, request: AuthRequest, done: Callable[[Identity | EverywireError], None]) -> None:
        """Say whom the credentials prove; `NOBODY` when there are none."""
        try:
            credential = find_credential(request, self.cookie_name, self.limits.max_token_bytes)
            found, key = self._known(request, credential)
        except EverywireError as error:
            done(error)
            return
        if found is not None:
            done(found)
        else:
            self._judging.ask(key, partial(self._judge, request, credential, key), done)

    def _known(self, request: AuthRequest, credential: Credential) -> tuple[Identity | None, bytes | None]:
        """Return what can be said at once, and else the key that the answer will be remembered by."""
        if credential.kind == "ticket":
            return None, None  # works once: never remembered, never shared
        if self.hooks.authenticate is not None:
            key = digest_of(request)
        elif not credential.kind:
            return NOBODY, None
        elif credential.kind == "key":
            return self.rules.identify(credential.text), None
        else:
            key = credential.digest()
        entry = self._judgements.get(key)
        if entry is not None:
            known = entry.value
            if isinstance(known, _Shut):
                if not self._forgotten.since(entry.learned, known.user):
                    raise shut_out()
            elif not self._forgotten.since(entry.learned, known.user) and not self._has_ended(known):
                if credential.is_in_url:
                    self._prover.check_url_token(known)
                if self.is_revoked(known):
                    raise shut_out()
                return known, None
            self._judgements.drop(key)
        if self.hooks.authenticate is None:
            identity = self._prover.prove_nowait(credential)
            if identity is not None and not self._must_load(identity):
                return self._admit(identity, key, self._forgotten.now), None
        return None, key

    async def _judge(self, request: AuthRequest, credential: Credential, key: bytes | None) -> Identity:
        proved: Identity | None = None
        for _ in range(_ATTEMPTS):
            learned = self._forgotten.now
            identity = await self._ask_who(request, key)
            if identity is None:
                # A ticket is used up by the first attempt, and stays proved.
                if proved is None or credential.kind != "ticket":
                    proved = await self._prover.prove(credential, request.origin)
                identity = proved
            if self._must_load(identity):
                assert self.revocations is not None
                await self.revocations.load(identity)
            if not self._forgotten.since(learned, identity.user):
                return self._admit(identity, key, learned)
        raise EverywireError("who you are was changed again and again; try again")

    async def _ask_who(self, request: AuthRequest, key: bytes | None) -> Identity | None:
        """Ask the application who it is."""
        hook = self.hooks.authenticate
        if hook is None:
            return None
        identity = await self._answer("authenticate", hook(request))
        if identity is None:
            return None
        if not isinstance(identity, Identity) or len(identity.user) > MAX_USER_CHARACTERS:
            raise TypeError(f"authenticate gave {type(identity).__name__}, or a user id that is too long")
        kind = identity.kind
        if kind in ("", "key"):
            # A cookie may be sent by any page, so what it proves must not be enough to change anything.
            kind = "cookie" if brings_only_cookies(request) else "hook"
        return replace(
            identity,
            kind=kind,
            credential=identity.credential or key or digest_of(request),
        )

    def _admit(self, identity: Identity, key: bytes | None, learned: int) -> Identity:
        """Let in who was proved, if nothing speaks against it, and remember it."""
        if self.revocations is not None and self.revocations.is_revoked(identity):
            if key is not None and self._must_load(identity):
                # So that who is shut out cannot make us read the store with each attempt.
                self._judgements.put(key, _Shut(identity.user), learned)
            raise shut_out()
        if self.is_expired(identity):
            raise EverywireError(code=codes.TOKEN_EXPIRED)
        if identity.kind == "key" or (identity is NOBODY and self.hooks.authenticate is None):
            return identity
        identity = replace(identity, judged_s=self._clock())
        if key is not None:
            self._judgements.put(key, identity, learned)
        return identity

    def _must_load(self, identity: Identity) -> bool:
        return self.revocations is not None and self.revocations.must_load(identity)

    def _has_ended(self, identity: Identity) -> bool:
        ends_s = identity.claims.get("exp") if identity.kind in ("token", "cookie") else None
        return self.is_expired(identity) or (isinstance(ends_s, int | float) and ends_s <= self._unix_s())

    def is_current(self, identity: Identity) -> bool:
        """Whether a judgement that was remembered may still be relied on: not expired, not revoked, at
        most 30 s old. If not, authenticate anew. Sessions, which outlive that, ask `is_revoked`."""
        judged_s = identity.judged_s
        if judged_s is not None and self._clock() - judged_s >= self.limits.judgement_ttl_s:
            return False
        return not self.is_expired(identity) and not self.is_revoked(identity)

    def is_expired(self, identity: Identity) -> bool:
        """Whether the credential has run out."""
        return identity.expires_s is not None and identity.expires_s <= self._unix_s()

    def is_revoked(self, identity: Identity) -> bool:
        """Whether the identity was shut out since it was judged; cheap."""
        return self.revocations is not None and self.revocations.is_revoked(identity)

    # -- what they may do -----------------------------------------------------

    def authorize(
        self,
        identity: Identity,
        action: Action,
        channels: Sequence[str],
        done: Callable[[EverywireError | None], None],
    ) -> None:
        """Say whether an identity may do something to all of the channels; the error names one that is
        closed to it: 101 for nobody, 103 for somebody."""
        if self.is_revoked(identity):
            done(shut_out())
            return
        if self.hooks.authorize is None or identity.may_all:
            done(self._refusal(identity, action, channels))
            return
        unknown = []
        for channel in channels:
            entry = self._decisions.get((identity.key, action, channel))
            if entry is None or self._forgotten.since(entry.learned, identity.user, channel):
                unknown.append(channel)
            elif (error := self._closed(identity, action, channel, entry.value)) is not None:
                done(error)
                return
        if not unknown:
            done(None)
            return
        asking = _Asking(len(unknown), done)
        for at, channel in enumerate(unknown):
            self._deciding.ask(
                (identity.key, action, channel),
                partial(self._decide, identity, action, channel),
                partial(self._decided, asking, at, identity, action, channel),
            )

    def is_open(self, action: Action, channels: Sequence[str]) -> bool:
        """Whether anyone may do something to all of the channels, so that nobody need be asked about: it
        stays so, for the rules do not change and no application is asked."""
        return self.hooks.authorize is None and all(
            self.rules.is_public(action, channel) for channel in channels
        )

    def _refusal(self, identity: Identity, action: Action, channels: Sequence[str]) -> EverywireError | None:
        for channel in channels:
            if not self.rules.allow(identity, action, channel):
                return self.rules.refusal(identity, action, channel)
        return None

    def _closed(
        self, identity: Identity, action: Action, channel: str, verdict: _Verdict
    ) -> EverywireError | None:
        """Return why a channel is closed, by what the application said and the rules."""
        if verdict.says is None:
            return self._refusal(identity, action, (channel,))
        if verdict.says:
            return None
        if verdict.sentence:
            return Forbidden(verdict.sentence, code=verdict.code, channel=channel)
        return self.rules.refusal(identity, action, channel)

    async def _decide(self, identity: Identity, action: Action, channel: str) -> _Verdict:
        """Ask the application, and remember what it said."""
        hook = self.hooks.authorize
        for _ in range(_ATTEMPTS):
            learned = self._forgotten.now
            verdict = _Verdict(None)
            if hook is not None:
                try:
                    says = await self._answer("authorize", hook(identity, action, channel))
                except EverywireError as error:
                    if not is_decision(error.code):
                        raise
                    verdict = _Verdict(False, error.code, error.sentence)
                else:
                    if not isinstance(says, bool | None):
                        raise TypeError(f"authorize gave {type(says).__name__}, not True, False or None")
                    verdict = _Verdict(says)
            if not self._forgotten.since(learned, identity.user, channel):
                self._decisions.put((identity.key, action, channel), verdict, learned)
                return verdict
        raise EverywireError("what you may do was changed again and again; try again")

    def _decided(
        self,
        asking: _Asking,
        at: int,
        identity: Identity,
        action: Action,
        channel: str,
        verdict: _Verdict | EverywireError,
    ) -> None:
        if isinstance(verdict, EverywireError):
            asking.answer(at, verdict)
        elif self.is_revoked(identity):
            asking.answer(at, shut_out())
        else:
            asking.answer(at, self._closed(identity, action, channel, verdict))

    # -- subscription tokens --------------------------------------------------

    def subscription(self, identity: Identity, channel: str, client: str, token: str) -> SubscriptionToken:
        """Verify a subscription token; an empty channel takes the token's.

        Raises: 109 expired; 103 broken or revoked; 3500 for another user's, channel's or client's; 100
        (temporary) while its key is being fetched, which `judge_subscription` waits for.
        """
        try:
            found = self._tokens().subscription_nowait(token)
        except InvalidToken as error:
            raise Forbidden(error.sentence) from None
        if found is None:
            self._verifying.ask(token, partial(self._tokens().subscription, token), _ignore)
            raise EverywireError("the key of this token is not known yet; try again in some seconds")
        return self._compare(identity, channel, client, found)

    def judge_subscription(
        self,
        identity: Identity,
        channel: str,
        client: str,
        token: str,
        done: Callable[[SubscriptionToken | EverywireError], None],
    ) -> None:
        """Verify a subscription token as `subscription` does, waiting for its key if it must be fetched."""

        def verified(found: SubscriptionToken | EverywireError) -> None:
            try:
                if isinstance(found, SubscriptionToken):
                    found = self._compare(identity, channel, client, found)
                elif isinstance(found, InvalidToken):
                    found = Forbidden(found.sentence)
            except EverywireError as error:
                found = error
            done(found)

        try:
            tokens = self._tokens()
            found = tokens.subscription_nowait(token)
        except EverywireError as error:
            verified(error)
            return
        if found is not None:
            verified(found)
        else:
            self._verifying.ask(token, partial(tokens.subscription, token), verified)

    def _tokens(self) -> Tokens:
        if self.tokens is None:
            raise Forbidden("no tokens are known here")
        return self.tokens

    def _compare(
        self, identity: Identity, channel: str, client: str, found: SubscriptionToken
    ) -> SubscriptionToken:
        """Check that a verified subscription token is of whom it should be of."""
        if found.user != identity.user:
            _log.warning("user %r showed a subscription token of user %r", identity.user, found.user)
            raise InvalidToken("this subscription token is another user's", code=codes.INVALID_TOKEN)
        if channel and found.channel != channel:
            raise InvalidToken("this subscription token is another channel's", code=codes.INVALID_TOKEN)
        if found.client and found.client != client:
            raise InvalidToken("this subscription token is another client's", code=codes.INVALID_TOKEN)
        revocations = self.revocations
        if self.is_revoked(identity) or (
            revocations is not None
            and revocations.is_token_revoked(found.user, found.token_id, found.issued_s)
        ):
            raise shut_out()
        return found

    # -- to forget ------------------------------------------------------------

    def forget(self, user: str, channel: str = "") -> None:
        """Drop what is remembered of a user, or of a user and a channel, answers under way included."""
        self._forgotten.mark(user, channel)

    def _revoked(self, revocation: Revocation) -> None:
        if revocation.kind != "token":
            self.forget(revocation.subject)

    async def _answer(self, name: str, awaitable: Awaitable[_Answer]) -> _Answer:
        """Wait for the application, not too long."""
        try:
            async with asyncio.timeout(self.limits.hook_timeout_s):
                return await awaitable
        except TimeoutError:
            _log.error("the application's %s did not answer in time", name)
            raise EverywireError() from None

    async def close(self) -> None:
        """End what is under way: whoever waits is told that it failed."""
        await self._judging.close()
        await self._deciding.close()
        await self._verifying.close()
        if self.tokens is not None:
            await self.tokens.close()


class _Shut(NamedTuple):
    """Remembered of a credential: it is revoked."""

    user: str


class _Asking:
    """Several channels that are being asked for; the first closed one in their order is the answer."""

    __slots__ = ("_done", "_errors", "_left")

    def __init__(self, count: int, done: Callable[[EverywireError | None], None]) -> None:
        self._errors: list[EverywireError | None] = [None] * count
        self._left = count
        self._done = done

    def answer(self, at: int, error: EverywireError | None) -> None:
        self._errors[at] = error
        self._left -= 1
        if not self._left:
            self._done(next((error for error in self._errors if error is not None), None))


def _ignore(answer: Any) -> None:
    """Nobody waits for this answer."""
