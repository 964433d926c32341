"""What a page of another site can make a browser do with its visitor's cookies: nothing.

The first guard is the gate, which refuses foreign origins. These are about what stands behind it, for
browsers that do not say where a request comes from, and servers that let pages of any origin come.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final
from urllib.parse import quote

import jwt
import pytest
import websockets

from everywire.access.hooks import Hooks
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.access.tokens import Tokens
from tests.talking import lines, over_posted_sse, over_sse, over_websocket
from tests.transports.conftest import Serve

SECRET: Final = "a secret that only this test and its server know"
EVIL: Final = {"Origin": "https://evil.example"}
OPTIONS: Final[dict[str, Any]] = {
    "dev": False,
    "tokens": Tokens(secret=SECRET),
    "cookie_name": "id",
    "user_rules": {action: ["*"] for action in Action},
    "public": {Action.READ: ["*"]},
}
CHANGES: Final = (
    {"id": 2, "publish": {"channel": "news", "data": "forged"}},
    {"id": 2, "rpc": {"method": "pay", "data": 1}},
    {"send": {"data": "forged"}},
)


def cookie() -> dict[str, str]:
    """Return the cookie of a visitor who signed in."""
    token = jwt.encode({"sub": "ann", "exp": time.time() + 600}, SECRET, "HS256")
    return {"Cookie": f"id={token}"}


def of_application(name: str) -> Hooks:
    """Return hooks of an application that knows its users by a cookie of its own."""

    async def authenticate(request: AuthRequest) -> Identity | None:
        return Identity(user="ann") if name in request.cookies else None

    return Hooks(authenticate=authenticate)


@pytest.mark.parametrize("change", CHANGES)
async def test_what_an_image_can_get_changes_nothing(serve: Serve, change: dict[str, Any]) -> None:
    """A GET of SSE brought a publication along: ``<img src="…/connection/sse?cf_connect=…">`` on any page
    published in the name of its visitor, where the browser did not say that it was another site's."""
    async with serve(**OPTIONS) as site:
        asked = f'{{"id":1,"connect":{{}}}}\n{json.dumps(change)}'
        answer = await site.http.get(f"/connection/sse?cf_connect={quote(asked)}", headers=cookie())
        assert answer.status_code == 400 and "/emulation" in answer.json()["error"]["message"]
        assert (await site.http.get("/channels/news")).json()["publications"] == []


async def test_what_reads_may_stand_in_a_url(serve: Serve) -> None:
    commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "a"}}, {"id": 3, "ping": {}})
    async with serve(**OPTIONS) as site, over_sse(site, *commands, headers=cookie()) as talk:
        await talk.connected()
        assert [(await talk.next())["id"], (await talk.next())["id"]] == [2, 3]
    async with serve(**OPTIONS) as site:
        posted = ({"id": 1, "connect": {}}, {"id": 2, "publish": {"channel": "a", "data": 1}})
        headers = {**cookie(), "Content-Type": "application/json"}
        async with over_posted_sse(site, *posted, headers=headers) as talk:
            await talk.connected()
            assert await talk.next() == {"id": 2, "publish": {}}


@pytest.mark.parametrize("query", ["", "?token=x", "?ticket=x"])
async def test_a_form_cannot_publish_by_adding_something_to_the_address(serve: Serve, query: str) -> None:
    """An application judged by its cookie, and a ``?token=`` that nobody looked at made the request count as
    one that shows more than cookies, so that it needed no JSON type."""
    shown = {"Cookie": "app=ann"}
    async with serve(**{**OPTIONS, "hooks": of_application("app")}) as site:
        answer = await site.http.post(f"/channels/news{query}", content="1", headers=shown)
        assert answer.status_code in (401, 403)
        assert (await site.http.get("/channels/news")).json()["publications"] == []
        if not query:
            headers = {**shown, "Content-Type": "application/json"}
            assert (await site.http.post("/channels/news", content="1", headers=headers)).status_code == 201


@pytest.mark.parametrize("origins", [["*"], [EVIL["Origin"]]])
async def test_cookies_do_not_count_from_pages_that_may_come_without_them(
    serve: Serve, origins: list[str]
) -> None:
    """CORS has no say in WebSockets: where any origin may come, any page had a session of its visitor's."""
    async with serve(**OPTIONS, allowed_origins=origins) as site:
        async with over_websocket(site, headers={**cookie(), **EVIL}) as talk:
            await talk.send({"id": 1, "connect": {}}, {"id": 2, "publish": {"channel": "news", "data": 1}})
            await talk.connected()
            assert (await talk.next())["error"]["code"] == 103
        async with site.websocket("/channels/news", headers={**cookie(), **EVIL}) as socket:
            await socket.send("1")
            with pytest.raises(websockets.ConnectionClosed) as ended:
                await socket.recv()
            assert ended.value.rcvd is not None and ended.value.rcvd.code == 3507
        for headers in ({}, {"Content-Type": "application/json"}):
            shown = {**cookie(), **EVIL, **headers}
            assert (await site.http.post("/channels/news", content="1", headers=shown)).status_code == 401
            assert (await site.http.post("/ticket", content="{}", headers=shown)).status_code == 401


async def test_nor_do_they_over_socket_io_and_sockjs(serve: Serve) -> None:
    async with serve(**OPTIONS, allowed_origins=["*"]) as site:
        headers = {**cookie(), **EVIL}
        async with site.websocket("/socket.io/?EIO=4&transport=websocket", headers=headers) as socket:
            await socket.recv()
            await socket.send("40")
            await socket.recv()
            await socket.send('420["publish","news",1]')
            assert '"code":103' in await socket.recv()
        commands = lines({"id": 1, "connect": {}}, {"id": 2, "publish": {"channel": "news", "data": 1}})
        async with site.websocket("/sockjs/0/0/websocket", headers=headers) as socket:
            assert await socket.recv() == "o"
            await socket.send(json.dumps([commands]))
            told = ""
            while '"id":2' not in told.replace("\\", ""):
                told = str(await socket.recv())
            assert '"code":103' in told.replace("\\", "")


async def test_cookies_count_from_pages_that_may_send_them(serve: Serve) -> None:
    options = {**OPTIONS, "allowed_origins": [EVIL["Origin"]], "allow_credentials": True}
    async with serve(**options) as site:
        for origin in (EVIL["Origin"], site.url):
            headers = {**cookie(), "Origin": origin}
            async with over_websocket(site, headers=headers) as talk:
                await talk.send({"id": 1, "connect": {}}, {"id": 2, "publish": {"channel": "a", "data": 1}})
                await talk.connected()
                assert await talk.next() == {"id": 2, "publish": {}}
