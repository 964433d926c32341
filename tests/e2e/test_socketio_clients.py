"""npm's `socket.io-client` 4, 3 and 2: what each can do in each mode, in Node and in Chromium."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from everywire.sockets.settings import SocketSettings
from tests.cli.commands import DEADLINE_S, started
from tests.e2e.conftest import BROWSER, program, run_node
from tests.e2e.socketio_app import Talk, talking, token_of
from tests.e2e.test_browser import chromium

pytestmark = pytest.mark.xdist_group("busy")

MODES: Final = ("polling", "websocket", "upgrade")
LEAST_CHECKS: Final = {2: 49, 3: 52, 4: 55}
"""By version: it must not pass because it did nothing."""

Checks = list[dict[str, Any]]
Case = dict[str, Any]


def case(version: int, mode: str, **more: Any) -> Case:
    user = f"user-{version}-{mode}"
    return {
        "version": version,
        "mode": mode,
        "name": f"{version}-{mode}",
        "token": token_of(user),
        "user": user,
        **more,
    }


IN_NODE: Final = [case(version, mode) for version in (2, 3, 4) for mode in MODES]
IN_MSGPACK: Final = [case(4, mode, parser="msgpack") for mode in MODES]
# In a page, version 2 has no way to send a token but the address; JSONP wants smaller messages.
NOBODY: Final[Case] = {"token": "", "user": ""}
IN_CHROMIUM: Final = [
    *(case(4, mode) for mode in MODES),
    *(case(2, mode, **NOBODY) for mode in MODES),
    case(2, "polling", **NOBODY, jsonp=True, most=60_000) | {"name": "2-jsonp"},
]


def judge(cases: list[Case], results: dict[str, Checks]) -> None:
    assert set(results) == {one["name"] for one in cases}
    failed = [
        f"{name}: {check['name']}: {check.get('detail')}"
        for name, checks in results.items()
        for check in checks
        if not check["ok"]
    ]
    assert not failed, "\n".join(failed)
    for one in cases:
        checks = results[one["name"]]
        assert len(checks) >= LEAST_CHECKS[one["version"]], (one, [check["name"] for check in checks])


async def run_cases(talk: Talk, cases: list[Case], script: Path, page: str = "") -> dict[str, Any]:
    given = [one | {"base": await talk.cable(one["name"])} for one in cases]
    results: dict[str, Any] = await run_node(script, json.dumps({"cases": given, "page": page}))
    return results


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_every_version_and_mode_in_node(host: str) -> None:
    async with talking(host) as talk:
        judge(IN_NODE, await run_cases(talk, IN_NODE, BROWSER / "socketio_node.mjs"))


async def test_the_msgpack_parser() -> None:
    async with talking(socketio=SocketSettings(parser="msgpack")) as talk:
        judge(IN_MSGPACK, await run_cases(talk, IN_MSGPACK, BROWSER / "socketio_node.mjs"))


@asynccontextmanager
async def empty_page() -> AsyncIterator[str]:
    """Serve an empty page, of another origin than any server's."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n")
        writer.write(b"Connection: close\r\n\r\n<!doctype html>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_every_mode_in_chromium() -> None:
    """By CORS, where version 2 insists on credentials; by JSONP from the own origin only."""
    chromium()
    async with empty_page() as page, talking(allowed_origins=[page], allow_credentials=True) as talk:
        results = await run_cases(talk, IN_CHROMIUM, BROWSER / "socketio_page.mjs", page)
    assert results.pop("foreign") == "refused"
    judge(IN_CHROMIUM, results)


# -- a standalone server, which knows only the built-in events ---------------------------------------------


async def free_port() -> int:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


@asynccontextmanager
async def standalone(port: int) -> AsyncIterator[None]:
    """Run `everywire serve --dev` at a port; the server is stopped as an operator stops it."""
    async with started("serve", "--dev", "--port", str(port), deadline_s=2 * DEADLINE_S) as process:
        while b"listening on" not in (line := await process.stdout.readline()):
            assert line, (await process.communicate())[1].decode()
        yield
        process.terminate()
        assert await process.wait() == 0


async def test_a_restart_of_a_standalone_server() -> None:
    """Clients come back by themselves; what cannot be recovered is told, and `subscribe` goes on."""
    port = await free_port()
    node = await asyncio.create_subprocess_exec(
        program("node", "nodejs"),
        str(BROWSER / "socketio_restart.mjs"),
        f"http://127.0.0.1:{port}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert node.stdout is not None
    try:
        async with asyncio.timeout(2 * DEADLINE_S):
            async with standalone(port):
                assert await node.stdout.readline() == b"ready\n"
            async with standalone(port):
                results: dict[str, Any] = json.loads(await node.stdout.read())
    finally:
        if node.returncode is None:
            node.kill()
        await node.communicate()
    assert len(results) == 6
    for name, told in results.items():
        assert told["problems"] == [], (name, told)
        assert told["heard"] == [0, 1, 2, 3, 4, 5], (name, told)
        assert len(set(told["ids"])) == 2, (name, told)
        assert told["recovered"] == [False, False], (name, told)
