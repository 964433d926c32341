"""Who does not keep up pauses who sends, through a node between: little waits in it."""

from __future__ import annotations

import asyncio
from typing import Final

from everywire.sockets.engine import Engine
from tests.serving import DEADLINE_S, Site, until
from tests.transports.engines import Talker, open_polling
from tests.transports.relaying import at, node_of, relaying

PIECE: Final = "x" * 50_000
MOST_BYTES: Final = 4 * 1024 * 1024
"""What may be on its way: the kernel's buffers on three connections, one read, and one frame."""


class Deaf(Talker):
    """An upper that wants to hear nothing for now."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        engine.pause_reading()


def held_bytes(site: Site) -> int:
    """Return how much waits unsent in a node's own connections."""
    assert site.server is not None
    return sum(
        connection._transport.get_write_buffer_size()  # type: ignore[attr-defined]
        for connection in site.server._running.connections
    )


async def test_a_socket_that_is_not_read_stalls_the_owner() -> None:
    async with relaying() as (here, there):
        client = at(there, await open_polling(here))
        async with client.socket(max_queue=1, max_size=None) as socket:
            await socket.send("2probe")
            await socket.recv()
            await socket.send("5")
            upper = node_of(here).upper
            await until(lambda: upper.engine.socket is not None)
            said = 0
            while not upper.engine.is_full:
                upper.say(PIECE)
                said += 1
                await asyncio.sleep(0)
                assert said * len(PIECE) < 8 * MOST_BYTES, "nothing stopped it"
            assert held_bytes(there) < MOST_BYTES
            async with asyncio.timeout(DEADLINE_S):
                for _ in range(said):
                    assert await socket.recv() == "4" + PIECE
            await until(lambda: not upper.engine.is_full)


async def test_an_owner_that_does_not_read_pauses_the_client() -> None:
    async with relaying(upper=Deaf) as (here, there):
        client = at(there, await open_polling(here))
        async with client.socket() as socket:
            await socket.send("2probe")
            await socket.recv()
            await socket.send("5")
            upper = node_of(here).upper
            await until(lambda: upper.engine.socket is not None)
            sent = 0

            async def send_all() -> None:
                nonlocal sent
                while sent < 8 * MOST_BYTES:
                    await socket.send("4" + PIECE)
                    sent += len(PIECE)

            sending = asyncio.create_task(send_all())
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.2)
            assert not sending.done()
            links = node_of(there).relay.links
            held = sum(link._transport.get_write_buffer_size() for link in links._open if link._transport)
            assert held < MOST_BYTES
            upper.engine.resume_reading()
            async with asyncio.timeout(DEADLINE_S):
                await sending
            await until(lambda: len(upper.heard) == sent // len(PIECE))
