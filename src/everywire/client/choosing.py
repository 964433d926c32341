"""Choosing the wire: candidates race, and one counts as working only after data went both ways.

The best candidate starts at once, each further one a head start of a second later, or as soon as the one
before it failed. A wire has proven itself when its connect command was answered, the ticks it asked for
came (a proxy that holds bodies back would swallow them), and a ping of the client's was answered. A
server that is busy is busy on every wire: that ends the race, and nothing falls back. What was tried and
why it failed is kept in `Attempted`s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from everywire.client.errors import Busy, ClientError, ConnectionLost, Refused, TokenExpired
from everywire.client.links import Link, StateOfSession, check_disconnect, connect_failure
from everywire.codecs.centrifuge.messages import Command, ConnectResult, Empty, Reply

__all__ = ["Attempted", "Proven", "choose"]

HEAD_START_S: Final = 1.0
PROOF_TIMEOUT_S: Final = 5.0


class Attempted(NamedTuple):
    """A wire that was tried: its name, and why it did not come to be the one (nothing if it won)."""

    transport: str
    reason: str


class Proven(NamedTuple):
    """A link that works, what the server said to connect, and what came behind it meanwhile."""

    link: Link
    connect: ConnectResult
    replies: list[Reply]


async def choose(
    names: Sequence[str],
    make: Callable[[str], Link],
    state: StateOfSession,
    attempts: list[Attempted],
    head_start_s: float = HEAD_START_S,
) -> Proven:
    """Race the candidates, best first; return the first that proved itself.

    Raises `Refused` when the server refuses on every wire that reaches it, `Busy` as soon as it says so,
    else `ConnectionLost` with what each candidate met.
    """
    waiting = list(names)
    racing: dict[asyncio.Task[Proven], str] = {}
    errors: list[ClientError] = []
    winner: Proven | None = None
    try:
        while winner is None and (waiting or racing):
            if waiting:
                name = waiting.pop(0)
                racing[asyncio.create_task(_prove(make(name), state))] = name
            timeout_s = head_start_s if waiting else None
            done, _ = await asyncio.wait(racing, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            winner = _judge(done, racing, errors, attempts)
    finally:
        # Even when it is called off in the middle of it: no connection is left behind.
        letting_go = asyncio.ensure_future(_let_go(racing, attempts))
        try:
            await asyncio.shield(letting_go)
        except asyncio.CancelledError:
            if winner is not None:
                await winner.link.close()
            await letting_go
            raise
    if winner is not None:
        return winner
    for error in errors:
        if isinstance(error, TokenExpired):
            raise error
    refused = [error for error in errors if isinstance(error, Refused)]
    if refused and len(refused) == len(errors):
        raise refused[0]
    lost = [error for error in errors if isinstance(error, ConnectionLost)]
    hints = [error.retry_after_s for error in lost if error.retry_after_s]
    told = "; ".join(f"{attempt.transport}: {attempt.reason}" for attempt in attempts[-len(errors) :])
    raise ConnectionLost(told or "there is no transport to try", retry_after_s=max(hints, default=None))


def _judge(
    done: set[asyncio.Task[Proven]],
    racing: dict[asyncio.Task[Proven], str],
    errors: list[ClientError],
    attempts: list[Attempted],
) -> Proven | None:
    """Take note of who came to an end; return a winner if there is one."""
    for task in sorted(done, key=lambda task: list(racing).index(task)):
        name = racing[task]
        error = task.exception()
        if error is None:
            del racing[task]
            attempts.append(Attempted(name, ""))
            return task.result()
        del racing[task]
        if not isinstance(error, ClientError):
            raise error
        attempts.append(Attempted(name, error.sentence))
        errors.append(error)
        if isinstance(error, Busy):
            raise error
    return None


async def _let_go(racing: dict[asyncio.Task[Proven], str], attempts: list[Attempted]) -> None:
    for task, name in racing.items():
        task.cancel()
        attempts.append(Attempted(name, "another was there first"))
    if racing:
        # Not each by itself: who waits for a task cannot tell its end from being cancelled.
        await asyncio.wait(racing)
    for task in racing:
        if not task.cancelled() and task.exception() is None:
            await task.result().link.close()


async def _prove(link: Link, state: StateOfSession) -> Proven:
    """Connect, and see data go both ways."""
    try:
        async with asyncio.timeout(PROOF_TIMEOUT_S):
            return await _go_both_ways(link, state)
    except TimeoutError:
        await link.close()
        raise ConnectionLost(f"data did not go both ways within {PROOF_TIMEOUT_S:g} s") from None
    except BaseException:
        await link.close()
        raise


async def _go_both_ways(link: Link, state: StateOfSession) -> Proven:
    request = state.connect_request()
    request.ticks = link.ticks
    connect = Command(id=state.next_id(), connect=request)
    ping = Command(id=state.next_id(), ping=Empty())
    await link.open(connect)
    connected: ConnectResult | None = None
    is_answered = False
    ticks = 0
    kept: list[Reply] = []
    while connected is None or not is_answered or ticks < link.ticks:
        replies = await link.receive()
        check_disconnect(replies)
        for reply in replies:
            if reply.id == connect.id and reply.error is not None:
                raise connect_failure(reply.error)
            if reply.connect is not None and reply.id == connect.id:
                connected = reply.connect
                await link.send([ping])
            elif reply.id == ping.id:
                is_answered = True
            elif reply.push is not None and reply.push.tick is not None:
                ticks += 1
            else:
                kept.append(reply)
    return Proven(link, connected, kept)
