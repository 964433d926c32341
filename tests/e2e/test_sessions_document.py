"""Every example of docs/protocol-sessions.md does what the document says: curl, and a conversation.

They run in the document's order against one server. ``…`` in what is expected stands for anything.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect

from everywire.codecs.centrifuge.schema import TABLE
from everywire.core.codes import CODES
from everywire.core.limits import Limits
from tests.cli.commands import DEADLINE_S, running
from tests.e2e.conftest import program
from tests.e2e.test_protocol_document import ADDRESS, spawned

TEXT: Final = (Path(__file__).parents[2] / "docs" / "protocol-sessions.md").read_text("utf-8")


def examples() -> list[tuple[str, list[str]]]:
    """The blocks in order: for the conversation its lines, for curl each command with what it prints."""
    found: list[tuple[str, list[str]]] = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        if language == "text":
            found.append(("", block.splitlines()))
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def fits(expected: str, line: str) -> bool:
    # A source tree that is not installed has no version to tell.
    expected = expected.replace('"version":"…",', "…")
    return re.fullmatch(".*".join(re.escape(part) for part in expected.split("…")), line) is not None


async def converse(url: str, lines: list[str]) -> None:
    target = f"{url.replace('http', 'ws')}/connection/websocket"
    async with connect(target, proxy=None) as socket:
        for line in lines:
            if line.startswith("> "):
                await socket.send(line[2:])
                continue
            async with asyncio.timeout(DEADLINE_S):
                told = str(await socket.recv())
            assert fits(line[2:], told), f"expected\n{line[2:]}\nbut was told\n{told}"


async def command(url: str, text: str, expected: list[str]) -> None:
    curl = program("curl", "curl")
    text = text.replace("curl", f"exec {curl} -sS", 1).replace(ADDRESS, url)
    async with spawned("bash", "-c", text) as process:
        assert process.stdout is not None
        rest = list(expected)
        async with asyncio.timeout(DEADLINE_S):
            while rest:
                line = (await process.stdout.readline()).decode()
                assert line, f"{text}\nended without\n{rest[0]}"
                if fits(rest[0], line.rstrip("\n")):
                    rest.pop(0)
            if " -N " not in text:
                assert await process.wait() == 0, text


async def test_the_examples_do_what_the_document_says() -> None:
    shown = examples()
    assert len(shown) == 6
    async with running("--dev") as serving:
        for text, lines in shown:
            if text:
                await command(serving.url, text, lines)
            else:
                await converse(serving.url, lines)


def test_the_comparison_finds_what_is_wrong() -> None:
    assert fits('{"a":"…","b":1}', '{"a":"x","b":1}')
    assert not fits('{"a":"…","b":2}', '{"a":"x","b":1}')


BOUNDS: Final = {2000, 3000, 2499, 2999, 3499, 3999}
"""Where ranges of codes begin and end."""


def test_codes_and_numbers_are_those_of_the_tables() -> None:
    told = {int(number) for number in re.findall(r"(?<![\d,.])(1[012]\d|[23]\d{3})(?![\d,.]\d)\b", TEXT)}
    assert {103, 112, 2500, 3001, 3501} <= told
    assert told - BOUNDS <= {code.number for code in CODES}
    for name, field in (
        ("ConnectRequest", "session"),
        ("ConnectRequest", "ticks"),
        ("SubscribeResult", "has_snapshot"),
        ("Push", "tick"),
        ("Push", "presence_changed"),
    ):
        assert f"`{name}.{field}` {TABLE[name][field].number}" in TEXT
    limits = Limits()
    named = re.findall(r"`([a-z_]+(?:_s|_publications|_bytes))`", TEXT)
    assert len(named) >= 5
    assert not [name for name in named if not hasattr(limits, name)]
