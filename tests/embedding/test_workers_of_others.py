"""An application in several processes of an ASGI server: its channels are one, or it does not start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import DEADLINE_S

ROOT = Path(__file__).parents[2]
APP = "tests.embedding.app:app"
START_S = 60.0


class Running:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    async def ready(self) -> None:
        async with asyncio.timeout(START_S), httpx.AsyncClient(trust_env=False) as http:
            while True:
                assert self.process.returncode is None, self.log.read_text()
                try:
                    if (await http.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def end(self) -> int:
        async with asyncio.timeout(START_S):
            return await self.process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def running(state: Path, *arguments: str, broker: str = "", port: int = 0) -> AsyncIterator[Running]:
    """Run ``python -m SERVER …`` with the application; ``{port}`` in arguments is a free one."""
    port = port or free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVERYWIRE_")}
    kept.pop("WEB_CONCURRENCY", None)
    log = state / f"log-{port}"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *(one.format(port=port) for one in arguments),
            cwd=ROOT,
            env={**kept, "EVERYWIRE_STATE_DIR": str(state / "state"), "BROKER": broker},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield Running(process, f"http://127.0.0.1:{port}", log)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(20):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


class Reader:
    """One SSE reader on a connection of its own."""

    def __init__(self, response: httpx.Response) -> None:
        self.process = response.headers["x-process"]
        self.seen: list[Any] = []
        self._lines = response.aiter_lines()

    async def read(self, count: int) -> None:
        """Read until there are so many publications."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.seen) < count:
                line = await anext(self._lines)
                if line.startswith("data: ") and line != "data: {}":
                    self.seen.append(line.removeprefix("data: "))


async def open_reader(stack: AsyncExitStack, url: str) -> Reader:
    http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S))
    response = await stack.enter_async_context(
        http.stream("GET", f"{url}/channels/news", headers={"Accept": "text/event-stream"})
    )
    assert response.status_code == 200
    return Reader(response)


async def publish(url: str, text: str) -> str:
    """Publish over a connection of its own; return which process took it."""
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as http:
        answer = await http.post(f"{url}/channels/news", content=f'"{text}"')
    assert answer.status_code == 201, answer.text
    process: str = answer.headers["x-process"]
    return process


async def check_all_hear_all(url: str, workers: int) -> None:
    """Have readers on every worker, publish through every worker, and see that everybody gets everything."""
    async with AsyncExitStack() as stack:
        readers: list[Reader] = []
        async with asyncio.timeout(DEADLINE_S):
            while len({reader.process for reader in readers}) < workers or len(readers) < 4 * workers:
                readers.append(await open_reader(stack, url))
        sent: list[str] = []
        through: set[str] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(through) < workers or len(sent) < 20:
                sent.append(f"news {len(sent)}")
                through.add(await publish(url, sent[-1]))
        assert len(through) == workers == len({reader.process for reader in readers})
        await asyncio.gather(*(reader.read(len(sent)) for reader in readers))
        for reader in readers:
            assert reader.seen == [f'"{text}"' for text in sent]


UVICORN = ("uvicorn", APP, "--port", "{port}", "--log-level", "info")


async def test_workers_of_uvicorn_share_channels_without_being_told(tmp_path: Path) -> None:
    async with running(tmp_path, *UVICORN, "--workers", "4") as server:
        await server.ready()
        await check_all_hear_all(server.url, 4)


async def test_a_worker_that_was_killed_is_replaced_and_shares_again(tmp_path: Path) -> None:
    async with running(tmp_path, *UVICORN, "--workers", "2") as server:
        await server.ready()
        await check_all_hear_all(server.url, 2)
        killed = await publish(server.url, "last words")
        os.kill(int(killed), signal.SIGKILL)
        async with asyncio.timeout(START_S):
            while len({await publish(server.url, "again") for _ in range(20)} - {killed}) < 2:
                await asyncio.sleep(0.1)
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"{server.url}/channels/news?after=earliest")
        assert "news 0" in answer.text and "last words" in answer.text


async def test_what_managers_left_behind_is_removed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for _ in range(2):
        async with running(tmp_path, *UVICORN, "--workers", "2") as server:
            await server.ready()
            (directory,) = state.glob("embedded-*")
            assert directory.name.startswith(f"embedded-{server.process.pid}-")


REFUSED = "a memory broker keeps the channels of each apart"


@pytest.mark.parametrize("how", ["workers", "program"])
async def test_a_memory_broker_is_refused_in_several_processes(tmp_path: Path, how: str) -> None:
    program = ("tests.embedding.two_workers", "{port}")
    command = (*UVICORN, "--workers", "2") if how == "workers" else program
    async with running(tmp_path, *command, broker="memory:") as server:
        assert await server.end() is not None
        assert REFUSED in server.log.read_text()
        if how == "workers":
            assert "startup complete" not in server.log.read_text()


@pytest.mark.parametrize("more", [(), ("--workers", "1"), ("--reload", "--reload-dir", "tests/embedding")])
@pytest.mark.parametrize("broker", ["", "memory:"])
async def test_one_process_is_what_it_always_was(tmp_path: Path, more: tuple[str, ...], broker: str) -> None:
    async with running(tmp_path, *UVICORN, *more, broker=broker) as server:
        await server.ready()
        await check_all_hear_all(server.url, 1)


async def test_a_second_process_that_nobody_manages_is_refused_unless_a_broker_is_named(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, *UVICORN) as first:
        await first.ready()
        async with running(tmp_path, *UVICORN) as second:
            assert await second.end() != 0
            assert "another process of this application runs beside this one" in second.log.read_text()
        async with running(tmp_path, *UVICORN, "--no-access-log") as other:
            await other.ready()  # not the same
        async with running(tmp_path, *UVICORN, broker="memory:") as apart:
            await apart.ready()
    async with running(tmp_path, *UVICORN) as alone:
        await alone.ready()  # the first one is gone, and so is its lock


async def test_processes_that_name_a_broker_share_it(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/shared"
    async with running(tmp_path, *UVICORN, broker=url) as one, running(tmp_path, *UVICORN, broker=url) as two:
        await asyncio.gather(one.ready(), two.ready())
        async with AsyncExitStack() as stack:
            readers = [await open_reader(stack, server.url) for server in (one, two)]
            await publish(one.url, "from one")
            await publish(two.url, "from two")
            await asyncio.gather(*(reader.read(2) for reader in readers))
            assert [reader.seen for reader in readers] == [['"from one"', '"from two"']] * 2


async def test_a_place_that_cannot_be_shared_in_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    async with running(tmp_path, *UVICORN, "--workers", "2") as server:
        await server.end()
        assert "no place where they could share their channels; name a broker" in server.log.read_text()
