"""SockJS: the addresses below a prefix, and what answers at each.

``<prefix>`` greets; ``/info`` and ``/iframe*.html`` are for the client's beginning. Below
``/<server>/<session>`` are the transports (``xhr``, ``xhr_streaming``, ``eventsource``, ``htmlfile``,
``jsonp`` and ``websocket``), and what sends to a session: ``xhr_send`` and ``jsonp_send``. ``/websocket`` is
a WebSocket without frames. Protocol: sockjs-protocol 0.3.x.

Every request passes the gate before anything else. A wrong method is 405, an address that there is not 404,
messages for a session that there is not 404, what is no array of strings 500, as the protocol has it. What a
request says is never part of an answer, except the name of a callback, which may be a name only.

``<server>`` is for load balancers and means nothing here. A session lives on the node of its first request;
requests that come to another node are forwarded there (`everywire.transports.sockjs_forwarding`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.codecs.sockjs import (
    as_jsonp,
    as_line,
    check_callback,
    decode_form,
    decode_messages,
    htmlfile_head,
)
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError
from everywire.sockets.sockjs import SockJsSession
from everywire.sockets.sockjs_link import Accept, Opening, SockJsOptions
from everywire.sockets.sockjs_table import SockJsTable
from everywire.transports.exchange import Exchange
from everywire.transports.gate import Cors, Refusal
from everywire.transports.relay import NOWHERE, Relay
from everywire.transports.service import NOSNIFF, Service, WholeAnswer, refuse
from everywire.transports.sockjs_forwarding import SockJsForwarding, Wanted
from everywire.transports.sockjs_pages import (
    NOT_CACHED,
    PLAIN_TEXT,
    IframePage,
    cookie_of,
    cors_of,
    greet,
    inform,
    permit,
)
from everywire.transports.sockjs_receivers import (
    EVENT_SOURCE,
    HTML_FILE,
    SCRIPT_TYPE,
    XHR_STREAMING,
    Format,
    PollReceiver,
    StreamReceiver,
)
from everywire.transports.sockjs_socket import FramedSocket, RawSocket
from everywire.transports.sockjs_who import Shown, ask_who, brought, owner_of

__all__ = ["SockJs"]

_SESSION: Final = re.compile(r"/[^/.]{1,255}/([^/.]{1,255})/([a-z_]+)")
_IFRAME: Final = re.compile(r"/iframe[0-9a-z_.-]*\.html")
_MAX_FIELDS: Final = 64
_FORM: Final = "application/x-www-form-urlencoded"
_NO_BUFFERING: Final = (b"x-accel-buffering", b"no")


class _Route(NamedTuple):
    """What is at one address of a session."""

    method: str
    serve: Callable[[SockJs, _Asked], None]
    is_readable: bool = False
    """Whether any page can read the answer: scripts and frames know no origins."""
    is_socket: bool = False
    opens: bool = False
    """Whether a session begins here that there was not."""


class _Place(NamedTuple):
    """One address of a session."""

    session_id: str
    name: str
    route: _Route


class _Asked(NamedTuple):
    """A request for something of a session, which passed the gate."""

    exchange: Exchange
    cors: Cors
    session_id: str
    transport: str
    auth: AuthRequest
    callback: str = ""

    def headers(self, content_type: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Return the head of an answer that no cache may keep."""
        return [(b"content-type", content_type), NOT_CACHED, NOSNIFF, *self.cors, *more]


class SockJs:
    """One mount.

    Args:
        service: the parts that all transports share.
        prefix: the path of the mount, without a slash at its end, as ``/sockjs``.
        accept: begins what speaks over each new link.
        options: what differs from the limits.
        wants_identity: whether ``accept`` wants to know whom a request proved (`SockJsLink.identity`), and
            tickets are used up for that. Otherwise it finds out for itself, as a session does.
        relay: the way to the sessions of other nodes.
    """

    def __init__(
        self,
        service: Service,
        prefix: str,
        accept: Accept,
        options: SockJsOptions | None = None,
        *,
        wants_identity: bool = True,
        relay: Relay = NOWHERE,
    ) -> None:
        self.prefix = prefix
        self.options = options or SockJsOptions()
        self._service = service
        self._accept = accept
        self._wants_identity = wants_identity
        self.table = SockJsTable(service.hub, service.limits, service.shared.quotas, self.options)
        client_url = self.options.client_url
        self._forwarding = SockJsForwarding(service, prefix, self.table, relay)
        self._page = IframePage(client_url, service.gate.frame_ancestors) if client_url else None

    def close(self) -> None:
        """End all sessions; before the hub is closed."""
        self.table.close()

    def serves(self, path: str) -> bool:
        """Whether an address is of this mount."""
        return path.startswith(self.prefix) and path[len(self.prefix) :][:1] in ("", "/")

    def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        rest = request.path[len(self.prefix) :]
        frame = self._page if _IFRAME.fullmatch(rest) else None
        admitted = self._service.gate.admit(request, is_page=rest in ("", "/"), is_frame=frame is not None)
        if isinstance(admitted, Refusal):
            refuse(exchange, EverywireError(admitted.sentence, code=admitted.code))
            return
        cors = cors_of(request)
        try:
            if rest in ("", "/"):
                self._serve_page(exchange, cors, partial(greet, exchange, cors))
            elif rest == "/info":
                self._serve_page(exchange, cors, partial(inform, exchange, cors, self.options))
            elif frame is not None:
                self._serve_page(exchange, cors, partial(frame.serve, exchange, cors))
            elif rest == "/websocket":
                self._serve_route(exchange, cors, admitted, _Place("", "websocket", _RAW))
            elif (found := _SESSION.fullmatch(rest)) is not None and found[2] in _ROUTES:
                place = _Place(found[1], found[2], _ROUTES[found[2]])
                self._serve_route(exchange, cors, admitted, place)
            else:
                raise RequestError("there is nothing here", code=codes.UNKNOWN_CHANNEL)
        except EverywireError as error:
            refuse(exchange, error, cors)

    def _serve_page(self, exchange: Exchange, cors: Cors, serve: Callable[[], None]) -> None:
        request = exchange.request
        if request.is_upgrade:
            raise BadRequest("this address is no WebSocket")
        if request.method == "OPTIONS":
            permit(exchange, cors, "OPTIONS, GET")
        elif request.method in ("GET", "HEAD"):
            serve()
        else:
            _refuse_method(exchange, cors, "OPTIONS, GET")

    def _serve_route(self, exchange: Exchange, cors: Cors, admitted: Cors, place: _Place) -> None:
        request = exchange.request
        session_id, name, route = place
        path = request.path
        request.path = f"{self.prefix}/-/-/{name}"  # an id is as good as a secret: the log has this instead
        methods = f"OPTIONS, {route.method}"
        if route.is_socket and not self.options.has_websocket:
            raise RequestError("there is no WebSocket here", code=codes.UNKNOWN_CHANNEL)
        if name.startswith("jsonp") and not self.options.has_jsonp:
            raise RequestError("there is no JSONP here", code=codes.UNKNOWN_CHANNEL)
        if request.method == "OPTIONS":
            permit(exchange, cors, methods)
            return
        if request.method != route.method:
            _refuse_method(exchange, cors, methods)
            return
        if request.is_upgrade is not route.is_socket:
            raise BadRequest(
                'can "Upgrade" only to "WebSocket"' if route.is_socket else "this address is no WebSocket"
            )
        if self.options.needs_cookie and not route.is_socket:
            cors = (*cors, cookie_of(request))
        auth = brought(request, admitted, is_readable=route.is_readable, is_upgrade=route.is_socket)
        asked = _Asked(exchange, cors, session_id, name, auth)
        if route.is_readable:
            try:
                callback = check_callback(_callback_of(request.query))
            except BadRequest as error:
                _fail(asked, error)
                return
            asked = asked._replace(callback=callback)
        serve = partial(route.serve, self, asked)
        if route.is_socket or self.table.has(session_id):
            serve()
        else:
            self._forwarding.serve(Wanted(exchange, cors, session_id, path, route.opens), serve)

    # -- who it is --------------------------------------------------------------------

    def _find(self, asked: _Asked, done: Callable[[SockJsSession | None, Opening], None]) -> None:
        """Find the session of whoever asks; and what it would begin with, if there is none."""
        authority = self._service.authority
        shown = Shown.of(authority, asked.auth)
        opening = partial(
            Opening, asked.session_id, mark=shown.mark, request=asked.auth, transport=asked.transport
        )
        session = self.table.find(asked.session_id, shown.mark)
        if session is not None:
            done(session, opening(owner=session.key[1], identity=session.identity))
        elif shown.is_ticket and not self._wants_identity:
            # It will be used up by whoever speaks over the link.
            here = self.table.find_nobodys(asked.session_id, "")
            done(here, opening(owner=f"ticket {shown.mark.hex()}", identity=NOBODY))
        else:
            waiting = _Waiting()

            def known(identity: Identity | EverywireError) -> None:
                waiting.is_answered = True
                if waiting.is_gone:
                    self._forwarding.refused(asked.session_id)
                else:
                    owner = owner_of(identity, shown.mark)
                    user = identity.user if isinstance(identity, Identity) else ""
                    here = self.table.find_owned(asked.session_id, owner, shown.mark)
                    here = here or self.table.find_nobodys(asked.session_id, user)
                    try:
                        done(here, opening(owner=owner, identity=identity))
                    except EverywireError as error:
                        refuse(asked.exchange, error, asked.cors)

            ask_who(authority, asked.auth, shown, known)
            if not waiting.is_answered:
                asked.exchange.attend(waiting, "sockjs")

    # -- what comes from the server ------------------------------------------------------

    def _session_for(self, asked: _Asked, done: Callable[[SockJsSession], None]) -> None:
        def found(session: SockJsSession | None, opening: Opening) -> None:
            if session is None:
                try:
                    session = self.table.open(opening, self._accept)
                except EverywireError:
                    self._forwarding.refused(asked.session_id)
                    raise
            done(session)

        self._find(asked, found)

    def _poll(self, asked: _Asked, wrap: Callable[[bytes], bytes]) -> None:
        def found(session: SockJsSession) -> None:
            headers = asked.headers(SCRIPT_TYPE)
            max_bytes = self._service.limits.max_write_bytes
            receiver = PollReceiver(asked.exchange, asked.transport, session, headers, wrap, max_bytes)
            session.attach(receiver)

        self._session_for(asked, found)

    def _stream(self, asked: _Asked, format_: Format) -> None:
        def found(session: SockJsSession) -> None:
            headers = asked.headers(format_.content_type, _NO_BUFFERING)
            if asked.callback:
                policy = self._service.gate.frame_ancestors.encode()
                headers.append((b"content-security-policy", policy))
            session.attach(StreamReceiver(asked.exchange, format_, session, headers))

        self._session_for(asked, found)

    def serve_xhr(self, asked: _Asked) -> None:
        """Answer a poll with one frame."""
        self._poll(asked, as_line)

    def serve_jsonp(self, asked: _Asked) -> None:
        """Answer a poll with a script that calls back with one frame."""
        self._poll(asked, partial(as_jsonp, asked.callback))

    def serve_xhr_streaming(self, asked: _Asked) -> None:
        """Answer with one frame after the other, a line each."""
        self._stream(asked, XHR_STREAMING)

    def serve_event_source(self, asked: _Asked) -> None:
        """Answer with one frame after the other, an event each."""
        self._stream(asked, EVENT_SOURCE)

    def serve_html_file(self, asked: _Asked) -> None:
        """Answer with a page that calls back with one frame after the other."""
        self._stream(asked, HTML_FILE._replace(prelude=htmlfile_head(asked.callback)))

    # -- what comes from the client --------------------------------------------------------

    def serve_xhr_send(self, asked: _Asked) -> None:
        """Hand over the messages of a body."""
        answered = partial(asked.exchange.respond, 204, asked.headers(PLAIN_TEXT[1]))
        self._take(asked, lambda body: body, answered)

    def serve_jsonp_send(self, asked: _Asked) -> None:
        """Hand over the messages of a form, or of a body. Old Konquerors want something in the answer."""
        content_type = asked.exchange.request.header(b"content-type") or ""
        is_form = content_type.partition(";")[0].strip().lower() == _FORM
        answered = partial(asked.exchange.respond, 200, asked.headers(PLAIN_TEXT[1]), b"ok")
        self._take(asked, decode_form if is_form else lambda body: body, answered)

    def _take(
        self, asked: _Asked, payload_of: Callable[[bytes], bytes], answered: Callable[[], None]
    ) -> None:
        limits = self._service.limits

        def found(session: SockJsSession | None, _: Opening, body: bytes) -> None:
            asked.exchange.attend(WholeAnswer(), "sockjs-send")
            if session is None:
                raise RequestError("there is no such session", code=codes.UNKNOWN_CHANNEL)
            try:
                messages = decode_messages(payload_of(body), limits.max_sockjs_messages)
            except BadRequest as error:
                _fail(asked, error)
            else:
                session.receive(messages, answered)

        def take(body: bytes) -> None:
            try:
                self._find(asked, partial(found, body=body))
            except EverywireError as error:
                refuse(asked.exchange, error, asked.cors)

        asked.exchange.attend(WholeAnswer(), "sockjs-send")
        asked.exchange.read_body(limits.max_body_bytes, take)

    # -- WebSocket ---------------------------------------------------------------------------

    def serve_websocket(self, asked: _Asked) -> None:
        """Shake hands, and speak in frames."""
        self._upgrade(asked, FramedSocket)

    def serve_raw(self, asked: _Asked) -> None:
        """Shake hands, and speak without frames."""
        self._upgrade(asked, RawSocket)

    def _upgrade(self, asked: _Asked, kind: type[RawSocket]) -> None:
        service = self._service

        def begin(identity: Identity | EverywireError) -> None:
            who = identity if isinstance(identity, Identity) else NOBODY
            admission = service.admit(who, asked.auth.peer)
            socket = kind(self.table, asked.auth, identity, admission)
            channel = asked.exchange.upgrade(socket, kind.name, ())
            if channel is None:
                admission.release()
            else:
                socket.begin(channel, self._accept)

        if not self._wants_identity:
            begin(NOBODY)
            return
        waiting = _Waiting()

        def known(identity: Identity | EverywireError) -> None:
            waiting.is_answered = True
            if not waiting.is_gone:
                try:
                    begin(identity)
                except EverywireError as error:
                    refuse(asked.exchange, error, asked.cors)

        ask_who(service.authority, asked.auth, Shown.of(service.authority, asked.auth), known)
        if not waiting.is_answered:
            asked.exchange.attend(waiting, kind.name)


_ROUTES: Final = {
    "xhr": _Route("POST", SockJs.serve_xhr, opens=True),
    "xhr_send": _Route("POST", SockJs.serve_xhr_send),
    "xhr_streaming": _Route("POST", SockJs.serve_xhr_streaming, opens=True),
    "eventsource": _Route("GET", SockJs.serve_event_source, opens=True),
    "htmlfile": _Route("GET", SockJs.serve_html_file, is_readable=True, opens=True),
    "jsonp": _Route("GET", SockJs.serve_jsonp, is_readable=True, opens=True),
    "jsonp_send": _Route("POST", SockJs.serve_jsonp_send),
    "websocket": _Route("GET", SockJs.serve_websocket, is_socket=True),
}
_RAW: Final = _Route("GET", SockJs.serve_raw, is_socket=True)


class _Waiting(WholeAnswer):
    """The driver of an exchange while it is found out who asks."""

    __slots__ = ("is_answered", "is_gone")

    def __init__(self) -> None:
        self.is_answered = self.is_gone = False

    def gone(self, reason: str) -> None:
        """Note that nobody waits for the answer."""
        self.is_gone = True


def _callback_of(query: str) -> str | None:
    try:
        pairs = parse_qsl(query, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return None
    return next((value for name, value in pairs if name in ("c", "callback")), None)


def _fail(asked: _Asked, error: BadRequest) -> None:
    """Answer as the protocol has it: 500, and a sentence of its own."""
    asked.exchange.attend(WholeAnswer(), f"sockjs-{asked.transport}")
    asked.exchange.respond(500, asked.headers(PLAIN_TEXT[1]), error.sentence.encode())


def _refuse_method(exchange: Exchange, cors: Cors, methods: str) -> None:
    exchange.attend(WholeAnswer(), "sockjs")
    exchange.respond(405, [(b"allow", methods.encode()), *cors])
