"""The registry: what the application and operators do to whoever is connected, on every node.

`disconnect`, `unsubscribe`, `subscribe` and `refresh` are done here within the call and told to all other
nodes by the broker; they reach every transport, polls in flight included. Whom they mean is a user, or
one client or session of that user. For a disconnect, whatever was decided about the user before is
forgotten first on every node, and then connections end: who comes back is judged anew.

`forward` hands commands that came by another request to the node that has their session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import UNSET, Raw

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Identity
from everywire.access.revocations import Revocation, Revocations
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, Forbidden
from everywire.core.position import Place
from everywire.hub.hub import Hub
from everywire.sessions.nodes import Nodes
from everywire.sessions.orders import (
    FORWARD,
    ORDERS,
    DisconnectOrder,
    Order,
    RefreshOrder,
    SubscribeOrder,
    UnsubscribeOrder,
    Whose,
    decode_forward,
    decode_order,
    encode_forward,
    encode_order,
    end_code,
    unsubscribe_code,
)
from everywire.sessions.visitors import Directory, Resident, Visitor, digest_of

__all__ = ["Registry", "Resident", "Visitor"]

_log = logging.getLogger("everywire.sessions")

_NOT_THERE: Final = b"0"
_TAKEN: Final = b"1"
_NOT_YOURS: Final = b"2"


class Registry:
    """The visitors of this node, and the way to those of the others.

    ``forget`` is called with a user before that user's connections are ended (`Authority.forget`).
    """

    def __init__(self, hub: Hub, *, forget: Callable[[str], object] = lambda user: None) -> None:
        self.nodes = Nodes(hub)
        self._hub = hub
        self._forget = forget
        self._directory = Directory()
        hub.on_broadcast(ORDERS, self._hear)
        hub.on_ask(FORWARD, self._take)

    async def start(self) -> None:
        """Be found by other nodes; after `Hub.start`."""
        await self.nodes.start()

    async def close(self) -> None:
        """Be found no longer; before `Hub.close`. Visitors are ended by whoever owns their connections."""
        await self.nodes.close()

    def follow(self, revocations: Revocations) -> None:
        """End this node's connections whose credential is revoked, as soon as that is in force. Every node
        does so by itself; what was decided before must be forgotten by then (`Authority` sees to it)."""
        revocations.listen(partial(self._revoked, revocations))

    # -- who is here ----------------------------------------------------------------

    def enter(self, visitor: Visitor) -> None:
        """Let a visitor be found, until `leave`."""
        self._directory.add(visitor)

    def leave(self, visitor: Visitor) -> None:
        """Let a visitor be found no longer; once for every `enter`."""
        self._directory.drop(visitor)

    def moved(self, visitor: Visitor, old: Identity) -> None:
        """Hear that a visitor has another identity now."""
        self._directory.move(visitor, old)

    def by_session(self, session_id: str) -> Resident | None:
        """Return the session with a session id, which is a secret."""
        found = self._directory.sessions.of(digest_of(session_id))
        return found[-1] if found else None

    def by_client(self, client: str) -> Resident | None:
        """Return the newest session with a client id."""
        found = self._directory.clients.of(client)
        return found[-1] if found else None

    def of_user(self, user: str) -> Sequence[Visitor]:
        """Return the visitors of a user, plain readers included."""
        return self._directory.users.of(user)

    def statistics(self) -> dict[str, int]:
        """Return what there is on this node at this moment."""
        directory = self._directory
        return {
            "visitors": directory.visitors,
            "sessions": len(directory.clients),
            "users": len(directory.users),
        }

    # -- what is done to them, on all nodes -------------------------------------------

    async def disconnect(
        self,
        user: str,
        *,
        client: str = "",
        session: str = "",
        whitelist: Sequence[str] = (),
        code: Code = codes.DISCONNECTED,
        reason: str = "",
    ) -> None:
        """End a user's connections and requests in flight on every node.

        Raises `BadRequest` for a code that ends no connection, or when nobody in particular is meant (no
        user, and neither client nor session); `BrokerError` when other nodes could not be told.
        """
        end_code(code.number, reason)
        await self._order(
            DisconnectOrder(
                whose=_whose(user, client, session),
                code=code.number,
                reason=reason or code.sentence,
                whitelist=list(whitelist),
            )
        )

    async def unsubscribe(
        self, user: str, channel: str, *, client: str = "", session: str = "", code: Code = codes.UNSUBSCRIBED
    ) -> None:
        """End a user's subscriptions to a channel, and plain reading of it, on every node."""
        unsubscribe_code(code.number)
        await self._order(
            UnsubscribeOrder(whose=_whose(user, client, session), channel=channel, code=code.number)
        )

    async def subscribe(
        self,
        user: str,
        channel: str,
        decision: SubscribeDecision | None = None,
        *,
        client: str = "",
        session: str = "",
        since: Place | None = None,
    ) -> None:
        """Subscribe a user's sessions to a channel, on every node; nothing is asked of rules or hooks.

        A decision's ``snapshot`` cannot travel, and is not called.
        """
        decision = decision or SubscribeDecision()
        await self._order(
            SubscribeOrder(
                whose=_whose(user, client, session),
                channel=channel,
                info=UNSET if decision.info is None else Raw(decision.info),
                data=UNSET if decision.data is None else Raw(decision.data),
                expires_s=decision.expires_s,
                join_leave=decision.join_leave,
                epoch=None if since is None else since.epoch,
                offset=0 if since is None else since.offset,
            )
        )

    async def refresh(
        self, user: str, *, client: str = "", session: str = "", expires_s: float | None = None
    ) -> None:
        """Let a user's sessions be good until another time (UNIX time; None is for ever), on every node."""
        await self._order(RefreshOrder(whose=_whose(user, client, session), expires_s=expires_s))

    async def forward(self, node: str, session_id: str, data: bytes, *, user: str = "") -> bool:
        """Hand commands to a session, on whatever node it is; False when it is not there.

        ``user`` is whom the request proved, if it proved anybody: another user's session is not theirs to
        speak in, however they came by its id.

        Raises an error with code 102 for a node that is not there, `BrokerError` for one that does not
        answer in time, `Forbidden` for another user's session.
        """
        digest = digest_of(session_id)
        if node == self.nodes.own:
            said = self._hand_over(digest, data, user)
        else:
            said = await self.nodes.ask(node, FORWARD, encode_forward(digest, data, user))
        if said == _NOT_YOURS:
            raise Forbidden("this session is another user's")
        return said == _TAKEN

    # -- inside -----------------------------------------------------------------------

    async def _order(self, order: Order) -> None:
        self._obey(order)
        await self._hub.broker.control.broadcast(ORDERS, encode_order(order))

    def _hear(self, payload: bytes, node: str) -> None:
        if node == self.nodes.own:
            return  # done already, when it was ordered
        order = decode_order(payload, node)
        if order is not None:
            self._obey(order)

    def _obey(self, order: Order) -> None:
        if isinstance(order, DisconnectOrder):
            self._end(order)
        elif isinstance(order, UnsubscribeOrder):
            code = unsubscribe_code(order.code)
            for visitor in self._directory.find(order.whose):
                if order.channel in visitor.channels:
                    visitor.unsubscribe(order.channel, code)
        else:
            for resident in self._directory.find_residents(order.whose):
                if isinstance(order, SubscribeOrder):
                    resident.subscribe(order.channel, order.decision, order.since)
                else:
                    resident.refresh(order.expires_s)

    def _end(self, order: DisconnectOrder) -> None:
        # First, so that nobody who comes back at once is let in by what was decided before.
        if order.whose.user:
            self._forget(order.whose.user)
        code = end_code(order.code, order.reason)
        spared = frozenset(order.whitelist)
        for visitor in self._directory.find(order.whose):
            if not visitor.client or visitor.client not in spared:
                visitor.disconnect(code, order.reason)

    def _revoked(self, revocations: Revocations, revocation: Revocation) -> None:
        is_blocked = revocation.kind == "user"
        # Whoever is blocked is not to come back; with another token one may.
        code = codes.REFUSED if is_blocked else codes.FORCE_RECONNECT
        is_of_user = revocation.kind != "token"
        known = self._directory.users.of(revocation.subject) if is_of_user else self._directory.known()
        for visitor in known:
            if revocations.is_revoked(visitor.identity):
                visitor.disconnect(code, code.sentence)

    async def _take(self, payload: bytes, node: str) -> bytes:
        order = decode_forward(payload)
        return self._hand_over(order.session, order.data, order.user)

    def _hand_over(self, digest: bytes, data: bytes, user: str) -> bytes:
        found = self._directory.sessions.of(digest)
        if not found:
            return _NOT_THERE
        owner = found[-1].identity.user
        if user and owner and user != owner:
            _log.warning("user %r showed the session id of another user", user)
            return _NOT_YOURS
        found[-1].receive_bytes(data)
        return _TAKEN


def _whose(user: str, client: str, session: str) -> Whose:
    if not user and not client and not session:
        raise BadRequest("name a user; for visitors who are nobody, a client or session besides")
    return Whose(user, client, digest_of(session) if session else b"")
