"""Every wire × every kind of credential × every action: the code that the server answers.

The lists of wires are the source's own. One that is not in the matrix here fails, and so does a function that
serves requests and that the matrix does not know.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Final

import jwt
import pytest

import everywire.api
import everywire.transports
from everywire.access.identity import Action
from everywire.transports import connection, plain
from tests.readers import page
from tests.serving import Site, until
from tests.transports.attempts import ACTIONS, ATTEMPTS, LEFT_OUT
from tests.transports.conftest import Serve
from tests.transports.known import bearer, knowing, token

CREDENTIALS: Final = ("none", "bad", "expired", "other's", "revoked", "good")
CHANNEL: Final = "inbox:ann"
OWN: Final = {action: ["inbox:{user}"] for action in Action}
"""Rules by which everybody may do everything to a channel of their own."""

PLAIN: Final = dict(zip(CREDENTIALS, (101, 101, 109, 103, 103, 0), strict=True))
"""What each credential is worth for a request that names the channel."""
CONNECTING: Final = dict(zip(CREDENTIALS, (0, 3500, 109, 0, 103, 0), strict=True))
"""… and to begin a session: nobody may come, and see what is open to anyone."""
IN_SESSION: Final = dict(zip(CREDENTIALS, (103, 3500, 109, 103, 103, 0), strict=True))
"""… and for a command of a session, which is not there if it did not begin."""
HEARING: Final = dict(zip(CREDENTIALS, (0, 3500, 3005, 0, 3507, 0), strict=True))
"""… and where nothing but the end of a connection can tell."""
LEFT: Final = HEARING | {"none": LEFT_OUT, "other's": LEFT_OUT}
TICKET: Final = PLAIN | {"other's": 0}
HANDED_OVER: Final = dict(zip(CREDENTIALS, (0, 0, 0, 103, 0, 0), strict=True))
"""… and for commands by another request: the session's id is the credential, and only a request that proves
somebody else is refused."""
SENT: Final = dict.fromkeys(CREDENTIALS, 102) | {"good": 0}
"""… and where a session is bound to what its first request proved: for all others there is none."""
OPERATOR: Final = dict(zip(CREDENTIALS, (101, 101, 101, 101, 101, 0), strict=True))

NAMESPACE: Final = dict(zip(CREDENTIALS, (0, 101, 109, 0, 103, 0), strict=True))
"""… and to connect to a namespace of Socket.IO: nobody may come, as to a session."""
IN_NAMESPACE: Final = dict(zip(CREDENTIALS, (103, 101, 109, 103, 103, 0), strict=True))
"""… and for an event there, which cannot be sent by who was refused."""
SOCKETIO: Final = {"connect": NAMESPACE, "subscribe": IN_NAMESPACE, "publish": IN_NAMESPACE}

READS: Final = {"connect": PLAIN, "subscribe": PLAIN}
SESSION: Final = dict.fromkeys(ACTIONS, IN_SESSION) | {"connect": CONNECTING}
ONE_WAY: Final = {"connect": HEARING, "subscribe": LEFT}

EXPECTED: Final[Mapping[str, Mapping[str, Mapping[str, int]]]] = {
    "poll": READS,
    "long-poll": READS,
    "stream": READS,
    "sse": READS,
    "websocket": READS | {"publish": PLAIN},
    "websocket everywire.json": READS | {"publish": PLAIN},
    "publish": {"publish": PLAIN},
    "history": {"history": PLAIN},
    "presence": {"presence": PLAIN},
    "delete": {"publish": PLAIN},
    "/ticket": {"connect": TICKET},
    "/connection/websocket": SESSION,
    "/connection/websocket protobuf": SESSION,
    "/connection/http_stream": SESSION,
    "/connection/http_stream protobuf": SESSION,
    "/connection/sse": SESSION,
    "/connection/sse POST": SESSION,
    "/connection/poll": SESSION,
    "/connection/poll protobuf": SESSION,
    "/connection/uni_websocket": ONE_WAY,
    "/connection/uni_http_stream": ONE_WAY,
    "/connection/uni_sse": ONE_WAY,
    "/connection/uni_sse POST": ONE_WAY,
    "/emulation": {action: HANDED_OVER for action in ACTIONS if action != "connect"},
    "/sockjs websocket": SESSION,
    "/sockjs xhr": SESSION,
    "/sockjs xhr_send": {action: SENT for action in ACTIONS if action != "connect"},
    "/socket.io websocket": SOCKETIO,
    "/socket.io polling": SOCKETIO,
    "/api/": dict.fromkeys(ACTIONS, OPERATOR),
}
"""By wire and action what each credential is answered; an action that is missing cannot be tried there."""

SERVERS: Final = {
    "connection_emulation.serve_emulation": "/emulation",
    "connection_poll.serve_poll": "/connection/poll",
    "connection_socket.serve_uni_websocket": "/connection/uni_websocket",
    "connection_socket.serve_websocket": "/connection/websocket",
    "connection_stream.serve_http_stream": "/connection/http_stream",
    "connection_stream.serve_sse": "/connection/sse",
    "connection_stream.serve_uni_http_stream": "/connection/uni_http_stream",
    "connection_stream.serve_uni_sse": "/connection/uni_sse",
    "longpoll.serve_long_poll": "long-poll",
    "members.serve_presence": "presence",
    "poll.serve_page": "poll",
    "publish.serve_publish": "publish",
    "stream.serve_sse": "sse",
    "stream.serve_stream": "stream",
    "ticket.serve_ticket": "/ticket",
    "websocket.serve_websocket": "websocket",
}
"""The functions that serve requests, and the wire that they are tried by."""


def shown(kind: str) -> str:
    """Return a token of a kind. Short-lived: some wires have it in the URL."""
    if kind == "bad":
        return jwt.encode({"sub": "ann"}, "another secret, of somebody else altogether", "HS256")
    return {
        "none": "",
        "expired": token("ann", -10.0),
        "other's": token("bob", 30.0),
        "revoked": token("ann", 30.0, jti="revoked"),
        "good": token("ann", 30.0),
    }[kind]


def is_empty(site: Site) -> bool:
    visitors = site.wire.shared.registry.statistics()
    return not site.wire.hub.channels_read() and visitors == {"visitors": 0, "sessions": 0, "users": 0}


@pytest.mark.parametrize("wire", EXPECTED)
async def test_the_matrix(serve: Serve, wire: str) -> None:
    attempt = ATTEMPTS[wire]
    expected = EXPECTED[wire]
    answered: dict[str, dict[str, int]] = {action: {} for action in expected}
    async with serve(**knowing(user_rules=OWN, api_keys={"service": "sesame-sesame"})) as site:
        revocations = site.wire.shared.authority.revocations
        assert revocations is not None
        await revocations.revoke_token("revoked")
        await site.publish(CHANNEL, "kept")
        for kind in CREDENTIALS:
            credential = "sesame-sesame" if (wire, kind) == ("/api/", "good") else shown(kind)
            for action in ACTIONS:
                code = await attempt(site, action, CHANNEL, credential)
                if action in expected:
                    assert code is not None, (wire, action)
                    answered[action][kind] = code
                else:
                    assert code is None, (wire, action)
            if kind != "good" and wire != "/emulation":
                # Whatever was refused was not done.
                kept = (await page(site, CHANNEL, bearer("ann")))["publications"]
                assert [one["data"] for one in kept] == ["kept"], kind
        assert answered == expected
        await until(lambda: is_empty(site))


def test_every_wire_of_the_source_is_in_the_matrix() -> None:
    wires = {name.partition(" ")[0] for name in EXPECTED}
    others = {"/ticket", "/sockjs", "/socket.io", "/api/"}
    assert {*plain.TRANSPORTS, *connection.ADDRESSES, *others} == wires
    assert EXPECTED.keys() == ATTEMPTS.keys()


def test_whatever_serves_requests_is_in_the_matrix() -> None:
    found = set()
    for module in pkgutil.iter_modules(everywire.transports.__path__):
        source = importlib.import_module(f"everywire.transports.{module.name}")
        for name, value in vars(source).items():
            if name.startswith("serve_") and inspect.isfunction(value):
                found.add(f"{value.__module__.rpartition('.')[2]}.{name}")
    assert found == SERVERS.keys()
    assert set(SERVERS.values()) <= EXPECTED.keys()
