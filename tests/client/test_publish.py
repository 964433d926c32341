"""Publishing: once, however often it has to be sent."""

from __future__ import annotations

import json

import pytest

from everywire.client.errors import ConnectionLost, Refused
from everywire.client.publish import Publisher
from everywire.core.errors import BadChannelName
from tests.client.scripted import Peer, scripted

ANSWER = {"offset": 7, "epoch": "e1", "position": "p7", "subscribers": 2}


async def accept(peer: Peer) -> None:
    await peer.request()
    await peer.answer(json.dumps(ANSWER).encode(), 201)
    await peer.hang()


async def lose_the_answer(peer: Peer) -> None:
    await peer.request()


async def replay(peer: Peer) -> None:
    await peer.request()
    await peer.answer(json.dumps(ANSWER).encode(), 200)
    await peer.hang()


async def test_a_publication_is_posted_as_it_stands() -> None:
    async with scripted(accept) as server:
        publisher = Publisher(server.url, {"Authorization": "Bearer sesame"})
        done = await publisher.publish(
            "a#1", b'{"x": 1}', event="tick", tags={"k": "v:w", "l": "m"}, key="K1"
        )
        await publisher.close()
        assert done[:5] == (7, "e1", "p7", 2, False)
        assert done.answer == ANSWER
        (asked,) = server.asked
        assert (asked.method, asked.path, asked.body) == ("POST", "/channels/a%231", b'{"x": 1}')
        assert asked.query["event"] == "tick"
        assert asked.headers["idempotency-key"] == "K1"
        assert asked.headers["content-type"] == "application/json"
        assert asked.headers["authorization"] == "Bearer sesame"


async def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    async with scripted(lose_the_answer, lose_the_answer, replay) as server:
        publisher = Publisher(server.url)
        done = await publisher.publish("a", b"\x00", "application/octet-stream")
        await publisher.close()
        assert done.is_replay
        assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
        assert [asked.body for asked in server.asked] == [b"\x00"] * 3


async def test_every_publication_has_a_key_of_its_own() -> None:
    async def twice(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.answer(json.dumps(ANSWER).encode(), 201)
        await peer.hang()

    async with scripted(twice) as server:
        publisher = Publisher(server.url)
        await publisher.publish("a", b"1")
        await publisher.publish("a", b"1")
        await publisher.close()
        assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 2
        assert len(server.connections) == 1


async def test_attempts_have_an_end() -> None:
    async with scripted(lose_the_answer) as server:
        publisher = Publisher(server.url, max_attempts=3)
        with pytest.raises(ConnectionLost):
            await publisher.publish("a", b"1")
        await publisher.close()
        assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 413, 422])
async def test_a_refusal_is_not_repeated(status: int) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b'{"error": {"message": "too much"}}', status)
        await peer.hang()

    async with scripted(refuse) as server:
        publisher = Publisher(server.url)
        with pytest.raises(Refused, match="too much") as caught:
            await publisher.publish("a", b"1")
        await publisher.close()
        assert caught.value.number == status
        assert len(server.asked) == 1


async def test_a_bad_name_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(BadChannelName):
        await Publisher("http://127.0.0.1:1").publish("a/b", b"1")
