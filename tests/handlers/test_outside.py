"""Publishing from threads, other event loops and coroutines."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from everywire.core import codes
from everywire.core.errors import BadRequest, BrokerBusy, EverywireError
from everywire.handlers.outside import Outside, Receipt

DEADLINE_S = 20.0


class Log:
    """What was done, in order; each piece takes a turn of the event loop."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.outside = Outside(asyncio.get_running_loop())

    def put(self, value: Any) -> Receipt[int]:
        async def work() -> int:
            await asyncio.sleep(0)
            if value is None:
                raise BadRequest("nothing to put")
            self.done.append(value)
            return len(self.done)

        return self.outside.begin(work)


async def test_in_a_coroutine_it_may_be_awaited_or_not() -> None:
    log = Log()
    for number in range(10):
        log.put(number)
    assert await log.put(10) == 11
    assert log.done == list(range(11))
    await log.outside.close()


async def test_in_a_thread_it_waits_and_raises() -> None:
    log = Log()

    def work() -> list[int]:
        return [log.put(number).result() for number in range(3)]

    assert await asyncio.to_thread(work) == [1, 2, 3]
    with pytest.raises(BadRequest):
        await asyncio.to_thread(log.put, None)
    await log.outside.close()


async def test_in_another_event_loop_it_is_awaited() -> None:
    log = Log()

    async def work() -> int:
        log.put("first")
        return await log.put("second")

    def run() -> int:
        coroutine: Coroutine[Any, Any, int] = work()
        return asyncio.run(coroutine)

    assert await asyncio.to_thread(run) == 2
    assert log.done == ["first", "second"]
    await log.outside.close()


async def test_from_many_threads_each_keeps_its_order() -> None:
    log = Log()

    def work(name: int) -> None:
        for number in range(50):
            log.put((name, number))

    await asyncio.gather(*[asyncio.to_thread(work, name) for name in range(4)])
    for name in range(4):
        assert [number for who, number in log.done if who == name] == list(range(50))
    await log.outside.close()


async def test_an_error_that_nobody_asked_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    log.put(None)
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert "nothing to put" in caplog.text
    caplog.clear()
    with pytest.raises(BadRequest):
        await log.put(None)
    gc.collect()
    assert not caplog.records
    await log.outside.close()


async def test_the_event_loop_does_not_wait_for_itself() -> None:
    log = Log()
    receipt = log.put(1)
    with pytest.raises(RuntimeError, match="await"):
        receipt.result()
    assert await receipt == receipt.result() == 1
    await log.outside.close()


async def test_what_was_begun_is_finished_at_the_end_and_nothing_more_is_begun() -> None:
    log = Log()
    log.put(1)
    await log.outside.close()
    assert log.done == [1]
    with pytest.raises(EverywireError):
        await log.put(2)
    failed: list[BaseException] = []

    def late() -> None:
        try:
            log.put(3)
        except EverywireError as error:
            failed.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    assert len(failed) == 1 and log.done == [1]


async def test_who_waits_no_longer_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    finish: list[Any] = []
    for receipt in (log.put(1), log.outside.at_once(finish.append)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await receipt
    (done,) = finish
    done("late")
    await log.outside.close()
    assert log.done == [1] and receipt.result() == "late"
    assert not caplog.records


# -- what answers by callback -------------------------------------------------------------------------


async def test_what_answers_by_callback_is_begun_within_the_call() -> None:
    outside = Outside(asyncio.get_running_loop())
    begun: list[Any] = []

    def answer(done: Any) -> None:
        begun.append(done)
        done(7)

    receipt = outside.at_once(answer)
    assert len(begun) == 1 and receipt.result() == await receipt == 7

    def refuse(done: Any) -> None:
        raise BadRequest("not so")

    def fail(done: Any) -> None:
        done(BadRequest("not so"))

    with pytest.raises(BadRequest):
        outside.at_once(refuse)
    with pytest.raises(BadRequest):
        await outside.at_once(fail)
    assert await asyncio.to_thread(lambda: outside.at_once(answer).result()) == 7
    for wrong in (refuse, fail):
        with pytest.raises(BadRequest):
            await asyncio.to_thread(outside.at_once, wrong)
    await outside.close()


async def test_too_much_that_is_unfinished_is_refused() -> None:
    outside = Outside(asyncio.get_running_loop(), max_unfinished=3)
    go = asyncio.Event()
    receipts = [outside.begin(go.wait) for _ in range(3)]
    with pytest.raises(BrokerBusy):
        await outside.begin(go.wait)
    with pytest.raises(BrokerBusy):
        await asyncio.to_thread(outside.begin, go.wait)
    go.set()
    assert await asyncio.gather(*receipts) == [True] * 3
    assert await outside.begin(go.wait)
    await outside.close()


async def test_what_takes_too_long_for_a_thread_is_an_error() -> None:
    outside = Outside(asyncio.get_running_loop())
    go = asyncio.Event()
    with pytest.raises(EverywireError, match=r"within 0\.01 s") as caught:
        await asyncio.to_thread(outside.begin, go.wait, 0.01)
    assert caught.value.code is codes.BUSY
    go.set()
    await outside.close()
