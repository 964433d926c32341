"""Pings, pongs and what a blocked event loop or a slow line do to them."""

from __future__ import annotations

from typing import Any

import pytest

from everywire.core.limits import Limits
from everywire.sessions.dialects import WEBSOCKET_JSON_OWN_PINGS
from tests.sessions.driving import Client, World


def pings(client: Client) -> int:
    return sum(one == {} for one in client.told)


async def test_pings_come_in_their_rhythm_on_a_busy_line_too() -> None:
    async with World() as world:
        clients = [await world.connected() for _ in range(20)]
        await clients[0].subscribe("open")
        await world.settle(12)
        assert [pings(client) for client in clients] == [0] * 20
        await world.settle(13.5)
        assert [pings(client) for client in clients] == [1] * 20, "after a random half to whole interval"
        for _ in range(50):
            world.publish("open", 1)
            await world.settle(1)
        assert [pings(client) for client in clients] == [3] * 20
        assert all(client.end is None for client in clients)


async def test_first_pings_are_spread() -> None:
    async with World() as world:
        clients = [await world.connected() for _ in range(30)]
        assert len({round(client.session.ping_due_s, 1) for client in clients}) > 10


async def test_who_does_not_answer_is_given_up() -> None:
    async with World() as world:
        client = await world.connected(answers_pings=False)
        while not pings(client):
            await world.settle(0.5)
        await world.settle(7)
        assert client.end is None
        await world.settle(2)
        assert client.end is not None and client.end[0] == 3012


@pytest.mark.parametrize("command", [{}, {"id": 9, "ping": {}}, {"id": 9, "history": {"channel": "open"}}])
async def test_any_sign_of_life_will_do(command: dict[str, Any]) -> None:
    async with World() as world:
        client = await world.connected(answers_pings=False)
        for _ in range(4):
            before = pings(client)
            while pings(client) == before:
                await world.settle(0.5)
            await world.settle(5)
            client.asked.clear()
            client.send_commands(command)
        assert client.end is None


async def test_a_pong_that_answers_nothing_is_taken() -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands({})
        client.send_commands({}, {})
        assert client.end is None and len(client.told) == 1


async def test_a_ping_is_framed_once_for_all() -> None:
    async with World() as world:
        clients = [await world.connected() for _ in range(10)]
        framed = clients[0].framing.framed
        await world.settle(26)
        assert [pings(client) for client in clients] == [1] * 10
        assert clients[0].framing.framed <= framed + 1


async def test_time_in_which_the_loop_was_blocked_does_not_count() -> None:
    async with World() as world:
        client = await world.connected(answers_pings=False)
        while not pings(client):
            await world.settle(0.5)
        world.clock.spend(60)
        await world.settle(3)
        assert client.end is None, "it could not be heard"
        client.send_commands({})
        await world.settle(10)
        assert client.end is None


async def test_time_in_which_the_loop_was_blocked_does_not_count_for_pongs_either() -> None:
    async with World(limits=Limits(ping_interval_s=2, pong_timeout_s=10)) as world:
        client = await world.connected(answers_pings=False)
        await world.settle(2.5)
        assert pings(client) == 1
        world.clock.spend(60)
        await world.settle(6)
        assert client.end is None and pings(client) >= 3
        await world.settle(4)
        assert client.end is not None and client.end[0] == 3012


async def test_a_later_ping_gives_no_more_time() -> None:
    async with World(limits=Limits(ping_interval_s=2, pong_timeout_s=5)) as world:
        client = await world.connected(answers_pings=False)
        await world.settle(8)
        assert client.end is not None and client.end[0] == 3012


async def test_a_client_whose_bytes_are_still_on_their_way_is_not_asked() -> None:
    async with World() as world:
        client = await world.connected(room=10_000, answers_pings=False)
        await client.subscribe("open")
        client.room = 1
        world.publish("open", 1)
        await world.settle(60)
        assert client.session.is_stalled and client.end is None and not pings(client)
        client.drain()
        await world.settle(26)
        assert pings(client)
        client.send_commands({})


async def test_a_ping_that_is_stuck_behind_other_bytes_is_not_missed() -> None:
    async with World() as world:
        client = await world.connected(room=10_000, answers_pings=False)
        await client.subscribe("open")
        while not pings(client):
            await world.settle(0.5)
        client.room = 1
        world.publish("open", 1)
        await world.settle(30)
        assert client.end is None
        client.drain()
        await world.settle(20)
        assert client.end is not None and client.end[0] == 3012


async def test_a_carrier_with_pings_of_its_own() -> None:
    async with World() as world:
        client = await world.connected(dialect=WEBSOCKET_JSON_OWN_PINGS)
        assert not {"ping", "pong"} & set(client.of("connect")[0])
        await world.settle(60)
        assert client.beats == 2 and not pings(client) and client.end is None


async def test_a_poll_is_not_pinged() -> None:
    async with World() as world:
        client = await world.connected(transport="poll")
        await world.settle(100)
        assert not pings(client) and client.end is None


async def test_a_one_way_carrier_is_pinged_and_not_asked() -> None:
    async with World() as world:
        client = world.client(transport="uni_sse")
        client.send_text(b"{}")
        await world.settle(100)
        assert pings(client) >= 3 and client.end is None


async def test_pings_may_be_switched_off() -> None:
    async with World(limits=Limits(ping_interval_s=0)) as world:
        client = await world.connected()
        assert not {"ping", "pong"} & set(client.of("connect")[0])
        await world.settle(100)
        assert not pings(client) and client.end is None


async def test_an_ended_session_has_no_deadline() -> None:
    async with World() as world:
        clients = [await world.connected() for _ in range(5)]
        never = world.client()
        for client in (*clients, never):
            client.cut()
        assert world.hub.deadlines.is_empty
