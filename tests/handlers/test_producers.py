"""Runs of producers over hubs, on one node and on several."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from everywire.brokers.base import Broker, Page
from everywire.brokers.memory import MemoryBroker
from everywire.core import codes
from everywire.core.errors import BadChannelName, BrokerError, EverywireError, SettingsError
from everywire.core.limits import Limits
from everywire.core.position import Place, Position, encode_position
from everywire.core.publication import Draft, Publication
from everywire.handlers.producers import Producers
from everywire.handlers.refused import Refused
from everywire.handlers.run import Run
from everywire.handlers.runs import Produced
from everywire.hub.called import called
from everywire.hub.hub import Hub
from everywire.hub.recovery import EARLIEST, LATEST, Start
from everywire.testing.delayed_broker import DelayedBroker, Faults
from everywire.testing.shared_broker import SharedStore

DEADLINE_S = 20.0


class Clock:
    """The store's clock: real, and what has passed beside."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def passes(self, seconds: float) -> None:
        self.ahead_ms += int(seconds * 1000)


class Node:
    """A hub with producers."""

    def __init__(self, broker: Broker, limits: Limits) -> None:
        self.hub = Hub(broker, asyncio.get_running_loop(), limits=limits)
        self.producers = Producers(limits)

    async def __aenter__(self) -> Node:
        await self.hub.start()
        self.producers.start(self.hub)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.producers.close()
        await self.hub.close()

    async def run(self, channel: str, source: Any, **more: Any) -> Run:
        return await self.producers.run(channel, source, **more)

    async def kept(self, channel: str) -> list[Publication]:
        """Read all that the channel's log keeps."""
        found: list[Publication] = []
        while True:
            after = found[-1].offset if found else 0
            read = partial(self.hub.broker.log.read, channel, after, 1_000, 2**20)
            page: Page = await called(read)
            if not page.publications:
                return found
            found += page.publications

    async def text(self, channel: str) -> tuple[str, dict[str, Any]]:
        """Read a run: its text, and the data of the mark of its end."""
        *items, end = await self.kept(channel)
        assert end.event == "end"
        assert {item.event for item in items} <= {None}
        return "".join(json.loads(item.data) for item in items), json.loads(end.data)

    async def fetch(self, channel: str, start: Start) -> list[bytes]:
        fetched = await called(partial(self.hub.fetch, [channel], start, 1_000))
        return [one.data for one in fetched.slices[0].publications]


@asynccontextmanager
async def one_node(**limits: Any) -> AsyncIterator[Node]:
    bounds = Limits(**limits)
    async with Node(MemoryBroker(bounds), bounds) as node:
        yield node


async def until(holds: Callable[[], object]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end_s, "this never came to hold"
        await asyncio.sleep(0.002)


async def finished(run: Run) -> str:
    return await asyncio.wait_for(run.finished(), DEADLINE_S)


class Source:
    """Makes generators, and counts them."""

    def __init__(self, *items: Any, error: BaseException | None = None, goes_on: bool = False) -> None:
        self.items = items
        self.error = error
        self.goes_on = goes_on
        self.made = self.closed = 0

    async def __call__(self) -> AsyncIterator[Any]:
        return self.generate()

    async def generate(self) -> AsyncIterator[Any]:
        self.made += 1
        try:
            for item in self.items:
                yield item
            if self.error is not None:
                raise self.error
            while self.goes_on:
                await asyncio.sleep(0.005)
                yield "."
        finally:
            self.closed += 1


TOKENS = [f"token {number} — ü😀\n" for number in range(2_000)]
TEXT = "".join(TOKENS)


# -- once, and all of it ------------------------------------------------------------------


async def test_a_run_is_published_as_a_whole_whatever_the_window_says() -> None:
    async with one_node() as node:
        run = await node.run("answer", Source(*TOKENS))
        assert await finished(run) == run.status == "done"
        assert await node.text("answer") == (TEXT, {"status": "done", "count": 2_000})
        big = Source(*["x" * 100_000] * 30)
        assert await finished(await node.run("big", big)) == "done"
        text, _ = await node.text("big")
        assert len(text) == 3_000_000


async def test_of_several_that_ask_at_the_same_time_one_begins() -> None:
    async with one_node() as node:
        sources = [Source(*TOKENS) for _ in range(10)]
        runs = await asyncio.gather(*[node.run("answer", source) for source in sources])
        assert len({id(run) for run in runs}) == 1
        await finished(runs[0])
        again = Source("other")
        assert await node.run("answer", again) is runs[0]
        assert [source.made for source in sources] == [1] + [0] * 9 and again.made == 0
        assert (await node.text("answer"))[0] == TEXT


async def test_a_request_that_is_cancelled_does_not_take_the_run_with_it() -> None:
    async with one_node() as node:
        source = Source("a", "b")
        asking = asyncio.create_task(node.run("answer", source))
        await asyncio.sleep(0)
        asking.cancel()
        await until(lambda: source.closed)
        assert await node.text("answer") == ("ab", {"status": "done", "count": 2})


async def test_on_several_nodes_one_begins_and_all_hear_of_it() -> None:
    store = SharedStore(scheduler=asyncio.get_running_loop(), max_delay_s=0.002)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(store.node(f"n{n}"), Limits())) for n in range(4)]
        sources = [Source(*TOKENS) for _ in nodes]
        runs = await asyncio.gather(
            *[node.run("answer", source) for node, source in zip(nodes, sources, strict=True)]
        )
        assert sum(run.is_here for run in runs) == 1
        assert len({run.id for run in runs}) == 1
        assert await asyncio.gather(*[finished(run) for run in runs]) == ["done"] * 4
        assert sum(source.made for source in sources) == 1
        for node in nodes:
            assert (await node.text("answer"))[0] == TEXT
            assert (await node.run("answer", Source("again"))).status == "done"


async def test_a_run_on_another_node_can_be_cancelled() -> None:
    store = SharedStore()
    async with Node(store.node("a"), Limits()) as a, Node(store.node("b"), Limits()) as b:
        source = Source("x", goes_on=True)
        here = await a.run("answer", source)
        there = await b.run("answer", Source())
        assert here.is_here and not there.is_here and there.status == "running"
        found = await b.producers.find("answer")
        assert found is not None and found.id == here.id
        assert await b.producers.find("other") is None
        assert await a.producers.find("answer") is here
        await there.cancel("enough")
        assert await finished(there) == await finished(here) == "cancelled"
        text, end = await b.text("answer")
        assert (end["status"], end["reason"], end["count"]) == ("cancelled", "enough", len(text))


@pytest.mark.parametrize("seed", range(3))
async def test_a_log_elsewhere_that_fails_now_and_then_has_every_item_once(seed: int) -> None:
    faults = Faults(max_delay_s=0.001, appends_failed=0.3, failed=0.3)
    broker = DelayedBroker(asyncio.get_running_loop(), seed=seed, faults=faults)
    async with Node(broker, Limits()) as node:
        run = await _until_begun(partial(node.run, "answer", Source(*TOKENS[:60])))
        assert await finished(run) == "done"
        broker.log.faults = Faults(max_delay_s=0.001)
        assert (await node.text("answer"))[0] == "".join(TOKENS[:60])


async def _until_begun(begin: Callable[[], Any]) -> Run:
    for _ in range(100):
        try:
            run: Run = await begin()
            return run
        except BrokerError:
            pass  # it said so; whoever wants the run asks again
    raise AssertionError("it was never begun")


# -- what a producer may be -----------------------------------------------------------------


async def test_producers_of_every_form() -> None:
    async with one_node() as node:
        source = Source("a", "b")
        forms: list[Any] = [source, source.generate, source.generate(), source()]
        for number, form in enumerate(forms):
            assert await finished(await node.run(f"answer-{number}", form)) == "done"
            assert (await node.text(f"answer-{number}"))[0] == "ab"
        assert source.made == source.closed == 4


async def test_items_of_every_form() -> None:
    async with one_node() as node:
        items = [None, {"a": [1]}, b"\0bytes", Produced({"tool": 1}, event="tool", tags={"k": "v"})]
        await finished(await node.run("answer", Source(*items)))
        kept = await node.kept("answer")
        assert [(one.data, one.content_type, one.event, one.tags) for one in kept[:-1]] == [
            (b"null", "", None, None),
            (b'{"a":[1]}', "", None, None),
            (b"\0bytes", "application/octet-stream", None, None),
            (b'{"tool":1}', "", "tool", {"k": "v"}),
        ]


@pytest.mark.parametrize("wrong", [["a", "list"], iter("ab"), (x for x in "ab"), 7])
async def test_what_is_no_producer_fails_and_is_told(wrong: Any) -> None:
    async with one_node() as node:
        run = await node.run("answer", wrong)
        assert await finished(run) == "failed"
        _, end = await node.text("answer")
        assert "asynchronous generator" in end["error"]["message"]


async def test_sources_that_are_not_read_are_closed() -> None:
    async with one_node() as node:
        await node.run("answer", Source(goes_on=True))
        source = Source()
        for unused in (source.generate(), source(), source):
            await node.run("answer", unused)
        with pytest.raises(BadChannelName):
            await node.run("no name", Source().generate())
        assert source.made == 0


def test_a_function_for_a_pattern_that_cannot_be_called_is_an_error_at_once() -> None:
    producers = Producers(Limits())
    with pytest.raises(SettingsError):
        producers.add("a:*", lambda channel, more: None)
    with pytest.raises(BadChannelName):
        producers.add("a *", lambda: None)


# -- how it ends --------------------------------------------------------------------------------


async def test_what_a_producer_raises_is_told_if_it_is_meant_for_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_node() as node:
        for channel, error in (
            ("told", Refused("no credit", code=1402)),
            ("secret", ValueError("the secret")),
        ):
            run = await node.run(channel, Source("a", error=error))
            assert await finished(run) == run.status == "failed"
        _, told = await node.text("told")
        assert told == {
            "status": "failed",
            "count": 1,
            "error": {"code": 1402, "name": "refused", "message": "no credit"},
        }
        text, secret = await node.text("secret")
        assert text == "a" and secret["error"]["code"] == 100
        assert "the secret" not in json.dumps(secret)
        assert "the secret" in caplog.text and "no credit" not in caplog.text


async def test_an_item_that_json_cannot_say_fails() -> None:
    async with one_node() as node:
        for channel, item in (("object", object()), ("event", Produced(1, event="end"))):
            assert await finished(await node.run(channel, Source("a", item, "b"))) == "failed"
            text, end = await node.text(channel)
            assert text == "a" and end["error"]["code"] == 107


async def test_a_run_is_cancelled() -> None:
    async with one_node() as node:
        source = Source("a", goes_on=True)
        run = await node.run("answer", source)
        await asyncio.sleep(0.02)
        assert source.closed == 0
        run.cancel("enough")
        run.cancel("twice")
        assert await finished(run) == "cancelled"
        assert source.closed == 1
        text, end = await node.text("answer")
        assert end == {"status": "cancelled", "count": len(text), "reason": "enough"}
        await run.cancel("too late")
        assert run.status == "cancelled"
        assert (node.producers.begun, node.producers.ended["cancelled"]) == (1, 1)
        assert node.producers.statistics() == {"running": 0, "kept": 1, "kept_bytes": 203 * len(text)}


async def test_a_run_is_cancelled_at_once() -> None:
    async with one_node() as node:
        source = Source("a", goes_on=True)
        for begin in (source, source.generate, source.generate()):
            run = await node.run("answer", begin, restart=True)
            run.cancel()
            assert await finished(run) == "cancelled"
            assert (await node.text("answer"))[1]["status"] == "cancelled"
        assert source.made == source.closed


async def test_a_producer_that_does_not_care_is_cancelled_all_the_same() -> None:
    async def stubborn() -> AsyncIterator[str]:
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass
            yield "."

    async with one_node() as node:
        run = await node.run("answer", stubborn)
        await asyncio.sleep(0.03)
        run.cancel()
        assert await finished(run) == "cancelled"


async def test_runs_that_are_too_large_fail_and_say_so() -> None:
    async with one_node(max_run_bytes=1_000, max_run_publications=50, max_body_bytes=900) as node:
        for channel, items, count in (
            ("bytes", ["x" * 98] * 11, 10),
            ("items", ["x"] * 51, 50),
            ("one", ["x", "x" * 901], 1),
        ):
            assert await finished(await node.run(channel, Source(*items))) == "failed"
            _, end = await node.text(channel)
            assert end["count"] == count
            assert end["error"]["code"] in (codes.LIMIT_EXCEEDED.number, codes.TOO_LARGE.number)
            assert "at most" in end["error"]["message"]
        just = Source(*["x" * 98] * 10)
        assert await finished(await node.run("just", just)) == "done"


async def test_a_run_that_takes_too_long_fails_and_says_so() -> None:
    async with one_node(max_run_s=0.05) as node:
        source = Source("a", goes_on=True)
        assert await finished(await node.run("answer", source)) == "failed"
        assert source.closed == 1
        _, end = await node.text("answer")
        assert end["error"]["message"] == "a run takes at most 0.05 s"


async def test_a_server_that_stops_tells_readers() -> None:
    store = SharedStore()
    source = Source("a", goes_on=True)
    async with Node(store.node("stays"), Limits()) as stays:
        async with Node(store.node("stops"), Limits()) as stops:
            await stops.run("answer", source)
            await until(lambda: source.made)
        assert source.closed == 1
        _, end = await stays.text("answer")
        assert (end["status"], end["error"]["name"]) == ("failed", "shutdown")
        with pytest.raises(EverywireError):
            await stops.run("answer", Source())


# -- how long it is kept --------------------------------------------------------------------------


async def test_after_its_grace_a_run_is_dropped_and_may_begin_anew() -> None:
    async with one_node() as node:
        await finished(await node.run("answer", Source("a", "b"), grace_s=0.05))
        assert (await node.text("answer"))[0] == "ab"
        await asyncio.sleep(0.06)
        assert await node.kept("answer") == []
        run = await node.run("answer", Source("c"))
        await finished(run)
        assert (await node.text("answer"))[0] == "c"


async def test_a_run_that_ended_is_dropped_for_another_on_request() -> None:
    async with one_node() as node:
        first = await node.run("answer", Source("a", goes_on=True))
        assert await node.run("answer", Source("b"), restart=True) is first
        first.cancel()
        await finished(first)
        sources = [Source("b") for _ in range(5)]
        runs = await asyncio.gather(*[node.run("answer", one, restart=True) for one in sources])
        assert len({run.id for run in runs} - {first.id}) == 1
        await finished(runs[0])
        assert (await node.text("answer"))[0] == "b"
        assert sum(one.made for one in sources) == 1


async def test_claims_are_renewed_and_run_out_with_their_node() -> None:
    clock = Clock()
    store = SharedStore(clock_ms=clock)
    limits = Limits(run_lease_s=0.3)
    async with Node(store.node("lives"), limits) as lives:
        dies = Node(store.node("dies"), limits)
        await dies.__aenter__()
        await dies.run("answer", Source("a", goes_on=True))
        for _ in range(5):
            await asyncio.sleep(0.1)
            clock.passes(0.15)
            distant = await lives.run("answer", Source("never"))
            assert distant.status == "running" and not distant.is_here
        store.kill("dies")
        await asyncio.sleep(0)
        clock.passes(1)
        assert await finished(distant) == "failed"
        source = Source("b")
        run = await lives.run("answer", source)
        assert run.is_here
        await finished(run)
        kept = await lives.kept("answer")
        assert [one.data for one in kept if one.event is None][-1] == b'"b"'
        assert source.made == 1
        await dies.__aexit__()


async def test_a_node_that_lost_its_claim_stops() -> None:
    clock = Clock()
    store = SharedStore(clock_ms=clock)
    limits = Limits(run_lease_s=0.3)
    async with Node(store.node("a"), limits) as a, Node(store.node("b"), limits) as b:
        slept = Source("a", goes_on=True)
        run = await a.run("answer", slept)
        clock.passes(1)  # as if this node had not had its turn for so long
        other = await b.run("answer", Source("b", goes_on=True))
        assert other.is_here
        assert await finished(run) == "failed"
        assert slept.closed == 1
        assert other.status == "running"
        assert (await a.run("answer", Source())).id == other.id


async def test_runs_share_a_bounded_room_and_the_oldest_that_ended_gives_way() -> None:
    async with one_node(log_budget_bytes=40_000, max_kept_share=0.5) as node:
        for channel in ("one", "two"):
            await finished(await node.run(channel, Source("x" * 8_000)))
        await finished(await node.run("three", Source("x" * 8_000)))
        assert await node.kept("one") == []
        assert len(await node.kept("two")) == len(await node.kept("three")) == 2
        growing = await node.run("four", Source(*["x" * 3_000] * 10))
        assert await finished(growing) == "failed"
        _, end = await node.text("four")
        assert end["error"]["code"] == codes.LIMIT_EXCEEDED.number
        assert end["count"] == 6
        assert await node.kept("two") == await node.kept("three") == []
        assert node.producers._kept_bytes <= 20_000


async def test_more_producers_than_may_run_are_refused() -> None:
    async with one_node(max_runs=2) as node:
        runs = [await node.run(f"answer-{number}", Source(goes_on=True)) for number in range(2)]
        with pytest.raises(EverywireError) as caught:
            await node.run("answer-2", Source())
        assert caught.value.code is codes.BUSY
        runs[0].cancel()
        await finished(runs[0])
        assert (await node.run("answer-2", Source())).is_here


# -- begun by readers --------------------------------------------------------------------------------


async def test_the_first_reader_begins_a_run_and_others_do_not() -> None:
    begun: list[str] = []

    async def produce(channel: str) -> AsyncIterator[str]:
        begun.append(channel)
        for token in TOKENS:
            yield token

    async with one_node() as node:
        node.producers.add("answer:*", produce)
        for start in (EARLIEST, LATEST):
            await node.fetch("answer:1", start)
            await node.fetch("other", start)
        await until(lambda: begun)
        await finished(await node.run("answer:1", Source()))
        assert (await node.text("answer:1"))[0] == TEXT
        assert len(await node.fetch("answer:1", EARLIEST)) == 1_000
        assert begun == ["answer:1"]


async def test_a_reader_that_returns_begins_nothing_unless_the_store_has_lost_the_run() -> None:
    begun: list[str] = []

    async def produce() -> AsyncIterator[str]:
        begun.append("")
        yield "a"

    def returns(epoch: str) -> Start:
        return Start(Position.decode(encode_position([("answer", Place(epoch, 1))])))

    clock = Clock()
    limits = Limits(run_grace_s=0.01)
    broker = MemoryBroker(limits, clock_ms=clock)
    async with Node(broker, limits) as node:
        node.producers.add("answer", produce)
        await node.fetch("answer", EARLIEST)
        await until(lambda: node.hub.counters.publications == 2)
        await asyncio.sleep(0.02)
        assert await node.kept("answer") == []
        node.producers._looked.clear()
        await node.fetch("answer", returns(broker.log.epoch))
        await asyncio.sleep(0.02)
        assert len(begun) == 1 and await node.kept("answer") == []
        node.producers._looked.clear()
        await node.fetch("answer", returns("another"))
        await until(lambda: len(begun) == 2)


async def test_a_returning_reader_is_told_that_the_node_of_its_run_died() -> None:
    store = SharedStore()
    limits = Limits()
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(store.node(name), limits)) for name in "ab"]
        # What a node leaves behind that dies: some items, no mark of an end, and soon no claim.
        for item in (b'"a"', b'"b"'):
            await called(partial(nodes[0].hub.publish, Draft("answer", item)))
        returns = Start(Position.decode(encode_position([("answer", Place(store.far.log.epoch, 1))])))
        for node in nodes:
            node.producers.add("answer", Source("never"))
            await node.fetch("answer", returns)
        await until(lambda: store.far.log._channels["answer"].last == 3)
        for node in nodes:
            node.producers._looked.clear()
            await node.fetch("answer", returns)
        await asyncio.sleep(0.01)
        text, end = await nodes[0].text("answer")
        assert text == "ab" and end["status"] == "failed" and "is gone" in end["error"]["message"]


async def test_a_run_that_cannot_begin_is_told_to_its_readers(caplog: pytest.LogCaptureFixture) -> None:
    async with one_node(max_runs=1) as node:
        await node.run("other", Source(goes_on=True))
        node.producers.add("answer", Source("never").generate)
        await node.fetch("answer", EARLIEST)
        await until(lambda: node.hub.counters.publications >= 1 and caplog.records)
        (end,) = await node.kept("answer")
        assert end.event == "end" and json.loads(end.data)["error"]["name"] == "busy"
