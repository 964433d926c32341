"""Everywire inside an ASGI application of one's own, made of nothing but functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import uvicorn
import websockets

import everywire
from everywire import Everywire, Session
from tests.serving import DEADLINE_S

Message = dict[str, Any]
wire = Everywire(dev=True, is_loopback=True)


@wire.rpc("shout")
def shout(session: Session, data: str) -> str:
    everywire.publish("shouts", data)
    return data.upper()


@wire.produce("count:*")
async def count() -> AsyncIterator[int]:
    for number in range(100):
        yield number


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """The application: one page of its own, and Everywire for everything else."""
    if scope["type"] == "lifespan":
        await receive()
        async with wire.lifespan(app):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope.get("path") == "/order":
        published = await everywire.publish("orders", {"by": "page"})
        body = json.dumps({"offset": published.offset}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    else:
        await wire.asgi(scope, receive, send)


async def test_an_application_of_functions() -> None:
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="on", ws="websockets-sansio")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        host = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with (
            httpx.AsyncClient(base_url=f"http://{host}", trust_env=False, timeout=DEADLINE_S) as http,
            websockets.connect(f"ws://{host}/connection/websocket", proxy=None) as socket,
        ):
            assert (await http.get("/order")).json() == {"offset": 1}
            assert (await http.get("/channels/orders")).json()["publications"][0]["data"] == {"by": "page"}
            call = {"method": "shout", "data": "hello"}
            await socket.send(
                json.dumps({"id": 1, "connect": {}}) + "\n" + json.dumps({"id": 2, "rpc": call})
            )
            async with asyncio.timeout(DEADLINE_S):
                while "rpc" not in (reply := json.loads((await socket.recv()).splitlines()[-1])):
                    pass
            assert reply["rpc"]["data"] == "HELLO"
            assert (await http.get("/channels/shouts")).json()["publications"][0]["data"] == "hello"
            found: list[Any] = []
            query = "after=earliest&wait=20"
            while "end" not in [one.get("event") for one in found]:
                page = (await http.get(f"/channels/count:1?{query}")).json()
                found += page["publications"]
                query = f"after={page['position']}&wait=20"
            assert [one["data"] for one in found[:-1]] == list(range(100))
    finally:
        await server.shutdown()
