"""The connect command: who it is, whether they may come, and what they are subscribed to from the start.

In this order: the authority says whom the credentials prove; the application is told, and may know better
(`Hooks.connect`); there has to be room (`Quotas.admit`); the server-side subscriptions are prepared: those of
the token, those that the application names, and of those that the client wishes the permitted ones. Then
all is told in one reply, with what was missed in it, and reading begins.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Final
from uuid import uuid4

from everywire.access.hooks import ConnectDecision, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.codecs.centrifuge.messages import (
    ConnectRequest,
    ConnectResult,
    Push,
    Reply,
    SubscribeResult,
)
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken, LimitExceeded, RequestError
from everywire.core.names import is_name
from everywire.core.position import Place
from everywire.sessions.answers import as_end, field_bytes
from everywire.sessions.asking import asked
from everywire.sessions.completing import complete_request
from everywire.sessions.expiry import plan_expiry
from everywire.sessions.greeting import has_news, make_result
from everywire.sessions.keepalive import keep_alive
from everywire.sessions.line import POLL, Line
from everywire.sessions.passes import Pass
from everywire.sessions.preparing import Preparation
from everywire.sessions.subscribing import give_terms, joined
from everywire.sessions.subscription import Subscription

__all__ = ["connect"]

_log = logging.getLogger("everywire.sessions")

_SESSION_ID_BYTES: Final = 24


def connect(line: Line, command_id: int, request: ConnectRequest) -> None:
    """Begin to connect."""
    line.begin()
    _Connecting(line, command_id, request).begin()


class _Connecting:
    """One connect command under way."""

    __slots__ = ("_auth", "_decision", "_id", "_left", "_line", "_pass", "_request", "_results")

    def __init__(self, line: Line, command_id: int, request: ConnectRequest) -> None:
        self._line = line
        self._id = command_id
        self._request = request
        self._auth = line.request
        self._decision = ConnectDecision()
        self._pass: Pass | None = None
        self._results: dict[str, tuple[Subscription, SubscribeResult, bool]] = {}
        self._left = 0

    # -- who it is ------------------------------------------------------------------

    def begin(self) -> None:
        """Find out who it is."""
        line, request = self._line, self._request
        try:
            self._auth = complete_request(line.request, request)
        except EverywireError as error:
            self._refuse(error)
            return
        line.shared.authority.authenticate(self._auth, self._authenticated)

    def _authenticated(self, identity: Identity | EverywireError) -> None:
        line = self._line
        if line.is_ended:
            return
        if isinstance(identity, EverywireError):
            self._refuse(identity)
            return
        line.identity = identity
        if self._request.session and line.transport == POLL:
            self._pass = line.shared.passes.read(self._request.session)
        line.client = str(uuid4()) if self._pass is None else self._pass.client
        if line.shared.hooks.connect is None:
            self._decided()
        else:
            line.shared.tasks.start(self._ask(), "the connect hook")

    async def _ask(self) -> None:
        line = self._line
        hook = line.shared.hooks.connect
        assert hook is not None
        found = await asked("the connect hook", hook(line, self._auth), line.shared.limits.hook_timeout_s)
        if isinstance(found, EverywireError):
            if not line.is_ended:
                self._refuse(found)
            return
        line.is_introduced = True
        if line.is_ended:
            line.say_goodbye(None)
            return
        if found is not None:
            self._decision = found
            line.identity = found.identity or line.identity
        self._decided()

    # -- whether there is room ---------------------------------------------------------

    def _decided(self) -> None:
        line = self._line
        try:
            if self._pass is not None:
                self._check_pass(self._pass)
            elif line.transport == POLL:
                line.shared.quotas.admit_poller(line.identity, line.peer)
            line.admission = line.shared.quotas.admit(line.identity, line.peer)
            wanted = self._server_side()
        except EverywireError as error:
            self._refuse(error)
            return
        line.set_info()
        # One more than there are, so that nothing is told before all were begun.
        self._left = 1 + len(wanted)
        for channel, decision in wanted.items():
            self._prepare(channel, decision, is_ruled=False)
        self._prepare_wishes(wanted)
        self._one_done()

    def _check_pass(self, shown: Pass) -> None:
        line = self._line
        try:
            line.shared.passes.check(shown, line.identity.user)
        except EverywireError:
            _log.warning(
                "user %r at %s showed the session of another user", line.identity.user, line.peer
            )
            raise

    def _server_side(self) -> dict[str, SubscribeDecision]:
        """Return the channels that the server subscribes the client to."""
        line = self._line
        identity = line.identity
        wanted: dict[str, SubscribeDecision] = {}
        for channel in identity.channels:
            terms = identity.terms.get(channel)
            wanted[channel] = (
                SubscribeDecision()
                if terms is None
                else SubscribeDecision(info=terms.info, data=terms.data, join_leave=terms.join_leave)
            )
        wanted.update(self._decision.channels)
        for channel in wanted:
            if not is_name(channel):
                raise EverywireError(f"{channel[:64]!r} is no channel name", code=codes.INTERNAL)
        if len(wanted) + len(self._wishes(wanted)) > line.shared.limits.max_session_channels:
            raise RequestError(code=codes.CHANNEL_LIMIT)
        return wanted

    # -- what it is subscribed to -------------------------------------------------------

    def _wishes(self, wanted: Mapping[str, SubscribeDecision]) -> list[str]:
        return [channel for channel in self._request.subs if channel not in wanted and is_name(channel)]

    def _prepare_wishes(self, wanted: Mapping[str, SubscribeDecision]) -> None:
        """Ask for what the client wishes; what is not allowed is left out, which tells the client."""
        line = self._line
        for channel in self._wishes(wanted):
            self._left += 1
            line.shared.authority.authorize(
                line.identity, Action.READ, (channel,), partial(self._wish_judged, channel)
            )

    def _wish_judged(self, channel: str, error: EverywireError | None) -> None:
        line = self._line
        if line.is_ended:
            return
        if error is not None:
            self._one_done()
        elif line.shared.hooks.subscribe is None:
            self._prepare(channel, SubscribeDecision(), is_ruled=True)
        else:
            line.shared.tasks.start(self._ask_wish(channel), "the subscribe hook")

    async def _ask_wish(self, channel: str) -> None:
        line = self._line
        hook = line.shared.hooks.subscribe
        assert hook is not None
        data = field_bytes(self._request.subs[channel].data)
        timeout_s = line.shared.limits.hook_timeout_s
        found = await asked("the subscribe hook", hook(line, channel, data), timeout_s)
        if line.is_ended:
            return
        if isinstance(found, EverywireError):
            self._one_done()
        else:
            self._prepare(channel, found or SubscribeDecision(), is_ruled=True)

    def _prepare(self, channel: str, decision: SubscribeDecision, *, is_ruled: bool) -> None:
        line = self._line
        subscription = Subscription(line, channel, line.info, is_server_side=True)
        subscription.is_ruled = is_ruled
        line.subscriptions[channel] = subscription
        give_terms(line, subscription, decision)
        wish = self._request.subs.get(channel)
        since = Place(wish.epoch, wish.offset) if wish is not None and wish.recover else None
        done = partial(self._prepared, subscription, bool(decision.join_leave))
        Preparation(line, subscription, decision, done, since=since).begin()

    def _prepared(
        self, subscription: Subscription, hears_presence: bool, result: SubscribeResult | EverywireError
    ) -> None:
        if isinstance(result, EverywireError):
            self._refuse(result)
            return
        self._results[subscription.channel] = (subscription, result, hears_presence)
        self._one_done()

    def _one_done(self) -> None:
        self._left -= 1
        if not self._left and not self._line.is_ended and not self._line.is_failed:
            self._finish()

    # -- the answer -------------------------------------------------------------------------

    def _finish(self) -> None:
        line, shared = self._line, self._line.shared
        if shared.authority.is_revoked(line.identity):
            # It was revoked while the rest was found out.
            self._refuse(InvalidToken("this credential was revoked"))
            return
        if line.transport != POLL and (line.carrier.is_emulated or line.carrier.dialect.is_one_way):
            line.session_id = secrets.token_urlsafe(_SESSION_ID_BYTES)
        line.request = AuthRequest(
            transport=line.request.transport,
            peer=line.request.peer,
            origin=line.request.origin,
            method=line.request.method,
        )
        subs = {channel: result for channel, (_, result, _) in self._results.items()}
        result = make_result(line, self._request, self._decision.data, subs)
        line.is_connected = line.is_introduced = line.is_entered = True
        shared.registry.enter(line)
        shared.counters.connected += 1
        self._tell(result)
        if line.is_ended:
            return
        keep_alive(line, 0 if line.carrier.dialect.is_one_way else self._request.ticks)
        plan_expiry(line)
        line.finish()

    def _tell(self, result: ConnectResult) -> None:
        line = self._line
        opened = [subscription for subscription, _, _ in self._results.values()]
        for subscription in opened:
            subscription.is_open = True
        if line.carrier.dialect.is_one_way:
            line.push(Push(connect=result))
        else:
            line.reply(Reply(id=self._id, connect=result), is_news=has_news(result, self._request.subs))
            line.write_replies()
        for subscription, _, hears_presence in self._results.values():
            if line.subscriptions.get(subscription.channel) is subscription:
                subscription.open(line.shared.hub)
                joined(line, subscription, hears_presence)

    def _refuse(self, error: EverywireError) -> None:
        """Answer why not. The connection is of no use after that, and its client closes it."""
        line = self._line
        if line.is_ended or line.is_failed:
            return
        line.shared.counters.refused += 1
        line.is_failed = True
        line.backlog.clear()  # it came with the command that is refused
        if isinstance(error, InvalidToken | LimitExceeded) or line.carrier.dialect.is_one_way:
            line.end(as_end(error), error.sentence)
            return
        line.drop_all()
        line.fail(self._id, error)
        line.finish()
