"""Several workers under one parent, as processes: they serve, die, are replaced, and leave."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from everywire.client.client import Client
from everywire.client.reader import subscribe
from tests.cli.commands import everywire, running
from tests.client.certificates import make_certificate
from tests.server.workers import DEADLINE_S, Cluster, lives, until, workers

pytestmark = pytest.mark.xdist_group("busy")


class Reader:
    """A reader of a plain wire that makes its way by itself."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.lost = 0
        self.missed = False

    def has_lost(self, reason: str, delay_s: float) -> None:
        self.lost += 1

    async def read(self, url: str, channel: str, transport: str) -> None:
        async with aclosing(subscribe(url, channel, transport, "earliest", lost=self.has_lost)) as items:
            async for item in items:
                if hasattr(item, "data"):
                    self.got.append(item.data)
                else:
                    self.missed = True


@asynccontextmanager
async def reading(url: str, channel: str, transports: list[str]) -> AsyncIterator[list[Reader]]:
    readers = [Reader() for _ in transports]
    tasks = [
        asyncio.create_task(reader.read(url, channel, transport))
        for reader, transport in zip(readers, transports, strict=True)
    ]
    try:
        yield readers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def spread(cluster: Cluster, count: int) -> None:
    """Wait until every worker has become ready and been asked something."""
    for _ in range(200):
        answers = await asyncio.gather(*(cluster.get("/livez") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        await asyncio.sleep(0.3)
        if {line["worker"] for line in cluster.log("open")} == set(range(count)):
            return
    raise AssertionError("some worker never got a connection")


async def test_all_workers_serve_the_same_channels() -> None:
    async with workers(3) as cluster:
        assert len(set(cluster.pids.values())) == 3
        await spread(cluster, 3)
        offsets = [await cluster.publish("a", number) for number in range(20)]
        assert offsets == list(range(1, 21))
        for _ in range(10):
            pages = (await cluster.get("/channels/a")).json()["publications"]
            assert [row["data"] for row in pages] == list(range(20))
        async with reading(cluster.url, "a", ["sse", "websocket", "stream", "long-poll"] * 2) as readers:
            await cluster.publish("a", 20)
            await until(lambda: all(reader.got == list(range(21)) for reader in readers))
        assert await cluster.end() == 0
        assert [line["workers"] for line in cluster.log("start") if "workers" in line] == [3]
        assert sorted(line["status"] for line in cluster.log("worker_left")) == [0, 0, 0]


def is_reader(line: dict[str, Any]) -> bool:
    return line["transport"] in ("sse", "websocket")


async def test_a_killed_worker_is_replaced_and_its_readers_miss_nothing() -> None:
    async with workers(3) as cluster, reading(cluster.url, "a", ["sse", "websocket"] * 6) as readers:
        for number in range(20):
            await cluster.publish("a", number)
        await until(lambda: all(len(reader.got) == 20 for reader in readers))
        await until(lambda: len([line for line in cluster.log("open") if is_reader(line)]) == 12)
        on = [line["worker"] for line in cluster.log("open") if is_reader(line)]
        victim = max(set(on), key=on.count)
        pid = cluster.kill(victim)
        for number in range(20, 60):
            await cluster.publish("a", number)
        await until(lambda: all(len(reader.got) >= 60 for reader in readers))
        assert all(reader.got == list(range(60)) and not reader.missed for reader in readers)
        assert sum(reader.lost > 0 for reader in readers) == on.count(victim)
        await cluster.replaced(victim, pid)
        (died,) = cluster.log("worker_died")
        assert (died["worker"], died["worker_pid"], died["status"]) == (victim, pid, -signal.SIGKILL)
        # The new one gets its share of new connections.
        before = len(cluster.log("open"))
        for _ in range(60):
            assert (await cluster.get("/livez")).status_code == 200
        await until(lambda: victim in {line["worker"] for line in cluster.log("open")[before:]})
        assert await cluster.end() == 0


async def test_members_of_a_killed_worker_are_gone_at_once() -> None:
    for_ever = {"EVERYWIRE_LIMITS__NODE_TTL_S": "600", "EVERYWIRE_LIMITS__PRESENCE_TTL_S": "600"}
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(workers(3, **for_ever))

        async def present() -> set[str]:
            answer = await cluster.get("/channels/room/presence")
            return {row["client"] for row in answer.json()["members"]}

        async def come(count: int) -> list[Client]:
            clients = [Client(cluster.url, transports=["websocket"]) for _ in range(count)]
            for client in clients:
                stack.push_async_callback(client.close)
                await client.connect()
                await client.channel("room").subscribe()
            return clients

        clients = await come(9)
        async with asyncio.timeout(DEADLINE_S):
            while await present() != {client.client_id for client in clients}:
                await asyncio.sleep(0.05)
            at = "/connection/websocket"
            await until(lambda: len([line for line in cluster.log("open") if line["path"] == at]) == 9)
            on = [line["worker"] for line in cluster.log("open") if line["path"] == at]
            cluster.kill(max(set(on), key=on.count))
            before = {client.client_id for client in clients}
            # Those who were cut come back as other clients.
            while (here := {client.client_id for client in clients}) == before or await present() != here:
                await asyncio.sleep(0.05)


def connect_and_ask(port: int) -> str:
    """Open a connection, ask once, and read to the end; return what went wrong, or nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
    except OSError as error:
        return repr(error)
    return "" if answer.endswith(b"\r\n\r\nok\n") else f"answered {answer!r}"


def loops(cluster: Cluster) -> list[str]:
    return [line["loop"].partition(".")[0] for line in cluster.log("start") if "loop" in line]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_no_connection_is_refused_or_reset_while_all_workers_are_replaced(
    loop: str, tmp_path: Path
) -> None:
    more = {}
    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError")
        more["PYTHONPATH"] = str(tmp_path)
    async with workers(2, **more) as cluster:
        await until(lambda: len(loops(cluster)) == 2)
        assert loops(cluster) == [loop, loop]
        before = cluster.pids
        wrong: list[str] = []
        asked = 0

        async def ask_on() -> None:
            nonlocal asked
            while not rolled.done():
                wrong.append(await asyncio.to_thread(connect_and_ask, cluster.port))
                asked += 1
                await asyncio.sleep(0.005)

        cluster.process.send_signal(signal.SIGHUP)
        rolled = asyncio.create_task(until(lambda: cluster.log("rolled")))
        await asyncio.gather(*(ask_on() for _ in range(6)))
        await rolled
        assert asked > 200
        assert [sentence for sentence in wrong if sentence] == []
        assert set(before.values()).isdisjoint(cluster.pids.values())
        assert not any(map(lives, before.values()))
        assert await cluster.end() == 0


async def test_readers_are_told_when_their_worker_is_replaced_and_miss_nothing() -> None:
    async with (
        workers(2) as cluster,
        reading(cluster.url, "a", ["sse", "websocket", "stream"] * 2) as readers,
    ):
        number = 0
        cluster.process.send_signal(signal.SIGHUP)
        rolled = asyncio.create_task(until(lambda: cluster.log("rolled")))
        while not rolled.done():
            await cluster.publish("a", number)
            number += 1
            await asyncio.sleep(0.02)
        await rolled
        await cluster.publish("a", number)
        await until(lambda: all(len(reader.got) == number + 1 for reader in readers))
        assert all(reader.got == list(range(number + 1)) and not reader.missed for reader in readers)
        assert not cluster.log("worker_killed")


async def test_a_rotated_log_file_is_opened_anew_by_all(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    async with workers(2, EVERYWIRE_LOG__FILE=str(log), log=log) as cluster:
        rotated = log.rename(tmp_path / "log.1")
        log.touch()
        cluster.process.send_signal(signal.SIGHUP)
        await until(lambda: cluster.log("rolled"))
        written = len(rotated.read_text())
        assert (await cluster.get("/livez")).status_code == 200
        await until(lambda: cluster.log("open"))
        assert await cluster.end() == 0
        assert len(rotated.read_text()) == written
        assert {line.get("worker") for line in cluster.log("stop")} == {0, 1, None}


async def test_a_replacement_that_cannot_begin_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "everywire.toml"
    config.write_text("drain_s = 5\n")
    async with workers(2, "--config", str(config)) as cluster:
        before = cluster.pids
        config.write_text("frobnicate = 1\n")
        cluster.process.send_signal(signal.SIGHUP)
        await until(lambda: cluster.log("roll_failed"))
        (failed,) = cluster.log("roll_failed")
        assert "frobnicate" in failed["reason"]
        assert cluster.pids == before and all(map(lives, before.values()))
        assert (await cluster.get("/livez")).text == "ok\n"
        config.write_text("drain_s = 4\n")
        cluster.process.send_signal(signal.SIGHUP)
        await until(lambda: cluster.log("rolled"))
        assert set(before.values()).isdisjoint(cluster.pids.values())


async def test_a_worker_that_cannot_begin_again_is_tried_until_it_can(tmp_path: Path) -> None:
    config = tmp_path / "everywire.toml"
    config.write_text("drain_s = 5\n")
    async with workers(2, "--config", str(config)) as cluster:
        config.write_text("frobnicate = 1\n")
        pid = cluster.kill(1)
        await until(lambda: len(cluster.log("worker_failed")) >= 2)
        assert {line["worker"] for line in cluster.log("worker_failed")} == {1}
        # Nobody waits for it: new connections go to the other one.
        for _ in range(20):
            assert (await cluster.get("/livez")).status_code == 200
        assert (await cluster.figures())["everywire_workers"] == 1
        config.write_text("drain_s = 5\n")
        await cluster.replaced(1, pid)
        assert (await cluster.figures())["everywire_workers"] == 2
        assert await cluster.end() == 0


async def test_new_certificates_come_with_new_workers(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "next").mkdir()
    live, following = make_certificate(tmp_path / "live"), make_certificate(tmp_path / "next")
    old, new = ssl.create_default_context(cafile=live[0]), ssl.create_default_context(cafile=following[0])
    async with workers(2, "--tls-cert", live[0], "--tls-key", live[1]) as cluster:
        assert cluster.url.startswith("https://")
        assert (await cluster.get("/livez", verify=old)).text == "ok\n"
        shutil.copy(following[0], live[0])
        shutil.copy(following[1], live[1])
        cluster.process.send_signal(signal.SIGHUP)
        await until(lambda: cluster.log("rolled"))
        for _ in range(10):
            assert (await cluster.get("/livez", verify=new)).text == "ok\n"
        assert await cluster.end() == 0


@pytest.mark.parametrize("to_all", [False, True])
async def test_a_signal_lets_all_leave_and_readers_are_told(to_all: bool) -> None:
    """Terminals and service managers send a signal to every process: that is no second one."""
    async with workers(2) as cluster, httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
        url, wanted = f"{cluster.url}/channels/a", {"accept": "text/event-stream"}
        requests = [client.build_request("GET", url, headers=wanted) for _ in range(8)]
        streams = [await client.send(request, stream=True) for request in requests]
        assert all(stream.status_code == 200 for stream in streams)
        if to_all:
            for pid in cluster.pids.values():
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
        status = asyncio.create_task(cluster.end(signal.SIGINT if to_all else signal.SIGTERM))
        texts = [(await stream.aread()).decode() for stream in streams]
        assert all(re.search(r"\nretry: \d+\n\n: shutdown\n\n\Z", text) for text in texts), texts
        assert await status == 0
        assert not any(map(lives, cluster.pids.values()))
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


async def test_workers_do_not_outlive_their_parent() -> None:
    async with workers(2) as cluster:
        pids = list(cluster.pids.values())
        async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
            wanted = {"accept": "text/event-stream"}
            request = client.build_request("GET", f"{cluster.url}/channels/a", headers=wanted)
            stream = await client.send(request, stream=True)
            cluster.process.kill()
            with suppress(httpx.RemoteProtocolError):
                assert "retry: " in (await stream.aread()).decode()
            await until(lambda: not any(map(lives, pids)), 10)
        async with running("--dev", "--port", str(cluster.port)):  # the address is free again
            pass


async def test_a_worker_that_is_stuck_does_not_outlive_its_parent_either() -> None:
    async with workers(2) as cluster:
        pids = cluster.pids
        os.kill(pids[0], signal.SIGSTOP)  # hears nothing
        cluster.process.kill()
        await until(lambda: not lives(pids[1]), 10)
        os.kill(pids[0], signal.SIGCONT)
        await until(lambda: not lives(pids[0]), 10)


async def test_a_worker_that_somebody_else_lets_leave_is_replaced() -> None:
    async with workers(2) as cluster:
        pid = cluster.kill(1, signal.SIGTERM)
        await cluster.replaced(1, pid)
        await until(lambda: not lives(pid))
        assert [line["status"] for line in cluster.log("worker_left")] == [0]
        assert not cluster.log("worker_died")


async def test_a_second_signal_ends_all_at_once() -> None:
    async with workers(2, "--drain", "60") as cluster, httpx.AsyncClient(trust_env=False) as client:
        # A request whose body never ends holds the drain up.
        _, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
        writer.write(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        await client.get(f"{cluster.url}/livez")
        pids = cluster.pids.values()
        cluster.process.send_signal(signal.SIGTERM)
        await until(lambda: [line for line in cluster.log("drain") if "workers" in line])
        assert await cluster.end() == 128 + signal.SIGTERM
        await until(lambda: not any(map(lives, pids)), 5)
        writer.close()


async def test_an_address_that_is_anybodys_is_an_error() -> None:
    async with workers(2) as cluster:
        for arguments in (["--workers", "2"], []):
            done = await everywire("serve", "--dev", "--port", str(cluster.port), *arguments)
            assert (done.code, done.out) == (2, "")
            assert f"127.0.0.1:{cluster.port} is in use" in done.err and "Traceback" not in done.err
        assert (await cluster.get("/livez")).text == "ok\n"


async def test_a_memory_broker_is_refused() -> None:
    done = await everywire("serve", "--dev", "--port", "0", "--workers", "2", "--broker", "memory:")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("everywire: --broker: expected a broker that several workers can share")
    done = await everywire("serve", "--dev", "--port", "0", "--broker", "mysql://:sesame@h")
    assert done.code == 2 and done.err.startswith("everywire: broker: expected") and "sesame" not in done.err


async def test_what_no_worker_can_serve_with_is_told_once(tmp_path: Path) -> None:
    broken = tmp_path / "cert.pem"
    broken.write_text("nothing")
    done = await everywire("serve", "--dev", "--port", "0", "--workers", "2", "--tls-cert", str(broken))
    assert (done.code, done.out) == (2, "")
    lines = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and "TLS certificate" in lines[0]


async def test_metrics_are_the_sums_and_never_go_backwards() -> None:
    async with workers(2, EVERYWIRE_LIMITS__WORKER_FIGURES_S="0.1") as cluster:
        for number in range(20):
            await cluster.publish("a", number)
        name = "everywire_publications_total"
        for _ in range(6):
            figures = await cluster.figures()
            assert (figures[name], figures["everywire_workers"]) == (20, 2)
        assert figures["everywire_broker_ready"] == 2
        assert figures['everywire_broker_total{what="appends"}'] == 20
        text = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text("utf-8")
        named = set(re.findall(r"`(everywire_(?:broker|workers)[a-z_]*(?:\{[^}`]*\})?)`", text))
        assert len(named) >= 4
        named -= {f"everywire_broker_{name}" for name in ("total", "channels", "unfinished_appends")}
        assert named <= figures.keys(), "the document names what there is"
        await asyncio.sleep(0.5)
        pid = cluster.kill(0)
        await cluster.replaced(0, pid)
        for _ in range(6):
            figures = await cluster.figures()
            assert (figures[name], figures["everywire_workers"]) == (20, 2)
        assert figures["everywire_workers_ended_total"] == 1
        cluster.process.send_signal(signal.SIGHUP)
        await until(lambda: cluster.log("rolled"))
        assert (await cluster.figures())[name] == 20


def places(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("serve-*"))


async def test_channels_outlive_a_restart_on_the_same_port(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    state = {"EVERYWIRE_STATE_DIR": str(tmp_path)}
    async with workers(2, "--port", port, **state) as cluster:
        await cluster.publish("a", "kept")
        assert await cluster.end() == 0
    async with workers(3, "--port", port, **state) as cluster:
        rows = (await cluster.get("/channels/a")).json()["publications"]
        assert [row["data"] for row in rows] == ["kept"]
        assert await cluster.end() == 0
    kept = places(tmp_path)
    async with workers(2, **state) as cluster:  # any free port
        await cluster.publish("a", 1)
        assert await cluster.end() == 0
    assert places(tmp_path) == kept


async def test_workers_share_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with workers(2, "--unix", str(path)) as cluster:
        over = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=over, timeout=DEADLINE_S) as client:
            assert (await client.get("http://localhost/livez")).text == "ok\n"
        assert await cluster.end() == 0
    assert not path.exists()


async def test_only_the_first_worker_feeds() -> None:
    async with workers(3, "--feed", "machine") as cluster:
        times: list[int] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(times) < 4:
                await asyncio.sleep(0.2)
                rows = (await cluster.get("/channels/machine")).json()["publications"]
                times = [row["time"] for row in rows]
        assert times[3] - times[0] >= 2000, times
