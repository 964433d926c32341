"""The race of wires when it is called off: nobody is kept waiting, and no connection is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from everywire.client.choosing import Attempted, choose
from everywire.codecs.centrifuge.messages import Command, ConnectRequest, ConnectResult, Empty, Reply


class NoState:
    def __init__(self) -> None:
        self._last = 0

    def next_id(self) -> int:
        self._last += 1
        return self._last

    def connect_request(self) -> ConnectRequest:
        return ConnectRequest()

    def subscriptions(self) -> list[Command]:
        return []

    def forget(self, commands: Sequence[Command]) -> None:
        pass


class ScriptedLink:
    """Answers everything at once, or nothing at all; closing takes until it is let."""

    ticks = 0

    def __init__(self, name: str, is_answering: bool, may_close: asyncio.Event) -> None:
        self.name = name
        self.is_closing = self.is_closed = False
        self._is_answering = is_answering
        self._may_close = may_close
        self._replies: asyncio.Queue[Reply] = asyncio.Queue()

    async def open(self, connect: Command) -> None:
        await self.send([connect])

    async def receive(self) -> list[Reply]:
        return [await self._replies.get()]

    async def send(self, commands: Sequence[Command]) -> None:
        for command in commands if self._is_answering else ():
            if command.connect is not None:
                self._replies.put_nowait(Reply(id=command.id, connect=ConnectResult(client="c", version="v")))
            else:
                self._replies.put_nowait(Reply(id=command.id, ping=Empty()))

    async def close(self) -> None:
        self.is_closing = True
        await self._may_close.wait()
        self.is_closed = True


@pytest.mark.parametrize("is_prompt", [True, False], ids=["while racing", "while the losers are closed"])
async def test_a_race_that_is_called_off_leaves_nothing_open(is_prompt: bool) -> None:
    may_close = asyncio.Event()
    if is_prompt:
        may_close.set()
    links: dict[str, ScriptedLink] = {}

    def make(name: str) -> ScriptedLink:
        links[name] = ScriptedLink(name, not is_prompt and name == "second", may_close)
        return links[name]

    attempts: list[Attempted] = []
    race = asyncio.create_task(choose(["first", "second"], make, NoState(), attempts, head_start_s=0.01))
    async with asyncio.timeout(5):
        while len(links) < 2 or (not is_prompt and not links["first"].is_closing):
            await asyncio.sleep(0.005)
        race.cancel()
        # Long enough for whoever would swallow it to have done so.
        await asyncio.sleep(0.02)
        may_close.set()
        with pytest.raises(asyncio.CancelledError):
            await race
    assert all(link.is_closing for link in links.values())
    assert links["second"].is_closed


async def test_the_winner_of_a_race_stays_open_and_the_others_do_not() -> None:
    may_close = asyncio.Event()
    may_close.set()
    links: dict[str, ScriptedLink] = {}

    def make(name: str) -> ScriptedLink:
        links[name] = ScriptedLink(name, name == "second", may_close)
        return links[name]

    attempts: list[Attempted] = []
    async with asyncio.timeout(5):
        proven = await choose(["first", "second"], make, NoState(), attempts, head_start_s=0.01)
    assert proven.link is links["second"] and not links["second"].is_closing
    assert links["first"].is_closed
    assert attempts == [Attempted("second", ""), Attempted("first", "another was there first")]
