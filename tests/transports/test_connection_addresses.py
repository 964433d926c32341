"""The addresses of sessions: methods, origins, emulation, one-way carriers, credentials in URLs and logs."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from typing import Any
from urllib.parse import quote

import httpx
import httpx_sse
import jwt
import pytest

from everywire import Everywire
from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from everywire.core import codes
from everywire.server.options import Address, ServerOptions
from everywire.server.server import Server
from tests.serving import Site
from tests.talking import CONNECT, over_http_stream, over_posted_sse, over_sse, over_websocket
from tests.transports.conftest import Serve

SECRET = "a secret that is long enough for tests"
ADDRESSES = {
    "/connection/websocket": "GET",
    "/connection/http_stream": "POST",
    "/connection/sse": "GET, POST",
    "/connection/poll": "POST",
    "/connection/uni_websocket": "GET",
    "/connection/uni_http_stream": "POST",
    "/connection/uni_sse": "GET, POST",
    "/emulation": "POST",
}


def token(user: str = "ann", ends_s: float = 3600, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time() + ends_s), **claims}, SECRET, "HS256")


def emulation(session: str, node: str, *commands: Any) -> dict[str, str]:
    return {"session": session, "node": node, "data": "\n".join(map(json.dumps, commands))}


# -- methods and origins -----------------------------------------------------------------


@pytest.mark.parametrize(("path", "methods"), ADDRESSES.items())
async def test_methods(site: Site, path: str, methods: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
        if method in methods:
            continue
        response = await site.http.request(method, path)
        assert response.status_code == 405
        assert response.headers["allow"] == f"{methods}, OPTIONS"
    response = await site.http.options(path)
    assert response.status_code == 204 and not response.content
    assert response.headers["allow"] == f"{methods}, OPTIONS"


@pytest.mark.parametrize("path", ["/connection/", "/connection/other", "/connection/sse/"])
async def test_nothing_else_is_there(site: Site, path: str) -> None:
    response = await site.http.post(path, content="{}")
    assert response.status_code == 404


@pytest.mark.parametrize("path", ADDRESSES)
async def test_foreign_origins_are_refused_before_anything(site: Site, path: str) -> None:
    for headers in (
        {"origin": "https://foreign.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ):
        for method in ("GET", "POST", "OPTIONS"):
            response = await site.http.request(method, path, headers=headers)
            assert response.status_code == 403
            assert "access-control-allow-origin" not in response.headers
    assert not site.wire.shared.registry.statistics()["visitors"]


@pytest.mark.parametrize("path", [path for path, methods in ADDRESSES.items() if "POST" in methods])
async def test_listed_origins_may_come(serve: Serve, path: str) -> None:
    origin = {"origin": "https://app.example"}
    preflight = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, authorization",
    }
    async with serve(allowed_origins=["https://app.example"]) as site:
        response = await site.http.options(path, headers=preflight)
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in response.headers["access-control-allow-methods"]
        allowed = response.headers["access-control-allow-headers"].lower()
        assert "content-type" in allowed and "authorization" in allowed
        async with site.http.stream("POST", path, content="x", headers=origin) as response:
            assert response.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_handshake_at_another_address_is_an_error(site: Site) -> None:
    for path in ("/connection/sse", "/connection/uni_sse"):
        with pytest.raises(Exception, match="HTTP 4") as refused:
            async with site.websocket(path):
                pass
        assert not isinstance(refused.value, TimeoutError)


# -- emulation ---------------------------------------------------------------------------


async def test_emulation_tells_nothing_to_who_has_no_session(site: Site) -> None:
    async with over_http_stream(site, CONNECT) as talk:
        await talk.connected()
        for session in ("", "nobody's", talk.client, talk.session[:-1]):
            body = emulation(session, talk.node, {"id": 2, "publish": {"channel": "a", "data": 1}})
            response = await site.http.post("/emulation", json=body)
            assert response.status_code == 204 and not response.content
        found = await site.wire.publish("a", "first")
        assert found.offset == 1
        response = await site.http.post("/emulation", json=emulation(talk.session, "elsewhere", {"id": 3}))
        assert response.status_code == 404
        await talk.send({"id": 4, "ping": {}})
        assert await talk.next() == {"id": 4, "ping": {}}


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '{"session":"s","node":"n"}', '{"data":{}}', '{"data":"","node":1}']
)
async def test_what_is_no_emulation_request(site: Site, body: str) -> None:
    response = await site.http.post("/emulation", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["name"] == "bad_request"


async def test_emulation_in_protobuf(site: Site) -> None:
    binary = {"content-type": "application/octet-stream"}
    async with site.http.stream(
        "POST", "/connection/http_stream", content=b"\x04\x08\x01\x22\x00", headers=binary
    ) as response:
        raw = response.aiter_raw()
        reply = await anext(raw)
        (visitor,) = site.wire.shared.registry._directory.known()
        session, node = visitor.session_id.encode(), site.wire.broker.node.encode()  # type: ignore[attr-defined]
        assert session in reply and node in reply
        fields = [(0x0A, node), (0x12, session), (0x1A, b"\x04\x08\x02\x5a\x00")]
        body = b"".join([bytes([tag, len(value)]) + value for tag, value in fields])
        assert (await site.http.post("/emulation", content=body, headers=binary)).status_code == 204
        assert await anext(raw) == b"\x04\x08\x02\x62\x00"
        wrong = await site.http.post("/emulation", content=b"\xff", headers=binary)
        assert wrong.status_code == 400


# -- one way -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uni_websocket", "uni_http_stream", "uni_sse", "uni_sse by post"])
async def test_one_way(serve: Serve, name: str) -> None:
    opening = {
        "uni_websocket": over_websocket,
        "uni_http_stream": over_http_stream,
        "uni_sse": over_sse,
        "uni_sse by post": over_posted_sse,
    }[name]
    connect = {"token": token(channels=["a"])}
    async with serve(dev=False, tokens=Tokens(secret=SECRET)) as site:
        await site.publish("a", 1)
        if name == "uni_sse":
            connect["token"] = token(channels=["a"], ends_s=50)
        async with opening(site, connect, path=f"/connection/{name.partition(' ')[0]}") as talk:
            result = await talk.connected()
            assert "pong" not in result and "node" not in result
            assert result["session"] and result["subs"]["a"]["offset"] == 1
            await site.publish("a", 2)
            pushed = await talk.next()
            assert pushed["channel"] == "a" and pushed["pub"]["data"] == 2
            session = site.wire.shared.registry.by_client(talk.client)
            assert session is not None
            session.disconnect(codes.DISCONNECTED, "enough")
            told = (await talk.next())["disconnect"]
            assert told == {"code": codes.DISCONNECTED.number, "reason": "enough"}
            assert (await talk.ended()).code == codes.DISCONNECTED.number
        since = {"a": {"recover": True, "epoch": result["subs"]["a"]["epoch"], "offset": 1}}
        async with opening(
            site, {**connect, "subs": since}, path=f"/connection/{name.partition(' ')[0]}"
        ) as talk:
            again = (await talk.connected())["subs"]["a"]
            assert [one["data"] for one in again["publications"]] == [2]


async def test_one_way_refusals_are_disconnects(serve: Serve) -> None:
    async with serve(dev=False, tokens=Tokens(secret=SECRET)) as site:
        for opening, path in (
            (over_websocket, "uni_websocket"),
            (over_http_stream, "uni_http_stream"),
            (over_sse, "uni_sse"),
        ):
            async with opening(site, {"token": "x.y.z"}, path=f"/connection/{path}") as talk:
                told = (await talk.next())["disconnect"]
                assert told["code"] == codes.INVALID_TOKEN.number and told["reason"]
                assert (await talk.ended()).code == codes.INVALID_TOKEN.number


async def test_a_one_way_sse_needs_to_say_nothing(site: Site) -> None:
    async with httpx_sse.aconnect_sse(site.http, "GET", "/connection/uni_sse") as source:
        event = await anext(source.aiter_sse())
        assert event.event == "message" and not event.id
        assert json.loads(event.data)["connect"]["client"]


async def test_a_one_way_websocket_by_its_url_hears_nothing_more(site: Site) -> None:
    target = "/connection/uni_websocket?cf_connect=null"
    async with over_websocket(site, path=target) as talk:
        await talk.connected()
        await talk.send({"id": 2, "publish": {"channel": "a", "data": 1}}, {"nonsense": 1})
        session = site.wire.shared.registry.by_client(talk.client)
        assert session is not None
        session.message(b'"still here"')  # type: ignore[attr-defined]
        assert await talk.next() == {"message": {"data": "still here"}}
        assert (await site.wire.publish("a", 2)).offset == 1


# -- credentials -----------------------------------------------------------------------------


async def test_a_token_in_a_url_lives_a_minute_at_most(serve: Serve) -> None:
    async with serve(dev=False, tokens=Tokens(secret=SECRET)) as site:
        for ends_s, is_good in ((3600, False), (50, True)):
            connect = {"id": 1, "connect": {"token": token(ends_s=ends_s)}}
            async with over_sse(site, connect) as talk:
                told = await talk.next()
                assert ("connect" in told) is is_good, told
                assert is_good or told["error"]["code"] == codes.UNAUTHORIZED.number
            async with over_posted_sse(site, connect) as talk:
                await talk.connected()
        # The command's own token counts before the URL's, and did not stand there.
        target = f"/connection/websocket?token={token('eve')}"
        async with over_websocket(site, {"id": 1, "connect": {"token": token()}}, path=target) as talk:
            await talk.connected()
            session = site.wire.shared.registry.by_client(talk.client)
            assert session is not None and session.identity.user == "ann"


async def test_a_ticket_in_a_url_is_good_once(serve: Serve) -> None:
    async with serve(dev=False, tokens=Tokens(secret=SECRET)) as site:
        headers = {"authorization": f"Bearer {token()}"}
        ticket = (await site.http.post("/ticket", headers=headers)).json()["ticket"]
        connect = {"id": 1, "connect": {"token": ticket}}
        async with over_sse(site, connect) as talk:
            await talk.connected()
        async with over_sse(site, connect) as talk:
            told = await talk.next()
            assert told["error"]["code"] == codes.UNAUTHORIZED.number


async def test_a_cookie_counts_only_where_no_form_could_send_it(serve: Serve) -> None:
    options: Any = {
        "dev": False,
        "tokens": Tokens(secret=SECRET),
        "cookie_name": "t",
        "user_rules": {Action.READ: ["a"]},
    }
    async with serve(**options) as site:
        body = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"a"}}'
        for content_type, is_known in (
            ("application/json", True),
            ("text/plain", False),
            ("application/x-www-form-urlencoded", False),
            ("application/x-ndjson", False),
        ):
            headers = {"cookie": f"t={token()}", "content-type": content_type}
            response = await site.http.post("/connection/poll", content=body, headers=headers)
            reply = json.loads(response.text.splitlines()[1])
            assert ("subscribe" in reply) is is_known, (content_type, reply)


async def test_the_log_holds_no_credential(certificate: tuple[str, str]) -> None:
    wire = Everywire(is_loopback=True, tokens=Tokens(secret=SECRET))
    with tempfile.TemporaryFile() as log:
        options = ServerOptions(listen=(Address(port=0),), log_fd=log.fileno(), log_level="debug")
        server = Server(wire.handle, options)
        await wire.start()
        await server.start()
        secret = token("mallory", 50)
        connect = quote(json.dumps({"id": 1, "connect": {"token": secret}}))
        try:
            one_each = {"connection": "close"}
            async with httpx.AsyncClient(
                base_url=server.addresses[0], trust_env=False, headers=one_each
            ) as client:
                for target in (
                    f"/connection/sse?cf_connect={connect}",
                    f"/connection/uni_sse?cf_connect={quote(json.dumps({'token': secret}))}",
                    f"/connection/uni_sse?token={secret}&x=1",
                    f"/connection/sse?cf%5fconnect={connect}",
                ):
                    async with client.stream("GET", target) as response:
                        await response.aiter_raw().__anext__()
                for name in ("ticket", "access_token", "api_key"):
                    await client.post(f"/connection/poll?{name}={secret}", content="{}")
            await asyncio.sleep(0.05)
        finally:
            await server.close()
            await wire.close()
        log.seek(0)
        written = log.read().decode()
    assert "cf_connect=***" in written and "/connection/uni_sse?token=***&x=1" in written
    assert written.count('"event":"open"') == 7
    assert secret not in written and secret.rpartition(".")[2] not in written
