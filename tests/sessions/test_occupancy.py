"""Hooks of channels that become occupied and vacated: once each, on one node, with a grace."""

from __future__ import annotations

import asyncio

import pytest

from everywire.access.hooks import Hooks
from everywire.core.limits import Limits
from everywire.sessions.occupancy import chosen
from tests.sessions.cluster import Cluster, info


class Told:
    """Hooks that remember what they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.hooks = Hooks(occupied=self.occupied, vacated=self.vacated)

    async def occupied(self, channel: str) -> None:
        self.told.append(("occupied", channel))

    async def vacated(self, channel: str) -> None:
        self.told.append(("vacated", channel))


async def test_the_first_member_anywhere_and_the_last_are_told_once() -> None:
    told = Told()
    async with Cluster("abc", hooks=told.hooks, max_delay_s=0.1) as cluster:
        a, b = cluster["a"].presence, cluster["b"].presence
        a.enter("room", "c1", info("c1"))
        a.enter("room", "c2", info("c2"))
        await cluster.pass_time(1)
        b.touch("room", "c3", info("c3"))
        b.enter("hall", "c4", info("c4"))
        await cluster.pass_time(1)
        assert sorted(told.told) == [("occupied", "hall"), ("occupied", "room")]
        a.leave("room", "c1")
        a.leave("room", "c2")
        await cluster.pass_time(5)
        b.leave("room", "c3")
        await cluster.pass_time(1)
        cluster["c"].presence.enter("room", "c5", info("c5"))  # within the grace
        await cluster.pass_time(5)
        assert len(told.told) == 2
        cluster["c"].presence.leave("room", "c5")
        await cluster.pass_time(5)
        assert told.told[2:] == [("vacated", "room")]
        a.enter("room", "c6", info("c6"))
        await cluster.pass_time(1)
        assert told.told[3:] == [("occupied", "room")]


async def test_at_the_same_moment_on_all_nodes_it_is_told_once() -> None:
    told = Told()
    async with Cluster("abc", hooks=told.hooks, max_delay_s=0.3) as cluster:
        names = [f"room{number}" for number in range(50)]
        for node in cluster.nodes.values():
            for name in names:
                node.presence.enter(name, f"{node.name}1", info(f"{node.name}1"))
        await cluster.pass_time(3)
        assert sorted(told.told) == sorted(("occupied", name) for name in names)
        for node in cluster.nodes.values():
            for name in names:
                node.presence.leave(name, f"{node.name}1")
        await cluster.pass_time(5)
        assert sorted(told.told[50:]) == sorted(("vacated", name) for name in names)


async def test_a_killed_node_vacates_its_channels() -> None:
    told = Told()
    limits = Limits(presence_ttl_s=12, node_ttl_s=6)
    async with Cluster("abc", hooks=told.hooks, limits=limits) as cluster:
        for number in range(20):
            cluster["a"].presence.enter(f"room{number}", "c1", info("c1"))
        await cluster.pass_time(2)
        assert len(told.told) == 20
        cluster.kill("a")
        await cluster.pass_time(12 + 5 + limits.leave_debounce_s + 2)
        vacated = [channel for what, channel in told.told if what == "vacated"]
        # The cut-off node, which cannot know better, may tell of nothing: it hears of no leave.
        assert sorted(vacated) == sorted(f"room{number}" for number in range(20))


async def test_a_hook_that_fails_or_hangs_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    async def occupied(channel: str) -> None:
        seen.append(channel)
        if channel == "hangs":
            await asyncio.sleep(60)
        raise ValueError(channel)

    async with Cluster(hooks=Hooks(occupied=occupied), limits=Limits(hook_timeout_s=0.05)) as cluster:
        for channel in ("fails", "hangs", "last"):
            cluster["a"].presence.enter(channel, "c1", info("c1"))
        async with asyncio.timeout(20):
            while len(seen) < 3:
                await asyncio.sleep(0.01)
        cluster["a"].presence.leave("last", "c1")
        await cluster.pass_time(5)
        assert seen == ["fails", "hangs", "last"]
        assert caplog.text.count("a hook for channel") == 3


async def test_without_hooks_nothing_is_kept() -> None:
    async with Cluster() as cluster:
        cluster["a"].presence.enter("room", "c1", info("c1"))
        await cluster.pass_time(1)
        assert await cluster.store.far.leases.members("/occupied") == {}


def test_channels_are_shared_out_among_the_nodes() -> None:
    names = ["a", "b", "c"]
    shares = [chosen(f"room{number}", names) for number in range(300)]
    assert all(60 < shares.count(name) < 140 for name in names)
    # Without one of them, only its channels move.
    for number, name in enumerate(shares):
        assert name == "c" or chosen(f"room{number}", ["a", "b"]) == name
