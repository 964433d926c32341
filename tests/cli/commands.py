"""Running `everywire` as its users do: another process, with its exit code and both outputs."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager
from typing import NamedTuple

DEADLINE_S = 30.0


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Return an environment without settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVERYWIRE_")}
    return {**kept, "PYTHONWARNINGS": "default", "PYTHONDEVMODE": "", **more}


@asynccontextmanager
async def started(
    *arguments: str,
    stdin: int | None = asyncio.subprocess.DEVNULL,
    deadline_s: float = DEADLINE_S,
    **variables: str,
):
    """Start `everywire`, and make sure that it has ended at the end; none may live beyond its deadline."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "everywire",
        *arguments,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**variables),
    )
    try:
        async with asyncio.timeout(deadline_s):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Serving(NamedTuple):
    """A running `everywire serve`."""

    url: str
    greeting: str
    process: asyncio.subprocess.Process


@asynccontextmanager
async def running(*arguments: str, deadline_s: float = DEADLINE_S, **variables: str):
    """Run `everywire serve` on a free port."""
    async with started("serve", "--port", "0", *arguments, deadline_s=deadline_s, **variables) as process:
        greeting = ""
        while not (found := re.search(r"listening on +(https?://\S+)", greeting)):
            line = await process.stdout.readline()
            assert line, (await process.communicate())[1].decode()
            greeting += line.decode()
        yield Serving(found[1], greeting, process)


async def everywire(*arguments: str, stdin: bytes | None = None, **variables: str) -> Done:
    """Run `everywire` to its end."""
    pipe = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
    async with started(*arguments, stdin=pipe, **variables) as process:
        out, err = await process.communicate(stdin)
        return Done(process.returncode or 0, out.decode(), err.decode())
