"""Everywire as a process of its own, over TCP and over TLS, and the programs that are its clients."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
import pytest_asyncio

from tests.cli.commands import DEADLINE_S, Serving, running
from tests.client.certificates import make_certificate

BROWSER: Final = Path(__file__).parents[1] / "browser"
NODE: Final = Path(__file__).parent / "node"


class Server(NamedTuple):
    """A running `everywire serve --dev`, and what a client needs to trust it."""

    url: str
    serving: Serving
    authority: Path | None
    """The PEM file of the certificate's authority, with TLS."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What Python clients check the certificate with."""
        return None if self.authority is None else ssl.create_default_context(cafile=str(self.authority))

    def client(self) -> httpx.AsyncClient:
        """Return an HTTP client for it."""
        return httpx.AsyncClient(
            base_url=self.url, verify=self.tls or True, timeout=DEADLINE_S, trust_env=False
        )

    async def publish(self, channel: str, *values: Any) -> None:
        """Publish JSON values."""
        async with self.client() as client:
            for value in values:
                answer = await client.post(f"/channels/{channel}", json=value)
                assert answer.status_code == 201, answer.text

    async def until_read(self, channel: str, number: int) -> None:
        """Wait until so many readers have come."""
        async with self.client() as client, asyncio.timeout(DEADLINE_S):
            while (await client.get(f"/channels/{channel}/presence")).json()["subscribers"] != number:
                await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The paths of a certificate for 127.0.0.1 and of its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest_asyncio.fixture(params=["http", "https"])
async def server(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> AsyncIterator[Server]:
    """A server in development mode; whatever it wrote to standard error must be log lines."""
    cert, key = certificate
    tls = ["--tls-cert", cert, "--tls-key", key] if request.param == "https" else []
    async with running("--dev", *tls) as serving:
        yield Server(serving.url, serving, Path(cert) if tls else None)
        serving.process.terminate()
        _, err = await serving.process.communicate()
        assert serving.process.returncode == 0
        for line in err.decode().splitlines():
            assert json.loads(line)["level"] == "info", line


def lacking(sentence: str) -> None:
    """Tell that a real program is not here: a failure under CI, and a skip with its reason elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


def program(name: str, package: str) -> str:
    """Return the path of a real program."""
    found = shutil.which(name)
    if found is None:
        lacking(f"{name} is not installed (Debian: apt-get install {package})")
    assert found is not None
    return found


async def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run a program to its end; return its exit code and outputs."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


async def run_node(script: Path, *arguments: str, authority: Path | None = None) -> Any:
    """Run a script of ours with Node and the packages of ``tests/browser``; return the JSON it prints."""
    node = program("node", "nodejs")
    if not (BROWSER / "node_modules").is_dir():
        lacking("the npm packages are not installed (npm install, in tests/browser)")
    trust = {} if authority is None else {"NODE_EXTRA_CA_CERTS": str(authority)}
    async with asyncio.timeout(3 * DEADLINE_S):
        code, out, err = await run(node, str(script), *arguments, **trust)
    assert code == 0, f"{script.name} ended with {code}\n{out}\n{err}"
    return json.loads(out)
