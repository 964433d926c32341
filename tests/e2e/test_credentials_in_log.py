"""No credential ever reaches the log: every kind, in every place, good or bad, at the log's lowest level."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import jwt
import websockets

from tests.cli.commands import DEADLINE_S, running

SECRET: Final = "a secret of the tests, which is long enough"
KEY: Final = "sesame-sesame-sesame"
CONFIG: Final = f"""
[log]
level = "debug"
file = "FILE"
[rules]
api_keys = [{{name = "service", key = "{KEY}"}}]
user_read = ["*"]
user_publish = ["*"]
[tokens]
secret = "{SECRET}"
cookie = "auth"
[limits]
tickets_per_minute = 10000
"""
WIRES: Final = {
    "sse": {"Accept": "text/event-stream"},
    "stream": {"Accept": "application/x-ndjson"},
    "poll": {"Accept": "application/json"},
}
Headers = Mapping[str, str]


class Credentials:
    """What was shown to the server; none of it may be found again."""

    def __init__(self) -> None:
        self.secrets: set[str] = {KEY, SECRET}

    def keep(self, secret: str) -> str:
        """Look for this, too."""
        self.secrets.add(secret)
        return secret

    def token(self, lasts_s: float = 60.0, secret: str = SECRET, **claims: Any) -> str:
        """Sign a token."""
        claims = {"sub": "ann", "exp": time.time() + lasts_s, "jti": str(len(self.secrets)), **claims}
        return self.keep(jwt.encode(claims, secret, "HS256"))

    def all_tokens(self) -> list[str]:
        """Return a good token, and every kind of bad one."""
        forged = self.token(secret="another secret, which is as long as it has to be")
        broken = self.keep(self.token()[:-5] + "broke")
        algorithm = self.keep(jwt.encode({"sub": "ann"}, "", "none"))
        kinds = [self.token(lasts_s=20), self.token(lasts_s=-60), self.token(lasts_s=9_000)]
        return [*kinds, forged, broken, algorithm, self.keep("n0nsense-" * 4), self.keep("x" * 9_000)]

    def found_in(self, text: str) -> list[str]:
        """Return what of it stands in a text, also in part: a token's signature, a piece of a key."""
        pieces = {piece for secret in self.secrets for piece in secret.split(".") if len(piece) >= 12}
        pieces |= {secret[:16] for secret in self.secrets} | {secret[-16:] for secret in self.secrets}
        return [piece for piece in pieces if piece in text or quote(piece, safe="") in text]


async def plain(http: httpx.AsyncClient, credentials: Credentials) -> None:
    """Show everything on the plain wires: headers, query, cookie, tickets."""
    keys = [KEY, credentials.keep("wrong-wrong-wrong-wrong")]
    for value in [*credentials.all_tokens(), *keys]:
        places: list[tuple[Headers, str]] = [
            ({"Authorization": f"Bearer {value}"}, ""),
            ({"Authorization": f"ApiKey {value}"}, ""),
            ({"Authorization": f"Basic {value}"}, ""),
            ({"X-API-Key": value}, ""),
            ({"Cookie": f"auth={value}"}, ""),
            ({}, f"token={value}"),
            ({}, f"ticket={value}"),
            ({}, f"api_key={value}"),
            ({}, f"%74oken={value}"),
            ({}, f"access_token={value}&after=earliest"),
        ]
        for headers, query in places:
            for wire in WIRES.values():
                await begin(http, f"/channels/a?{query}", {**wire, **headers})
            await http.post(f"/channels/a?{query}", json=1, headers=headers)
            await http.post(f"/ticket?{query}", headers=headers)
            await http.post(f"/api/info?{query}", json={}, headers=headers)
            await websocket(http, f"/channels/a?{query}", headers)
    for _ in range(3):
        answer = await http.post(
            "/ticket",
            headers={"Authorization": f"Bearer {credentials.token()}", "Origin": str(http.base_url)},
        )
        ticket = credentials.keep(answer.json()["ticket"])
        for _ in range(2):  # a second time it is refused, and that is logged
            await begin(http, f"/channels/a?ticket={ticket}", WIRES["sse"])
            await websocket(http, f"/channels/a?ticket={ticket}", {})
        await begin(http, "/channels/a", {"Authorization": f"Bearer {ticket}"})


async def sessions(http: httpx.AsyncClient, credentials: Credentials) -> None:
    """Show everything on the carriers of sessions, in the connect command and beside it."""
    for value in [*credentials.all_tokens(), KEY]:
        connect = {
            "id": 1,
            "connect": {"token": value, "data": {"password": credentials.keep("hunter2-hunter2-")}},
        }
        subscribe = {"id": 2, "subscribe": {"channel": "a", "token": value}}
        body = f"{json.dumps(connect)}\n{json.dumps(subscribe)}"
        refresh = json.dumps({"id": 3, "refresh": {"token": value}})
        again = json.dumps({"id": 4, "sub_refresh": {"channel": "a", "token": value}})
        body = f"{body}\n{refresh}\n{again}"
        credentials.keep(quote(body)[:60])
        for path in ("http_stream", "sse", "poll"):
            await begin(http, f"/connection/{path}", {}, body)
            await begin(
                http, f"/connection/{path}", {"Authorization": f"Bearer {value}"}, '{"id":1,"connect":{}}'
            )
        one_way = json.dumps(connect["connect"])
        for path in ("uni_http_stream", "uni_sse"):
            await begin(http, f"/connection/{path}", {}, one_way)
        await begin(http, f"/connection/sse?cf_connect={quote(body)}", {})
        await begin(http, f"/connection/sse?cf%5Fconnect={quote(body)}", {})
        await begin(http, f"/connection/uni_sse?cf_connect={quote(one_way)}", {})
        await websocket(http, "/connection/websocket", {}, body)
        await websocket(http, f"/connection/websocket?token={value}", {"Cookie": f"auth={value}"}, body)
        await websocket(http, "/connection/uni_websocket", {}, one_way)
        emulated = {"session": value, "node": credentials.keep(value[:40]), "data": refresh}
        await http.post("/emulation", json=emulated)


async def sockjs(http: httpx.AsyncClient, credentials: Credentials) -> None:
    """Ask for sessions of SockJS, whose ids are as good as credentials, and show tokens there."""
    polls, streams = ("xhr", "xhr_send", "xhr_streaming", "jsonp_send"), ("eventsource", "htmlfile", "jsonp")
    for number, value in enumerate(credentials.all_tokens()):
        session = f"/sockjs/000/{credentials.keep(f'session-number-{number}')}"
        for name in (*polls, *streams, "nothing"):
            await begin(http, f"{session}/{name}?c=x&token={value}", {}, "[]" if name in polls else "")
            await begin(http, f"{session}/{name}?c=x", {"Cookie": f"auth={value}"}, "[")
            await http.options(f"{session}/{name}?ticket={value}")
        hello = json.dumps([json.dumps({"id": 1, "connect": {"token": value}})])
        await websocket(http, f"{session}/websocket?token={value}", {"Cookie": f"auth={value}"}, hello)


async def begin(http: httpx.AsyncClient, target: str, headers: Headers, body: str = "") -> None:
    """Make a request, look at the beginning of its answer, and leave."""
    method = "POST" if body else "GET"
    async with http.stream(method, target, headers=headers, content=body or None) as response:
        if response.status_code == 200:
            try:
                async with asyncio.timeout(0.05):
                    async for _ in response.aiter_raw():
                        pass
            except TimeoutError:
                pass


async def websocket(http: httpx.AsyncClient, target: str, headers: Headers, text: str = "") -> None:
    """Shake hands, say something, hear an answer, leave."""
    url = str(http.base_url).replace("http", "ws").rstrip("/") + target
    try:
        async with asyncio.timeout(DEADLINE_S):
            async with websockets.connect(url, additional_headers=dict(headers), proxy=None) as socket:
                if text:
                    await socket.send(text)
                    await socket.recv()
    except (websockets.WebSocketException, OSError):
        pass


async def test_no_credential_reaches_the_log(tmp_path: Path) -> None:
    config, log = tmp_path / "everywire.toml", tmp_path / "everywire.log"
    config.write_text(CONFIG.replace("FILE", str(log)))
    credentials = Credentials()
    async with running("--config", str(config), deadline_s=4 * DEADLINE_S) as server:
        limits = httpx.Limits(max_connections=20)
        options: dict[str, Any] = {"timeout": DEADLINE_S, "trust_env": False, "limits": limits}
        async with httpx.AsyncClient(base_url=server.url, **options) as http:
            await asyncio.gather(*[show(http, credentials) for show in (plain, sessions, sockjs)])
        server.process.terminate()
        out, err = await server.process.communicate()
    written = log.read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    # It was all written down, as JSON, and none of it with a credential.
    events = {line["event"] for line in lines}
    assert {"start", "open", "close", "stop", "access"} <= events
    assert sum("ticket was refused" in line.get("message", "") for line in lines) >= 3
    assert any("cf_connect=***" in line.get("path", "") for line in lines)
    assert not err
    for text in (written, out.decode(), server.greeting):
        assert not credentials.found_in(text)
