"""``/livez``, ``/readyz`` and ``/metrics``.

The first two say nothing but whether, and anyone may ask. Metrics are for this machine,
or for whoever has an API key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from everywire.access.rules import Rules
from everywire.api.figures import Figures, render
from everywire.brokers.base import Health
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden, RequestError
from everywire.server.worker_link import Row
from everywire.transports.exchange import Exchange
from everywire.transports.service import WholeAnswer, identity_of, refuse

__all__ = ["Operations"]

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_METRICS: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_NO_STORE: Final = (b"cache-control", b"no-store")


Gather = Callable[[Sequence[Row], Callable[[Sequence[Row] | EverywireError], None]], None]


class Operations:
    """The operators' addresses of one server.

    ``health`` says whether the server may be sent readers; set ``is_draining`` to make it say no.
    """

    def __init__(self, rules: Rules, health: Callable[[], Health]) -> None:
        self.figures = Figures()
        self.gather: Gather | None = None
        """Adds up what other workers have counted; None when there are none."""
        self.is_draining = False
        self._rules = rules
        self._health = health

    def serve(self, exchange: Exchange) -> bool:
        """Answer if the path is one of these; say whether it was."""
        answer = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}.get(
            exchange.request.path
        )
        if answer is None:
            return False
        exchange.attend(WholeAnswer(), "operations")
        if exchange.request.method not in ("GET", "HEAD"):
            error = RequestError("this is only read", code=codes.METHOD_NOT_FOUND)
            refuse(exchange, error, (), [(b"allow", b"GET, HEAD")])
        else:
            answer(exchange)
        return True

    def _livez(self, exchange: Exchange) -> None:
        exchange.respond(200, [_TEXT, _NO_STORE], b"ok\n")

    def _readyz(self, exchange: Exchange) -> None:
        health = Health(False, "draining") if self.is_draining else self._health()
        if health.ready:
            exchange.respond(200, [_TEXT, _NO_STORE], b"ok\n")
        else:
            exchange.respond(503, [_TEXT, _NO_STORE], f"{health.detail or 'not ready'}\n".encode())

    def _metrics(self, exchange: Exchange) -> None:
        request = exchange.request
        try:
            if not identity_of(request, self._rules).may_all and not request.is_local:
                raise Forbidden("metrics are for this machine, or need an API key", code=codes.UNAUTHORIZED)
        except EverywireError as error:
            refuse(exchange, error)
            return
        if self.gather is None:
            _tell_metrics(exchange, self.figures.all())
        else:
            self.gather(self.figures.all(), partial(_tell_metrics, exchange))


def _tell_metrics(exchange: Exchange, figures: Sequence[Row] | EverywireError) -> None:
    if isinstance(figures, EverywireError):
        refuse(exchange, figures)
    else:
        exchange.respond(200, [_METRICS, _NO_STORE], render(figures))
