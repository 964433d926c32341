"""Sessions over every carrier that goes both ways, on every host: the same conversation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
import websockets

from everywire.core import codes
from everywire.core.limits import Limits
from tests.serving import Site, until
from tests.talking import CONNECT, OPENINGS, Ended, Talk, over_http_stream, over_websocket
from tests.transports.conftest import Serve

Opening = Callable[..., AbstractAsyncContextManager[Talk]]


@pytest.fixture(params=OPENINGS.values(), ids=list(OPENINGS))
def opening(request: pytest.FixtureRequest) -> Opening:
    found: Opening = request.param
    return found


async def test_a_conversation(site: Site, opening: Opening) -> None:
    async with opening(site, CONNECT) as talk:
        result = await talk.connected()
        assert result["ping"] == 25 and result["pong"] is True
        await talk.send({"id": 2, "subscribe": {"channel": "a"}}, {"id": 3, "ping": {}})
        told = {reply["id"]: reply for reply in (await talk.next(), await talk.next())}
        assert told[2]["subscribe"]["recoverable"] is True
        assert told[3]["ping"] == {}
        await site.publish("a", "ä𝄞", [1])
        assert (await talk.next())["push"]["pub"]["data"] == "ä𝄞"
        assert (await talk.next())["push"]["pub"]["data"] == [1]
        await talk.send({"id": 4, "publish": {"channel": "a", "data": {"by": "me"}}})
        told4, pushed = sorted((await talk.next(), await talk.next()), key=lambda one: "push" in one)
        assert told4 == {"id": 4, "publish": {}}
        assert pushed["push"]["pub"]["info"]["client"] == talk.client
        await talk.send({"id": 5, "unsubscribe": {"channel": "a"}})
        assert await talk.next() == {"id": 5, "unsubscribe": {}}
        await site.publish("a", "nobody hears this")
        await talk.send({"id": 6, "history": {"channel": "a", "limit": 1, "reverse": True}})
        (publication,) = (await talk.next())["history"]["publications"]
        assert publication["data"] == "nobody hears this"


async def test_commands_behind_connect(site: Site, opening: Opening) -> None:
    await site.publish("a", 1, 2)
    subscribe = {"channel": "a", "recover": True, "offset": 1}
    async with opening(site, CONNECT, {"id": 2, "subscribe": subscribe}) as talk:
        await talk.connected()
        result = (await talk.next())["subscribe"]
        assert result["recovered"] and [one["data"] for one in result["publications"]] == [2]


async def test_only_emulated_clients_are_told_their_session(site: Site, opening: Opening) -> None:
    async with opening(site, CONNECT) as talk, opening(site, CONNECT) as other:
        await talk.connected()
        await other.connected()
        assert bool(talk.session) == bool(talk.node) == (opening is not over_websocket)
        assert talk.session != other.session or not talk.session
        assert talk.client not in talk.session


async def test_what_is_no_command_ends_it(site: Site, opening: Opening) -> None:
    async with opening(site, CONNECT) as talk:
        await talk.connected()
        await talk.send({"id": "two"})
        assert (await talk.ended()).code == codes.BAD_PROTOCOL.number


async def test_connect_comes_first(site: Site, opening: Opening) -> None:
    async with opening(site, {"id": 1, "subscribe": {"channel": "a"}}) as talk:
        assert (await talk.ended()).code == codes.BAD_PROTOCOL.number


async def test_the_server_ends_it(site: Site, opening: Opening) -> None:
    async with opening(site, CONNECT) as talk:
        await talk.connected()
        session = site.wire.shared.registry.by_client(talk.client)
        assert session is not None
        session.disconnect(codes.DISCONNECTED, "you know why")
        end = await talk.ended()
        assert (end.code, end.reason) == (codes.DISCONNECTED.number, "you know why")


async def test_the_server_stops(serve: Serve, opening: Opening) -> None:
    async with serve() as site, opening(site, CONNECT) as talk:
        await talk.connected()
        await site.drain(1.0)
        end = await talk.ended()
        assert end.code == codes.SHUTDOWN.number
        assert "come back in" in end.reason


async def test_a_client_that_leaves_is_forgotten(site: Site, opening: Opening) -> None:
    async with opening(site, CONNECT, {"id": 2, "subscribe": {"channel": "a"}}) as talk:
        await talk.connected()
        await talk.next()
        assert site.wire.hub.subscribers("a") == 1
    await until(lambda: site.wire.hub.subscribers("a") == 0)
    assert site.wire.shared.registry.by_client(talk.client) is None


async def test_pings_come_and_want_an_answer(serve: Serve) -> None:
    limits = Limits(ping_interval_s=1.0, pong_timeout_s=0.3)
    async with serve(limits=limits) as site, over_http_stream(site, CONNECT) as talk:
        assert (await talk.connected())["ping"] == 1
        assert (await talk.ended()).code == codes.NO_PONG.number


async def test_numbered_ticks_come_by_themselves(serve: Serve, opening: Opening) -> None:
    connect = {"id": 1, "connect": {"ticks": 2}}
    async with serve(limits=Limits(tick_interval_s=0.05)) as site, opening(site, connect) as talk:
        await talk.connected()
        assert [await talk.next() for _ in range(2)] == [{"push": {"tick": {"n": n}}} for n in (1, 2)]


async def test_a_reader_that_does_not_keep_up_misses_nothing(site: Site) -> None:
    """The log is its queue: what it was not told while it did not read comes from there."""
    text = "x" * 10_000
    async with site.websocket("/connection/websocket", max_queue=1) as socket:
        await socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"a"}}')
        while '"subscribe"' not in await socket.recv():
            pass
        for _ in range(90):
            await site.publish("a", text)
        await asyncio.sleep(0.2)
        offsets: list[int] = []
        while len(offsets) < 90:
            for line in (await socket.recv()).split("\n"):
                told = json.loads(line)
                if "push" in told:
                    offsets.append(told["push"]["pub"]["offset"])
        assert offsets == list(range(1, 91))


async def test_hundreds_of_replies_at_once(serve: Serve) -> None:
    """Under ASGI each is an event, and none of them may be one too many."""
    async with serve() as site:
        waiting = 0
        may_answer = asyncio.Event()

        @site.wire.rpc("echo", concurrency=200)
        async def echo(session: Any, data: Any) -> Any:
            nonlocal waiting
            waiting += 1
            await may_answer.wait()
            return data

        async with over_websocket(site, CONNECT) as talk:
            await talk.connected()
            ids = range(2, 202)
            await talk.send(*[{"id": n, "rpc": {"method": "echo", "data": n}} for n in ids])
            await until(lambda: waiting == len(ids))
            may_answer.set()
            told = [await talk.next() for _ in ids]
            assert sorted(one["id"] for one in told) == list(ids)
            assert all(one["rpc"]["data"] == one["id"] for one in told)


# -- WebSocket alone ------------------------------------------------------------------


async def test_protobuf_by_the_url_and_by_subprotocol(site: Site) -> None:
    connect = b"\x04\x08\x01\x22\x00"
    for target, subprotocols in (
        ("/connection/websocket?cf_protocol=protobuf", None),
        ("/connection/websocket?format=protobuf", None),
        ("/connection/websocket", ["centrifuge-protobuf"]),
        ("/connection/websocket?cf_protocol=protobuf", ["centrifuge-protobuf"]),
    ):
        async with site.websocket(target, subprotocols=subprotocols) as socket:
            assert socket.subprotocol == (subprotocols or [None])[0]
            await socket.send(connect)
            reply = await socket.recv()
            assert isinstance(reply, bytes) and b"\x08\x01" in reply and b"\x2a" in reply
            await socket.send("text")
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == codes.BAD_PROTOCOL.number


async def test_json_by_subprotocol_and_in_binary_messages(site: Site) -> None:
    async with site.websocket("/connection/websocket", subprotocols=["centrifuge-json"]) as socket:
        assert socket.subprotocol == "centrifuge-json"
        await socket.send(b'{"id":1,"connect":{}}')
        assert isinstance(await socket.recv(), str)


async def test_websockets_own_pings(site: Site) -> None:
    target = "/connection/websocket?cf_ws_frame_ping_pong=true"
    async with over_websocket(site, CONNECT, path=target) as talk:
        result = await talk.connected()
        assert "ping" not in result and "pong" not in result


async def test_a_long_reason_is_cut_where_a_character_ends(site: Site) -> None:
    async with over_websocket(site, CONNECT) as talk:
        await talk.connected()
        session = site.wire.shared.registry.by_client(talk.client)
        assert session is not None
        session.disconnect(codes.DISCONNECTED, "ä" * 200)
        end = await talk.ended()
        assert end.code == codes.DISCONNECTED.number
        assert set(end.reason) == {"ä"} and 59 <= len(end.reason) <= 61


async def test_a_plain_request_is_told_to_upgrade(site: Site) -> None:
    for path in ("/connection/websocket", "/connection/uni_websocket"):
        response = await site.http.get(path)
        assert response.status_code == 426


# -- streams alone ----------------------------------------------------------------------


async def test_the_head_comes_before_the_first_reply(serve: Serve) -> None:
    """Clients give up after five seconds without one, and a hook may take longer."""
    async with serve() as site:
        asked = asyncio.Event()
        may_go_on = asyncio.Event()

        async def wait(*_: Any) -> None:
            asked.set()
            await may_go_on.wait()

        site.wire.hooks.connect = wait
        for method, url, body in (
            ("POST", "/connection/http_stream", '{"id":1,"connect":{}}'),
            ("GET", "/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D", None),
        ):
            async with site.http.stream(method, url, content=body) as response:
                assert response.status_code == 200
                assert response.headers["x-accel-buffering"] == "no"
                assert "no-store" in response.headers["cache-control"]
                await asked.wait()
                may_go_on.set()
                async for line in response.aiter_lines():
                    if "connect" in line:
                        break
            asked.clear()
            may_go_on.clear()


async def test_http_stream_is_ascii(site: Site) -> None:
    async with site.http.stream("POST", "/connection/http_stream", json=CONNECT) as response:
        raw = response.aiter_raw()
        told = json.loads(await anext(raw))["connect"]
        subscribe = json.dumps({"id": 2, "subscribe": {"channel": "a"}})
        body = {"session": told["session"], "node": told["node"], "data": subscribe}
        assert (await site.http.post("/emulation", json=body)).status_code == 204
        await anext(raw)
        await site.publish("a", "ä€𝄞")
        pushed = await anext(raw)
        assert pushed.isascii() and json.loads(pushed)["push"]["pub"]["data"] == "ä€𝄞"


async def test_protobuf_over_http_stream(site: Site) -> None:
    headers = {"content-type": "application/octet-stream"}
    connect = b"\x04\x08\x01\x22\x00"
    url = "/connection/http_stream"
    async with site.http.stream("POST", url, content=connect, headers=headers) as response:
        assert response.headers["content-type"] == "application/octet-stream"
        reply = await anext(response.aiter_raw())
        assert reply[0] == len(reply) - 1 and b"\x2a" in reply


@pytest.mark.parametrize("path", ["http_stream", "sse", "uni_http_stream", "uni_sse", "poll"])
async def test_a_body_without_anything_is_an_error(site: Site, path: str) -> None:
    response = await site.http.post(f"/connection/{path}", content="\n")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == codes.BAD_REQUEST.number


async def test_sse_wants_its_connect_command(site: Site) -> None:
    assert (await site.http.get("/connection/sse")).status_code == 400


async def test_bodies_have_a_bound(serve: Serve) -> None:
    async with serve(limits=Limits(max_body_bytes=1000)) as site:
        for path in ("/connection/http_stream", "/connection/poll", "/emulation"):
            try:
                response = await site.http.post(path, content=b" " * 2000)
            except httpx.WriteError:
                continue  # it was answered, and closed, while we were sending
            assert response.status_code == 413


async def test_a_bare_cut_ends_the_stream_without_a_word(site: Site) -> None:
    async with over_http_stream(site, CONNECT) as talk:
        await talk.connected()
    assert talk.replies.empty() or isinstance(talk.replies.get_nowait(), Ended)
