"""Every example of docs/protocol.md does what the document says: curl, JavaScript, a conversation.

The examples run in the document's order against one server, because each goes on where the one before
it ended. What differs from run to run (positions, epochs, times, tags) is compared by its form only.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from tests.cli.commands import Serving, running

DEADLINE_S: Final = 20.0
ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "protocol.md").read_text("utf-8")
ADDRESS: Final = "http://127.0.0.1:8000"

VARYING: Final = (
    (r"\bAQ[A-Za-z0-9_-]{14,}", "POSITION"),
    (r'"epoch":"[A-Za-z0-9_-]+"', '"epoch":EPOCH'),
    (r"^everywire-epoch: \S+$", "everywire-epoch: EPOCH"),
    (r'^etag: "[0-9a-f]+"$', "etag: TAG"),
    (r'"time":\d{13}', '"time":TIME'),
)

# What each piece of JavaScript prints, in the document's order, while weather reports are published.
PRINTED: Final = (
    ("long-poll", "{ temperature: 23 }"),
    ("stream", "1 { temperature: 21.5 } AQ"),
    ("sse", "sky: cloudy"),
    ("sse with a ticket", "with a ticket: { temperature: 23 }"),
    ("raw", '{"temperature":22}'),
    ("envelope", "sky rain AQ"),
    ("raw with a ticket", 'with a ticket: {"temperature":23}'),
)

# What an application would have given its user; in development it is believed as it stands.
TOKEN: Final = jwt.encode({"sub": "ann"}, "a secret that nobody here knows, and long", "HS256")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def transcripts() -> list[tuple[str, list[str]]]:
    """Return the commands of the console blocks, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def alike(line: str) -> str:
    """Put a word where a line differs from run to run."""
    for pattern, word in VARYING:
        line = re.sub(pattern, word, line)
    return line


def missing_line(expected: list[str], printed: list[str]) -> str | None:
    """Return the first expected line that does not stand, in its order, among those printed."""
    rest = iter([alike(line.rstrip("\r")) for line in printed])
    for line in expected:
        if not line or line == "…":
            continue
        pattern = ".*".join(re.escape(part) for part in alike(line).split("…"))
        if not any(re.fullmatch(pattern, candidate) for candidate in rest):
            return line
    return None


def test_the_comparison_finds_what_is_missing() -> None:
    printed = ["a: 1\r", "\r", '{"time":1795230560603,"b":2}']
    assert missing_line(["a: 1", "…", '{"time":1795230560999,…}'], printed) is None
    assert missing_line(["a: 2"], printed) == "a: 2"
    assert missing_line(['{"time":1795230560603,"b":2}', "a: 1"], printed) == "a: 1"


async def test_the_examples_do_what_the_document_says() -> None:
    commands = transcripts()
    assert len(commands) > 15
    async with running("--dev") as serving:
        for command, expected in commands:
            await check_command(command.replace(ADDRESS, serving.url), expected)
        await check_conversation(serving)
        for (name, printed), script in zip(PRINTED, blocks("js"), strict=True):
            await check_script(serving, name, script.replace("127.0.0.1:8000", serving.url[7:]), printed)


async def check_command(command: str, expected: list[str]) -> None:
    curl = needed("curl", "apt-get install curl")
    assert command.startswith("curl ")
    is_endless = " -N " in command
    command = command.replace("curl", f"exec {curl} -sS", 1)
    async with spawned("sh", "-c", command) as process:
        assert process.stdout is not None
        printed = ""
        async with asyncio.timeout(DEADLINE_S):
            while data := await process.stdout.read(65536):
                printed += data.decode()
                # An endless answer is read until it has said what it should.
                if is_endless and missing_line(expected, printed.split("\n")) is None:
                    return
            assert await process.wait() == 0, command
    line = missing_line(expected, printed.split("\n"))
    assert line is None, f"{command}\nshould print\n{line}\nbut printed\n{printed}"


async def check_conversation(serving: Serving) -> None:
    (block,) = blocks("text")
    url = f"{serving.url.replace('http', 'ws')}/channels/weather"
    async with connect(url, subprotocols=["everywire.json"], proxy=None) as socket:  # type: ignore[list-item]
        async with asyncio.timeout(DEADLINE_S):
            for line in block.splitlines():
                if line.startswith("> "):
                    await socket.send(line[2:])
                else:
                    assert alike(str(await socket.recv())) == alike(line[2:])


async def check_script(serving: Serving, name: str, script: str, expected: str) -> None:
    node = needed("node", "tools/setup.sh test")
    package = ROOT / "tests" / "browser" / "package.json"
    # Node has no EventSource, and older ones no WebSocket: npm's have the same interface as a browser's.
    prelude = (
        'import { createRequire } from "node:module";\n'
        f'const require = createRequire("{package}");\n'
        'globalThis.EventSource = require("eventsource").EventSource;\n'
        'globalThis.WebSocket = require("ws");\n'
        f'globalThis.token = "{TOKEN}";\n'
    )
    async with spawned(node, "--input-type=module", "--eval", prelude + script) as process:
        publishing = asyncio.create_task(publish_reports(serving.url))
        printed = ""
        try:
            async with asyncio.timeout(DEADLINE_S):
                assert process.stdout is not None
                while expected not in printed:
                    data = await process.stdout.read(65536)
                    assert data, f"{name} ended without {expected!r}; it printed\n{printed}"
                    printed += data.decode()
        except TimeoutError:
            pytest.fail(f"{name} did not print {expected!r}; it printed\n{printed}")
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


async def publish_reports(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while True:
            await client.post("/channels/weather", json={"temperature": 23})
            await client.post("/channels/weather?event=sky", json="cloudy")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def spawned(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, "TOKEN": TOKEN}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def needed(program: str, hint: str) -> str:
    found = shutil.which(program, path=f"{ROOT}/.venv/bin:{os.environ.get('PATH', '')}")
    if found is None:
        lacking = f"{program} is not here ({hint}); the document's examples stay unproven"
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    return found
