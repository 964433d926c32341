"""One process that publishes by an address: bounds, deadlines, engines that go, addresses that change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import everywire
from everywire.core.errors import BrokerBusy, BrokerError, SettingsError
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from tests.engines import redis_server
from tests.publishing.test_from_anywhere import KEY, own_server, published


@pytest.fixture(autouse=True)
def _nothing_configured() -> Iterator[None]:
    yield
    everywire.configure(None)
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("everywire-publishing") for name in names)


def publish(*values: Any) -> list[int]:
    """Publish from a thread without an event loop."""
    return [everywire.publish("news", value).result().offset for value in values]


@asynccontextmanager
async def elsewhere(**options: Any) -> AsyncIterator[Any]:
    """Run a server that `everywire.publish` does not find in this process."""
    from everywire.publishing import process

    async with own_server(**options) as site:
        process.detach(site.wire)
        yield site


class Silent:
    """A server that takes connections, and never answers."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def take(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)


@asynccontextmanager
async def silent() -> AsyncIterator[Silent]:
    kept = Silent()
    async with await asyncio.start_server(kept.take, "127.0.0.1", 0) as server:
        kept.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield kept
        for writer in kept.writers:
            writer.transport.abort()


async def test_what_is_published_is_the_data_as_it_was_at_the_call() -> None:
    async with elsewhere() as site:
        everywire.configure(site.url, api_key=KEY)
        data = {"state": "given"}
        receipt = everywire.publish("news", data)
        data["state"] = "changed"
        assert (await receipt).offset == 1
        assert await published(site.wire) == [{"state": "given"}]


async def test_a_server_in_the_process_goes_before_an_address() -> None:
    async with elsewhere() as far, own_server() as near:
        everywire.configure(far.url, api_key=KEY)
        await everywire.publish("news", "near")
        assert (await published(near.wire), await published(far.wire)) == (["near"], [])


async def test_another_address_counts_from_then_on_and_what_was_begun_is_finished() -> None:
    async with elsewhere() as one, elsewhere() as two:
        everywire.configure(one.url, api_key=KEY)
        receipts = [everywire.publish("news", number) for number in range(50)]
        await asyncio.to_thread(everywire.configure, two.url, api_key=KEY)
        receipts.append(everywire.publish("news", 50))
        await asyncio.gather(*receipts)
        assert await published(one.wire) == list(range(50))
        assert await published(two.wire) == [50]


async def test_too_many_unfinished_are_refused_at_once() -> None:
    async with silent() as server:
        everywire.configure(server.url, limits=Limits(max_unfinished_appends=10, publish_timeout_s=2))
        receipts = [everywire.publish("news", number) for number in range(11)]
        with pytest.raises(BrokerBusy):
            await receipts.pop()
        waiting = asyncio.create_task(asyncio.to_thread(everywire.configure, None))
        for receipt in receipts:
            with pytest.raises(everywire.EverywireError):
                await receipt
        await waiting


async def test_too_many_bytes_are_refused_at_once() -> None:
    async with silent() as server:
        everywire.configure(server.url, limits=Limits(max_publishing_bytes=1_000, publish_timeout_s=2))
        first = everywire.publish("news", "x" * 2_000)  # one always goes
        with pytest.raises(BrokerBusy):
            await everywire.publish("news", 1)
        with pytest.raises(BrokerError, match="within 2 s"):
            await first


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with silent() as server:
        url = server.url
    everywire.configure(url)
    with pytest.raises(BrokerError):
        await asyncio.to_thread(publish, 1)


async def test_who_waits_no_longer_leaves_the_publication_alone() -> None:
    async with elsewhere() as site:
        everywire.configure(site.url, api_key=KEY)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await everywire.publish("news", 1)
        assert await everywire.publish("news", 2)
        assert await published(site.wire) == [1, 2]


@pytest.mark.xdist_group("engines")
async def test_an_engine_that_goes_away_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    with redis_server(tmp_path) as engine:
        everywire.configure(f"redis://127.0.0.1:{engine.port}", limits=Limits(broker_timeout_s=1.0))
        assert await asyncio.to_thread(publish, 1, 2) == [1, 2]
        engine.kill()
        for _ in range(2):
            with pytest.raises(BrokerError):
                await asyncio.to_thread(publish, "lost")
        engine.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    await asyncio.to_thread(publish, "back")
                except BrokerError:
                    await asyncio.sleep(0.1)
                else:
                    break


@pytest.mark.xdist_group("engines")
async def test_an_engine_that_was_not_there_at_first_is_found_later(tmp_path: Path) -> None:
    with redis_server(tmp_path) as engine:
        engine.kill()
        everywire.configure(f"redis://127.0.0.1:{engine.port}", limits=Limits(broker_timeout_s=1.0))
        with pytest.raises(BrokerError):
            await asyncio.to_thread(publish, "lost")
        engine.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await asyncio.to_thread(publish, "found") == [1]
                except BrokerError:
                    await asyncio.sleep(0.1)
                else:
                    break


async def test_the_windows_of_the_servers_count_unless_others_are_given(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/log.db"
    narrow = SettingsTable([("news", ChannelSettings(window=Window(max_publications=3)))])
    async with elsewhere(broker=url) as site:
        everywire.configure(url)
        await asyncio.to_thread(publish, *range(1_500))
        assert len(await published(site.wire)) == 1_500
        await asyncio.to_thread(everywire.configure, url, channels=narrow)
        await asyncio.to_thread(publish, "last")
        assert await published(site.wire) == [1_498, 1_499, "last"]


async def test_servers_that_come_later_with_other_windows_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everywire.publishing import by_broker

    monkeypatch.setattr(by_broker, "_LEARN_S", 0.05)
    monkeypatch.setattr(by_broker, "_SWEEP_S", 0.05)
    url = f"sqlite://{tmp_path}/log.db"
    everywire.configure(url)
    await asyncio.to_thread(publish, *range(1_100))
    async with elsewhere(broker=url) as site:
        assert len(await published(site.wire)) == 1_000  # by default
        async with asyncio.timeout(30):
            while len(await published(site.wire)) < 1_200:
                await asyncio.to_thread(publish, *range(10))


@pytest.mark.parametrize("url", ["memory:", "ftp://host", "", "http://", "redis:", "sqlite"])
def test_what_is_no_address_is_told_when_it_is_configured(url: str) -> None:
    with pytest.raises(SettingsError):
        everywire.configure(url)


def test_an_address_shows_no_secret() -> None:
    from everywire.publishing.destination import Destination

    assert "secret" not in repr(Destination("redis://user:secret@host", "secret"))
