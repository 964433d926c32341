"""A server as a process of its own: signals, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.certificates import make_certificate
from tests.server.driving import DEADLINE_S, Client

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, sys
from everywire.core.errors import SettingsError
from everywire.server.options import Address, ServerOptions
from everywire.server.run import run, serve
from tests.server.driving import Handlers

port, cert, key, loop = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
options = ServerOptions(listen=(Address(port=port, tls_cert=cert, tls_key=key),), drain_s=5)
main = serve(
    Handlers(),
    options,
    on_start=lambda server: print(server.addresses[0], flush=True),
    on_drain=lambda: print("draining", flush=True),
)
try:
    run(main) if loop == "uvloop" else asyncio.run(main)
except SettingsError as error:
    sys.exit(error.sentence)
"""


class Process:
    """The server's process, its address and its log."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.port = int(address.rpartition(":")[2])
        self.log: list[dict[str, Any]] = []

    async def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls))

    async def stream(self, tls: ssl.SSLContext | None = None) -> Client:
        client = await self.connect(tls)
        client.send("GET /stream HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await client.reader.readuntil(b"first ")
        return client

    async def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Return the exit status and the log, of which every line must be JSON: a traceback is none."""
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in errors.splitlines()]


def start(port: int, cert: str, key: str, loop: str) -> Any:
    return asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(port),
        cert,
        key,
        loop,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def serving(cert: str = "", key: str = "", loop: str = "uvloop") -> AsyncIterator[Process]:
    process = await start(0, cert, key, loop)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            address = (await process.stdout.readline()).decode().strip()
        assert address
        yield Process(process, address)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_signal_drains_and_the_exit_is_0(number: signal.Signals, loop: str) -> None:
    async with serving(loop=loop) as server:
        streams = [await server.stream() for _ in range(200)]
        idle = await server.connect()
        idle.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await idle.response()
        server.process.send_signal(number)
        for stream in streams:
            assert b"bye\r\n0\r\n\r\n" in await stream.rest()
        assert await idle.is_closed()
        for client in (*streams, idle):
            client.close()
        status, log = await server.end()
    assert status == 0
    events = [line["event"] for line in log]
    assert events.count("open") == events.count("close") == 200
    assert [event for event in events if event not in ("open", "close")] == ["start", "drain", "stop"]


async def test_a_second_signal_ends_it_at_once() -> None:
    async with serving() as server:
        client = await server.connect()
        client.send("GET /hold HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await asyncio.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stdout is not None
        assert await server.process.stdout.readline() == b"draining\n"
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            assert await server.process.wait() == 128 + signal.SIGTERM
        client.close()


async def test_sighup_brings_a_new_certificate_and_cuts_nobody(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "next").mkdir()
    live, following = make_certificate(tmp_path / "live"), make_certificate(tmp_path / "next")
    old, new = ssl.create_default_context(cafile=live[0]), ssl.create_default_context(cafile=following[0])
    async with serving(*live) as server:
        stream = await server.stream(old)
        shutil.copy(following[0], live[0])
        shutil.copy(following[1], live[1])
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    second = await server.stream(new)
                    break
                except ssl.SSLCertVerificationError:
                    await asyncio.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert b"bye" in await stream.rest()
        assert b"bye" in await second.rest()
        stream.close()
        second.close()
        status, log = await server.end()
    assert status == 0
    assert [line["certificate"] for line in log if line["event"] == "reload"] == [live[0]]


async def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    async with serving() as server:
        second = await start(server.port, "", "", "uvloop")
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await second.communicate()
        assert second.returncode == 1
        assert out == b""
        assert errors.decode().splitlines() == [
            f"127.0.0.1:{server.port} is in use by another program; stop that one, or listen elsewhere"
        ]
