"""One client of three channels, cut and moved to another wire a thousand times: nothing lost, doubled or
out of order, whatever carried it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from everywire.client.client import Client
from everywire.client.items import Received
from everywire.client.links import LINKS, StreamLink
from everywire.client.subscription import Subscription
from everywire.core.position import Place
from tests.e2e.cutting import through
from tests.serving import serving

CHANNELS = ("a", "b", "c")
CUTS = 1_000


class Reader:
    """One client's life: what it read, and where it stands, through all connections."""

    def __init__(self) -> None:
        self.read: dict[str, list[int]] = {channel: [] for channel in CHANNELS}
        self.places = dict.fromkeys(CHANNELS, Place("", 0))

    def take(self, subscription: Subscription) -> None:
        """Take what is queued, and where that ends."""
        channel = subscription.channel
        while subscription.queued:
            item = subscription.take_nowait()
            assert isinstance(item, Received), item
            assert item.offset is not None
            self.read[channel].append(item.data)
            self.places[channel] = Place(subscription.epoch, item.offset)


async def test_a_thousand_cuts_and_changes_of_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether a proxy holds bodies back is another test's matter; here it would cost 0.3 s a connection.
    monkeypatch.setattr(StreamLink, "ticks", 0)
    lot, wires_lot = random.Random(7), random.Random(8)
    wires = Counter[str]()
    async with (
        asyncio.timeout(240),
        serving("own", ("", "")) as site,
        through(site.url) as cable,
    ):
        published = dict.fromkeys(CHANNELS, 0)

        async def publish() -> None:
            while True:
                channel = lot.choice(CHANNELS)
                await site.publish(channel, published[channel])
                published[channel] += 1
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        reader = Reader()
        for cut in range(CUTS // 2):
            # Plain polling waits a second between two questions: it has its turn now and then.
            transport = "poll" if cut % 100 == 50 else wires_lot.choice([*LINKS][:4])
            wires[transport] += 1
            client = Client(cable.url, transports=[transport])
            subscriptions = [client.channel(name, since=reader.places[name]) for name in CHANNELS]
            await client.connect()
            await asyncio.gather(*[subscription.subscribe() for subscription in subscriptions])
            await asyncio.sleep(lot.random() * 0.02)
            # The client comes back by itself, on the same wire…
            cable.cut()
            cable.mend()
            await asyncio.sleep(lot.random() * 0.02)
            # … or another one goes on from its places, as a page that is loaded again does.
            for subscription in subscriptions:
                reader.take(subscription)
            cable.cut()
            await client.close()
            cable.mend()
        publishing.cancel()
        async with Client(site.url) as client:
            for channel in CHANNELS:
                async with client.channel(channel, since=reader.places[channel]) as subscription:
                    reader.take(subscription)
        assert cable.connections > CUTS // 2
    for channel in CHANNELS:
        assert reader.read[channel] == list(range(published[channel])), channel
        assert published[channel] > 100
    assert len(wires) == len(LINKS) and min(wires.values()) >= 3, wires
