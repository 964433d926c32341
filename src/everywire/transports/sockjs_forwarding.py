"""Requests for SockJS sessions that are not here: found out whose they are, and forwarded there.

When the node of a session is gone, messages for it are 404, as for any session that there is not, and
whoever wants to hear is given a new session, here: the client sees that its own is lost, and connects anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from everywire.core import codes
from everywire.core.errors import EverywireError, RequestError
from everywire.sockets.sockjs_table import SockJsTable
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors
from everywire.transports.relay import NOWHERE, Relay, was_forwarded
from everywire.transports.service import Service, WholeAnswer, refuse
from everywire.transports.sockjs_homes import Homes

__all__ = ["SockJsForwarding", "Wanted"]


class Wanted(NamedTuple):
    """A request for a session that is not here."""

    exchange: Exchange
    cors: Cors
    session_id: str
    path: str
    opens: bool
    """Whether the session begins, if there is none."""


class _Asking(WholeAnswer):
    """The driver of an exchange while the session's node is looked up."""

    __slots__ = ("is_gone",)

    def __init__(self) -> None:
        self.is_gone = False

    def gone(self, reason: str) -> None:
        """Note that nobody waits for the answer."""
        self.is_gone = True


class SockJsForwarding:
    """The way of one mount's requests to the sessions of other nodes; there is none without a relay."""

    def __init__(self, service: Service, prefix: str, table: SockJsTable, relay: Relay) -> None:
        self._relay = relay
        self._table = table
        self._max_body_bytes = service.limits.max_body_bytes
        self._homes: Homes | None = None
        if relay is not NOWHERE:
            self._homes = Homes(service.shared, prefix, table.has)
            table.on_left = self._homes.left

    def serve(self, wanted: Wanted, serve: Callable[[], None]) -> None:
        """Have the session's node answer; ``serve`` does so where it lives here, or nowhere yet."""
        if self._homes is None:
            serve()
        else:
            self._find(self._homes, wanted, serve, is_last=False)

    def refused(self, session_id: str) -> None:
        """Hear that no session came of a request that was to begin one."""
        if self._homes is not None and not self._table.has(session_id):
            self._homes.left(session_id)

    def _find(self, homes: Homes, wanted: Wanted, serve: Callable[[], None], *, is_last: bool) -> None:
        asking = _Asking()
        exchange = wanted.exchange

        def found(label: str) -> None:
            if asking.is_gone:
                self.refused(wanted.session_id)
                return
            lost = partial(self._lost, homes, wanted, serve, label, is_last)
            is_here = label == homes.own or was_forwarded(exchange.request)
            if is_here or not self._relay.forward(
                label, exchange, lost, max_body_bytes=self._max_body_bytes, path=wanted.path
            ):
                _answer(wanted, serve)

        exchange.attend(asking, "sockjs")
        homes.find(wanted.session_id, opens=wanted.opens, done=found)

    def _lost(
        self, homes: Homes, wanted: Wanted, serve: Callable[[], None], label: str, is_last: bool
    ) -> None:
        if not wanted.opens:
            error = RequestError("there is no such session", code=codes.UNKNOWN_CHANNEL)
            refuse(wanted.exchange, error, wanted.cors)
            homes.lost(wanted.session_id, label, _nothing)
        elif is_last:
            _answer(wanted, serve)
        else:
            again = partial(self._find, homes, wanted, serve, is_last=True)
            homes.lost(wanted.session_id, label, again)


def _answer(wanted: Wanted, serve: Callable[[], None]) -> None:
    try:
        serve()
    except EverywireError as error:
        refuse(wanted.exchange, error, wanted.cors)


def _nothing() -> None:
    """Do nothing: it was answered."""
