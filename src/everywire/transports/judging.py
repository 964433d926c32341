"""What an exchange waits for before a transport sees it: who asks, and whether they may.

Nearly always the authority knows both at once, and nothing here outlives the call. When it has to ask (the
application, the store, the keys of tokens), the exchange is attended by its `Judging` until the answer is
there: a peer that goes, a server that stops and an answer that never comes are all heard of. Nothing was
made by then but this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from everywire.access.identity import Action, AuthRequest, Identity
from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.wheel import Slot
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors
from everywire.transports.service import Service, refuse

__all__ = ["Judging"]


class Judging:
    """The driver of an exchange that the authority is judging.

    ``go_on`` is called once with who it is, when that is known and allowed; it may raise an
    `EverywireError`. Otherwise the exchange is answered here. Without an action only who it is is asked.
    """

    __slots__ = (
        "_action",
        "_channels",
        "_cors",
        "_deadline",
        "_exchange",
        "_go_on",
        "_is_over",
        "_service",
        "_transport",
        "learn",
    )

    def __init__(
        self,
        service: Service,
        exchange: Exchange,
        cors: Cors,
        transport: str,
        action: Action | None,
        channels: Sequence[str],
        go_on: Callable[[Identity], None],
    ) -> None:
        self._service = service
        self._exchange = exchange
        self._cors = cors
        self._transport = transport
        self._action = action
        self._channels = channels
        self._go_on = go_on
        self._deadline: Slot | None = None
        self._is_over = False
        self.learn: Callable[[Identity], None] | None = None
        """Told who it is as soon as that is known."""

    def authenticate(self, request: AuthRequest) -> None:
        """Ask who it is, then whether they may."""
        self._service.authority.authenticate(request, self._known)
        self._attend()

    def authorize(self, identity: Identity) -> None:
        """Ask whether somebody who is known already may."""
        self._known(identity)
        self._attend()

    def _attend(self) -> None:
        if not self._is_over:
            service = self._service
            self._exchange.attend(self, self._transport)
            due_s = service.hub.time() + service.limits.judging_timeout_s
            self._deadline = service.hub.deadlines.arm(self, due_s, Judging._time_is_over)

    def _known(self, identity: Identity | EverywireError) -> None:
        if self._is_over:
            return
        if isinstance(identity, EverywireError):
            self._refuse(identity)
            return
        if self.learn is not None:
            self.learn(identity)
        refusal = None
        if identity.kind == "cookie":
            refusal = self._service.gate.refuse_cookie(self._exchange.request)
        if refusal is not None:
            self._refuse(EverywireError(refusal.sentence, code=refusal.code))
        elif self._action is None:
            self._decided(identity, None)
        else:
            decided = partial(self._decided, identity)
            self._service.authority.authorize(identity, self._action, self._channels, decided)

    def _decided(self, identity: Identity, error: EverywireError | None) -> None:
        if self._is_over:
            return
        if error is not None:
            self._refuse(error)
            return
        self._end()
        is_answered = False
        try:
            self._go_on(identity)
            is_answered = True
        except EverywireError as refused:
            refuse(self._exchange, refused, self._cors)
            is_answered = True
        finally:
            if not is_answered and self._deadline is not None:
                # Whoever called back is not the host, which would have answered for us.
                self._exchange.abort("internal error")

    def _time_is_over(self) -> None:
        self._refuse(EverywireError("it could not be found out in time who you are", code=codes.BUSY))

    def _refuse(self, error: EverywireError) -> None:
        self._end()
        refuse(self._exchange, error, self._cors)

    def _end(self) -> None:
        self._is_over = True
        if self._deadline is not None:
            self._service.hub.deadlines.disarm(self, self._deadline)

    # -- what the host tells ------------------------------------------------------

    def stalled(self) -> None:
        """Hear nothing of interest: nothing was written."""

    def writable(self) -> None:
        """Hear nothing of interest."""

    def gone(self, reason: str) -> None:
        """Stop waiting: the answer of the authority will be nobody's."""
        self._end()

    def drain(self, retry_ms: int) -> None:
        """Tell the peer to come back: another server will judge it."""
        self._end()
        retry = (b"retry-after", b"%d" % (retry_ms // 1000 + 1))
        refuse(self._exchange, EverywireError(code=codes.BUSY), self._cors, [retry])
