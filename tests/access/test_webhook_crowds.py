"""Crowds that poll: how often an application is asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from everywire import Everywire
from everywire.core.limits import Limits
from tests.access.application import Answer, Application, application_served
from tests.serving import Site, serving, until

ROUNDS = 5


class Crowd:
    """Readers in a loop of their own, each with a cookie, who poll until they have what is published."""

    def __init__(self, site: Site) -> None:
        self.host, port = site.authority.split(":")
        self.port = int(port)
        self.polls = 0
        """Requests made."""

    async def read_plain(self, number: int) -> list[int]:
        """Poll for long."""
        got: list[int] = []
        position = "earliest"
        async with self._connected() as ask:
            while len(got) < ROUNDS:
                page = json.loads(await ask("GET", f"/channels/news?wait=30&after={position}", number))
                got += [one["data"] for one in page["publications"]]
                position = page["position"]
        return got

    async def read_session(self, number: int) -> list[int]:
        """Poll as a session, which connects and subscribes with each request."""
        got: list[int] = []
        connect: dict[str, Any] = {}
        since: dict[str, Any] = {}
        async with self._connected() as ask:
            while len(got) < ROUNDS:
                subscribe = {"channel": "news", "data": {"theme": "dark"}, **since}
                lines = [{"id": 1, "connect": connect}, {"id": 2, "subscribe": subscribe}]
                body = "\n".join(map(json.dumps, lines)).encode()
                answer = await ask("POST", "/connection/poll?wait=30", number, body)
                connected, subscribed, *pushes = map(json.loads, answer.splitlines())
                connect = {"session": connected["connect"]["session"]}
                result = subscribed["subscribe"]
                pubs = result.get("publications", []) + [one["push"]["pub"] for one in pushes]
                got += [pub["data"] for pub in pubs]
                offset = max([result.get("offset", 0), *(pub["offset"] for pub in pubs)])
                since = {"recover": True, "epoch": result["epoch"], "offset": offset}
        return got

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Callable[..., Awaitable[bytes]]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)

        async def ask(method: str, target: str, number: int, body: bytes = b"") -> bytes:
            head = f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\nCookie: r={number}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            self.polls += 1
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert answer.startswith(b"http/1.1 200"), answer
            if b"chunked" not in answer:
                length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                return await reader.readexactly(length)
            whole = b""
            while size := int(await reader.readline(), 16):
                whole += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
            return whole

        try:
            yield ask
        finally:
            writer.close()

    async def read(self, kind: str, readers: int) -> list[list[int]]:
        """Have them all read."""
        read = {"plain": self.read_plain, "session": self.read_session}[kind]
        async with asyncio.timeout(120):
            return await asyncio.gather(*(read(number) for number in range(readers)))


@pytest.mark.parametrize(("kind", "readers"), [("plain", 1_000), ("session", 100)])
async def test_a_crowd_asks_once_per_reader_and_30_s(kind: str, readers: int) -> None:
    """Readers, each with a cookie of its own, poll on and on while publications come."""
    async with application_served() as application:
        await crowded(application, kind, readers)


async def crowded(application: Application, kind: str, readers: int) -> None:
    def answer(kind: str, question: dict[str, Any]) -> Answer:
        return {"result": {"user": application.asked[-1][2].get("cookie", "")}}

    application.answer = answer
    settings = application.settings("connect", "subscribe", timeout_s=30.0)
    options = {"dev": False, "webhooks": settings, "limits": Limits(hook_timeout_s=60.0)}
    begun_s = time.monotonic()
    async with serving("own", ("", ""), **options) as site:
        wire: Everywire = site.wire
        crowd = Crowd(site)
        reading = asyncio.ensure_future(asyncio.to_thread(asyncio.run, crowd.read(kind, readers)))

        def is_waiting(polls: int) -> bool:
            """Whether everybody has come again, and waits."""
            return reading.done() or (crowd.polls >= polls and wire.hub.subscribers("news") == readers)

        # A session's first poll is answered at once: it does not know where it stands.
        polls = 2 * readers if kind == "session" else readers
        for value in range(ROUNDS):
            await until(partial(is_waiting, polls + value * readers))
            await wire.publish("news", value)
        assert await reading == [list(range(ROUNDS))] * readers
    most = readers * (1 + int((time.monotonic() - begun_s) // 30))
    counts = application.counts()
    assert readers <= counts["connect"] <= most
    # A session's data is asked about besides whether it may read at all.
    asked = counts["subscribe"] / (2 if kind == "session" else 1)
    assert readers <= asked <= most
    users = {question["user"] for kind, question, _ in application.asked if kind == "subscribe"}
    assert len(users) == readers
