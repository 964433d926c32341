"""`everywire serve` as a process, used by the other commands and by curl's own words."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from everywire.client.reader import TRANSPORTS
from tests.cli.commands import DEADLINE_S, everywire, running, started
from tests.client.certificates import make_certificate


async def get(url: str, path: str, **options) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False, **options) as client:
        return await client.get(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_0_and_tells_readers(number: signal.Signals) -> None:
    async with running("--dev") as server:
        async with started("subscribe", "--json", "--transport", "sse", server.url, "a") as reader:
            while (await get(server.url, "/channels/a/presence")).json()["subscribers"] != 1:
                await asyncio.sleep(0.05)
            server.process.send_signal(number)
            told = (await reader.stderr.readline()).decode()
            assert "the server ended the answer; again in" in told
        _, err = await server.process.communicate()
        assert server.process.returncode == 0
        lines = [json.loads(line) for line in err.decode().splitlines()]
        assert [line["event"] for line in lines if line["event"] in ("start", "drain", "stop")] == [
            "start",
            "drain",
            "stop",
        ]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_publish_publishes_subscribe_shows_by_every_transport(transport: str) -> None:
    async with running("--dev") as server:
        url = server.url.replace("http", "ws") if transport == "websocket" else server.url
        for data in ('{"n": 1}', "2", '"drei"'):
            answer = json.loads((await everywire("publish", server.url, "a:b#c", data)).out)
        assert answer["offset"] == 3 and answer["position"]
        done = await everywire(
            "subscribe",
            url,
            "a:b#c",
            "--after",
            "earliest",
            "--count",
            "3",
            "--json",
            "--transport",
            transport,
        )
        rows = [json.loads(line) for line in done.out.splitlines()]
        assert (done.code, done.err) == (0, "")
        assert [(row["offset"], row["data"]) for row in rows] == [(1, {"n": 1}), (2, 2), (3, "drei")]


async def test_feed_gives_live_figures_of_this_machine() -> None:
    async with running("--dev", "--feed", "machine") as server:
        done = await everywire(
            "subscribe", server.url, "machine", "--count", "2", "--json", "--after", "earliest"
        )
        first, second = (json.loads(line) for line in done.out.splitlines())
        assert first["data"]["memory"]["total"] == second["data"]["memory"]["total"] > 0
        assert second["time"] > first["time"]


async def test_without_a_rule_nothing_is_open() -> None:
    async with running() as server:
        reading = await everywire("subscribe", server.url, "a")
        publishing = await everywire("publish", server.url, "a", "1")
        assert (reading.code, publishing.code) == (1, 1)
        assert "answered 401" in reading.err and "answered 401" in publishing.err


async def test_rules_and_keys_open_what_they_name(tmp_path: Path) -> None:
    config = tmp_path / "everywire.toml"
    log = tmp_path / "everywire.log"
    config.write_text(
        f'[rules]\nread = ["news.*"]\napi_keys = [{{name = "newsroom", key = "sesame-sesame"}}]\n'
        f"[log]\nfile = '{log}'\n"
    )
    async with running("--config", str(config)) as server:
        line = ["publish", server.url, "news.1", "1"]
        assert (await everywire(*line)).code == 1
        assert (await everywire(*line, "--key", "wrong-wrong")).code == 1
        assert (await everywire(*line, EVERYWIRE_API_KEY="sesame-sesame")).code == 0
        read = ["subscribe", server.url, "--json", "--count", "1", "--after", "earliest"]
        assert json.loads((await everywire(*read, "news.1")).out)["data"] == 1
        assert (await everywire(*read, "other")).code == 1
        server.process.terminate()
        _, err = await server.process.communicate()
        assert (server.process.returncode, err) == (0, b"")
    written = log.read_text()
    assert [json.loads(line)["event"] for line in written.splitlines()].count("start") == 1
    assert "sesame" not in written


async def test_a_port_that_is_taken_is_an_error_of_the_settings() -> None:
    async with running("--dev") as server:
        port = server.url.rpartition(":")[2]
        done = await everywire("serve", "--dev", "--port", port)
        assert done.code == 2
        assert "Traceback" not in done.err and port in done.err


async def test_it_listens_on_a_unix_socket_as_well(tmp_path: Path) -> None:
    path = tmp_path / "everywire.sock"
    async with running("--dev", "--unix", str(path)) as server:
        over = httpx.AsyncHTTPTransport(uds=str(path))
        assert (await get("http://localhost", "/livez", transport=over)).text == "ok\n"
        assert (await get(server.url, "/livez")).text == "ok\n"
        server.process.terminate()
        await server.process.communicate()
    assert not path.exists()


async def test_tls_is_served_and_checked(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    async with running("--dev", "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://")
        untrusted = await everywire("publish", server.url, "a", "1")
        assert untrusted.code == 1 and "certificate is not trusted" in untrusted.err
        assert (await everywire("publish", "--ca", cert, server.url, "a", "1")).code == 0
        url = server.url.replace("https", "wss")
        done = await everywire(
            "subscribe", "--ca", cert, url, "a", "--count", "1", "--after", "earliest", "--json"
        )
        assert json.loads(done.out)["data"] == 1


async def test_metrics_tell_of_the_hub_and_of_the_host() -> None:
    async with running("--dev") as server:
        await everywire("publish", server.url, "a", "1")
        text = (await get(server.url, "/metrics")).text
        assert "everywire_publications_total 1.0" in text
        assert 'everywire_requests_total{status="2xx"} 1.0' in text
        assert 'everywire_connections{transport="' in text


async def test_what_feed_recorded_can_be_replayed(tmp_path: Path) -> None:
    recording = tmp_path / "recording.ndjson"
    async with running("--dev", "--feed", "machine") as server:
        done = await everywire("subscribe", "--json", server.url, "machine", "--count", "2")
        recording.write_text(done.out)
        assert (
            await everywire("feed", "replay", "--speed", "100", str(recording), server.url, "again")
        ).code == 0
        again = await everywire(
            "subscribe", "--json", server.url, "again", "--count", "2", "--after", "earliest"
        )
        assert [json.loads(line)["data"] for line in again.out.splitlines()] == [
            json.loads(line)["data"] for line in done.out.splitlines()
        ]
