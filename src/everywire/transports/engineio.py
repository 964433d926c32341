"""``/socket.io/`` and ``/engine.io/``: requests of Engine.IO, versions 4 and 3.

After the Engine.IO protocol (versions 4 and 3), as its suites ask. Every request passes the gate first; then
it is checked to the letter, and everything wrong is answered in the protocol's own form: ``{"code",
"message"}``. Who it is that comes the upper layer finds out; here an address is counted.

    GET                      → a connection that polls: the open packet
    GET, Upgrade             → a connection over WebSocket
    GET  sid=                → a poll           (only while it polls)
    POST sid=                → packets          (only while it polls)
    GET  sid=, Upgrade       → the upgrade

A connection of another node is forwarded there (`everywire.transports.relay`). Refused: parameters that occur
twice, versions and transports that are not on, a WebSocket on the address of polling and the other way round.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from everywire.access.quotas import Admission
from everywire.codecs.engineio.jsonp import is_index
from everywire.core.errors import EverywireError
from everywire.sockets.engine import Engine
from everywire.sockets.engine_options import DEFAULTS, EngineOptions
from everywire.sockets.engines import Accept, Engines, owner_of
from everywire.sockets.link import POLLING, WEBSOCKET
from everywire.transports.engineio_answers import ErrorCode, answer_taken, refuse, refuse_error
from everywire.transports.engineio_jsonp import refuse_script
from everywire.transports.engineio_polling import Asked, WaitingPoll, give, max_post_bytes, take_payload
from everywire.transports.engineio_socket import EngineSocket
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors, Refusal
from everywire.transports.relay import NOWHERE, Relay
from everywire.transports.service import Service, WholeAnswer, auth_request

__all__ = ["EngineIo"]

_VERSIONS: Final = {"3": 3, "4": 4}
_MAX_PARAMETERS: Final = 64
_SINGLE: Final = ("EIO", "transport", "sid", "j", "b64")
"""The parameters that are the protocol's; the application's may occur as often as they like."""
_ALLOW: Final = (b"allow", b"GET, POST, OPTIONS")


class _Bad(Exception):
    """The request is refused, with a code of the protocol."""

    def __init__(self, code: ErrorCode, status: int = 400, sentence: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.status = status
        self.sentence = sentence


class EngineIo:
    """Answers all requests of one mount; ``accept`` returns who speaks over each new connection.

    Routing is the caller's: every request whose path is the mount's, with or without the last slash.
    """

    def __init__(
        self,
        service: Service,
        accept: Accept,
        options: EngineOptions = DEFAULTS,
        *,
        relay: Relay = NOWHERE,
    ) -> None:
        self.engines = Engines(service.shared, options)
        self._service = service
        self._accept = accept
        self._options = options
        self._relay = relay
        self._polling = f"{options.name}-{POLLING}"
        self._websocket = f"{options.name}-{WEBSOCKET}"

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        cors = self._service.gate.admit(request)
        if isinstance(cors, Refusal):
            refuse(exchange, ErrorCode.FORBIDDEN, status=403, sentence=cors.sentence)
            return
        if request.method == "OPTIONS":
            exchange.attend(WholeAnswer(), "options")
            exchange.respond(204, [_ALLOW, *self._service.gate.preflight(request)])
            return
        try:
            asked = self._check(exchange, cors)
            if asked.sid is None:
                self._open(asked)
            else:
                self._serve(asked, asked.sid)
        except _Bad as bad:
            refuse(exchange, bad.code, cors, status=bad.status, sentence=bad.sentence)
        except EverywireError as error:
            refuse_error(exchange, error, cors)

    def _check(self, exchange: Exchange, cors: Cors) -> Asked:
        """Check what the request says; raise `_Bad` where it says anything wrong."""
        request, options = exchange.request, self._options
        query = _parameters(request.query)
        transport = query.get("transport")
        if transport not in options.transports:
            raise _Bad(ErrorCode.UNKNOWN_TRANSPORT)
        protocol = _VERSIONS.get(query.get("EIO", ""))
        if protocol not in options.protocols:
            raise _Bad(ErrorCode.UNSUPPORTED_VERSION)
        sid = query.get("sid")
        if request.method != "GET" and (request.method != "POST" or sid is None):
            raise _Bad(ErrorCode.BAD_METHOD)
        if request.is_upgrade != (transport == WEBSOCKET):
            raise _Bad(ErrorCode.BAD_REQUEST)
        index = query.get("j")
        if index is not None:
            self._check_script(exchange, index)
        return Asked(exchange, cors, protocol, sid, index, query.get("b64", "") not in ("", "0"))

    def _check_script(self, exchange: Exchange, index: str) -> None:
        request = exchange.request
        if not self._options.allow_jsonp or not is_index(index) or request.is_upgrade:
            raise _Bad(ErrorCode.BAD_REQUEST)
        refusal = refuse_script(request, self._service.gate) if request.method == "GET" else None
        if refusal is not None:
            raise _Bad(ErrorCode.FORBIDDEN, 403, refusal.sentence)

    # -- connections that are there --------------------------------------------------

    def _serve(self, asked: Asked, sid: str) -> None:
        exchange = asked.exchange
        owner = owner_of(sid)
        if owner != self.engines.label and owner and self._forward(asked, owner):
            return
        engine = self.engines.find(sid)
        if engine is None:
            self._serve_ended(asked, sid)
        elif engine.protocol != asked.protocol:
            raise _Bad(ErrorCode.BAD_REQUEST)
        elif exchange.request.is_upgrade:
            socket = EngineSocket()
            if socket.shake_hands(exchange, self._websocket, asked.protocol, asked.is_base64):
                engine.take_socket(socket)
        elif engine.transport != POLLING:
            raise _Bad(ErrorCode.BAD_REQUEST)
        elif exchange.request.method == "GET":
            engine.take_poll(WaitingPoll(asked, engine, self._polling))
        else:
            take_payload(asked, engine, self._polling)

    def _forward(self, asked: Asked, owner: str) -> bool:
        """Have a connection's owner answer; if it is gone, so is the connection."""
        exchange, cors = asked.exchange, asked.cors
        return self._relay.forward(
            owner,
            exchange,
            lambda: refuse(exchange, ErrorCode.UNKNOWN_SID, cors),
            max_body_bytes=max_post_bytes(self._options.max_payload, is_form=asked.script is not None),
        )

    def _serve_ended(self, asked: Asked, sid: str) -> None:
        """Give the last words of a connection that ended, if there are any."""
        exchange = asked.exchange
        word = None
        if not exchange.request.is_upgrade and self.engines.has_word(sid):
            if exchange.request.method == "POST":
                answer_taken(exchange, asked.cors, is_form=asked.script is not None)
                return
            word = self.engines.take_word(sid)
        if word is None:
            raise _Bad(ErrorCode.UNKNOWN_SID)
        exchange.attend(WholeAnswer(), self._polling)
        give(asked, word)

    # -- new ones ----------------------------------------------------------------------

    def _open(self, asked: Asked) -> None:
        exchange = asked.exchange
        admission = self.engines.admit(exchange.request.peer)
        is_taken = False
        try:
            if exchange.request.is_upgrade:
                is_taken = self._open_socket(asked, admission)
            else:
                is_taken = True  # it is given back when the connection ends, and so when it is refused
                self._open_polling(asked, admission)
        finally:
            if not is_taken:
                admission.release()

    def _open_polling(self, asked: Asked, admission: Admission) -> None:
        engine = self._engine(asked, None, admission)
        if not engine.is_ended:
            engine.take_poll(WaitingPoll(asked, engine, self._polling))
            return
        word = self.engines.take_word(engine.sid)
        if word is None:
            raise _Bad(ErrorCode.FORBIDDEN, 403)
        give(asked, word)

    def _open_socket(self, asked: Asked, admission: Admission) -> bool:
        socket = EngineSocket()
        if not socket.shake_hands(asked.exchange, self._websocket, asked.protocol, asked.is_base64):
            return False
        try:
            self._engine(asked, socket, admission)
        except EverywireError:
            pass  # the handshake is done: the close frame has said it
        return True

    def _engine(self, asked: Asked, socket: EngineSocket | None, admission: Admission) -> Engine:
        auth = auth_request(asked.exchange.request, self._options.name, asked.cors)
        return self.engines.open(
            auth,
            asked.protocol,
            self._accept,
            socket=socket,
            admission=admission,
            is_base64=asked.is_base64,
        )


def _parameters(query: str) -> dict[str, str]:
    """Return a query's parameters; raise `_Bad` when it is malformed, or one of ours occurs twice."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS, errors="strict")
    except ValueError:
        raise _Bad(ErrorCode.BAD_REQUEST) from None
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        if any(names.count(name) > 1 for name in _SINGLE):
            raise _Bad(ErrorCode.BAD_REQUEST)
    return values
