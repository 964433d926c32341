"""Everywire behind nginx, with the configuration that docs/deployment.md gives, and no other.

nginx buffers by default; that nothing is held back is proven by publishing only after the reader is
there, and waiting for it. That such tests can fail is proven by controls: the same without the
document's lines, and with an nginx that ignores what Everywire asks of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.cli.commands import Serving, running

DEADLINE_S: Final = 20.0
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "deployment.md"
HOST: Final = "example.com"
"""The server_name of the document."""


def block(language: str) -> str:
    """Return the document's first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{DOCUMENT.name} has no {language} block"
    return found[1]


def replaced(text: str, old: str, new: str) -> str:
    """Put the test's own address into a block, where there is exactly one place for it."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the block"
    return text.replace(old, new)


def nginx_path() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        lacking = "nginx is not installed (Debian: apt-get install nginx); what it would prove stays unproven"
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    return found


class Proxied(NamedTuple):
    """A server behind nginx."""

    serving: Serving
    address: str
    """Host and port of nginx."""
    api_key: str

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://{self.address}",
            headers={"Host": HOST},
            timeout=DEADLINE_S,
            trust_env=False,
        )

    def websocket(self, target: str, **options: Any) -> connect:
        host, _, port = self.address.partition(":")
        return connect(f"ws://{HOST}{target}", host=host, port=int(port), proxy=None, **options)

    async def publish(self, channel: str, data: object) -> None:
        async with self.client() as client:
            authorization = {"Authorization": f"Bearer {self.api_key}"}
            answer = await client.post(f"/channels/{channel}", json=data, headers=authorization)
            assert answer.status_code == 201, answer.text


@asynccontextmanager
async def behind_nginx(folder: Path, edit: Callable[[str], str] = str) -> AsyncIterator[Proxied]:
    """Run Everywire and nginx by the document; ``edit`` makes another block of the document's."""
    nginx = nginx_path()
    settings = block("toml")
    (folder / "everywire.toml").write_text(settings, "utf-8")
    async with running("--config", str(folder / "everywire.toml")) as serving:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        site = replaced(block("nginx"), "server 127.0.0.1:8000;", f"server {serving.url.split('//')[1]};")
        site = replaced(site, "listen 80;", f"listen 127.0.0.1:{port};")
        (folder / "nginx.conf").write_text(nginx_conf(folder, edit(site)), "utf-8")
        process = await asyncio.create_subprocess_exec(
            nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"
        )
        try:
            await reachable(port, process)
            api_key = tomllib.loads(settings)["rules"]["api_keys"][0]["key"]
            yield Proxied(serving, f"127.0.0.1:{port}", api_key)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def nginx_conf(folder: Path, site: str) -> str:
    """Return a whole configuration around a site: one process, everything it writes in the folder."""
    temporary = "\n".join(
        f"    {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\n"
        f"events {{ worker_connections 64; }}\nhttp {{\n    access_log off;\n{temporary}\n{site}\n}}\n"
    )


async def reachable(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            assert process.returncode is None, "nginx did not start; its words are on standard error"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Proxied]:
    async with behind_nginx(tmp_path) as found:
        yield found


async def next_line(lines: AsyncIterator[str], start: str) -> str:
    """Return the next line that begins so, without its beginning."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            line = await anext(lines)
            if line.startswith(start):
                return line.removeprefix(start)


async def test_an_event_stream_passes_at_once(site: Proxied) -> None:
    headers = {"Accept": "text/event-stream"}
    async with site.client() as client, client.stream("GET", "/channels/public.a", headers=headers) as answer:
        assert answer.status_code == 200
        lines = aiter(answer.aiter_lines())
        assert await next_line(lines, "id: ")
        for number in range(3):
            await site.publish("public.a", {"number": number})
            assert json.loads(await next_line(lines, "data: ")) == {"number": number}


async def test_a_line_stream_passes_at_once(site: Proxied) -> None:
    headers = {"Accept": "application/x-ndjson"}
    async with site.client() as client, client.stream("GET", "/channels/public.b", headers=headers) as answer:
        lines = aiter(answer.aiter_lines())
        assert "position" in json.loads(await next_line(lines, ""))
        for number in range(3):
            await site.publish("public.b", number)
            assert json.loads(await next_line(lines, ""))["data"] == number


def bare(site: str) -> str:
    """Take out what a proxy does that nobody configured: nginx then speaks HTTP/1.0 to the server."""
    return replaced(site, "proxy_http_version 1.1;", "")


def deaf(site: str) -> str:
    """Let nginx ignore what the server asks of it besides."""
    return replaced(bare(site), "proxy_pass http://everywire;", IGNORING)


IGNORING: Final = "proxy_pass http://everywire; proxy_ignore_headers X-Accel-Buffering;"


async def test_streams_pass_at_once_without_any_configuration(tmp_path: Path) -> None:
    async with (
        behind_nginx(tmp_path, bare) as site,
        site.client() as client,
        client.stream("GET", "/channels/public.a?transport=sse") as answer,
    ):
        lines = aiter(answer.aiter_lines())
        assert await next_line(lines, "id: ")
        await site.publish("public.a", 1)
        assert await next_line(lines, "data: ") == "1"


async def test_the_control_a_proxy_that_is_deaf_holds_streams_back(tmp_path: Path) -> None:
    """So the test above could fail: it is what the server says that makes nginx pass streams on."""
    async with behind_nginx(tmp_path, deaf) as site, site.client() as client:
        with pytest.raises(TimeoutError):
            async with (
                asyncio.timeout(2.0),
                client.stream("GET", "/channels/public.a?transport=sse") as answer,
            ):
                await site.publish("public.a", 1)
                await next_line(aiter(answer.aiter_lines()), "data: ")


async def test_the_control_without_the_lines_for_it_no_websocket_passes(tmp_path: Path) -> None:
    async with behind_nginx(tmp_path, bare) as site:
        with pytest.raises(InvalidStatus):
            async with site.websocket("/channels/public.d"):
                pass


async def test_polls_pass(site: Proxied) -> None:
    async with site.client() as client:
        first = await client.get("/channels/public.c", params={"after": "latest"})
        position = first.json()["position"]
        waiting = asyncio.create_task(
            client.get("/channels/public.c", params={"after": position, "wait": "20"})
        )
        await asyncio.sleep(0.1)
        await site.publish("public.c", "news")
        answer = await waiting
        assert [found["data"] for found in answer.json()["publications"]] == ["news"]
        again = await client.get("/channels/public.c", headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 200


async def test_a_websocket_passes_and_same_origin_is_seen_through_the_proxy(site: Proxied) -> None:
    options = {"subprotocols": ["everywire.json"], "origin": f"http://{HOST}"}
    async with site.websocket("/channels/public.d", **options) as reader:
        async with asyncio.timeout(DEADLINE_S):
            assert "position" in json.loads(await reader.recv())
            await site.publish("public.d", {"a": 1})
            assert json.loads(await reader.recv())["data"] == {"a": 1}
            pong = await reader.ping()
            await pong


async def test_the_client_is_seen_through_the_proxy(site: Proxied) -> None:
    """A foreign origin is refused, and figures are not given to who came by way of the proxy."""
    async with site.client() as client:
        refused = await client.get("/channels/public.e", headers={"Origin": "http://elsewhere.example"})
        assert refused.json()["error"]["name"] == "foreign_origin"
        assert (
            await client.get("/channels/public.e", headers={"Origin": f"http://{HOST}"})
        ).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 401
        with_key = await client.get("/metrics", headers={"Authorization": f"Bearer {site.api_key}"})
        assert "everywire_publications_total" in with_key.text
    async with httpx.AsyncClient(base_url=site.serving.url, trust_env=False) as direct:
        assert (await direct.get("/metrics")).status_code == 200


async def test_the_figures_that_the_document_names_are_there(site: Proxied) -> None:
    named = set(re.findall(r"`(everywire_[a-z_]+)[`{]", DOCUMENT.read_text("utf-8")))
    # What a broker elsewhere and several workers add is looked for in tests/server/test_workers.py.
    named = {name for name in named if not name.startswith(("everywire_broker", "everywire_workers"))}
    assert len(named) > 5
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.serving.url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")  # without Host, so that there is something refused
    async with asyncio.timeout(DEADLINE_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
    async with httpx.AsyncClient(base_url=site.serving.url, trust_env=False) as direct:
        figures = (await direct.get("/metrics")).text
    assert {name for name in named if not re.search(rf"^{name}\b", figures, re.MULTILINE)} == set()


async def test_a_shutdown_is_told_through_the_proxy(site: Proxied) -> None:
    accept = {"Accept": "text/event-stream"}
    async with (
        site.client() as client,
        client.stream("GET", "/channels/public.f", headers=accept) as answer,
        site.websocket("/channels/public.f") as reader,
    ):
        lines = aiter(answer.aiter_lines())
        await next_line(lines, "id: ")
        assert await next_line(lines, "retry: ") == "2000"
        site.serving.process.send_signal(signal.SIGTERM)
        assert int(await next_line(lines, "retry: ")) <= 5000
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ConnectionClosed) as closed:
                await reader.recv()
            assert [line async for line in lines if not line.startswith(":")] in ([], [""], ["", ""])
            assert await site.serving.process.wait() == 0
            assert site.serving.process.stderr is not None
            assert b'"cut":0' in await site.serving.process.stderr.read()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
