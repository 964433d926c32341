"""Hostile runs: one client with three channels over a store at the end of a bad link.

Hypothesis draws what happens: publications, subscribing and unsubscribing, cuts and new connections, a
client that stops reading, an application that takes its time, hints that are lost, doubled or out of order,
reads that fail, a server that ends subscriptions, a store that falls back. Whatever happens, the client has
every publication of the time in which it was subscribed, once and in order, or was told that it has not.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everywire.access.hooks import Caller, Hooks, SubscribeDecision
from everywire.access.identity import Action
from everywire.brokers.base import Page
from everywire.core import codes
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.sessions.dialects import HTTP_STREAM_JSON, WEBSOCKET_JSON
from everywire.testing.delayed_broker import DelayedBroker, Faults
from tests.sessions.driving import Client, World

CHANNELS = ("a", "b", "c")
BAD = Faults(max_delay_s=0.3, lost=0.2, doubled=0.2, coalesced=0.3, reorders_hints=True, failed=0.1)
GOOD = Faults(max_delay_s=0.02)
LARGE = Window(max_publications=10_000)
TINY = Window(max_publications=6)


class Person:
    """What a client remembers from one connection to the next."""

    def __init__(self, world: World, *, must_recover: bool) -> None:
        self.world = world
        self.must_recover = must_recover
        """Whether nothing is ever lost here, so that every position is good."""
        self.wanted: set[str] = set()
        self.positions: dict[str, tuple[str, int]] = {}
        self.received: list[tuple[str, str, int, Any]] = []
        self.losses = 0
        self.recoveries = 0
        self.client: Follower | None = None
        self.number = 0

    def connect(self, is_emulated: bool) -> None:
        if self.client is None:
            self.client = Follower(self, is_emulated)
            self.client.begin()

    def cut(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.cut()

    def subscribe(self, channel: str) -> None:
        if channel not in self.wanted:
            self.wanted.add(channel)
            if self.client is not None:
                self.client.want(channel)

    def unsubscribe(self, channel: str, forgets: bool) -> None:
        if channel in self.wanted:
            self.wanted.discard(channel)
            if self.client is not None:
                self.client.leave(channel)
            if forgets:
                self.positions.pop(channel, None)


class Follower(Client):
    """A client as the SDKs are: it recovers from where it stands, and subscribes again when told to."""

    def __init__(self, person: Person, is_emulated: bool) -> None:
        dialect = HTTP_STREAM_JSON if is_emulated else WEBSOCKET_JSON
        transport = "http_stream" if is_emulated else "websocket"
        super().__init__(person.world, dialect=dialect, transport=transport)
        self.person = person
        self.is_known = False
        self.under_way: dict[str, int] = {}
        """The command that subscribes to a channel, by channel."""
        self.live: set[str] = set()
        self.unanswered: dict[str, list[int]] = {channel: [] for channel in CHANNELS}

    def begin(self) -> None:
        self.send_commands({"id": 1, "connect": {}})
        for channel in sorted(self.person.wanted):
            self.want(channel)

    def want(self, channel: str) -> None:
        if self.end is not None or channel in self.under_way or channel in self.live:
            return
        self.person.number += 1
        number = 10 + self.person.number
        request: dict[str, Any] = {"channel": channel, "flag": 1}
        position = self.person.positions.get(channel)
        if position is not None:
            request |= {"recover": True, "epoch": position[0], "offset": position[1]}
        self.under_way[channel] = number
        self.unanswered[channel].append(number)
        self.send_commands({"id": number, "subscribe": request})

    def leave(self, channel: str) -> None:
        self.under_way.pop(channel, None)
        self.live.discard(channel)
        self.person.number += 1
        number = 10 + self.person.number
        self.unanswered[channel].append(number)
        self.send_commands({"id": number, "unsubscribe": {"channel": channel}})

    def _again(self, channel: str) -> None:
        if self.person.client is self and channel in self.person.wanted:
            self.want(channel)

    def _take(self, reply: dict[str, Any]) -> None:
        push = reply.get("push")
        if push is not None:
            self._take_push(push)
            return
        for numbers in self.unanswered.values():
            if reply.get("id") in numbers:
                assert numbers.pop(0) == reply["id"], "answers about one channel overtook each other"
        for channel, number in tuple(self.under_way.items()):
            if number == reply.get("id"):
                del self.under_way[channel]
                if reply.get("error", {}).get("code") == 103:  # ended by the server before it began
                    self.person.wanted.discard(channel)
                elif "error" in reply:
                    assert reply["error"].get("temporary"), reply
                    self.world.clock.call_later(0.5, lambda channel=channel: self._again(channel))
                else:
                    self.live.add(channel)
                    self._begin(channel, reply["subscribe"])

    def _begin(self, channel: str, result: dict[str, Any]) -> None:
        person = self.person
        before = person.positions.get(channel)
        assert bool(result.get("was_recovering")) == (before is not None)
        if result.get("recovered"):
            assert (result["epoch"], result.get("offset", 0)) == before
            person.recoveries += 1
        else:
            assert "publications" not in result
            if before is not None:
                assert not person.must_recover, f"{channel}: {before} was lost: {result}"
                person.losses += 1
        person.positions[channel] = (result["epoch"], result.get("offset", 0))
        for pub in result.get("publications", []):
            self._publication(channel, pub)

    def _take_push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            if channel in self.live:
                self._publication(channel, push["pub"])
            else:
                unsubscribed = channel not in self.person.wanted or channel in self.under_way
                assert unsubscribed, "a publication of no subscription"
        elif "unsubscribe" in push and channel in self.live:
            self.live.discard(channel)
            if push["unsubscribe"]["code"] >= 2500:
                self.world.clock.call_later(0.05, lambda: self._again(channel))
            else:
                self.person.wanted.discard(channel)

    def _publication(self, channel: str, pub: dict[str, Any]) -> None:
        epoch, offset = self.person.positions[channel]
        assert pub["offset"] == offset + 1, f"{channel}: {pub['offset']} after {offset}"
        self.person.positions[channel] = (epoch, pub["offset"])
        self.person.received.append((channel, epoch, pub["offset"], pub["data"]))


class Run:
    """One run of what Hypothesis drew."""

    def __init__(self, seed: int, window: Window, faults: Faults, *, is_slow: bool, resets: bool) -> None:
        self.table = SettingsTable((), ChannelSettings(window))
        hooks = Hooks(subscribe=self.subscribe if is_slow else None)
        self.world = World(
            delayed=faults,
            seed=seed,
            table=self.table,
            hooks=hooks,
            limits=Limits(max_recovery_publications=4),
            public={action: ["*"] for action in Action},
        )
        self.resets = resets
        self.copy: Any = None
        self.person = Person(self.world, must_recover=window is LARGE and not resets)
        self.count = 0
        self.hooked = 0

    async def subscribe(self, caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        """Take some time, never the same."""
        gate = asyncio.Event()
        self.hooked += 1
        self.world.clock.call_later((self.hooked * 37 % 11) / 20, gate.set)
        await gate.wait()
        return None

    @property
    def broker(self) -> DelayedBroker:
        broker = self.world.broker
        assert isinstance(broker, DelayedBroker)
        return broker

    async def act(self, action: str, channel: str, amount: int) -> None:
        person, client = self.person, self.person.client
        match action:
            case "publish":
                for _ in range(amount):
                    self.count += 1
                    self.world.publish(channel, self.count)
            case "subscribe":
                person.subscribe(channel)
            case "unsubscribe":
                person.unsubscribe(channel, forgets=amount % 2 == 0)
            case "cut":
                person.cut()
            case "connect":
                person.connect(is_emulated=amount % 2 == 0)
            case "stall" if client is not None:
                client.room = 40 * amount
            case "drain" if client is not None:
                client.drain(None if amount % 3 else 200)
            case "end" if client is not None:
                code = codes.UNSUBSCRIBED if amount == 1 else codes.SUBSCRIPTION_GAP
                client.session.unsubscribe(channel, code)
            case "reset" if self.resets:
                if self.copy is None:
                    self.copy = self.broker.copy()
                else:
                    self.broker.restore(self.copy)
            case "wait":
                await self.world.settle(amount / 20)
        if self.person.client is not None and self.person.client.end is not None:
            self.person.client = None

    async def __call__(self, actions: list[tuple[str, str, int]]) -> None:
        async with self.world:
            self.person.connect(False)
            for channel in CHANNELS:
                self.person.subscribe(channel)
            for action in actions:
                await self.act(*action)
            self.broker.log.faults = GOOD
            await self.world.settle(4)
            await self.come_to_rest()
            self.check()
            self.person.cut()
            await self.world.settle(3)
            assert self.world.hub.statistics()["readers"] == 0
            assert not self.world.presence.entered

    async def come_to_rest(self) -> None:
        if self.person.client is None or self.person.client.end is not None:
            self.person.client = None
            self.person.connect(False)
        for channel in CHANNELS:
            self.person.subscribe(channel)
        for _ in range(4):
            client = self.person.client
            assert client is not None
            client.drain(None)
            await self.world.settle(3)
            assert client.end is None, client.end

    def check(self) -> None:
        client = self.person.client
        assert client is not None and client.session.is_idle
        assert not any(client.unanswered.values())
        kept: dict[tuple[str, str, int], Any] = {}
        for channel in CHANNELS:
            pages: list[Page] = []
            self.broker.log.far.log.read(channel, 0, 2**31, 2**31, pages.append)  # type: ignore[arg-type]
            [page] = pages
            assert self.person.positions[channel] == (page.head.epoch, page.head.last), channel
            for one in page.publications:
                kept[channel, page.head.epoch, one.offset] = json.loads(one.data)
        seen: set[tuple[str, str, int]] = set()
        for channel, epoch, offset, data in self.person.received:
            place = (channel, epoch, offset)
            assert kept.get(place, data) == data
            if self.person.must_recover:
                assert place in kept
            seen.add(place)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish"] * 6
            + ["wait"] * 4
            + ["connect", "subscribe", "drain"] * 2
            + ["cut", "unsubscribe", "stall", "end", "reset"]
        ),
        st.sampled_from(CHANNELS),
        st.integers(1, 5),
    ),
    min_size=5,
    max_size=60,
)
HOSTILE = settings(
    max_examples=60, deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("is_slow", [False, True], ids=["at once", "slow application"])
@pytest.mark.parametrize("faults", [GOOD, BAD], ids=["good link", "bad link"])
@HOSTILE
@given(actions=ACTIONS, seed=st.integers(0, 2**16))
def test_nothing_is_lost_while_it_is_kept(
    faults: Faults, is_slow: bool, actions: list[tuple[str, str, int]], seed: int
) -> None:
    asyncio.run(Run(seed, LARGE, faults, is_slow=is_slow, resets=False)(actions))


@pytest.mark.parametrize("resets", [False, True], ids=["a small window", "a store that falls back"])
@HOSTILE
@given(actions=ACTIONS, seed=st.integers(0, 2**16), is_slow=st.booleans())
def test_what_is_lost_is_told(
    resets: bool, actions: list[tuple[str, str, int]], seed: int, is_slow: bool
) -> None:
    asyncio.run(Run(seed, TINY, BAD, is_slow=is_slow, resets=resets)(actions))
