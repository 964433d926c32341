"""One way of trying each action on each wire, with some credential: what code does the server answer?

An attempt returns 0 when it was allowed, the code of the error when it was not, and None when the wire has
no way to try it. Where an error came as HTTP its status is checked against its code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final
from urllib.parse import quote

import httpx
import websockets
from msgspec import Raw, UnsetType

from everywire.codecs.centrifuge.messages import (
    Command,
    ConnectRequest,
    HistoryRequest,
    PublishRequest,
    Reply,
    SubscribeRequest,
    Target,
)
from everywire.codecs.centrifuge.protobuf_form import decode_message, delimited, encode_message, split
from everywire.core.codes import CODES
from everywire.transports.service import status_of
from tests.readers import READERS, Closed, Refused, take
from tests.serving import DEADLINE_S, Site
from tests.sockjs_talking import new_session, over_sockjs_polls, over_sockjs_websocket, poll, send
from tests.talking import Ended, Talk, over_http_stream, over_posted_sse, over_sse, over_websocket
from tests.transports.known import bearer

ACTIONS: Final = ("connect", "subscribe", "publish", "history", "presence")
Attempt = Callable[[Site, str, str, str], Awaitable[int | None]]
"""Tries an action on a channel with a token (none if empty): ``attempt(site, action, channel, token)``."""

_STATUSES: Final = {code.number: status_of(code) for code in CODES}
_BINARY: Final = {"Content-Type": "application/octet-stream"}


def shown(token: str) -> dict[str, str]:
    """Return the header fields that show a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def told(response: httpx.Response) -> int:
    """Return the code of an HTTP answer."""
    if response.status_code < 300:
        return 0
    code: int = response.json()["error"]["code"]
    assert response.status_code == _STATUSES[code], response.text
    return code


# -- the plain transports ------------------------------------------------------------


def reading(name: str) -> Attempt:
    """Read what is kept; publish where that is done on the same wire."""

    async def attempt(site: Site, action: str, channel: str, token: str) -> int | None:
        query = {"wait": "0.05"} if name == "long-poll" else {}
        try:
            if action in ("connect", "subscribe"):
                start = "latest" if action == "connect" else "earliest"
                kind = "open" if action == "connect" else "data"
                items = READERS[name](site, channel, shown(token), after=start, **query)
                async with aclosing(items):
                    await take(items, 1, kind)
            elif action == "publish" and name in ("websocket", "everywire.json"):
                return await _publish_over(site, name, channel, token)
            else:
                return None
        except Refused as refused:
            assert refused.status == _STATUSES[refused.error["code"]]
            return int(refused.error["code"])
        return 0

    return attempt


async def _publish_over(site: Site, name: str, channel: str, token: str) -> int:
    subprotocols = ["everywire.json"] if name == "everywire.json" else None
    connect = site.websocket(f"/channels/{channel}", headers=shown(token), subprotocols=subprotocols)
    try:
        async with connect as socket, asyncio.timeout(DEADLINE_S):
            await socket.send('{"id":1,"data":"sent"}' if subprotocols else '"sent"')
            async for message in socket:
                if not subprotocols:
                    return 0 if message == '"sent"' else -1
                answer = json.loads(message)
                if answer.get("id") == 1:
                    return int(answer.get("error", {}).get("code", 0))
            return int(socket.close_code or -1)
    except websockets.InvalidStatus as error:
        code = int(json.loads(error.response.body or b"{}")["error"]["code"])
        assert error.response.status_code == _STATUSES[code]
        return code
    except Closed as closed:
        return closed.code


def asking(only: str, method: str, rest: str = "", **options: Any) -> Attempt:
    """Send one request that is one action."""

    async def attempt(site: Site, action: str, channel: str, token: str) -> int | None:
        if action != only:
            return None
        path = f"/channels/{channel}{rest}"
        return told(await site.http.request(method, path, headers=shown(token), **options))

    return attempt


async def ticket(site: Site, action: str, channel: str, token: str) -> int | None:
    """Ask for a ticket."""
    if action != "connect":
        return None
    return told(await site.http.post("/ticket", headers=shown(token)))


# -- sessions, both ways -------------------------------------------------------------


def command(action: str, channel: str) -> dict[str, Any]:
    """Return the command for an action."""
    if action == "publish":
        return {"id": 2, "publish": {"channel": channel, "data": "sent"}}
    return {"id": 2, action: {"channel": channel}}


def connect(token: str) -> dict[str, Any]:
    """Return the connect command with a token."""
    return {"id": 1, "connect": {"token": token} if token else {}}


def talking(opening: Callable[..., AbstractAsyncContextManager[Talk]]) -> Attempt:
    """Connect with a token, then send a command."""

    async def attempt(site: Site, action: str, channel: str, token: str) -> int | None:
        async with opening(site, connect(token)) as talk:
            try:
                answer = await talk.next()
                if "error" in answer or "push" in answer or action == "connect":
                    return _last([answer])
                result = answer["connect"]
                talk.session, talk.node = result.get("session", ""), result.get("node", "")
                await talk.send(command(action, channel))
                while answer.get("id") != 2:
                    answer = await talk.next()
                return int(answer.get("error", {}).get("code", 0))
            except Ended as end:
                return end.code

    return attempt


async def polling(site: Site, action: str, channel: str, token: str) -> int | None:
    """Connect and send a command in one request, which is answered."""
    commands = [connect(token), *([] if action == "connect" else [command(action, channel)])]
    body = "\n".join(map(json.dumps, commands))
    response = await site.http.post("/connection/poll", content=body)
    assert response.status_code == 200, response.text
    return _last([json.loads(line) for line in response.text.splitlines()])


def _last(answers: list[dict[str, Any]]) -> int:
    """Return the code of the first answer that has one."""
    for answer in answers:
        ended = answer.get("push", {}).get("disconnect")
        code = (answer.get("error") or ended or {}).get("code", 0)
        if code:
            return int(code)
    return 0


# -- sessions in the Protobuf form ------------------------------------------------------


def _binary(action: str, channel: str, token: str) -> list[bytes]:
    """Return connect and the command of an action as Protobuf messages."""
    there = {
        "subscribe": Command(id=2, subscribe=SubscribeRequest(channel=channel)),
        "publish": Command(id=2, publish=PublishRequest(channel=channel, data=Raw(b"sent"))),
        "history": Command(id=2, history=HistoryRequest(channel=channel)),
        "presence": Command(id=2, presence=Target(channel=channel)),
    }
    first = Command(id=1, connect=ConnectRequest(token=token))
    both = [first] if action == "connect" else [first, there[action]]
    return [delimited(encode_message(one)) for one in both]


def _code_in(data: bytes) -> int:
    for message in split(data, 100):
        reply = decode_message(message, Reply)
        if reply.error is not None:
            return reply.error.code
        if reply.push is not None and not isinstance(reply.push, UnsetType) and reply.push.disconnect:
            return reply.push.disconnect.code
    return 0


async def binary_websocket(site: Site, action: str, channel: str, token: str) -> int | None:
    """Connect over a WebSocket with Protobuf, then send a command."""
    async with site.websocket("/connection/websocket?cf_protocol=protobuf") as socket:
        code = 0
        try:
            async with asyncio.timeout(DEADLINE_S):
                for message in _binary(action, channel, token):
                    await socket.send(message)
                    answer = await socket.recv()
                    assert isinstance(answer, bytes)
                    code = code or _code_in(answer)
                    if code:
                        break
        except websockets.ConnectionClosed:
            return socket.close_code
        return code


async def binary_polling(site: Site, action: str, channel: str, token: str) -> int | None:
    """The same in one request."""
    body = b"".join(_binary(action, channel, token))
    response = await site.http.post("/connection/poll", content=body, headers=_BINARY)
    assert response.status_code == 200, response.text
    return _code_in(response.content)


async def binary_http_stream(site: Site, action: str, channel: str, token: str) -> int | None:
    """The same at the beginning of an answer that does not end."""
    body = b"".join(_binary(action, channel, token))
    wanted = 1 if action == "connect" else 2
    request = site.http.stream("POST", "/connection/http_stream", content=body, headers=_BINARY)
    async with request as response, asyncio.timeout(DEADLINE_S):
        assert response.status_code == 200
        data = b""
        async for piece in response.aiter_bytes():
            data += piece
            try:
                messages = split(data, 100)
            except ValueError:
                continue
            if _code_in(data) or len(messages) >= wanted:
                return _code_in(data)
    return _code_in(data)


# -- sessions, one way -----------------------------------------------------------------


def hearing(method: str, path: str) -> Attempt:
    """Connect, asking for the channel from the start; what is not allowed is left out."""

    async def attempt(site: Site, action: str, channel: str, token: str) -> int | None:
        if action not in ("connect", "subscribe"):
            return None
        asked: dict[str, Any] = {"token": token} if token else {}
        if action == "subscribe":
            asked["subs"] = {channel: {}}
        first = await _first_push(site, method, path, json.dumps(asked))
        if "disconnect" in first:
            return int(first["disconnect"]["code"])
        if action == "connect":
            return 0
        return 0 if channel in first["connect"].get("subs", {}) else LEFT_OUT

    return attempt


LEFT_OUT: Final = -1
"""A one-way client that is connected, but not to the channel that it asked for."""


async def _first_push(site: Site, method: str, path: str, asked: str) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        if method == "websocket":
            async with site.websocket(path) as socket:
                await socket.send(asked)
                return json.loads(await socket.recv())
        url = path if method == "POST" else f"{path}?cf_connect={quote(asked)}"
        content = asked if method == "POST" else None
        async with site.http.stream(method, url, content=content) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith(("data: ", "{")):
                    return json.loads(line.removeprefix("data: "))
    raise AssertionError("the answer ended")


# -- the rest ------------------------------------------------------------------------


async def emulation(site: Site, action: str, channel: str, token: str) -> int | None:
    """Send a command by `/emulation`, showing a token, into the session of the channel's owner."""
    if action == "connect":
        return None
    owner = bearer(channel.rpartition(":")[2])
    async with over_http_stream(site, connect(owner["Authorization"].removeprefix("Bearer "))) as talk:
        await talk.connected()
        body = {"session": talk.session, "node": talk.node, "data": json.dumps(command(action, channel))}
        code = told(await site.http.post("/emulation", json=body, headers=shown(token)))
        if code:
            return code
        return int((await talk.next()).get("error", {}).get("code", 0))


async def sockjs_send(site: Site, action: str, channel: str, token: str) -> int | None:
    """Send a command by SockJS's `xhr_send`, showing a token, into the session of the channel's owner."""
    if action == "connect":
        return None
    owner = bearer(channel.rpartition(":")[2])
    session = new_session("/sockjs")
    frames: list[str] = [await poll(site, session, owner)]
    assert (await send(site, session, json.dumps(connect("")), headers=owner)).status_code == 204
    while "connect" not in frames[-1]:
        frames.append(await poll(site, session, owner))
    code = told(await send(site, session, json.dumps(command(action, channel)), headers=shown(token)))
    if code:
        return code
    while '\\"id\\":2' not in frames[-1]:
        frames.append(await poll(site, session, owner))
    return int('\\"error\\"' in frames[-1])


def _packets(action: str, channel: str, token: str) -> list[str]:
    """Return what connects a client of Socket.IO, and the event of an action."""
    auth = json.dumps({"token": token}) if token else ""
    args = [action, channel] if action == "subscribe" else [action, channel, "sent"]
    return [f"40{auth}"] if action == "connect" else [f"40{auth}", f"421{json.dumps(args)}"]


def _code_of(packet: str) -> int | None:
    """Return the code that a packet of Socket.IO tells; None when it answers nothing that was asked."""
    if packet.startswith("44"):
        return int(json.loads(packet[2:])["data"]["code"])
    if packet.startswith("431"):
        return int(json.loads(packet[3:])[0].get("error", {}).get("code", 0))
    return 0 if packet.startswith("40") else None


async def socketio_websocket(site: Site, action: str, channel: str, token: str) -> int | None:
    """Connect a client of Socket.IO over a WebSocket, then emit a built-in event."""
    if action in ("history", "presence"):
        return None
    code: int | None = None
    async with (
        site.websocket("/socket.io/?EIO=4&transport=websocket") as socket,
        asyncio.timeout(DEADLINE_S),
    ):
        assert str(await socket.recv()).startswith("0")
        for packet in _packets(action, channel, token):
            if code:
                break
            await socket.send(packet)
            code = None
            while code is None:
                code = _code_of(str(await socket.recv()))
        return code


async def socketio_polling(site: Site, action: str, channel: str, token: str) -> int | None:
    """The same by polls."""
    if action in ("history", "presence"):
        return None
    path = "/socket.io/?EIO=4&transport=polling"
    opened = json.loads((await site.http.get(path)).text[1:])
    path += f"&sid={opened['sid']}"
    code: int | None = None
    async with asyncio.timeout(DEADLINE_S):
        for packet in _packets(action, channel, token):
            if code:
                break
            assert (await site.http.post(path, content=packet)).text == "ok"
            code = None
            while code is None:
                answered = (await site.http.get(path)).text.split("\x1e")
                code = next((found for found in map(_code_of, answered) if found is not None), None)
        await site.http.post(path, content="1")
    return code


async def server_api(site: Site, action: str, channel: str, key: str) -> int | None:
    """Call a method of the server API."""
    methods: Mapping[str, Any] = {
        "publish": {"channel": channel, "data": "sent"},
        "history": {"channel": channel, "limit": 10},
        "presence": {"channel": channel},
        "subscribe": {"channel": channel, "user": "ann"},
        "connect": {},
    }
    path = "/api/info" if action == "connect" else f"/api/{action}"
    response = await site.http.post(path, json=methods[action], headers={"X-API-Key": key} if key else {})
    if response.status_code == 401:
        return 101
    assert response.status_code == 200, response.text
    return int(response.json().get("error", {}).get("code", 0))


ATTEMPTS: Final[Mapping[str, Attempt]] = {
    "poll": reading("poll"),
    "long-poll": reading("long-poll"),
    "stream": reading("stream"),
    "sse": reading("sse"),
    "websocket": reading("websocket"),
    "websocket everywire.json": reading("everywire.json"),
    "publish": asking("publish", "POST", content=b'"sent"'),
    "history": asking("history", "GET", "/history"),
    "presence": asking("presence", "GET", "/presence"),
    "delete": asking("publish", "DELETE"),
    "/ticket": ticket,
    "/connection/websocket": talking(over_websocket),
    "/connection/websocket protobuf": binary_websocket,
    "/connection/http_stream": talking(over_http_stream),
    "/connection/http_stream protobuf": binary_http_stream,
    "/connection/sse": talking(over_sse),
    "/connection/sse POST": talking(over_posted_sse),
    "/connection/poll": polling,
    "/connection/poll protobuf": binary_polling,
    "/connection/uni_websocket": hearing("websocket", "/connection/uni_websocket"),
    "/connection/uni_http_stream": hearing("POST", "/connection/uni_http_stream"),
    "/connection/uni_sse": hearing("GET", "/connection/uni_sse"),
    "/connection/uni_sse POST": hearing("POST", "/connection/uni_sse"),
    "/emulation": emulation,
    "/sockjs websocket": talking(over_sockjs_websocket),
    "/sockjs xhr": talking(over_sockjs_polls),
    "/sockjs xhr_send": sockjs_send,
    "/socket.io websocket": socketio_websocket,
    "/socket.io polling": socketio_polling,
    "/api/": server_api,
}
"""Every wire by the name that the source has for it; after a space, one of its forms."""
