"""A server with an API key, tokens and an application, and how its API is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import jwt

from everywire import Everywire
from everywire.access.hooks import Caller, Hooks
from everywire.access.identity import Action
from everywire.access.tokens import Tokens
from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden
from tests.serving import Site, serving
from tests.talking import Talk, over_websocket

KEY: Final = "a-key-of-some-length"
SECRET: Final = "a secret of the tests, which is long enough"
NOW_S: Final = 1_700_000_000


class Api:
    """The API of a server, called as documented."""

    def __init__(self, site: Site, calls: list[tuple[Any, ...]]) -> None:
        self.site = site
        self.calls = calls
        """What the application was called with."""

    @property
    def wire(self) -> Everywire:
        return self.site.wire

    async def post(self, method: str, request: Any = None, **headers: str) -> httpx.Response:
        """Send a request; header names have ``_`` for ``-``."""
        fields = {"x-api-key": KEY} | {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in fields.items() if value}
        if isinstance(request, bytes):
            return await self.site.http.post(f"/api/{method}", content=request, headers=given)
        return await self.site.http.post(f"/api/{method}", json=request or {}, headers=given)

    async def call(self, method: str, /, **request: Any) -> Any:
        """Return the result of a method."""
        response = await self.post(method, request)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        assert set(response.json()) == {"result"}, response.text
        return response.json()["result"]

    async def fails(self, method: str, /, **request: Any) -> tuple[int, str]:
        """Return code and message of the error that a method gives."""
        response = await self.post(method, request)
        assert response.status_code == 200, response.text
        assert set(response.json()) == {"error"}, response.text
        error = response.json()["error"]
        assert set(error) == {"code", "message"} and error["message"]
        return error["code"], error["message"]

    @asynccontextmanager
    async def session(self, user: str = "", *channels: str, **claims: Any) -> AsyncIterator[Talk]:
        """Connect a session of a user that is subscribed to channels."""
        connect = {"token": token(user, **claims)} if user else {}
        commands: list[dict[str, Any]] = [{"id": 1, "connect": connect}]
        commands += [
            {"id": number, "subscribe": {"channel": channel}} for number, channel in enumerate(channels, 2)
        ]
        async with over_websocket(self.site, *commands) as talk:
            await talk.connected()
            for _ in channels:
                assert "subscribe" in await talk.next()
            yield talk


def token(user: str, **claims: Any) -> str:
    """Make a connection token."""
    return jwt.encode({"sub": user, **claims}, SECRET, "HS256")


@asynccontextmanager
async def api(host: str = "own", **options: Any) -> AsyncIterator[Api]:
    """Run a server whose channels anyone may read; its application answers ``echo`` and fails otherwise."""
    calls: list[tuple[Any, ...]] = []

    async def rpc(caller: Caller, method: str, data: bytes) -> bytes:
        calls.append((caller, method, data))
        if method == "echo":
            return data
        if method == "refuse":
            raise Forbidden("not you")
        if method == "own":
            raise EverywireError("my error", code=codes.Code(1234, "own", 0, ""))
        if method == "nonsense":
            return b"{"
        raise ValueError("a secret of the application")

    options = {
        "dev": False,
        "api_keys": {"ops": KEY},
        "public": {action: ["*"] for action in (Action.READ, Action.PRESENCE)},
        "tokens": Tokens(secret=SECRET),
        "hooks": Hooks(rpc=rpc),
        **options,
    }
    async with serving(host, ("", ""), **options) as site:
        yield Api(site, calls)
