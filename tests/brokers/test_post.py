"""Messages between nodes, over lanes that may lose them."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable

import pytest

from everywire.brokers.post import Post
from everywire.core.errors import BrokerError, RequestError
from everywire.testing.broker_driving import PATIENCE_S, RecordingSink


class Net:
    """Nodes whose frames arrive at once, unless they are lost."""

    def __init__(self, *names: str) -> None:
        self.is_lossy = False
        self.is_down = False
        self.frames = 0
        self.posts = {name: Post(name, self._sender(name)) for name in names}
        self.sinks = {name: RecordingSink() for name in names}
        for name, post in self.posts.items():
            post.sink = self.sinks[name]

    def _sender(self, sender: str) -> Callable[[str | None, bytes], Awaitable[None]]:
        async def send(node: str | None, frame: bytes) -> None:
            if self.is_down:
                raise BrokerError("the engine is away")
            for name, post in self.posts.items():
                # A bus may bring one's own frames back.
                if not self.is_lossy and node in (None, name):
                    self.frames += 1
                    post.received(frame)

        return send


async def test_a_broadcast_reaches_every_node_once() -> None:
    net = Net("a", "b", "c")
    await net.posts["a"].broadcast("topic", b"\0payload")
    assert all(sink.broadcasts == [("topic", b"\0payload", "a")] for sink in net.sinks.values())


async def test_a_question_is_answered_by_the_node_that_was_asked() -> None:
    net = Net("a", "b", "c")
    for node in ("b", "a"):
        assert await net.posts["a"].ask(node, "topic", b"x", PATIENCE_S) == b"answer to x"
    assert net.frames == 2, "one question and one answer"


async def test_answers_find_who_asked() -> None:
    net = Net("a", "b")

    async def answer(topic: str, payload: bytes) -> bytes:
        await asyncio.sleep(random.random() / 100)
        return payload

    net.sinks["b"].answers = answer
    asked = [net.posts["a"].ask("b", "topic", b"%d" % number, PATIENCE_S) for number in range(100)]
    assert await asyncio.gather(*asked) == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("node", ["b", "nobody"])
async def test_a_question_that_is_lost_is_an_error_in_time(node: str) -> None:
    net = Net("a", "b")
    net.is_lossy = True
    with pytest.raises(BrokerError, match=f"node {node} did not answer in time"):
        await net.posts["a"].ask(node, "topic", b"", 0.01)


@pytest.mark.parametrize("node", ["a", "b"])
async def test_an_answer_that_takes_too_long_is_an_error_in_time(node: str) -> None:
    net = Net("a", "b")

    async def never(topic: str, payload: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    net.sinks[node].answers = never
    with pytest.raises(BrokerError, match="did not answer in time"):
        await net.posts["a"].ask(node, "topic", b"", 0.01)
    await net.posts["b"].close()


async def test_an_error_of_the_answer_is_told_and_a_fault_is_hidden() -> None:
    net = Net("a", "b")

    async def refuse(topic: str, payload: bytes) -> bytes:
        raise RequestError("no such thing") if topic == "known" else RuntimeError("secret")

    net.sinks["b"].answers = refuse
    with pytest.raises(BrokerError, match="no such thing"):
        await net.posts["a"].ask("b", "known", b"", PATIENCE_S)
    with pytest.raises(BrokerError, match="could not be answered"):
        await net.posts["a"].ask("b", "unknown", b"", PATIENCE_S)


async def test_what_cannot_be_sent_is_an_error() -> None:
    net = Net("a", "b")
    net.is_down = True
    with pytest.raises(BrokerError, match="away"):
        await net.posts["a"].broadcast("topic", b"")
    with pytest.raises(BrokerError, match="away"):
        await net.posts["a"].ask("b", "topic", b"", PATIENCE_S)


async def test_what_is_no_frame_is_counted() -> None:
    net = Net("a")
    frames = (b"", b"\xc1", b"{}", b"\x91\xa1b", bytes(100))
    for frame in frames:
        net.posts["a"].received(frame)
    assert net.posts["a"].dropped == len(frames)
    assert not net.sinks["a"].broadcasts


async def test_questions_are_bounded() -> None:
    net = Net("a", "b")
    may_answer = asyncio.Event()

    async def wait(topic: str, payload: bytes) -> bytes:
        await may_answer.wait()
        return b""

    net.sinks["b"].answers = wait
    asked = [asyncio.ensure_future(net.posts["a"].ask("b", "t", b"", PATIENCE_S)) for _ in range(300)]
    await asyncio.sleep(0)
    assert net.posts["b"].dropped == 300 - 256
    may_answer.set()
    done, _ = await asyncio.wait(asked, timeout=0.1)
    assert len(done) == 256
    await net.posts["a"].close()
    refused = [one for one in await asyncio.gather(*asked, return_exceptions=True) if one != b""]
    assert len(refused) == 44 and all(isinstance(one, BrokerError) for one in refused)


async def test_who_waits_when_a_node_leaves_hears_of_it() -> None:
    net = Net("a", "b")
    net.is_lossy = True
    asked = asyncio.ensure_future(net.posts["a"].ask("b", "topic", b"", PATIENCE_S))
    await asyncio.sleep(0)
    await net.posts["a"].close()
    with pytest.raises(BrokerError, match="leaving"):
        await asked
    del asked
    gc.collect()  # an exception that nobody fetched would be told now
