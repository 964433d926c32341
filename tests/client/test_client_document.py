"""The examples of docs/client.md and README, run as they stand against a server of the test's own."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path

import pytest

from tests.serving import DEADLINE_S, Site, serving, until

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return [block for block in BLOCK.findall(text) if "everywire.client" in block]


class Enough(Exception):
    """What was to be shown was shown."""


def show(*what: object) -> None:
    if "points" in str(what):
        raise Enough


async def feed(site: Site) -> None:
    """Publish once somebody reads."""
    await until(lambda: site.wire.hub.subscribers("scores"))
    await site.publish("scores", {"points": 1})


@pytest.mark.parametrize("document", ["README.md", "docs/client.md"])
async def test_the_examples_work(document: str) -> None:
    found = blocks(document)
    assert found
    for block in found:
        async with serving("own", ("", "")) as site, asyncio.timeout(DEADLINE_S):

            @site.wire.rpc("guess")
            async def guess(session: object, data: int) -> dict[str, bool]:
                return {"ok": True}

            source = block.replace("http://127.0.0.1:8000", site.url)
            scope: dict[str, object] = {"print": show}
            if "async with" in source:
                wrapped = f"async def example():\n{textwrap.indent(source, '    ')}"
                exec(compile(wrapped, document, "exec"), scope)
                running = asyncio.create_task(scope["example"]())  # type: ignore[operator]
            else:
                running = asyncio.create_task(
                    asyncio.to_thread(exec, compile(source, document, "exec"), scope)
                )
            feeding = asyncio.create_task(feed(site))
            with pytest.raises(Enough):
                await running
            feeding.cancel()
