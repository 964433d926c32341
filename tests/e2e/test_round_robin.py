"""Official clients behind nginx, round robin over four nodes without affinity: no connect fails."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.cli.commands import Serving, running
from tests.e2e.conftest import BROWSER, run_node
from tests.e2e.test_behind_nginx import block, nginx_conf, nginx_path, reachable, replaced
from tests.nodes import nodes

pytestmark = pytest.mark.xdist_group("busy")

NODES: Final = 4
CONNECTS: Final = 40
"""Of each kind; a thousand are in ``tests/soak``."""
KINDS: Final = (
    "socket.io polling",
    "socket.io upgrade",
    "sockjs xhr-polling",
    "sockjs xhr-streaming",
    "sockjs eventsource",
    "sockjs websocket",
    "centrifuge http_stream",
    "centrifuge sse",
    "centrifuge websocket",
)


@asynccontextmanager
async def nginx_before(servers: Sequence[str], folder: Path) -> AsyncIterator[str]:
    """Run nginx by the document, with several servers in place of its one; give its address."""
    nginx = nginx_path()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    upstream = "\n".join(f"server {url.partition('//')[2]};" for url in servers)
    site = replaced(block("nginx"), "server 127.0.0.1:8000;", upstream)
    site = replaced(site, "listen 80;", f"listen 127.0.0.1:{port};")
    conf = nginx_conf(folder, site).replace("worker_connections 64", "worker_connections 1024")
    (folder / "nginx.conf").write_text(conf, "utf-8")
    process = await asyncio.create_subprocess_exec(
        nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"
    )
    try:
        await reachable(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def connect_crowds(url: str, count: int, kinds: Sequence[str] = KINDS) -> None:
    """Have clients of every kind connect so often."""
    given = {"base": url, "kinds": kinds, "count": count, "atOnce": 8}
    results: dict[str, Any] = await run_node(BROWSER / "crowd_node.mjs", json.dumps(given))
    assert results == {kind: {"done": count, "errors": []} for kind in kinds}


async def test_official_clients_connect_without_an_error(tmp_path: Path) -> None:
    async with nodes(NODES) as sites, nginx_before([site.url for site in sites], tmp_path) as url:
        await connect_crowds(url, CONNECTS)
        forwarded = [site.wire._assembly._relaying.relay.forwarded for site in sites]  # type: ignore[union-attr]
        assert all(number > CONNECTS for number in forwarded), forwarded


@asynccontextmanager
async def workers_behind_nginx(folder: Path, deadline_s: float = 90.0) -> AsyncIterator[tuple[str, Serving]]:
    """Run four processes behind one port, where the kernel deals out, and nginx before it."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    arguments = ("--dev", "--workers", str(NODES))
    async with (
        running(*arguments, EVERYWIRE_STATE_DIR=str(state), deadline_s=deadline_s) as serving,
        nginx_before([serving.url], folder) as url,
    ):
        yield url, serving


async def test_official_clients_connect_to_workers_without_an_error(tmp_path: Path) -> None:
    async with (
        workers_behind_nginx(tmp_path) as (url, serving),
        httpx.AsyncClient(base_url=serving.url, trust_env=False) as client,
    ):
        await connect_crowds(url, CONNECTS)
        metrics = (await client.get("/metrics")).text
        found = re.search(r'^everywire_relay_total\{what="forwarded"\} ([0-9.]+)$', metrics, re.MULTILINE)
        assert found is not None and float(found[1]) > CONNECTS, metrics
