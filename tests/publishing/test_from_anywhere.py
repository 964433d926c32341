"""Publishing from every kind of process: all arrives, once, in each author's order, without a warning."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from everywire import Everywire, EverywireError
from everywire.core.position import Place
from everywire.core.settings import ChannelSettings, SettingsTable
from tests.engines import nats_server, redis_server
from tests.publishing.publishers import CHANNEL, KINDS, WINDOW
from tests.serving import Site, serving_wire

COUNT = 1_000
DEADLINE_S = 120.0
SCRIPT = Path(__file__).with_name("publishers.py")
ROOT = Path(__file__).parents[2]
KEY = "a key for publishers"


def make_wire(**more: Any) -> Everywire:
    channels = SettingsTable(default=ChannelSettings(window=WINDOW))
    return Everywire(api_keys={"publishers": KEY}, channels=channels, is_loopback=True, **more)


@asynccontextmanager
async def own_server(**more: Any) -> AsyncIterator[Site]:
    async with serving_wire("own", make_wire(**more), ("", "")) as site:
        yield site


async def run(*arguments: str, **environ: str) -> tuple[int, str]:
    """Run Python with every warning an error; return its exit status and all it said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVERYWIRE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-X", "dev", *arguments,
        env={**kept, "PYTHONPATH": str(ROOT), **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            # With what it forked, which would hold its output open.
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    # How long this process was kept from running says how busy the machine is.
    lines = [line for line in said.decode().splitlines() if not line.startswith("Executing <")]
    return process.returncode or 0, "\n".join(lines)


async def published(wire: Everywire) -> list[list[Any]]:
    """Read all that stands in the channel."""
    found: list[list[Any]] = []
    since: Place | None = None
    while True:
        page = await wire.history(CHANNEL, since=since)
        if not page.publications:
            return found
        found += [one.data for one in page.publications]
        since = Place(page.epoch, page.publications[-1].offset)


def check(found: list[list[Any]], names: Mapping[str, int], count: int) -> None:
    numbers: dict[str, list[int]] = {name: [] for name in names}
    for name, number in found:
        numbers[name].append(number)
    assert numbers == {name: list(range(count if many else 1)) for name, many in names.items()}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "server"])
async def test_over_http_all_arrive_once_and_in_order(kind: str) -> None:
    async with own_server() as site:
        status, said = await run(
            str(SCRIPT), kind, str(COUNT), EVERYWIRE_URL=site.url, EVERYWIRE_API_KEY=KEY
        )
        assert (status, said) == (0, "")
        check(await published(site.wire), KINDS[kind][1], COUNT)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("celery-solo", "celery-threads")])
async def test_by_the_address_of_sqlite_all_arrive_once_and_in_order(kind: str, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/log.db"
    async with own_server(broker=url) as site:
        status, said = await run(str(SCRIPT), kind, str(COUNT), EVERYWIRE_URL=url)
        assert (status, said) == (0, "")
        check(await published(site.wire), KINDS[kind][1], COUNT)


MOST = ("threads", "runs", "burst", "forks", "django")


@pytest.mark.xdist_group("engines")
@pytest.mark.parametrize("kind", MOST)
@pytest.mark.parametrize("engine", ["redis", "nats"])
async def test_by_the_address_of_an_engine_all_arrive_once_and_in_order(
    engine: str, kind: str, tmp_path: Path
) -> None:
    with (redis_server if engine == "redis" else nats_server)(tmp_path) as running:
        url = f"{engine}://127.0.0.1:{running.port}"
        async with own_server(broker=url) as site:
            status, said = await run(str(SCRIPT), kind, str(COUNT), EVERYWIRE_URL=url)
            assert (status, said) == (0, "")
            check(await published(site.wire), KINDS[kind][1], COUNT)


async def test_a_publisher_loads_no_server() -> None:
    code = """
import sys, everywire
everywire.publish("news", ["light", 0])
heavy = ("application", "assembly", "server", "transports", "sessions", "sockets", "hub", "api", "asgi")
print([name for name in heavy if f"everywire.{name}" in sys.modules])
"""
    async with own_server() as site:
        assert await run("-c", code, EVERYWIRE_URL=site.url, EVERYWIRE_API_KEY=KEY) == (0, "[]")
        check(await published(site.wire), {"light": 1}, 1)


@pytest.mark.parametrize("way", ["http", "sqlite"])
async def test_no_thread_of_ours_is_still_ending_when_a_process_forks(way: str, tmp_path: Path) -> None:
    """`join` returns before a thread's last destructors have run; what they lock is locked in the child."""
    code = """
import ctypes, os
tasks = []
os.register_at_fork(before=lambda: tasks.extend(os.listdir("/proc/self/task")))  # the first is called last
import everywire
from everywire.brokers.sqlite.thread import WorkThread
from everywire.publishing.background import Background

libc = ctypes.CDLL(None)
key = ctypes.c_uint()
assert libc.pthread_key_create(ctypes.byref(key), libc.usleep) == 0

def ending_slowly(run):
    def run_slowly(self):
        assert libc.pthread_setspecific(key, ctypes.c_void_p(200_000)) == 0
        run(self)
    return run_slowly

Background._run = ending_slowly(Background._run)
WorkThread._run = ending_slowly(WorkThread._run)
everywire.publish("news", ["parent", 0])
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print(tasks == [str(os.getpid())])
"""
    broker = None if way == "http" else f"sqlite://{tmp_path}/log.db"
    async with own_server(broker=broker) as site:
        assert await run("-c", code, EVERYWIRE_URL=broker or site.url, EVERYWIRE_API_KEY=KEY) == (0, "True")


async def test_what_is_told_and_asked_for_arrives() -> None:
    code = """
import everywire
for _ in range(2):
    more = {"event": "blob", "tags": {"a": "b c"}, "content_type": "x/y", "key": "k"}
    receipt = everywire.publish("news", b"\\x00\\xff", **more)
    print(receipt.result().offset, receipt.result().replayed)
"""
    async with own_server() as site:
        environ = {"EVERYWIRE_URL": site.url, "EVERYWIRE_API_KEY": KEY}
        assert await run("-c", code, **environ) == (0, "1 False\n1 True")
        (kept,) = (await site.wire.history(CHANNEL)).publications
        assert (kept.data, kept.event, kept.tags) == (b"\x00\xff", "blob", {"a": "b c"})


ERRORS = {
    "everywire.publish('a b/c', 1)": "BadChannelName 107",
    "everywire.publish('news', 'x' * 2_000_000)": "TooLarge 120",
    "everywire.publish('news', object())": "BadRequest 107",
    "everywire.publish('news', 1, event='gap')": "BadRequest 107",
    "everywire.publish('news', 1, key='k'); everywire.publish('news', 2, key='k')": "KeyReused 121",
}
"""What is done, and the error of it: its type and its code."""

ASKING = """
import asyncio, everywire
try:
    {}
except everywire.EverywireError as error:
    print(type(error).__name__, error.code.number)
async def main():
    try:
        await {}
    except everywire.EverywireError as error:
        print(type(error).__name__, error.code.number)
asyncio.run(main())
"""


@pytest.mark.parametrize("act", ERRORS)
async def test_errors_are_what_a_server_in_the_process_raises(act: str) -> None:
    first, _, last = act.rpartition("; ")
    code = ASKING.format(act, last)
    async with own_server() as site:
        status, said = await run("-c", code, EVERYWIRE_URL=site.url, EVERYWIRE_API_KEY=KEY)
        assert (status, said.splitlines()) == (0, [ERRORS[act]] * 2)
        with pytest.raises(EverywireError) as caught:
            if first:
                await eval(first, {"everywire": site.wire})
            await eval(last, {"everywire": site.wire})
        assert f"{type(caught.value).__name__} {caught.value.code.number}" == ERRORS[act]


async def test_a_wrong_key_is_refused() -> None:
    code = ASKING.format("everywire.publish('news', 1)", "everywire.publish('news', 1)")
    async with own_server() as site:
        status, said = await run("-c", code, EVERYWIRE_URL=site.url, EVERYWIRE_API_KEY="wrong")
        assert (status, said.splitlines()) == (0, ["EverywireError 101"] * 2)
        assert await published(site.wire) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "no server runs in this process, and no address to publish to is known"),
        ("memory:", "a memory broker lives in its server's process"),
        ("localhost", "expected a URL to publish to"),
        ("gopher://localhost", "expected a URL to publish to"),
        ("127.0.0.1:8000", "http:// or https:// of a server"),
        ("http://user:secret@localhost/", "expected http://HOST:PORT of a server"),
    ],
)
async def test_an_address_that_is_none_is_told(url: str, said: str) -> None:
    status, text = await run("-c", "import everywire; everywire.publish('news', 1)", EVERYWIRE_URL=url)
    assert status == 1 and said in text.splitlines()[-1]
    assert "secret" not in text


async def test_what_nobody_answers_is_an_error_in_time() -> None:
    taken: list[asyncio.StreamWriter] = []

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)

    code = """
import asyncio, time, everywire
from everywire.core.limits import Limits
everywire.configure("URL", limits=Limits(publish_timeout_s=2))
started_s = time.monotonic()
try:
    everywire.publish("news", 1)
except everywire.EverywireError as error:
    print(type(error).__name__, error.code.number)
assert time.monotonic() - started_s < 60  # liveness, not speed
async def main():
    everywire.publish("news", 2)
asyncio.run(main())
"""
    async with await asyncio.start_server(keep, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        status, said = await run("-c", code.replace("URL", f"http://127.0.0.1:{port}"))
        for writer in taken:
            writer.close()
    # The second one is not waited for: the process ends in time, and says what became of it.
    lines = said.splitlines()
    assert (status, lines[0]) == (0, "BrokerError 124")
    assert len(lines) == 2 and lines[1].startswith("what was begun and not waited for failed")
