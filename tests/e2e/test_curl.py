"""curl, with what a person would type: every wire, no SDK."""

from __future__ import annotations

import asyncio
import json
import re

from tests.cli.commands import DEADLINE_S
from tests.e2e.conftest import Server, program, run


def curl_line(server: Server, *arguments: str) -> list[str]:
    trust = [] if server.authority is None else ["--cacert", str(server.authority)]
    return [program("curl", "curl"), "-sS", "--max-time", str(int(DEADLINE_S)), *trust, *arguments]


async def curl(server: Server, *arguments: str) -> str:
    code, out, err = await run(*curl_line(server, *arguments))
    assert code == 0, err
    return out


async def streamed(server: Server, *arguments: str) -> asyncio.subprocess.Process:
    """Start `curl -N`, which prints what comes when it comes."""
    return await asyncio.create_subprocess_exec(
        *curl_line(server, "-N", *arguments), stdout=asyncio.subprocess.PIPE
    )


async def test_publish_and_poll(server: Server) -> None:
    url = f"{server.url}/channels/chat"
    answer = json.loads(await curl(server, "-d", '{"text": "hello"}', url))
    assert answer["offset"] == 1
    # curl sends a form's type with -d; what is not JSON is refused, and told in JSON.
    refused = json.loads(await curl(server, "-d", "temperature=20", url))
    assert refused["error"]["code"] == 107
    await curl(server, "--json", '"as JSON"', url)
    await curl(server, "-H", "Content-Type: text/plain", "--data-binary", "as text", url)
    page = json.loads(await curl(server, url))
    assert [row.get("data") for row in page["publications"]] == [{"text": "hello"}, "as JSON", None]
    again = await curl(server, "-G", "--data-urlencode", f"after={answer['position']}", url)
    assert len(json.loads(again)["publications"]) == 2
    head = await curl(server, "-I", url)
    tag = re.search(r"(?im)^etag: (\S+)", head)
    assert tag is not None and "HTTP/1.1 200" in head
    status = await curl(
        server, "-o", "/dev/null", "-w", "%{http_code}", "-H", f"If-None-Match: {tag[1]}", url
    )
    assert status == "304"


async def test_long_poll(server: Server) -> None:
    url = f"{server.url}/channels/chat"
    waiting = asyncio.ensure_future(curl(server, f"{url}?wait=20"))
    await server.until_read("chat", 1)
    await server.publish("chat", "news")
    assert [row["data"] for row in json.loads(await waiting)["publications"]] == ["news"]


async def test_stream_and_sse(server: Server) -> None:
    url = f"{server.url}/channels/chat"
    lines = await streamed(server, "-H", "Accept: application/x-ndjson", url)
    events = await streamed(server, "-H", "Accept: text/event-stream", url)
    assert lines.stdout is not None and events.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert set(json.loads(await lines.stdout.readline())) == {"position"}
            await events.stdout.readuntil(b"retry: 2000\n")
            for value in ("one", "two"):
                await server.publish("chat", value)
                assert json.loads(await lines.stdout.readline())["data"] == value
                await events.stdout.readuntil(f'data: "{value}"\n\n'.encode())
    finally:
        for process in (lines, events):
            process.kill()
            await process.wait()


async def test_websocket_by_hand(server: Server) -> None:
    """Debian 12's curl knows no ``ws://``, and needs not: its handshake is typed, its frames are read."""
    socket = await streamed(
        server,
        *("--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
        *("-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        "-i",
        f"{server.url}/channels/chat",
    )
    assert socket.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            # curl prints the head with the first bytes that follow it.
            await server.until_read("chat", 1)
            await server.publish("chat", "hi")
            head = await socket.stdout.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"s3pplmbitxaq9kygzzhzrbk+xoo=" in head.lower()  # RFC 6455 §1.3
            assert await socket.stdout.readexactly(6) == b'\x81\x04"hi"'
    finally:
        socket.kill()
        await socket.wait()
