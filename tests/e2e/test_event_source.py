"""A plain `EventSource` of several channels: it comes back by itself, and misses nothing on any of them.

npm's `eventsource` in Node, and Chromium's own, through a proxy that cuts them again and again while channels
are published to at different rates. What is lost by those who resume only the channel that spoke last would
be missing on the quiet ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from everywire.core.limits import Limits
from tests.cli.commands import DEADLINE_S
from tests.e2e.conftest import BROWSER, NODE, lacking, program
from tests.e2e.cutting import Cable, through
from tests.serving import Site, serving, until
from tests.transports.known import bearer, knowing

pytestmark = pytest.mark.xdist_group("busy")

CHANNELS: Final = ("busy", "seldom", "quiet")
LAST: Final = 120
CUTS: Final = 12
LIMITS: Final = Limits(sse_retry_ms=30)


@asynccontextmanager
async def reading(engine: str, url: str, authorization: str = "") -> AsyncIterator[asyncio.Task[Any]]:
    """Read all channels until `LAST` came on each; the task's result is what the script prints."""
    node = program("node", "nodejs")
    if not (BROWSER / "node_modules").is_dir():
        lacking("the npm packages are not installed (npm install, in tests/browser)")
    if engine == "chromium" and shutil.which("chromium") is None:
        lacking("chromium is not installed (Debian: apt-get install chromium)")
    process = await asyncio.create_subprocess_exec(
        node,
        str(NODE / "event_source.mjs"),
        url,
        ",".join(CHANNELS),
        str(LAST),
        *([authorization] if authorization else []),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ENGINE": engine},
    )
    try:
        async with asyncio.timeout(3 * DEADLINE_S):
            assert process.stderr is not None
            assert await process.stderr.readline() == b"ready\n"
            yield asyncio.ensure_future(_result(process))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _result(process: asyncio.subprocess.Process) -> Any:
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def publish(site: Site, chance: random.Random) -> None:
    """Publish 1 to `LAST` - 1 on each channel: on the first one by one, on the last now and then many."""
    following = dict.fromkeys(CHANNELS, 0)
    for busy in range(1, LAST):
        due = {"busy": busy, "seldom": busy // 5 * 5, "quiet": busy // 40 * 40}
        for name in CHANNELS:
            await _publish_to(site, name, following, LAST - 1 if busy == LAST - 1 else due[name])
        await asyncio.sleep(chance.random() * 0.04)


async def _publish_to(site: Site, name: str, following: dict[str, int], last: int) -> None:
    while following[name] < last:
        following[name] += 1
        await site.wire.publish(name, following[name])


async def pull(cable: Cable, site: Site, chance: random.Random) -> None:
    """Cut the cable `CUTS` times, each time after the reader had come back."""
    for _ in range(CUTS):
        await until(lambda: site.wire.hub.subscribers("busy"))
        await asyncio.sleep(chance.random() * 0.1)
        cable.cut()
        await asyncio.sleep(chance.random() * 0.08)
        cable.mend()


def check(result: Any) -> None:
    for name in CHANNELS:
        assert result["seen"][name] == list(range(1, LAST + 1)), name
    assert result["gaps"] == []


async def journey(site: Site, cable: Cable, engine: str, authorization: str = "") -> Any:
    """Let an `EventSource` read while all is published and the cable is pulled; return its result."""
    chance = random.Random(engine)
    async with reading(engine, cable.url, authorization) as reader:
        await until(lambda: site.wire.hub.subscribers("busy"))
        publishing = asyncio.ensure_future(publish(site, chance))
        await pull(cable, site, chance)
        await publishing
        for name in CHANNELS:
            await site.publish(name, LAST)
        result = await reader
    for name in CHANNELS:
        assert result["seen"][name] == list(range(1, LAST + 1)), name
    assert result["gaps"] == []
    return result


@pytest.mark.parametrize("engine", ["node", "chromium"])
async def test_a_composite_position_resumes_every_channel(engine: str) -> None:
    async with serving("own", ("", ""), limits=LIMITS) as site, through(site.url) as cable:
        result = await journey(site, cable, engine)
    # It was one object all the time, which came back by itself.
    assert (result["sources"], result["ends"]) == (1, [])
    assert result["opens"] > CUTS / 2


@pytest.mark.parametrize("engine", ["node", "chromium"])
async def test_with_a_ticket_another_one_goes_on_from_the_position(engine: str) -> None:
    """An `EventSource` comes back with the address that it has, and so with a ticket that is used up: it
    stops for good, which the page hears, and goes on with another."""
    async with serving("own", ("", ""), **knowing(limits=LIMITS)) as site, through(site.url) as cable:
        result = await journey(site, cable, engine, bearer("ann")["Authorization"])
    assert result["sources"] > 1 and len(result["ends"]) == result["sources"] - 1
    # Browsers say nothing of the status.
    if engine == "node":
        assert set(result["ends"]) == {401}
