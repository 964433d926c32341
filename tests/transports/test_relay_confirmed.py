"""Answers that may have got lost between two nodes: a session whose client could miss something ends.

A node that is killed with an answer in its hands leaves a proxy to ask another one for it again, as if
nothing had been said yet. The client then never sees that a message is missing; so its session must end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from everywire.transports.exchange import Request
from everywire.transports.relay_link import CONFIRMATION, RELEASE
from tests.nodes import nodes
from tests.serving import DEADLINE_S, Site, until
from tests.sockjs_mounts import SockJsWire
from tests.sockjs_talking import new_session, poll, send
from tests.transports.engines import open_polling
from tests.transports.relaying import at, node_of, relaying

ENDS: Final = {"confirmed": True, "lost": False}


@asynccontextmanager
async def asked_privately(site: Site, method: str, target: str) -> AsyncIterator[asyncio.StreamWriter]:
    """Ask a node as another one does, and read the answer; what becomes of it is the test's."""
    relaying_of = site.wire._assembly._relaying
    assert relaying_of.relay is not None and relaying_of._server is not None
    path, _, query = target.partition("?")
    request = Request(method, path, query, {}, host=site.authority, peer="127.0.0.1", is_local=True)
    field = relaying_of.relay.seal.write(site.wire.broker.node, request, target)
    reader, writer = await asyncio.open_unix_connection(relaying_of._server.unix)
    head = f"{method} {target} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 0\r\n"
    writer.write(head.encode() + b"Everywire-Relay: " + field + b"\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await reader.read(1)
    try:
        yield writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("is_confirmed", ENDS.values(), ids=ENDS)
async def test_a_poll_whose_answer_may_be_lost_ends_the_connection(is_confirmed: bool) -> None:
    async with relaying(1) as (here,):
        client = await open_polling(here)
        upper = node_of(here).upper
        upper.say("hello")
        async with asked_privately(here, "GET", client.target) as writer:
            if is_confirmed:
                writer.write(CONFIRMATION)
                await writer.drain()
                await asyncio.sleep(0.05)
        if is_confirmed:
            await client.send("4more")
            assert await client.poll() == "4more"
        else:
            await until(lambda: upper.reasons == ["transport close"])
            assert await client.is_gone()


async def test_empty_lines_mean_nothing_more_than_they_should() -> None:
    async with relaying(1) as (here,):
        client = await open_polling(here)
        for _ in range(3):
            node_of(here).upper.say("hello")
            async with asked_privately(here, "GET", client.target) as writer:
                # Asked to end what has ended, and confirmed, in one piece.
                writer.write(RELEASE + CONFIRMATION)
                await asyncio.sleep(0.02)
                assert not writer.transport.is_closing()
        assert node_of(here).private_server.metrics.refused == {}
        await client.send("4more")
        assert await client.poll() == "4more"


async def test_a_node_that_gave_all_answers_may_die() -> None:
    async with relaying() as (here, there):
        client = await open_polling(here)
        elsewhere = at(there, client)
        node_of(here).upper.say("hello")
        assert await elsewhere.poll() == "4hello"
        await asyncio.sleep(0.05)
        (link,) = node_of(there).relay.links._open
        link.abort()  # the node dies, but with nothing in its hands
        await client.send("4more")
        assert await client.poll() == "4more"


@pytest.mark.parametrize("is_confirmed", ENDS.values(), ids=ENDS)
async def test_an_answer_of_sockjs_that_may_be_lost_interrupts_the_session(is_confirmed: bool) -> None:
    async with nodes(1, make=SockJsWire) as (here,):
        session = new_session()
        assert await poll(here, session) == "o"
        await send(here, session, "hello")
        async with asked_privately(here, "POST", f"{session}/xhr") as writer:
            if is_confirmed:
                writer.write(CONFIRMATION)
                await writer.drain()
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        await send(here, session, "more")
        wanted = 'a["more"]' if is_confirmed else 'c[1002,"Connection interrupted"]'
        assert await poll(here, session) == wanted
