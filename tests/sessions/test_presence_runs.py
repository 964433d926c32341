"""Presence in drawn runs: clients come, go, poll, change and move among nodes, messages are late or lost, and
nodes are cut off. Whatever happens, lists and what listeners were told agree with the truth once things come
to rest, and nobody is told nonsense on the way.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable
from tests.sessions.cluster import Cluster, Listener, info

TTL_S = 12.0
LIMITS = Limits(presence_ttl_s=TTL_S, node_ttl_s=6, leave_debounce_s=2)
USERS = ("ann", "ann", "bob", "", "")
CLIENTS = st.integers(0, len(USERS) - 1)
NODES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("open"), NODES, CLIENTS),
    st.tuples(st.just("close"), NODES, CLIENTS),
    st.tuples(st.just("poll"), NODES, CLIENTS),
    st.tuples(st.just("update"), NODES, CLIENTS),
    st.tuples(st.just("listen"), NODES, CLIENTS),
    st.tuples(st.just("kill"), st.sampled_from("bc"), CLIENTS),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, 1.0, 3.0, 7.0]), CLIENTS),
)


class StrictListener(Listener):
    """A listener from the beginning on: nobody joins twice without a change, or leaves who is not there."""

    def __init__(self, *, by_user: bool) -> None:
        super().__init__(by_user=by_user)
        self.nonsense: list[str] = []

    def joined(self, channel: str, info: ClientInfo) -> None:
        if not self.by_user and self.present.get(info.client) == info:
            self.nonsense.append(f"{info.client} joined, and was there already")
        super().joined(channel, info)

    def left(self, channel: str, info: ClientInfo) -> None:
        if self.key(info) not in self.present:
            self.nonsense.append(f"{self.key(info)} left, and was not there")
        super().left(channel, info)


class Run:
    """One run: does the steps, and knows the truth."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.open: dict[str, str] = {}
        """Open clients, and the node that each is connected to."""
        self.states: dict[str, str] = {}
        self.listeners: list[tuple[str, Listener]] = []
        self.count = 0

    def info_of(self, number: int) -> Any:
        client = f"c{number}"
        return info(client, USERS[number], self.states.get(client))

    async def do(self, step: tuple[str, Any, int]) -> None:
        what, where, number = step
        if what == "wait":
            await self.cluster.pass_time(where)
            return
        if where not in self.cluster.nodes:
            return
        client = f"c{number}"
        presence = self.cluster[where].presence
        if what == "open" and client not in self.open:
            presence.enter("room", client, self.info_of(number))
            self.open[client] = where
        elif what == "close" and self.open.get(client, where) == where:
            presence.leave("room", client)
            self.open.pop(client, None)
        elif what == "poll" and client not in self.open:
            presence.touch("room", client, self.info_of(number))
        elif what == "update" and client in self.open:
            self.count += 1
            if self.open[client] == where:  # elsewhere the message may be lost, and nobody says it again
                self.states[client] = str(self.count)
                presence.update("room", client, f'"{self.count}"'.encode())
        elif what == "listen":
            listener = Listener()
            presence.listen("room", listener)
            self.listeners.append((where, listener))
        elif what == "kill":
            self.cluster.kill(where)
            self.open = {client: node for client, node in self.open.items() if node != where}
        for client, node in self.open.items():
            if node in self.cluster.nodes:
                assert client in await self.cluster.listed(node), "who is connected here is not listed"
        if what == "close":
            assert client not in await self.cluster.listed(where) or client in self.open


async def run(steps: list[tuple[str, Any, int]], seed: int, lost: float, by_user: bool) -> None:
    table = SettingsTable(default=ChannelSettings(presence_by_user=by_user))
    async with Cluster(
        "abc", limits=LIMITS, settings=table, seed=seed, lost=lost, max_delay_s=0.3
    ) as cluster:
        one = Run(cluster)
        watchers = {name: StrictListener(by_user=by_user) for name in "abc"}
        for name, watcher in watchers.items():
            cluster[name].presence.listen("room", watcher)
        await cluster.settle()
        for step in steps:
            await one.do(step)
        # Leases of the dead and of who polls no more run out, rosters compare, leaves are told.
        await cluster.pass_time(TTL_S * 4 / 3 + 5 + LIMITS.leave_debounce_s + 2, step_s=0.5)
        truth = {client: info(client, USERS[int(client[1:])], one.states.get(client)) for client in one.open}
        for name, node in cluster.nodes.items():
            members = await node.presence.members("room")
            assert members.clients == truth, name
            users = {one.user for one in truth.values()}
            assert await node.presence.stats("room") == (len(truth), len(users))
            assert not watchers[name].changes
            assert not watchers[name].nonsense
            if by_user:
                assert set(watchers[name].present) == {one.user or one.client for one in truth.values()}, name
            else:
                assert watchers[name].present == truth, name
        for name, listener in one.listeners:
            if name in cluster.nodes and not by_user:
                assert set(listener.present) <= set(truth)
        leases = await cluster.store.far.leases.members("room")
        assert set(leases) == set(truth)


SOME = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SOME
@given(st.lists(STEPS, max_size=25), st.integers(0, 1_000), st.sampled_from([0.0, 0.0, 0.3, 1.0]))
def test_lists_and_listeners_come_to_agree_with_the_truth(
    steps: list[tuple[str, Any, int]], seed: int, lost: float
) -> None:
    asyncio.run(run(steps, seed, lost, by_user=False))


@SOME
@given(st.lists(STEPS, max_size=25), st.integers(0, 1_000), st.sampled_from([0.0, 0.0, 0.3, 1.0]))
def test_users_come_to_agree_with_the_truth(
    steps: list[tuple[str, Any, int]], seed: int, lost: float
) -> None:
    asyncio.run(run(steps, seed, lost, by_user=True))
