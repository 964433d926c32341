"""An application that webhooks ask: a small HTTP server that answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from everywire.access.webhooks import WebhookSettings

__all__ = ["Answer", "Application", "application_served"]

Answer = dict[str, Any] | bytes | None
"""A JSON answer, raw bytes of a whole response, or None: no answer at all."""


class Application:
    """A small HTTP server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.answer: Callable[[str, dict[str, Any]], Answer] = lambda kind, question: {"result": {}}
        self.delay_s = 0.0
        self.closes = False
        """Whether a connection is closed after each answer, which does not say so."""
        self.most_at_once = self._at_once = 0
        self.url = ""

    def counts(self) -> Counter[str]:
        return Counter(kind for kind, _, _ in self.asked)

    def settings(self, *kinds: str, **more: Any) -> WebhookSettings:
        return WebhookSettings(urls={kind: f"{self.url}/{kind}" for kind in kinds}, **more)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                fields = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
                }
                body = await reader.readexactly(int(fields["content-length"]))
                kind = first.split()[1].strip("/")
                question = json.loads(body)
                fields["body"] = body.decode()
                self.asked.append((kind, question, fields))
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                answer = self.answer(kind, question)
                await asyncio.sleep(self.delay_s)
                self._at_once -= 1
                if answer is None:
                    await asyncio.sleep(60)
                elif isinstance(answer, bytes):
                    writer.write(answer)
                    break
                else:
                    said = json.dumps(answer, indent=1).encode()
                    head = b"HTTP/1.1 200 OK\r\nset-cookie: session=%s\r\n" % kind.encode()
                    writer.write(head + b"content-length: %d\r\n\r\n%s" % (len(said), said))
                await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def application_served() -> AsyncIterator[Application]:
    """Serve one on a free port."""
    made = Application()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, backlog=1024)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
