from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from everywire.core import codes
from everywire.core.errors import EverywireError, Forbidden, SettingsError
from everywire.core.limits import Limits
from everywire.handlers.functions import Function, Threads

DEADLINE_S = 20.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(Limits())
    yield threads
    threads.close()


def offered(function: Any) -> Function:
    return Function(function, ("session", "data"), "the function")


async def test_a_function_gets_as_many_arguments_as_it_takes(threads: Threads) -> None:
    async def none() -> str:
        return "none"

    async def one(session: str) -> str:
        return session

    async def all_of_them(*arguments: str) -> tuple[str, ...]:
        return arguments

    async def with_more(session: str, data: str, more: int = 3) -> tuple[str, int]:
        return data, more

    results = [
        await offered(each)(threads, DEADLINE_S, "s", "d") for each in (none, one, all_of_them, with_more)
    ]
    assert results == ["none", "s", ("s", "d"), ("d", 3)]


async def test_any_number_of_arguments_may_be_offered(threads: Threads) -> None:
    def names(*given: Any) -> Any:
        return given

    for function, found in (
        (lambda session: session, 0),
        (lambda session, first, second: [session, first, second], [0, 1, 2]),
        (names, tuple(range(100))),
        (lambda session, *rest: len(rest), 99),
        (lambda *rest: rest[:2], (0, 1)),
    ):
        wrapped = Function(function, ("session", "*arguments"), "the function")
        assert await wrapped(threads, 1.0, *range(100)) == found


async def test_callables_of_any_kind_are_functions(threads: Threads) -> None:
    class Handler:
        async def __call__(self, session: str, data: str) -> str:
            return f"called with {data}"

        async def method(self, session: str, data: str) -> str:
            return f"method with {data}"

        @staticmethod
        async def bound(prefix: str, session: str, data: str) -> str:
            return f"{prefix} {data}"

    for function in (Handler(), Handler().method, partial(Handler.bound, "partial with")):
        assert (await offered(function)(threads, DEADLINE_S, "s", "d")).endswith("with d")


def test_functions_that_cannot_be_called_are_errors_at_once() -> None:
    def too_many(a: int, b: int, c: int) -> None: ...
    def keyword(a: int, *, needed: int) -> None: ...
    async def generator(a: int) -> Any:
        yield a

    for wrong in (too_many, keyword, generator, "no function"):
        with pytest.raises(SettingsError):
            offered(wrong)


async def test_a_synchronous_function_runs_in_a_thread_and_holds_up_nobody(threads: Threads) -> None:
    gate = threading.Event()

    def wait(session: str) -> str:
        assert gate.wait(DEADLINE_S)
        return threading.current_thread().name

    waiting = asyncio.create_task(offered(wait)(threads, DEADLINE_S, "s", "d"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    assert (await waiting).startswith("everywire-handler")


async def test_a_synchronous_function_may_return_something_to_await(threads: Threads) -> None:
    async def later() -> int:
        return 7

    assert await offered(lambda: later())(threads, DEADLINE_S, "s", "d") == 7


async def test_more_synchronous_calls_than_may_wait_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads(Limits(max_handler_threads=2, max_waiting_calls=3))
    gate = threading.Event()
    function = offered(lambda session: gate.wait(DEADLINE_S))
    calls = [asyncio.create_task(function(threads, DEADLINE_S, "s", "d")) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(EverywireError) as caught:
        await function(threads, DEADLINE_S, "s", "d")
    assert caught.value.code is codes.TOO_MANY_REQUESTS
    gate.set()
    assert await asyncio.gather(*calls) == [True] * 5
    # The count goes down by a call into the loop, behind the result.
    await asyncio.sleep(0.01)
    assert await function(threads, DEADLINE_S, "s", "d") is True
    threads.close()
    assert not caplog.records


async def test_errors_of_the_tree_pass_and_others_are_logged_and_told_as_100(
    threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuses(session: str) -> None:
        raise Forbidden("not you")

    async def fails(session: str) -> None:
        raise ValueError("the secret inside")

    def fails_in_a_thread(session: str) -> None:
        raise TimeoutError("the secret inside")

    with pytest.raises(Forbidden, match="not you"):
        await offered(refuses)(threads, DEADLINE_S, "s", "d")
    assert not caplog.records
    for function in (fails, fails_in_a_thread):
        caplog.clear()
        with pytest.raises(EverywireError) as caught:
            await offered(function)(threads, DEADLINE_S, "s", "d")
        assert caught.value.code is codes.INTERNAL
        assert "secret" not in caught.value.sentence
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "the secret inside" in caplog.text and "Traceback" in caplog.text


async def test_what_takes_too_long_is_answered_and_cancelled(
    threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    was_cancelled = asyncio.Event()

    async def for_ever(session: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    with pytest.raises(EverywireError) as caught:
        await offered(for_ever)(threads, 0.01, "s", "d")
    assert caught.value.code is codes.INTERNAL
    assert was_cancelled.is_set()
    assert "the function was not done within 0.01 s" in caplog.text
