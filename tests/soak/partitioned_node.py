"""A node that publishes steadily and reads the same channel: `tests.soak.partitioned_node URL NAME`.

It says ``ready``, begins at a line on its standard input, publishes until the next, and reads until the
third. Then it says in JSON what was acknowledged to it and what it was told.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

from everywire.brokers.base import Appended
from everywire.brokers.opening import open_broker
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.hub.hub import Hub
from everywire.hub.recovery import EARLIEST
from tests.brokers.redis_nodes import Reader, until
from tests.hub.recording import RecordingEncoder, RecordingFraming

RATE: Final = 100.0
CHANNEL: Final = "a"
LIMITS: Final = Limits(canary_interval_s=0.5, canary_timeout_s=1.0, broker_timeout_s=2.0)
SETTINGS: Final = SettingsTable(default=ChannelSettings(Window(max_publications=100_000, max_bytes=2**26)))


async def main(url: str, name: str) -> None:
    broker = open_broker(url, LIMITS, SETTINGS)
    hub = Hub(broker, asyncio.get_running_loop(), limits=LIMITS, settings=SETTINGS)
    await hub.start()
    reader = Reader()
    opened = hub.reader((CHANNEL,), RecordingEncoder(), RecordingFraming(), reader)
    reader.reader = opened  # type: ignore[attr-defined]
    hub.open(opened, EARLIEST)
    await until(lambda: reader.is_open)
    acknowledged: list[tuple[int, str]] = []
    failed: list[str] = []

    async def publish() -> None:
        number = 0
        while True:
            data = f"{name}-{number}"

            def done(result: Appended | EverywireError, data: str = data) -> None:
                if isinstance(result, Appended):
                    acknowledged.append((result.offset, data))
                else:
                    failed.append(data)

            hub.publish(Draft(CHANNEL, data.encode()), done)
            number += 1
            await asyncio.sleep(1 / RATE)

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    publishing = asyncio.create_task(publish())
    await asyncio.to_thread(sys.stdin.readline)
    publishing.cancel()
    await asyncio.to_thread(sys.stdin.readline)
    told = [data.decode() for data in reader.data(CHANNEL)]
    found = {"acknowledged": acknowledged, "failed": failed, "told": told, "gaps": reader.gaps()}
    print(json.dumps(found | {"ready": broker.health().ready}), flush=True)
    await hub.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
