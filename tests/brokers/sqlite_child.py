"""A process that publishes through a sqlite broker and says what was acknowledged, a line each.

Its job is a JSON object: ``path``, ``channel``, ``name`` (its publications are ``name-0``, ``name-1``, … each
under itself as key), ``begin``, ``count``, and how many it has ``open`` at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from everywire.brokers.base import Appended
from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.core.publication import Draft
from everywire.testing.broker_driving import RecordingSink, append
from tests.brokers.sqlite_nodes import TABLE


async def work(job: dict) -> None:
    broker = SqliteBroker(Path(job["path"]), settings=TABLE)
    await broker.start(RecordingSink())
    numbers = iter(range(job["begin"], job["begin"] + job["count"]))

    async def publish() -> None:
        for number in numbers:
            data = f"{job['name']}-{number}"
            (result,) = await append(broker, Draft(job["channel"], data.encode(), key=data))
            assert isinstance(result, Appended), result
            os.write(1, f"{result.epoch} {result.offset} {data}\n".encode())

    await asyncio.gather(*[publish() for _ in range(job["open"])])
    await broker.close()


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1])))
