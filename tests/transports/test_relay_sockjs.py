"""Sessions of SockJS and commands of emulated sessions that come to another node than their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import pytest
import pytest_asyncio

from everywire.core.limits import Limits
from everywire.server.relaying import Relaying
from everywire.sockets.sockjs_link import SockJsOptions
from everywire.testing.shared_broker import SharedStore
from everywire.transports.relay_way import PeerRelay
from everywire.transports.sockjs import SockJs
from everywire.transports.sockjs_homes import Homes
from tests.nodes import nodes
from tests.serving import DEADLINE_S, Site, until
from tests.sockjs_mounts import SockJsWire, echo
from tests.sockjs_talking import FRAMES, new_session, poll, post, send, streamed

QUICK: Final = {"/quick": (echo, SockJsOptions(disconnect_delay_s=0.3, heartbeat_s=0.3))}
LOST: Final = 'c[1002,"Connection interrupted"]'


@pytest_asyncio.fixture(params=("own", "asgi"))
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[list[Site]]:
    """Two nodes, on our own host and in an ASGI server."""
    async with nodes(2, host=request.param, make=SockJsWire, mounts=QUICK) as sites:
        yield sites


def mount_of(site: Site, prefix: str = "/echo") -> SockJs:
    return cast(SockJsWire, site.wire).mounts[prefix]


def homes_of(site: Site, prefix: str = "/echo") -> Homes:
    homes = mount_of(site, prefix)._forwarding._homes
    assert homes is not None
    return homes


def relaying_of(site: Site) -> Relaying:
    return site.wire._assembly._relaying


def relay_of(site: Site) -> PeerRelay:
    relay = relaying_of(site).relay
    assert relay is not None
    return relay


def keys_of(store: SharedStore) -> list[str]:
    values: Any = store.far.store
    return [key for key in values._values if key.startswith("sockjs/")]


# -- transports ---------------------------------------------------------------------------------------


async def test_polls_and_messages_find_their_session(pair: list[Site]) -> None:
    here, there = pair
    session = new_session()
    assert await poll(here, session) == "o"
    for number, site in enumerate((there, here, there)):
        assert (await send(site, session, f"hello {number}")).status_code == 204
        assert await poll(there, session) == f'a["hello {number}"]'
    assert len(mount_of(there).table) == 0


async def test_jsonp_finds_its_session(pair: list[Site]) -> None:
    here, there = pair
    session = new_session()
    answer = await here.http.get(f"{session}/jsonp?c=callback")
    assert answer.text == '/**/callback("o");\r\n'
    form = {"content-type": "application/x-www-form-urlencoded"}
    sent = await post(there, f"{session}/jsonp_send", "d=%5B%22hello%22%5D", form)
    assert (sent.status_code, sent.text) == (200, "ok")
    answer = await there.http.get(f"{session}/jsonp?c=other")
    assert answer.text == '/**/other("a[\\"hello\\"]");\r\n'


@pytest.mark.parametrize("transport", FRAMES)
async def test_a_stream_passes_piece_by_piece(transport: str) -> None:
    how = FRAMES[transport]
    async with nodes(2, make=SockJsWire) as (here, there):
        session = new_session()
        assert await poll(here, session) == "o"
        path = f"{session}/{transport}{how['query']}"
        async with streamed(there, how["method"], path) as stream:
            assert stream.headers["content-type"] == how["type"]
            assert stream.headers["transfer-encoding"] == "chunked"
            heard = await stream.chunk()  # the prelude
            for number in range(3):
                await send(here if number % 2 else there, session, f"hello {number}")
                wanted = how["wrap"](f'a["hello {number}"]').encode()
                while not heard.endswith(wanted):
                    heard = await stream.chunk()


async def test_a_stream_ends_when_it_has_carried_enough(pair: list[Site]) -> None:
    here, there = pair
    session = new_session()
    assert await poll(here, session) == "o"
    stream = asyncio.create_task(post(there, f"{session}/xhr_streaming"))
    await until(lambda: relaying_of(here).private and relaying_of(here).private.taken)  # type: ignore[union-attr]
    await send(here, session, "x" * 5000)
    answer = await stream
    assert answer.text.endswith(f'a["{"x" * 5000}"]\n')
    assert (await send(there, session, "more")).status_code == 204
    assert await poll(here, session) == 'a["more"]'


# -- the end, from both sides ----------------------------------------------------------------------------


async def test_a_stream_that_is_cut_interrupts_the_session(pair: list[Site]) -> None:
    here, there = pair
    session = new_session()
    assert await poll(here, session) == "o"
    if there.host == "own":
        async with streamed(there, "POST", f"{session}/xhr_streaming") as stream:
            await stream.chunk()
    else:
        waiting = asyncio.create_task(poll(there, session))
        await until(lambda: relaying_of(here).private.taken)  # type: ignore[union-attr]
        waiting.cancel()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            frame = await poll(there, session)
            if frame == LOST:
                break
            assert "Another connection" in frame


async def test_a_reader_that_does_not_keep_up_pauses_its_session() -> None:
    """What a slow client leaves unread waits with the owner, which is bounded, not between the nodes."""
    mounts = {"/wide": (echo, SockJsOptions(response_bytes=1 << 30))}
    async with nodes(2, make=SockJsWire, mounts=mounts) as (here, there):
        session = new_session("/wide")
        assert await poll(here, session) == "o"
        reader, writer = await there.connect(limit=1024)
        head = (
            f"POST {session}/xhr_streaming HTTP/1.1\r\nHost: {there.authority}\r\nContent-Length: 0\r\n\r\n"
        )
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        piece, sent = "x" * 100_000, 0
        sessions = list(mount_of(here, "/wide").table._by_owner.values())
        while not sessions[0].is_stalled:
            assert (await send(here, session, piece)).status_code == 204
            sent += 1
            assert sent < 2_000, "nothing stopped it"
        while sessions[0].queued_bytes < 300_000 and not sessions[0].is_closed:
            await send(here, session, piece)
            sent += 1
        heard = b""
        async with asyncio.timeout(DEADLINE_S):
            while heard.count(b"x") < sent * len(piece):
                heard += await reader.read(1 << 20)
        writer.transport.abort()


async def test_a_session_that_has_ended_is_nobodys_again() -> None:
    store = SharedStore()
    async with nodes(2, make=SockJsWire, store=store, mounts=QUICK) as (here, there):
        session = new_session("/quick")
        assert await poll(here, session) == "o"
        assert len(keys_of(store)) == 1
        assert session.rpartition("/")[2] not in keys_of(store)[0]
        await until(lambda: len(mount_of(here, "/quick").table) == 0)
        await until(lambda: keys_of(store) == [])
        homes_of(there, "/quick")._known.clear()
        assert await poll(there, session) == "o"  # a new one, there


async def test_messages_for_a_session_of_a_node_that_is_gone_are_not_found(pair: list[Site]) -> None:
    here, there = pair
    session = new_session()
    assert await poll(here, session) == "o"
    server = relaying_of(here)._server
    assert server is not None
    await server.close()
    assert (await send(there, session, "hello")).status_code == 404
    assert await poll(there, session) == "o"  # the client sees that its session is lost
    assert (await send(there, session, "hello")).status_code == 204
    assert relay_of(there).lost == 1


async def test_whoever_polls_for_a_session_of_a_node_that_is_gone_gets_a_new_one() -> None:
    async with nodes(3, make=SockJsWire) as (here, there, elsewhere):
        session = new_session()
        assert await poll(here, session) == "o"
        assert (await send(there, session, "hello")).status_code == 204
        server = relaying_of(here)._server
        assert server is not None
        await server.close()
        assert await poll(there, session) == "o"
        # It is found from anywhere, as if it had been the first.
        assert (await send(elsewhere, session, "hello")).status_code == 204
        assert await poll(elsewhere, session) == 'a["hello"]'
        assert len(mount_of(there).table) == 1


async def test_two_requests_at_once_make_one_session(pair: list[Site]) -> None:
    _, there = pair
    for _ in range(10):
        session = new_session()
        both = {asyncio.create_task(poll(site, session)) for site in pair}
        done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await send(there, session, "hello")
        if waiting:
            await asyncio.wait(waiting)
        assert sorted(task.result() for task in both) == ['a["hello"]', "o"]
        assert len(done) + len(waiting) == 2


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_a_node_that_stops_gives_the_answers_back_that_it_carries(
    pair: list[Site], transport: str
) -> None:
    here, there = pair
    session = new_session()
    assert await poll(here, session) == "o"
    waiting = asyncio.create_task(post(there, f"{session}/{transport}"))
    sessions = list(mount_of(here).table._by_owner.values())
    await until(lambda: sessions[0]._receiver is not None)
    drain = asyncio.create_task(there.drain(DEADLINE_S))
    answer = await waiting
    assert answer.status_code == 200
    assert answer.text == "h\n" if transport == "xhr" else answer.text.strip("h\n") == ""
    await drain
    assert (await send(here, session, "still here")).status_code == 204
    assert await poll(here, session) == 'a["still here"]'


# -- emulation --------------------------------------------------------------------------------------------


async def test_commands_find_the_stream_of_their_session(pair: list[Site]) -> None:
    here, there = pair
    body = json.dumps({"id": 1, "connect": {}})
    async with here.http.stream("POST", "/connection/http_stream", content=body) as stream:
        lines = stream.aiter_lines()
        connected = json.loads(await anext(lines))["connect"]
        command = json.dumps({"id": 2, "subscribe": {"channel": "news"}})
        asked = {"node": connected["node"], "session": connected["session"], "data": command}
        assert (await there.http.post("/emulation", json=asked)).status_code == 204
        assert "subscribe" in json.loads(await anext(lines))
        await there.publish("news", "hello")
        assert json.loads(await anext(lines))["push"]["pub"]["data"] == "hello"
        unknown = {**asked, "node": "another"}
        assert (await there.http.post("/emulation", json=unknown)).status_code == 404


# -- who only knocks --------------------------------------------------------------------------------------


async def test_whoever_leaves_before_a_session_begins_leaves_nothing_in_the_store() -> None:
    store = SharedStore()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def authenticate(request: object) -> None:
        asked.set()
        await answered.wait()

    async with nodes(1, make=SockJsWire, store=store) as (here,):
        here.wire.authenticate(authenticate)
        waiting = asyncio.create_task(post(here, f"{new_session()}/xhr"))
        await asked.wait()
        assert len(keys_of(store)) == 1
        waiting.cancel()
        await asyncio.sleep(0.05)
        answered.set()
        await until(lambda: keys_of(store) == [])
        assert len(mount_of(here).table) == 0


async def test_an_address_without_a_place_leaves_nothing_in_the_store() -> None:
    store = SharedStore()
    async with nodes(1, make=SockJsWire, store=store, limits=Limits(max_sockjs_sessions=1)) as (here,):
        assert await poll(here, new_session()) == "o"
        assert (await post(here, f"{new_session()}/xhr")).status_code == 503
        await until(lambda: len(keys_of(store)) == 1)


async def test_what_was_written_down_is_kept_good_while_sessions_last() -> None:
    store = SharedStore()
    async with nodes(1, make=SockJsWire, store=store) as (here,):
        assert await poll(here, new_session()) == "o"
        homes = homes_of(here)
        (key,) = keys_of(store)
        values: Any = store.far.store
        before = values._values[key][1]
        await homes.renew_due()
        assert values._values[key][1] == before  # it is young
        homes._ours[key] = (homes._ours[key][0], -10_000.0)
        await asyncio.sleep(0.01)
        await homes.renew_due()
        assert values._values[key][1] > before
        homes._ours["sockjs/nothing"] = ("nothing", -10_000.0)
        await homes.renew_due()
        assert "sockjs/nothing" not in homes._ours
