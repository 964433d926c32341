"""The private side: requests that other nodes forward, as they come in at this node's private addresses.

Only what a node of the same store sealed for this one is taken (`everywire.transports.relay_letters`);
anything else is 403, whatever its address, and told in the log now and then. The request is then what it was
at the node that forwarded it: with the client's address, scheme and host. It is answered like any other, gate
included, and never forwarded again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.transports.exchange import Exchange, Handler, Request
from everywire.transports.relay import FORWARDED
from everywire.transports.relay_letters import FIELD, Letter, Seal
from everywire.transports.service import WholeAnswer, refuse

__all__ = ["PrivateSide"]

_BETWEEN_WARNINGS_S: Final = 10.0
_log = logging.getLogger("everywire.transports")


class PrivateSide:
    """Hands requests that were forwarded to a handler."""

    def __init__(self, handler: Handler, seal: Seal, label: str, time: Callable[[], float]) -> None:
        self.taken = self.refused = 0
        self.is_leaving = False
        """Whether this node's sessions are about to end: who still asks hears nothing, as of a node that is
        gone, and tells its client so in the protocol's words."""
        self._handler = handler
        self._seal = seal
        self._label = label
        self._time = time
        self._quiet_until_s = 0.0

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        if self.is_leaving:
            exchange.abort("this node stops")
            return
        request = exchange.request
        target = f"{request.path}?{request.query}" if request.query else request.path
        field = request.headers.get(FIELD)
        letter = None if field is None else self._seal.read(field, self._label, request.method, target)
        if letter is None:
            self._refuse(exchange)
        else:
            self.taken += 1
            _restore(request, letter)
            self._handler(exchange)

    def _refuse(self, exchange: Exchange) -> None:
        self.refused += 1
        now_s = self._time()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + _BETWEEN_WARNINGS_S
            _log.warning("a request at the private address was refused: no node of this store sealed it")
        exchange.attend(WholeAnswer(), "refused")
        refuse(exchange, EverywireError("this address is for nodes only", code=codes.PERMISSION_DENIED))


def _restore(request: Request, letter: Letter) -> None:
    """Make the request what it was where it came from the client."""
    request.headers = {name: value for name, value in request.headers.items() if name != FIELD}
    request.peer = letter.peer
    request.scheme = letter.scheme
    request.host = letter.host
    request.is_local = letter.is_local
    request.memo = {FORWARDED: True}
