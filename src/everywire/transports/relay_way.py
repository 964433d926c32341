"""The relay: carries a request to the node that owns its session, and the answer back.

The head goes as soon as there is a connection, so that the owner sees a request begin when it begins; the
body follows whole. A short answer is given whole, any other piece by piece, and a client that does not keep
up pauses the owner. A client that goes away, or stops half-way through a body, cuts the connection to the
owner, which hears of it as of any client's. An owner that is gone before it answered is told by ``lost``;
one that breaks off later breaks the answer off.

When this node stops, the owner is asked to end what it can end (`Releasable`), so that the client comes back
by another node and its session lives on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from everywire.codecs.websocket.handshake import make_key, request_headers
from everywire.core.limits import Limits
from everywire.sessions.shared import Shared
from everywire.transports.exchange import Exchange, Request
from everywire.transports.relay import was_forwarded
from everywire.transports.relay_letters import FIELD, Seal
from everywire.transports.relay_link import RELEASE, AnswerHead, PeerLink
from everywire.transports.relay_links import Links
from everywire.transports.relay_peers import Peer, Peers
from everywire.transports.relay_socket import carry_socket

__all__ = ["PeerRelay"]

_OWN_WAY: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"),
        *(b"upgrade", b"expect", b"content-length", b"host", FIELD),
        *(b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"),
    }
)
"""Fields that are about one connection (RFC 9110 §7.6.1), and those that are written anew."""
_HOSTS_OWN: Final = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"date", b"upgrade"}
)
_TARGET: Final = re.compile(r"[!-~]+")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUES: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_WHOLE_BYTES: Final = 256 * 1024


class PeerRelay:
    """The way to other nodes, by their private addresses."""

    def __init__(self, shared: Shared, seal: Seal) -> None:
        self.forwarded = self.lost = self.broken = 0
        self.seal = seal
        self.limits: Limits = shared.limits
        self.peers = Peers(shared.registry.nodes, shared.tasks)
        self.links = Links(shared.hub, shared.tasks)

    def forward(
        self,
        node: str,
        exchange: Exchange,
        lost: Callable[[], None],
        *,
        max_body_bytes: int = 0,
        path: str = "",
    ) -> bool:
        """Have a node answer; see `everywire.transports.relay.Relay`."""
        request = exchange.request
        if was_forwarded(request):
            return False
        target = path or request.path
        if request.query:
            target = f"{target}?{request.query}"
        carried = _Carried(self, node, exchange, lost, target, max_body_bytes)
        exchange.attend(carried, "forwarded")
        self.forwarded += 1
        self.peers.find(node, carried.found)
        return True

    def close(self) -> None:
        """Cut what is on its way."""
        self.links.close()


class _Carried:
    """One request on its way: the exchange's driver, and who hears the owner's answer."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_exchange",
        "_has_started",
        "_head",
        "_is_over",
        "_key",
        "_link",
        "_lost",
        "_max_body_bytes",
        "_node",
        "_peer",
        "_relay",
        "_target",
    )

    def __init__(
        self,
        relay: PeerRelay,
        node: str,
        exchange: Exchange,
        lost: Callable[[], None],
        target: str,
        max_body_bytes: int,
    ) -> None:
        self._relay = relay
        self._node = node
        self._exchange = exchange
        self._lost = lost
        self._target = target
        self._max_body_bytes = max_body_bytes
        self._peer: Peer | None = None
        self._link: PeerLink | None = None
        self._key = b""
        self._head: AnswerHead | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._has_started = self._is_over = False

    # -- finding the owner -----------------------------------------------------------------

    def found(self, peer: Peer | None) -> None:
        """Go on with the owner's address, if it has one."""
        if self._is_over:
            return
        if peer is None or _TARGET.fullmatch(self._target) is None:
            self._lose()
        else:
            self._peer = peer
            self._relay.links.find(peer, self._connected)

    def _connected(self, link: PeerLink | None) -> None:
        if self._is_over:
            if link is not None:
                link.abort()
        elif link is None:
            tried, self._peer = self._peer, None
            assert tried is not None
            self._relay.peers.find_anew(tried, self._found_anew)
        else:
            self._link = link
            self._ask(link)

    def _found_anew(self, peer: Peer | None) -> None:
        self.found(peer)

    def _lose(self) -> None:
        self._is_over = True
        self._relay.lost += 1
        self._lost()

    # -- asking ------------------------------------------------------------------------------

    def _ask(self, link: PeerLink) -> None:
        request = self._exchange.request
        fields = list(_fields_of(request))
        length = request.headers.get(b"content-length", b"")
        if request.is_upgrade:
            self._key = make_key()
            fields += request_headers("relay", self._key)[1:]
        elif request.method == "POST":
            fields.append((b"content-length", length) if length.isdigit() else _CHUNKED)
        fields.append((FIELD, self._relay.seal.write(self._node, request, self._target)))
        has_body = request.method == "POST" and length != b"0"
        link.ask(self, _head(request.method, self._target, fields), is_whole=not has_body)
        if has_body and (not length.isdigit() or int(length) <= self._max_body_bytes):
            # A larger one the owner refuses by its length.
            is_chunked = not length.isdigit()
            self._exchange.read_body(self._max_body_bytes, lambda body: self._send(body, is_chunked))

    def _send(self, body: bytes, is_chunked: bool) -> None:
        if self._link is not None and not self._is_over:
            length = self._exchange.request.headers.get(b"content-length", b"")
            if not is_chunked and len(body) != int(length):
                # An ASGI server's may be anything; what is too much would be a request of its own.
                self._link.abort()
                self.broken("the body is not as long as it says")
                return
            if is_chunked:
                body = (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)) if body else b"0\r\n\r\n"
            self._link.write(body, is_whole=True)

    # -- the answer (Hearing) ------------------------------------------------------------------

    def answered(self, head: AnswerHead, data: bytes) -> None:
        """Give a long answer as it comes, and wait for the end of a short one."""
        headers = [field for field in head.headers if field[0] not in _HOSTS_OWN]
        self._head = head._replace(headers=headers)
        is_long = head.length is None and any(name == b"transfer-encoding" for name, _ in head.headers)
        if is_long or (head.length or 0) > _MAX_WHOLE_BYTES:
            self._has_started = True
            self._exchange.start(head.status, headers, self._exchange.framing.frame(data) if data else None)
        elif data:
            self._keep(data)

    def data(self, data: bytes) -> None:
        """Pass on a piece of the answer."""
        if self._has_started:
            self._exchange.write(self._exchange.framing.frame(data))
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        """Keep a piece for an answer as a whole; one that ends with its connection may be long after all."""
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > _MAX_WHOLE_BYTES and self._head is not None:
            self._has_started = True
            whole = self._exchange.framing.frame(b"".join(self._body))
            self._body.clear()
            self._exchange.start(self._head.status, self._head.headers, whole)

    def ended(self) -> None:
        """End the answer."""
        self._is_over = True
        self._link = None
        assert self._head is not None
        if self._has_started:
            self._exchange.finish()
        else:
            self._exchange.respond(self._head.status, self._head.headers, b"".join(self._body))

    def upgraded(self, head: AnswerHead, data: bytes) -> None:
        """Shake hands with the client, too, and carry messages from now on."""
        link, self._link = self._link, None
        self._is_over = True
        assert link is not None
        if not carry_socket(self._exchange, link, self._relay.limits, head, self._key, data):
            self._relay.broken += 1

    def broken(self, reason: str) -> None:
        """Hear that the owner is gone."""
        self._link = None
        if self._is_over:
            return
        if self._head is None:
            self._lose()
        else:
            self._is_over = True
            self._relay.broken += 1
            self._exchange.abort("owner gone")

    def full(self) -> None:
        """Hear nothing of interest: a body is bounded."""

    def ready(self) -> None:
        """Hear nothing of interest."""

    # -- what the host tells (Driver) ------------------------------------------------------------

    def stalled(self) -> None:
        """Let the owner wait for the client."""
        if self._link is not None:
            self._link.pause()

    def writable(self) -> None:
        """Let the owner go on."""
        if self._link is not None:
            self._link.resume()

    def gone(self, reason: str) -> None:
        """Let the owner hear that the client is gone."""
        self._is_over = True
        link, self._link = self._link, None
        if link is not None:
            link.abort()

    def drain(self, retry_ms: int) -> None:
        """Have the owner end the answer, so that the client asks again by another node."""
        if self._link is not None and self._link.is_asked:
            self._link.write(RELEASE)


_CHUNKED: Final = (b"transfer-encoding", b"chunked")


def _fields_of(request: Request) -> list[tuple[bytes, bytes]]:
    """Return the fields that go on to the owner."""
    headers = request.headers
    named = {name.strip().lower() for name in headers.get(b"connection", b"").split(b",")}
    host = headers.get(b"host") or request.host.encode("latin-1", "replace") or b"localhost"
    fields = [(b"host", host)]
    fields += [(name, value) for name, value in headers.items() if name not in _OWN_WAY and name not in named]
    return fields


def _head(method: str, target: str, fields: list[tuple[bytes, bytes]]) -> bytes:
    # Fields were checked by the host that read them; an ASGI server's may hold anything.
    lines = [
        b"%b: %b\r\n" % (name, _NOT_IN_VALUES.sub(b" ", value))
        for name, value in fields
        if _NAME.fullmatch(name)
    ]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode("latin-1"), target.encode("latin-1"), b"".join(lines))
