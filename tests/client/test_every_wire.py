"""The client against the real server: every transport, over TCP and TLS."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from everywire.client.errors import Refused
from everywire.client.items import Item, Missed, Received
from everywire.client.publish import Publisher
from everywire.client.reader import TRANSPORTS, subscribe
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from tests.client.certificates import make_certificate
from tests.serving import DEADLINE_S, Site, serving

ROWS = [b'{"n": 1}', b'"two"', b"null"]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest_asyncio.fixture(params=["own", "own-tls"])
async def site(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> AsyncIterator[Site]:
    async with serving(request.param, certificate) as site:
        yield site


async def take(
    site: Site, channels: str | list[str], transport: str, after: str | None, number: int
) -> list[Item]:
    items: list[Item] = []
    reader = subscribe(site.url, channels, transport, after, tls=site.tls)
    async with asyncio.timeout(DEADLINE_S), aclosing(reader):
        async for item in reader:
            items.append(item)
            if len(items) == number:
                break
    return items


async def publish(site: Site, channel: str, *rows: bytes) -> None:
    publisher = Publisher(site.url, tls=site.tls)
    for data in rows:
        await publisher.publish(channel, data)
    await publisher.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_was_published_is_read_with_its_positions(site: Site, transport: str) -> None:
    await publish(site, "a#1", *ROWS)
    publisher = Publisher(site.url, tls=site.tls)
    await publisher.publish("a#1", b"\0\xff", "image/png", event=None)
    await publisher.publish("a#1", b"5", event="tick", tags={"k": "v"})
    await publisher.close()
    items = await take(site, "a#1", transport, "earliest", 5)
    assert [(item.offset, item.data) for item in items if isinstance(item, Received)] == [
        (1, {"n": 1}),
        (2, "two"),
        (3, None),
        (4, b"\0\xff"),
        (5, 5),
    ]
    assert items[3].content_type == "image/png"
    assert items[4].event == "tick"
    again = await take(site, "a#1", transport, items[2].position, 2)
    assert [item.offset for item in again] == [4, 5]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_without_a_position_reading_starts_live(site: Site, transport: str) -> None:
    await publish(site, "a", b"0")
    reading = asyncio.create_task(take(site, "a", transport, None, 1))
    seen: list[Item] = []
    number = 0
    async with asyncio.timeout(DEADLINE_S):
        # When it began nobody knows, so there has to be something new until it is heard.
        while not reading.done():
            number += 1
            await publish(site, "a", b"%d" % number)
            await asyncio.sleep(0.05)
        seen = await reading
    assert seen[0].data >= 1


async def test_a_reader_that_changes_transports_misses_nothing(site: Site) -> None:
    lot = random.Random(7)
    await publish(site, "a", b"0")
    after: str | None = "earliest"
    seen: list[int] = []
    last = 60

    async def go_on() -> None:
        for number in range(1, last + 1):
            await site.publish("a", number)
            await asyncio.sleep(0.005)

    publishing = asyncio.create_task(go_on())
    while len(seen) <= last:
        transport = lot.choice(list(TRANSPORTS))
        items = await take(site, "a", transport, after, min(lot.randint(1, 9), last + 1 - len(seen)))
        after = items[-1].position
        seen += [item.data for item in items if isinstance(item, Received)]
    await publishing
    assert seen == list(range(last + 1))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_several_channels_are_read_together(site: Site, transport: str) -> None:
    await publish(site, "a", b"1", b"2")
    await publish(site, "b", b"3")
    items = await take(site, ["b", "a"], transport, "earliest", 3)
    assert sorted((item.channel, item.data) for item in items) == [("a", 1), ("a", 2), ("b", 3)]
    await publish(site, "b", b"4")
    (item,) = await take(site, ["b", "a"], transport, items[-1].position, 1)
    assert (item.channel, item.data) == ("b", 4)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_no_longer_kept_is_told_as_a_gap(certificate: tuple[str, str], transport: str) -> None:
    table = SettingsTable([("*", ChannelSettings(window=Window(max_publications=3)))])
    async with serving("own", certificate, channels=table) as site:
        await publish(site, "a", b"1")
        (first,) = await take(site, "a", transport, "earliest", 1)
        await publish(site, "a", *[b"%d" % number for number in range(2, 11)])
        gap, *rest = await take(site, "a", transport, first.position, 4)
        assert isinstance(gap, Missed)
        assert (gap.first, gap.last, gap.reason) == (2, 7, "trimmed")
        assert [item.offset for item in rest] == [8, 9, 10]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reader_without_a_credential_is_refused(certificate: tuple[str, str], transport: str) -> None:
    async with serving("own", certificate, dev=False, api_keys={"me": "sesame-sesame"}) as site:
        with pytest.raises(Refused, match="credential is needed") as caught:
            await take(site, "a", transport, None, 1)
        assert caught.value.number == 401
        headers = {"Authorization": "Bearer sesame-sesame"}
        publisher = Publisher(site.url, headers)
        await publisher.publish("a", b"1")
        await publisher.close()
        reader = subscribe(site.url, "a", transport, "earliest", headers)
        async with asyncio.timeout(DEADLINE_S), aclosing(reader):
            assert (await anext(reader)).offset == 1


async def test_a_key_makes_publishing_again_harmless(site: Site) -> None:
    publisher = Publisher(site.url, tls=site.tls)
    first = await publisher.publish("a", b"1", key="once")
    second = await publisher.publish("a", b"1", key="once")
    assert (first.offset, first.is_replay) == (second.offset, False)
    assert second.is_replay
    with pytest.raises(Refused) as caught:
        await publisher.publish("a", b"2", key="once")
    assert caught.value.number == 422
    await publisher.close()


async def test_a_server_that_drains_is_found_again_where_reading_stopped(tmp_path: Path) -> None:
    """Every transport is told in its own words when to come back; here nobody is there to come back to."""
    certificate = make_certificate(tmp_path)
    for transport in TRANSPORTS:
        lost = asyncio.Event()
        async with serving("own", certificate) as site:
            await publish(site, "a", b"1")
            reader = subscribe(
                site.url, "a", transport, "earliest", lost=lambda reason, delay_s, lost=lost: lost.set()
            )
            async with asyncio.timeout(DEADLINE_S), aclosing(reader):
                assert (await anext(reader)).data == 1
                following = asyncio.create_task(anext(reader))
                await asyncio.sleep(0.1)
                draining = asyncio.create_task(site.drain())
                await lost.wait()
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await draining
